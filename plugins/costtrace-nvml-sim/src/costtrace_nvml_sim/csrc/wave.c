/* Piecewise constant power and its exact integral. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static int grow(struct wave *wave) {
    size_t room = wave->room ? wave->room * 2 : 64;
    i64 *t = realloc(wave->t, room * sizeof *t);
    if (t)
        wave->t = t;
    i64 *mw = realloc(wave->mw, room * sizeof *mw);
    if (mw)
        wave->mw = mw;
    i128 *cum = realloc(wave->cum, room * sizeof *cum);
    if (cum)
        wave->cum = cum;
    if (!t || !mw || !cum)
        return -1;
    wave->room = room;
    return 0;
}

/* A point earlier than the last one counts from the last one's time: what was integrated stays as it was. */
int wave_append(struct wave *wave, i64 t, i64 mw) {
    if (wave->n == wave->room && grow(wave) != 0)
        return -1;
    i128 cum = 0;
    if (wave->n) {
        size_t last = wave->n - 1;
        if (t < wave->t[last])
            t = wave->t[last];
        cum = wave->cum[last] + (i128)wave->mw[last] * (t - wave->t[last]);
    }
    wave->t[wave->n] = t;
    wave->mw[wave->n] = mw;
    wave->cum[wave->n] = cum;
    wave->n++;
    return 0;
}

void wave_free(struct wave *wave) {
    free(wave->t);
    free(wave->mw);
    free(wave->cum);
    memset(wave, 0, sizeof *wave);
}

static i128 energy_once(const struct wave *wave, i64 t) {
    if (t <= wave->t[0])
        return (i128)wave->mw[0] * (t - wave->t[0]);
    size_t low = 0, high = wave->n; /* the last point at or before t is in [low, high) */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (wave->t[middle] <= t)
            low = middle;
        else
            high = middle;
    }
    return wave->cum[low] + (i128)wave->mw[low] * (t - wave->t[low]);
}

/* pJ from 0 to t; negative before 0. */
i128 wave_energy(const struct wave *wave, i64 t) {
    if (wave->n == 0)
        return 0;
    if (wave->loop_ns <= 0 || t < wave->loop_from)
        return energy_once(wave, t);
    i64 cycles = (t - wave->loop_from) / wave->loop_ns;
    i64 rest = (t - wave->loop_from) % wave->loop_ns;
    i128 before = energy_once(wave, wave->loop_from);
    i128 cycle = energy_once(wave, wave->loop_from + wave->loop_ns) - before;
    return energy_once(wave, wave->loop_from + rest) + cycles * cycle;
}
