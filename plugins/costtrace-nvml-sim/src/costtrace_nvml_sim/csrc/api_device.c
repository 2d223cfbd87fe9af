/* What a device is. Nothing here is physics: names, sizes, and values derived from the power for display. */
#include <stdio.h>
#include <string.h>

#include "api.h"

#define MIB 1048576ULL
#define DERIVED_NS 1000000000LL

#define GET_TEXT(function, expression) \
    EXPORT int function(void *device, char *out, unsigned int length) { \
        BEGIN(device); \
        END(copy_text(expression, out, length)); \
    }
#define GET_NUMBER(function, type, expression) \
    EXPORT int function(void *device, type *out) { \
        BEGIN(device); \
        REQUIRE(out); \
        *out = (type)(expression); \
        END(NVML_SUCCESS); \
    }

GET_TEXT(nvmlDeviceGetSerial, call.device->serial)
GET_TEXT(nvmlDeviceGetVbiosVersion, call.device->vbios)
GET_TEXT(nvmlDeviceGetBoardPartNumber, call.device->part_number)
GET_TEXT(nvmlDeviceGetUUID, call.mig ? call.mig->uuid : call.device->uuid)
GET_NUMBER(nvmlDeviceGetMinorNumber, unsigned int, call.device->minor)
GET_NUMBER(nvmlDeviceGetIndex, unsigned int, shown_index(call.index))
GET_NUMBER(nvmlDeviceGetArchitecture, unsigned int, call.device->architecture)
GET_NUMBER(nvmlDeviceGetBoardId, unsigned int, call.device->pci_bus << 8)
GET_NUMBER(nvmlDeviceGetMultiGpuBoard, unsigned int, 0)
GET_NUMBER(nvmlDeviceGetBrand, unsigned int, 0)
GET_NUMBER(nvmlDeviceGetPersistenceMode, unsigned int, 1)
GET_NUMBER(nvmlDeviceGetDisplayMode, unsigned int, 0)
GET_NUMBER(nvmlDeviceGetDisplayActive, unsigned int, 0)
GET_NUMBER(nvmlDeviceGetComputeMode, unsigned int, 0)
GET_NUMBER(nvmlDeviceGetPerformanceState, unsigned int, 0)
GET_NUMBER(nvmlDeviceGetPowerState, unsigned int, 0)

EXPORT int nvmlDeviceGetName(void *device, char *out, unsigned int length) {
    BEGIN(device);
    char text[2 * TEXT + 8];
    snprintf(text, sizeof text, call.mig ? "%s MIG %s" : "%s", call.device->name, call.mig ? call.mig->profile : "");
    END(copy_text(text, out, length));
}

EXPORT int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    BEGIN(device);
    REQUIRE(major && minor);
    *major = (int)call.device->cc_major;
    *minor = (int)call.device->cc_minor;
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetPciInfo_v3(void *device, pci_info_t *pci) {
    BEGIN(device);
    REQUIRE(pci);
    memset(pci, 0, sizeof *pci);
    pci->domain = (unsigned int)call.device->pci_domain;
    pci->bus = (unsigned int)call.device->pci_bus;
    pci->pciDeviceId = (unsigned int)call.device->pci_device_id;
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:00.0", pci->domain & 0xffffffU, pci->bus & 0xffU);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:00.0", pci->domain & 0xffffU, pci->bus & 0xffU);
    END(NVML_SUCCESS);
}
EXPORT int nvmlDeviceGetPciInfo_v2(void *device, pci_info_t *pci) {
    return nvmlDeviceGetPciInfo_v3(device, pci);
}

static void memory_of(const struct call *call, memory_v2_t *out) {
    unsigned long long total = (unsigned long long)(call->mig ? call->mig->memory_mib : call->device->memory_mib) * MIB;
    unsigned long long reserved = call->mig ? 0 : (unsigned long long)call->device->memory_reserved_mib * MIB;
    unsigned long long used = (unsigned long long)call->device->memory_used_mib * MIB;
    if (call->mig) {
        used = 0;
        for (int i = 0; i < call->device->n_processes; i++)
            if (call->device->processes[i].gi == call->mig->gi)
                used += (unsigned long long)call->device->processes[i].bytes;
    }
    out->total = total;
    out->reserved = reserved < total ? reserved : total;
    out->used = used < total - out->reserved ? used : total - out->reserved;
    out->free = total - out->reserved - out->used;
}

