/* Power, energy, limits. A MIG instance has none of them: NVML meters the board. */
#include "api.h"
#include <stdio.h>

EXPORT int nvmlDeviceGetPowerUsage(void *device, unsigned int *mw) {
    BEGIN_WHOLE(device);
    REQUIRE(mw);
    i64 k = sensor_update(call.device, call.now);
    *mw = (unsigned int)(call.device->usage_is_average ? sensor_average_mw(call.device, POWER_SCOPE_GPU, k)
                                                       : sensor_instant_mw(call.device, POWER_SCOPE_GPU, k));
    END(NVML_SUCCESS);
}

static int counter_scope(const struct device *device) {
    return device->counter_module ? POWER_SCOPE_MODULE : POWER_SCOPE_GPU;
}

EXPORT int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
    BEGIN_WHOLE(device);
    REQUIRE(mj);
    if (call.device->counter_mode == COUNTER_MISSING)
        END(NVML_ERROR_NOT_SUPPORTED);
    *mj = (unsigned long long)counter_mj(sim, call.index, counter_scope(call.device), call.now);
    END(NVML_SUCCESS);
}

#define LIMIT(function, member) \
    EXPORT int function(void *device, unsigned int *mw) { \
        BEGIN_WHOLE(device); \
        REQUIRE(mw); \
        *mw = (unsigned int)call.device->member; \
        END(NVML_SUCCESS); \
    }
LIMIT(nvmlDeviceGetPowerManagementLimit, limit_mw)
LIMIT(nvmlDeviceGetEnforcedPowerLimit, limit_mw)
LIMIT(nvmlDeviceGetPowerManagementDefaultLimit, default_limit_mw)

EXPORT int nvmlDeviceGetPowerManagementMode(void *device, unsigned int *mode) {
    BEGIN_WHOLE(device);
    REQUIRE(mode);
    *mode = 1;
    END(NVML_SUCCESS);
}

EXPORT int nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned int *low, unsigned int *high) {
    BEGIN_WHOLE(device);
    REQUIRE(low && high);
    *low = (unsigned int)call.device->min_limit_mw;
    *high = (unsigned int)call.device->max_limit_mw;
    END(NVML_SUCCESS);
}

static int power_field(const struct call *call, field_value_t *field) {
    const struct device *device = call->device;
    int average = field->fieldId == FIELD_POWER_AVERAGE;
    if (average ? !device->has_average : !device->has_instant)
        return NVML_ERROR_NOT_SUPPORTED;
    if (field->scopeId > POWER_SCOPE_MODULE || (field->scopeId == POWER_SCOPE_MODULE && !device->has_module))
        return NVML_ERROR_NOT_SUPPORTED;
    i64 k = sensor_update(device, call->now);
    i64 mw = average ? sensor_average_mw(device, (int)field->scopeId, k)
                     : sensor_instant_mw(device, (int)field->scopeId, k);
    field->valueType = VALUE_TYPE_UNSIGNED_INT;
    field->value.uiVal = (unsigned int)mw;
    if (device->stamp_at_update)
        field->timestamp = sim_unix_us(sensor_update_time(device, k));
    return NVML_SUCCESS;
}

static int energy_field(const struct call *call, field_value_t *field) {
    const struct device *device = call->device;
    int scope = counter_scope(device);
    if (device->counter_mode == COUNTER_MISSING)
        return NVML_ERROR_NOT_SUPPORTED;
    if (field->fieldId == FIELD_ENERGY && field->scopeId == POWER_SCOPE_MODULE && device->has_module)
        scope = POWER_SCOPE_MODULE;
    else if (field->fieldId == FIELD_ENERGY && field->scopeId != POWER_SCOPE_GPU)
        return NVML_ERROR_NOT_SUPPORTED;
    field->valueType = VALUE_TYPE_UNSIGNED_LONG_LONG;
    field->value.ullVal = (unsigned long long)counter_mj(sim, call->index, scope, call->now);
    if (device->stamp_at_update)
        field->timestamp = sim_unix_us(counter_update_time(device, call->now));
    return NVML_SUCCESS;
}

static int limit_field(const struct device *device, field_value_t *field) {
    const i64 limits[] = {device->min_limit_mw, device->max_limit_mw, device->default_limit_mw, device->limit_mw};
    unsigned int which = field->fieldId == FIELD_POWER_REQUESTED_LIMIT ? 3 : field->fieldId - FIELD_POWER_MIN_LIMIT;
    field->valueType = VALUE_TYPE_UNSIGNED_INT;
    field->value.uiVal = (unsigned int)limits[which];
    return NVML_SUCCESS;
}

static int one_field(const struct call *call, field_value_t *field) {
    char name[32];
    snprintf(name, sizeof name, "field:%u", field->fieldId); /* what an error fault can name */
    int code = fault_error(sim, name, call->index, call->now);
    if (code != NVML_SUCCESS)
        return code;
    switch (field->fieldId) {
    case FIELD_TOTAL_ENERGY:
    case FIELD_ENERGY:
        return energy_field(call, field);
    case FIELD_POWER_AVERAGE:
    case FIELD_POWER_INSTANT:
        return power_field(call, field);
    case FIELD_POWER_MIN_LIMIT:
    case FIELD_POWER_MAX_LIMIT:
    case FIELD_POWER_DEFAULT_LIMIT:
    case FIELD_POWER_CURRENT_LIMIT:
    case FIELD_POWER_REQUESTED_LIMIT:
        return limit_field(call->device, field);
    default:
        return NVML_ERROR_NOT_SUPPORTED;
    }
}

EXPORT int nvmlDeviceGetFieldValues(void *device, int count, field_value_t *values) {
    BEGIN(device);
    REQUIRE(count > 0 && values);
    for (int i = 0; i < count; i++) {
        values[i].timestamp = sim_unix_us(call.now);
        values[i].latencyUsec = call.latency_us;
        values[i].nvmlReturn = call.mig ? NVML_ERROR_NOT_SUPPORTED : one_field(&call, &values[i]);
    }
    END(NVML_SUCCESS);
}

/* The sensor's updates after `seen_us`, oldest first, at most as many as the driver keeps. */
EXPORT int nvmlDeviceGetSamples(void *device, unsigned int kind, unsigned long long seen_us, unsigned int *value_type,
                                unsigned int *count, sample_t *samples) {
    BEGIN_WHOLE(device);
    REQUIRE(value_type && count);
    int module = kind == SAMPLES_MODULE_POWER;
    if ((kind != SAMPLES_TOTAL_POWER && !module) || (module && !call.device->has_module) ||
        !call.device->has_instant || call.device->sample_buffer == 0)
        END(NVML_ERROR_NOT_SUPPORTED);
    *value_type = VALUE_TYPE_UNSIGNED_INT;
    if (!samples) {
        *count = (unsigned int)call.device->sample_buffer;
        END(NVML_SUCCESS);
    }
    i64 last = sensor_update(call.device, call.now);
    i64 first = last - call.device->sample_buffer + 1;
    while (first <= last && sim_unix_us(sensor_update_time(call.device, first)) <= (i64)seen_us)
        first++;
    if (last - first + 1 > *count)
        first = last - *count + 1;
    *count = (unsigned int)(last - first + 1);
    for (i64 k = first; k <= last; k++) {
        samples[k - first].timeStamp = (unsigned long long)sim_unix_us(sensor_update_time(call.device, k));
        samples[k - first].sampleValue.uiVal =
            (unsigned int)sensor_instant_mw(call.device, module ? POWER_SCOPE_MODULE : POWER_SCOPE_GPU, k);
    }
    END(*count ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND);
}
