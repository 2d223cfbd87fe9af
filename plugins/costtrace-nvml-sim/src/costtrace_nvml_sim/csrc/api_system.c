/* Library, driver, and how a device is found. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api.h"

EXPORT int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    return sim_init();
}
EXPORT int nvmlInit_v2(void) {
    return sim_init();
}
EXPORT int nvmlInit(void) {
    return sim_init();
}
EXPORT int nvmlShutdown(void) {
    return sim_shutdown();
}

EXPORT const char *nvmlErrorString(int code) {
    static const char *const text[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires reset", "GPU access blocked by the operating system",
        "Driver/library version mismatch", "In use", "Insufficient Memory", "No data",
        "vGPU operation is not available", "Insufficient Resources", "Frequency Not Supported",
        "Argument Version Mismatch", "Deprecated", "Not Ready", "GPU not found", "Invalid state",
        "Reset type not supported"};
    if (code >= 0 && code < (int)(sizeof text / sizeof text[0]))
        return text[code];
    return "Unknown Error";
}

int copy_text(const char *text, char *out, unsigned int size) {
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) + 1 > size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(out, text);
    return NVML_SUCCESS;
}

#define BEGIN_SYSTEM() \
    struct call call; \
    int begun = sim_enter_system(__func__, &call); \
    if (begun != NVML_SUCCESS) \
        return begun

EXPORT int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    BEGIN_SYSTEM();
    END(copy_text(sim->driver_version, version, length));
}
EXPORT int nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    BEGIN_SYSTEM();
    END(copy_text(sim->nvml_version, version, length));
}
EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    BEGIN_SYSTEM();
    REQUIRE(version);
    *version = (int)sim->cuda_version;
    END(NVML_SUCCESS);
}
EXPORT int nvmlSystemGetCudaDriverVersion(int *version) {
    return nvmlSystemGetCudaDriverVersion_v2(version);
}
EXPORT int nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
    BEGIN_SYSTEM();
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/%u/comm", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        END(NVML_ERROR_NOT_FOUND);
    if (!fgets(text, sizeof text, file))
        text[0] = '\0';
    fclose(file);
    text[strcspn(text, "\n")] = '\0';
    END(copy_text(text, name, length));
}

static int count_present(void) {
    int count = 0;
    for (int i = 0; i < sim->n_devices; i++)
        count += sim->devices[i].present;
    return count;
}

/* The index by which NVML knows device `index` of the scenario: those absent at nvmlInit are not counted. */
unsigned int shown_index(int index) {
    unsigned int shown = 0;
    for (int i = 0; i < index; i++)
        shown += (unsigned int)sim->devices[i].present;
    return shown;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned int *count) {
    BEGIN_SYSTEM();
    REQUIRE(count);
    *count = (unsigned int)count_present();
    END(NVML_SUCCESS);
}
EXPORT int nvmlDeviceGetCount(unsigned int *count) {
    return nvmlDeviceGetCount_v2(count);
}

/* A handle to a lost device is refused already, as by the driver. */
static int give(const struct call *call, int index, int mig, void **out) {
    if (fault_active(sim, FAULT_LOST, index, call->now) || fault_active(sim, FAULT_ABSENT, index, call->now))
        return NVML_ERROR_GPU_IS_LOST;
    *out = sim_handle(index, mig);
    return NVML_SUCCESS;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    BEGIN_SYSTEM();
    REQUIRE(device);
    for (int i = 0; i < sim->n_devices; i++)
        if (sim->devices[i].present && shown_index(i) == index)
            END(give(&call, i, -1, device));
    END(NVML_ERROR_INVALID_ARGUMENT);
}
EXPORT int nvmlDeviceGetHandleByIndex(unsigned int index, void **device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    BEGIN_SYSTEM();
    REQUIRE(uuid && device);
    for (int i = 0; i < sim->n_devices; i++) {
        const struct device *candidate = &sim->devices[i];
        if (!candidate->present)
            continue;
        if (strcmp(candidate->uuid, uuid) == 0)
            END(give(&call, i, -1, device));
        for (int m = 0; m < candidate->n_migs; m++)
            if (strcmp(candidate->migs[m].uuid, uuid) == 0)
                END(give(&call, i, m, device));
    }
    END(NVML_ERROR_NOT_FOUND);
}

EXPORT int nvmlDeviceGetHandleBySerial(const char *serial, void **device) {
    BEGIN_SYSTEM();
    REQUIRE(serial && device);
    for (int i = 0; i < sim->n_devices; i++)
        if (sim->devices[i].present && strcmp(sim->devices[i].serial, serial) == 0)
            END(give(&call, i, -1, device));
    END(NVML_ERROR_NOT_FOUND);
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device) {
    BEGIN_SYSTEM();
    REQUIRE(bus_id && device);
    unsigned int domain, bus, slot;
    if (sscanf(bus_id, "%x:%x:%x", &domain, &bus, &slot) != 3)
        END(NVML_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < sim->n_devices; i++) {
        const struct device *candidate = &sim->devices[i];
        if (candidate->present && slot == 0 && candidate->pci_domain == domain && candidate->pci_bus == bus)
            END(give(&call, i, -1, device));
    }
    END(NVML_ERROR_NOT_FOUND);
}
EXPORT int nvmlDeviceGetHandleByPciBusId(const char *bus_id, void **device) {
    return nvmlDeviceGetHandleByPciBusId_v2(bus_id, device);
}
