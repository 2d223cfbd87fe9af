/* Multi-instance GPU. */
#include "api.h"

EXPORT int nvmlDeviceGetMigMode(void *device, unsigned int *now, unsigned int *pending) {
    BEGIN_WHOLE(device);
    REQUIRE(now && pending);
    if (call.device->architecture != 7 && call.device->architecture < 9)
        END(NVML_ERROR_NOT_SUPPORTED);
    *now = *pending = (unsigned int)call.device->mig_enabled;
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned int *count) {
    BEGIN_WHOLE(device);
    REQUIRE(count);
    *count = call.device->mig_enabled ? 7 : 0;
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned int index, void **out) {
    BEGIN(device);
    REQUIRE(out && !call.mig);
    if (!call.device->mig_enabled || index >= (unsigned int)call.device->n_migs)
        END(NVML_ERROR_NOT_FOUND);
    *out = sim_handle(call.index, (int)index);
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *device, void **out) {
    BEGIN(device);
    REQUIRE(out && call.mig);
    *out = sim_handle(call.index, -1);
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceIsMigDeviceHandle(void *device, unsigned int *is_mig) {
    BEGIN(device);
    REQUIRE(is_mig);
    *is_mig = call.mig != 0;
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetGpuInstanceId(void *device, unsigned int *id) {
    BEGIN(device);
    REQUIRE(id && call.mig);
    *id = (unsigned int)call.mig->gi;
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetComputeInstanceId(void *device, unsigned int *id) {
    BEGIN(device);
    REQUIRE(id && call.mig);
    *id = (unsigned int)call.mig->ci;
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetAttributes_v2(void *device, attributes_t *out) {
    BEGIN(device);
    REQUIRE(out && call.mig);
    *out = (attributes_t){.multiprocessorCount = (unsigned int)call.mig->sms,
                          .sharedCopyEngineCount = (unsigned int)call.mig->slices,
                          .gpuInstanceSliceCount = (unsigned int)call.mig->slices,
                          .computeInstanceSliceCount = (unsigned int)call.mig->compute_slices,
                          .memorySizeMB = (unsigned long long)call.mig->memory_mib};
    END(NVML_SUCCESS);
}
EXPORT int nvmlDeviceGetAttributes(void *device, attributes_t *out) {
    return nvmlDeviceGetAttributes_v2(device, out);
}
