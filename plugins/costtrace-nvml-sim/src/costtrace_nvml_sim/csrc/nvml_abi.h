/* The part of NVML's binary interface that is simulated.
 *
 * Declared here so that gcc alone can build it. The layouts and numbers are those of NVML 13;
 * plugins/costtrace-nvml-sim/tests/test_abi.py compares them with nvidia-ml-py's own structures.
 */
#ifndef COSTTRACE_NVML_ABI_H
#define COSTTRACE_NVML_ABI_H

#define EXPORT __attribute__((visibility("default")))

enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_UNKNOWN = 999
};

enum { POWER_SCOPE_GPU = 0, POWER_SCOPE_MODULE = 1 };
enum { VALUE_TYPE_UNSIGNED_INT = 1, VALUE_TYPE_UNSIGNED_LONG_LONG = 3 };
enum { SAMPLES_TOTAL_POWER = 0, SAMPLES_MODULE_POWER = 7 };
enum {
    FIELD_TOTAL_ENERGY = 83,
    FIELD_POWER_AVERAGE = 185,
    FIELD_POWER_INSTANT = 186,
    FIELD_POWER_MIN_LIMIT = 187,
    FIELD_POWER_MAX_LIMIT = 188,
    FIELD_POWER_DEFAULT_LIMIT = 189,
    FIELD_POWER_CURRENT_LIMIT = 190,
    FIELD_ENERGY = 191,
    FIELD_POWER_REQUESTED_LIMIT = 192
};

typedef union {
    double dVal;
    int siVal;
    unsigned int uiVal;
    unsigned long ulVal;
    unsigned long long ullVal;
    long long sllVal;
    unsigned short usVal;
} value_t;

typedef struct {
    unsigned int fieldId;
    unsigned int scopeId;
    long long timestamp;
    long long latencyUsec;
    unsigned int valueType;
    int nvmlReturn;
    value_t value;
} field_value_t;

typedef struct {
    unsigned long long timeStamp;
    value_t sampleValue;
} sample_t;

typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} pci_info_t;

typedef struct {
    unsigned long long total, free, used;
} memory_t;

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} memory_v2_t;

typedef struct {
    unsigned long long total, free, used;
} bar1_memory_t;

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
} process_v1_t;

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId, computeInstanceId;
} process_t;

typedef struct {
    unsigned int gpu, memory;
} utilization_t;

typedef struct {
    unsigned int version, sensorType;
    int temperature;
} temperature_t;

typedef struct {
    unsigned int multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount;
    unsigned int sharedJpegCount, sharedOfaCount, gpuInstanceSliceCount, computeInstanceSliceCount;
    unsigned long long memorySizeMB;
} attributes_t;

#define STRUCT_VERSION(type, number) ((unsigned int)(sizeof(type) | ((number) << 24)))

#endif
