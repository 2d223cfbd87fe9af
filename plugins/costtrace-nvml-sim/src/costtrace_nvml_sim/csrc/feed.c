/* Live power: append-only files of 16-byte records that an engine, a simulator or feed.PowerFeed writes. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "sim.h"

struct record { /* little-endian, as the host */
    i64 t_monotonic_ns;
    uint32_t device;
    uint32_t power_mw;
};

static void take(struct scenario *scenario, int file, const struct record *record) {
    i64 t = record->t_monotonic_ns - scenario->t0_monotonic_ns;
    for (int i = 0; i < scenario->n_devices; i++) {
        struct device *device = &scenario->devices[i];
        for (int f = 0; f < device->n_feeds; f++) {
            struct device_feed *feed = &device->feeds[f];
            if (feed->file == file && feed->number == record->device)
                (void)wave_append(&feed->wave, t < 0 ? 0 : t, record->power_mw);
        }
    }
}

static void refresh(struct scenario *scenario, int index) {
    struct feed_file *file = &scenario->feeds[index];
    if (file->fd < 0)
        file->fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0)
        return; /* not written yet: the initial power holds */
    struct record records[256];
    for (;;) {
        ssize_t got = pread(file->fd, records, sizeof records, file->offset);
        size_t whole = got > 0 ? (size_t)got / sizeof records[0] : 0;
        for (size_t i = 0; i < whole; i++)
            take(scenario, index, &records[i]);
        file->offset += (i64)(whole * sizeof records[0]);
        if (whole < sizeof records / sizeof records[0])
            return;
    }
}

void feeds_refresh(struct scenario *scenario) {
    for (int i = 0; i < scenario->n_feeds; i++)
        refresh(scenario, i);
}

void feeds_close(struct scenario *scenario) {
    for (int i = 0; i < scenario->n_feeds; i++) {
        if (scenario->feeds[i].fd >= 0)
            close(scenario->feeds[i].fd);
        scenario->feeds[i].fd = -1;
    }
}