EXPORT int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    BEGIN(device);
    REQUIRE(memory);
    memory_v2_t v2;
    memory_of(&call, &v2);
    *memory = (memory_t){v2.total, v2.free, v2.used + v2.reserved};
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *memory) {
    BEGIN(device);
    REQUIRE(memory);
    if (memory->version != STRUCT_VERSION(memory_v2_t, 2U))
        END(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    memory_of(&call, memory);
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetBAR1MemoryInfo(void *device, bar1_memory_t *memory) {
    BEGIN_WHOLE(device);
    REQUIRE(memory);
    unsigned long long total = (unsigned long long)call.device->memory_mib * MIB;
    *memory = (bar1_memory_t){total, total - MIB, MIB};
    END(NVML_SUCCESS);
}

/* Share of the way from idle power to the limit, in percent of the last second's mean: a stand-in for utilisation. */
static i64 busy_percent(const struct call *call) {
    i64 mean = mean_mw(call->device, call->now - DERIVED_NS, call->now) - call->device->idle_mw;
    i64 room = call->device->limit_mw - call->device->idle_mw;
    i64 percent = room > 0 ? mean * 100 / room : 0;
    return percent < 0 ? 0 : percent > 100 ? 100 : percent;
}

EXPORT int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    BEGIN_WHOLE(device);
    REQUIRE(rates);
    unsigned int busy = (unsigned int)busy_percent(&call);
    *rates = (utilization_t){busy, busy / 2};
    END(NVML_SUCCESS);
}

/* 30 degrees at 0 W, 75 at the limit, of the last ten seconds' mean. */
static int degrees(const struct call *call) {
    i64 mean = mean_mw(call->device, call->now - 10 * DERIVED_NS, call->now);
    return (int)(30 + 45 * mean / call->device->limit_mw);
}

EXPORT int nvmlDeviceGetTemperature(void *device, unsigned int sensor, unsigned int *out) {
    BEGIN(device);
    REQUIRE(out && sensor == 0);
    *out = (unsigned int)degrees(&call);
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetTemperatureV(void *device, temperature_t *out) {
    BEGIN(device);
    REQUIRE(out && out->sensorType == 0);
    if (out->version != STRUCT_VERSION(temperature_t, 1U))
        END(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    out->temperature = degrees(&call);
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetTemperatureThreshold(void *device, unsigned int kind, unsigned int *out) {
    static const unsigned int thresholds[] = {92, 89, 95, 87};
    BEGIN_WHOLE(device);
    REQUIRE(out);
    if (kind >= sizeof thresholds / sizeof thresholds[0])
        END(NVML_ERROR_NOT_SUPPORTED);
    *out = thresholds[kind];
    END(NVML_SUCCESS);
}

static i64 clock_mhz(const struct call *call, unsigned int type, int max) {
    if (type == 2)
        return call->device->mem_clock_mhz;
    return max || busy_percent(call) > 0 ? call->device->sm_clock_mhz : call->device->idle_clock_mhz;
}

EXPORT int nvmlDeviceGetClockInfo(void *device, unsigned int type, unsigned int *mhz) {
    BEGIN(device);
    REQUIRE(mhz && type < 4);
    *mhz = (unsigned int)clock_mhz(&call, type, 0);
    END(NVML_SUCCESS);
}
EXPORT int nvmlDeviceGetMaxClockInfo(void *device, unsigned int type, unsigned int *mhz) {
    BEGIN(device);
    REQUIRE(mhz && type < 4);
    *mhz = (unsigned int)clock_mhz(&call, type, 1);
    END(NVML_SUCCESS);
}
EXPORT int nvmlDeviceGetClock(void *device, unsigned int type, unsigned int id, unsigned int *mhz) {
    BEGIN(device);
    REQUIRE(mhz && type < 4 && id < 4);
    *mhz = (unsigned int)clock_mhz(&call, type, id != 0);
    END(NVML_SUCCESS);
}

/* 0x1 idle, 0x4 software power cap. */
EXPORT int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *reasons) {
    BEGIN_WHOLE(device);
    REQUIRE(reasons);
    i64 mw = mean_mw(call.device, call.now - DERIVED_NS / 10, call.now);
    *reasons = mw >= call.device->limit_mw ? 0x4 : busy_percent(&call) == 0 ? 0x1 : 0;
    END(NVML_SUCCESS);
}
EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}
EXPORT int nvmlDeviceGetSupportedClocksEventReasons(void *device, unsigned long long *reasons) {
    BEGIN_WHOLE(device);
    REQUIRE(reasons);
    *reasons = 0x5;
    END(NVML_SUCCESS);
}
EXPORT int nvmlDeviceGetSupportedClocksThrottleReasons(void *device, unsigned long long *reasons) {
    return nvmlDeviceGetSupportedClocksEventReasons(device, reasons);
}
