/* The physics: what a sensor and a counter show at a time, from the exact integral of the true power.
 *
 * costtrace_nvml_sim.truth computes the same with Python integers; the tests hold the two equal. What is shown
 * depends only on the waveform and the time of the read, never on earlier reads.
 */
#include "sim.h"

#define PPM 1000000
#define PJ_PER_MJ 1000000000
#define FEED_PATIENCE_NS 60000000000LL

i64 floor_div(i64 a, i64 b) {
    i64 quotient = a / b;
    return (a % b != 0 && (a < 0) != (b < 0)) ? quotient - 1 : quotient;
}

static i128 floor_div_wide(i128 a, i128 b) {
    i128 quotient = a / b;
    return (a % b != 0 && (a < 0) != (b < 0)) ? quotient - 1 : quotient;
}

/* pJ from 0 to t of the GPU, or of the whole module (GPU and what shares its package). */
i128 device_energy(const struct device *device, int scope, i64 t) {
    i128 pj = wave_energy(&device->gpu, t);
    for (int i = 0; i < device->n_feeds; i++)
        pj += wave_energy(&device->feeds[i].wave, t);
    if (scope == POWER_SCOPE_MODULE)
        pj += wave_energy(&device->module, t);
    return pj;
}

/* Number of the sensor's last update at `now`. */
i64 sensor_update(const struct device *device, i64 now) {
    return floor_div(now - device->phase_ns, device->update_ns);
}

i64 sensor_update_time(const struct device *device, i64 k) {
    return device->phase_ns + k * device->update_ns;
}

/* pJ inside the averaging window of update k: the only part of its period that the sensor sees. */
static i128 window_energy(const struct device *device, int scope, i64 k) {
    i64 end = sensor_update_time(device, k) - device->lag_ns - device->settle_ns;
    return device_energy(device, scope, end) - device_energy(device, scope, end - device->window_ns);
}

/* Mean of pj over ns in mW, with gain, offset and resolution, as the driver shows it. */
static i64 shown_mw(const struct device *device, i128 pj, i64 ns) {
    i128 divisor = (i128)ns * PPM;
    i64 mw = (i64)floor_div_wide(2 * pj * device->gain_ppm + divisor, 2 * divisor) + device->offset_mw;
    if (mw < 0)
        mw = 0;
    return mw - mw % device->resolution_mw;
}

i64 sensor_instant_mw(const struct device *device, int scope, i64 k) {
    return shown_mw(device, window_energy(device, scope, k), device->window_ns);
}

i64 sensor_average_mw(const struct device *device, int scope, i64 k) {
    i128 pj = 0;
    for (i64 j = 0; j < device->average_samples; j++)
        pj += window_energy(device, scope, k - j);
    return shown_mw(device, pj, device->window_ns * device->average_samples);
}

/* True mean power, without a sensor: for what is only derived (utilisation, temperature, clocks). */
i64 mean_mw(const struct device *device, i64 from, i64 until) {
    i128 pj = device_energy(device, POWER_SCOPE_GPU, until) - device_energy(device, POWER_SCOPE_GPU, from);
    return (i64)floor_div_wide(pj, until - from);
}

i64 counter_update_time(const struct device *device, i64 now) {
    if (device->counter_mode == COUNTER_PART_TIME)
        return sensor_update_time(device, sensor_update(device, now));
    return device->counter_phase_ns +
           floor_div(now - device->counter_phase_ns, device->counter_update_ns) * device->counter_update_ns;
}

/* Whether the windows that end at `end` may be kept: with a feed, only when no record can still change them. */
static int settled(const struct device *device, i64 end, i64 now) {
    for (int i = 0; i < device->n_feeds; i++) {
        const struct wave *wave = &device->feeds[i].wave;
        if (wave->t[wave->n - 1] < end && end > now - FEED_PATIENCE_NS)
            return 0;
    }
    return 1;
}

