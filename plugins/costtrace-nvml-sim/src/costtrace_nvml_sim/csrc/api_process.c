/* Process lists. The driver takes milliseconds and a lock for them; the scenario's latencies set how long. */
#include "api.h"

static int in_scope(const struct call *call, const struct process *process) {
    return !call->mig || (process->gi == call->mig->gi && process->ci == call->mig->ci);
}

static unsigned int matching(const struct call *call) {
    unsigned int count = 0;
    for (int i = 0; i < call->device->n_processes; i++)
        count += (unsigned int)in_scope(call, &call->device->processes[i]);
    return count;
}

static int list(const struct call *call, unsigned int *count, process_t *out, process_v1_t *out_v1) {
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int room = *count, at = 0;
    *count = matching(call);
    if (*count == 0)
        return NVML_SUCCESS;
    if (room < *count || (!out && !out_v1))
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (int i = 0; i < call->device->n_processes; i++) {
        const struct process *process = &call->device->processes[i];
        if (!in_scope(call, process))
            continue;
        unsigned int pid = (unsigned int)process->pid;
        unsigned long long bytes = (unsigned long long)process->bytes;
        if (out)
            out[at++] = (process_t){pid, bytes, (unsigned int)process->gi, (unsigned int)process->ci};
        else
            out_v1[at++] = (process_v1_t){pid, bytes};
    }
    return NVML_SUCCESS;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, process_t *out) {
    BEGIN(device);
    END(list(&call, count, out, 0));
}
EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned int *count, process_t *out) {
    BEGIN(device);
    END(list(&call, count, out, 0));
}
EXPORT int nvmlDeviceGetComputeRunningProcesses(void *device, unsigned int *count, process_v1_t *out) {
    BEGIN(device);
    END(list(&call, count, 0, out));
}

#define NO_PROCESSES(function) \
    EXPORT int function(void *device, unsigned int *count, void *out) { \
        (void)out; \
        BEGIN(device); \
        REQUIRE(count); \
        *count = 0; \
        END(NVML_SUCCESS); \
    }
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3)
