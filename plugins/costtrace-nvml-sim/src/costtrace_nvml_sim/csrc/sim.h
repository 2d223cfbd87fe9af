/* Declarations that the sources share: the compiled scenario in memory, the physics, entering and leaving a call.
 *
 * Units: time in ns since the scenario's t0, power in mW, energy in pJ (1 mW x 1 ns = 1 pJ), all integers.
 * An i128 of pJ does not overflow: 2^63 ns at 1 MW is 1e28 pJ, and a gain of 1e7 ppm makes that 1e35 < 1.7e38.
 */
#ifndef COSTTRACE_NVML_SIM_H
#define COSTTRACE_NVML_SIM_H

#include <stddef.h>
#include <stdint.h>

#include "nvml_abi.h"

typedef int64_t i64;
typedef __int128 i128;

#define MAX_DEVICES 128
#define MAX_MIG 8
#define MAX_PROCESSES 64
#define MAX_FAULTS 512
#define MAX_FEEDS 64
#define MAX_DEVICE_FEEDS 8
#define MAX_SUMS 8
#define TEXT 96
#define FOREVER INT64_MAX

/* Piecewise constant power: mw[i] from t[i] to t[i+1], mw[0] also before t[0] = 0, the last one for ever.
 * With loop_ns > 0 the piece [loop_from, loop_from + loop_ns) repeats for ever. */
struct wave {
    i64 *t;
    i64 *mw;
    i128 *cum; /* energy from 0 to t[i] */
    size_t n, room;
    i64 loop_from, loop_ns;
};

struct feed_file {
    char path[4096];
    int fd;
    i64 offset; /* bytes read so far */
};

struct device_feed {
    int file;
    unsigned int number; /* the device number that its records carry */
    i64 initial_mw;
    struct wave wave;
};

struct mig {
    i64 gi, ci, slices, compute_slices, memory_mib, sms;
    char uuid[TEXT], profile[TEXT];
};

struct process {
    i64 pid, bytes, gi, ci;
};

enum counter_mode { COUNTER_MISSING, COUNTER_IDEAL, COUNTER_PART_TIME };

struct window_sum { /* sum of a part-time counter's windows up to and including k, kept so that reads are fast */
    int valid;
    i64 k;
    i128 pj;
};

struct device {
    char name[TEXT], uuid[TEXT], serial[TEXT], part_number[TEXT], vbios[TEXT];
    i64 minor, pci_domain, pci_bus, pci_device_id, architecture, cc_major, cc_minor, sms;
    i64 memory_mib, memory_used_mib, memory_reserved_mib;
    i64 idle_mw, limit_mw, default_limit_mw, min_limit_mw, max_limit_mw, sm_clock_mhz, idle_clock_mhz, mem_clock_mhz;
    i64 update_ns, window_ns, average_samples, lag_ns, settle_ns, phase_ns, gain_ppm, offset_mw, resolution_mw;
    i64 usage_is_average, has_instant, has_average, has_module, stamp_at_update, sample_buffer;
    i64 counter_mode, counter_update_ns, counter_phase_ns, counter_lag_ns, counter_resolution_mj, counter_start_mj;
    i64 counter_module;
    i64 mig_enabled;
    struct wave gpu, module;
    struct device_feed feeds[MAX_DEVICE_FEEDS];
    int n_feeds;
    struct mig migs[MAX_MIG];
    int n_migs;
    struct process processes[MAX_PROCESSES];
    int n_processes;
    struct window_sum sums[2][MAX_SUMS]; /* of the GPU, of the module */
    unsigned int next_sum;
    int present; /* enumerated by the last nvmlInit */
};

enum fault_kind {
    FAULT_ERROR,
    FAULT_LATENCY,
    FAULT_LOST,
    FAULT_ABSENT,
    FAULT_COUNTER_RESET,
    FAULT_COUNTER_FREEZE,
    FAULT_DRIVER_UNLOADED,
    FAULT_WALL_JUMP
};

struct fault {
    i64 kind, device, from, until, code, times, amount;
    char call[TEXT];
};

struct scenario {
    i64 t0_monotonic_ns, t0_unix_ns, cuda_version;
    char driver_version[TEXT], nvml_version[TEXT];
    char virtual_clock[4096], calls_dir[4096];
    struct device *devices;
    int n_devices;
    struct fault faults[MAX_FAULTS];
    int n_faults;
    struct feed_file feeds[MAX_FEEDS];
    int n_feeds;
};

/* What an nvmlDevice_t points to. mig < 0: the whole device. */
struct handle {
    int device, mig;
};

/* One call in progress, while the double's lock is held. */
struct call {
    struct device *device;
    struct mig *mig;
    int index;
    i64 now, latency_us;
};

/* scenario.c */
int scenario_load(const char *path, struct scenario *out, char *why, size_t why_size);
void scenario_free(struct scenario *scenario);

/* wave.c */
int wave_append(struct wave *wave, i64 t, i64 mw);
void wave_free(struct wave *wave);
i128 wave_energy(const struct wave *wave, i64 t);

/* feed.c */
void feeds_refresh(struct scenario *scenario);
void feeds_close(struct scenario *scenario);

/* power.c */
i64 floor_div(i64 a, i64 b);
i128 device_energy(const struct device *device, int scope, i64 t);
i64 sensor_update(const struct device *device, i64 now);
i64 sensor_update_time(const struct device *device, i64 k);
i64 sensor_instant_mw(const struct device *device, int scope, i64 k);
i64 sensor_average_mw(const struct device *device, int scope, i64 k);
i64 mean_mw(const struct device *device, i64 from, i64 until);
i64 counter_update_time(const struct device *device, i64 now);
i64 counter_mj(struct scenario *scenario, int index, int scope, i64 now);

/* state.c */
extern struct scenario *sim;
int sim_init(void);
int sim_shutdown(void);
int sim_enter(const char *name, const void *handle, struct call *call);
int sim_leave(int code);
int sim_enter_system(const char *name, struct call *call);
void *sim_handle(int device, int mig);
int sim_stub(const char *name);
i64 sim_unix_us(i64 now);

/* fault.c */
int fault_error(const struct scenario *scenario, const char *name, int index, i64 now);
i64 fault_latency_us(const struct scenario *scenario, const char *name, int index, i64 now);
int fault_active(const struct scenario *scenario, int kind, int index, i64 now);
i64 fault_wall_ns(const struct scenario *scenario, i64 now);

#define BEGIN(handle) \
    struct call call; \
    int begun = sim_enter(__func__, handle, &call); \
    if (begun != NVML_SUCCESS) \
        return begun
#define BEGIN_WHOLE(handle) \
    BEGIN(handle); \
    if (call.mig) \
        return sim_leave(NVML_ERROR_NOT_SUPPORTED)
#define REQUIRE(condition) \
    if (!(condition)) \
        return sim_leave(NVML_ERROR_INVALID_ARGUMENT)
#define END(code) return sim_leave(code)

#endif
