/* Which faults are active, for which call, at which time. */
#include <fnmatch.h>
#include <string.h>

#include "sim.h"

static int concerns(const struct fault *fault, int index, i64 now) {
    return (fault->device < 0 || fault->device == index) && fault->from <= now && now < fault->until;
}

/* How often each fault has gone off in this process. It outlives nvmlShutdown: a program that starts NVML again after an
 * error must not get the same single error for ever. Another run (another t0) starts from 0. */
static struct {
    i64 t0, times[MAX_FAULTS];
} fired;

/* The code that the call must return, or 0. A fault with `times` goes off that often in each process. */
int fault_error(const struct scenario *scenario, const char *name, int index, i64 now) {
    if (fired.t0 != scenario->t0_monotonic_ns) {
        memset(&fired, 0, sizeof fired);
        fired.t0 = scenario->t0_monotonic_ns;
    }
    for (int i = 0; i < scenario->n_faults; i++) {
        const struct fault *fault = &scenario->faults[i];
        if (fault->kind != FAULT_ERROR || !concerns(fault, index, now) || fnmatch(fault->call, name, 0) != 0)
            continue;
        if (fault->times > 0 && fired.times[i] >= fault->times)
            continue;
        fired.times[i]++;
        return (int)fault->code;
    }
    return NVML_SUCCESS;
}

i64 fault_latency_us(const struct scenario *scenario, const char *name, int index, i64 now) {
    i64 latency = 0;
    for (int i = 0; i < scenario->n_faults; i++) {
        const struct fault *fault = &scenario->faults[i];
        if (fault->kind == FAULT_LATENCY && concerns(fault, index, now) && fnmatch(fault->call, name, 0) == 0)
            latency += fault->amount;
    }
    return latency;
}

int fault_active(const struct scenario *scenario, int kind, int index, i64 now) {
    for (int i = 0; i < scenario->n_faults; i++)
        if (scenario->faults[i].kind == kind && concerns(&scenario->faults[i], index, now))
            return 1;
    return 0;
}

/* How far the host's wall clock has been moved by `now`. */
i64 fault_wall_ns(const struct scenario *scenario, i64 now) {
    i64 moved = 0;
    for (int i = 0; i < scenario->n_faults; i++)
        if (scenario->faults[i].kind == FAULT_WALL_JUMP && concerns(&scenario->faults[i], -1, now))
            moved += scenario->faults[i].amount;
    return moved;
}