/* Remembers the sum up to window k. The slot that it grew from is overwritten only at the front, so that the sums at
 * a reset or a freeze, which every later read needs again, stay. */
static void remember(struct device *device, int module, int grown_from, i64 k, i128 pj) {
    struct window_sum *sums = device->sums[module];
    int front = 0;
    for (int i = 1; i < MAX_SUMS; i++)
        if (sums[i].valid && (!sums[front].valid || sums[i].k > sums[front].k))
            front = i;
    int slot = grown_from;
    if (slot != front || !sums[slot].valid) {
        slot = device->next_sum++ % MAX_SUMS;
        if (slot == front && sums[slot].valid)
            slot = device->next_sum++ % MAX_SUMS;
    }
    sums[slot] = (struct window_sum){1, k, pj};
}

static i128 part_time_pj(struct device *device, int scope, i64 t, i64 now) {
    int module = scope == POWER_SCOPE_MODULE;
    i64 first = sensor_update(device, 0), last = sensor_update(device, t), k = first;
    i128 pj = 0;
    int from = 0;
    for (int i = 0; i < MAX_SUMS; i++) {
        const struct window_sum *sum = &device->sums[module][i];
        if (sum->valid && sum->k <= last && sum->k >= k) {
            k = sum->k;
            pj = sum->pj;
            from = i;
        }
    }
    i64 known = k, sure = k;
    i128 sure_pj = pj;
    while (k < last) {
        k++;
        pj += window_energy(device, scope, k);
        if (settled(device, sensor_update_time(device, k), now)) {
            sure = k;
            sure_pj = pj;
        }
    }
    if (sure > known)
        remember(device, module, from, sure, sure_pj);
    i128 gained = floor_div_wide(pj * device->update_ns * device->gain_ppm, (i128)device->window_ns * PPM);
    return gained + (i128)device->offset_mw * (last - first) * device->update_ns;
}

static i128 ideal_pj(const struct device *device, int scope, i64 t) {
    i64 late = device->counter_lag_ns + device->settle_ns;
    i64 from = counter_update_time(device, 0) - late;
    i64 until = counter_update_time(device, t) - late;
    i128 pj = device_energy(device, scope, until) - device_energy(device, scope, from);
    return floor_div_wide(pj * device->gain_ppm, PPM) + (i128)device->offset_mw * (until - from);
}

/* pJ that the counter has taken in from 0 to t, before resets and freezes. */
static i128 counted_pj(struct device *device, int scope, i64 t, i64 now) {
    if (t < 0)
        t = 0;
    if (device->counter_mode == COUNTER_PART_TIME)
        return part_time_pj(device, scope, t, now);
    return ideal_pj(device, scope, t);
}

/* mJ that the counter shows at `now`. Faults are in order of time (the compiler sorts them). */
i64 counter_mj(struct scenario *scenario, int index, int scope, i64 now) {
    struct device *device = &scenario->devices[index];
    i128 taken = (i128)device->counter_start_mj * PJ_PER_MJ;
    i64 since = 0, until = now;
    for (int i = 0; i < scenario->n_faults; i++) {
        const struct fault *fault = &scenario->faults[i];
        if (fault->from > until || (fault->device >= 0 && fault->device != index))
            continue;
        if (fault->kind == FAULT_COUNTER_RESET) {
            taken = 0;
            since = fault->from > since ? fault->from : since;
        } else if (fault->kind == FAULT_COUNTER_FREEZE && now < fault->until) {
            until = fault->from;
        } else if (fault->kind == FAULT_COUNTER_FREEZE && fault->code) { /* what was frozen is lost */
            taken += counted_pj(device, scope, fault->from, now) - counted_pj(device, scope, since, now);
            since = fault->until;
        }
    }
    taken += counted_pj(device, scope, until, now) - counted_pj(device, scope, since, now);
    i64 mj = (i64)floor_div_wide(taken, PJ_PER_MJ);
    return mj - mj % device->counter_resolution_mj;
}
