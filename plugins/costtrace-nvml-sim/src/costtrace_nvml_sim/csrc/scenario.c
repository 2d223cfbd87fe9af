/* Reads a compiled scenario: one `key value` on each line, written by costtrace_nvml_sim.compiled.
 *
 * Anything unexpected ends the reading with the line's number, and nvmlInit fails: it never guesses.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define FORMAT "costtrace-nvml-sim-scenario"
#define FORMAT_VERSION 1

struct reader {
    struct scenario *scenario;
    struct device *device; /* of the block being read */
    struct wave *wave;     /* that `p` lines belong to */
    long line;
    int ended;
    char *why;
    size_t why_size;
};

static int fail(struct reader *reader, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int used = snprintf(reader->why, reader->why_size, "line %ld: ", reader->line);
    if (used > 0 && (size_t)used < reader->why_size)
        vsnprintf(reader->why + used, reader->why_size - (size_t)used, format, args);
    va_end(args);
    return -1;
}

/* Takes one integer from *text. */
static int number(struct reader *reader, char **text, i64 low, i64 high, i64 *out) {
    char *end;
    long long value = strtoll(*text, &end, 10);
    if (end == *text || (*end != '\0' && *end != ' '))
        return fail(reader, "an integer is expected at '%.40s'", *text);
    if (value < low || value > high)
        return fail(reader, "%lld is not in [%lld, %lld]", value, (long long)low, (long long)high);
    *out = value;
    *text = *end == ' ' ? end + 1 : end;
    return 0;
}

/* What NVML shows is ASCII: its readers decode it, and end on anything else. Paths (which are longer) may be anything. */
static int text_into(struct reader *reader, const char *value, char *out, size_t size) {
    if (strlen(value) >= size)
        return fail(reader, "text longer than %zu characters", size - 1);
    for (const char *at = value; size == TEXT && *at; at++)
        if (*at < ' ' || *at > '~')
            return fail(reader, "text that is not printable ASCII");
    strcpy(out, value);
    return 0;
}

struct int_key {
    const char *name;
    size_t offset;
    i64 low, high;
};
#define INT(field, low, high) {#field, offsetof(struct device, field), low, high}
#define NS 1000000000LL
static const struct int_key DEVICE_INTS[] = {
    INT(minor, 0, 255), INT(pci_domain, 0, 65535), INT(pci_bus, 0, 255), INT(pci_device_id, 0, UINT32_MAX),
    INT(architecture, 0, UINT32_MAX), INT(cc_major, 0, 99), INT(cc_minor, 0, 99), INT(sms, 0, 4096),
    INT(memory_mib, 0, 1LL << 32), INT(memory_used_mib, 0, 1LL << 32), INT(memory_reserved_mib, 0, 1LL << 32),
    INT(idle_mw, 0, UINT32_MAX), INT(limit_mw, 1, UINT32_MAX), INT(default_limit_mw, 1, UINT32_MAX),
    INT(min_limit_mw, 0, UINT32_MAX), INT(max_limit_mw, 1, UINT32_MAX), INT(sm_clock_mhz, 0, 100000),
    INT(idle_clock_mhz, 0, 100000), INT(mem_clock_mhz, 0, 100000), INT(update_ns, NS / 1000, 3600 * NS),
    INT(window_ns, 1000, 3600 * NS), INT(average_samples, 1, 100000), INT(lag_ns, 0, 3600 * NS),
    INT(settle_ns, 0, 3600 * NS), INT(phase_ns, 0, 3600 * NS), INT(gain_ppm, 1, 10000000),
    INT(offset_mw, -1000000, 1000000), INT(resolution_mw, 1, 1000000), INT(usage_is_average, 0, 1),
    INT(has_instant, 0, 1), INT(has_average, 0, 1), INT(has_module, 0, 1), INT(stamp_at_update, 0, 1),
    INT(sample_buffer, 0, 10000), INT(counter_mode, 0, 2), INT(counter_update_ns, 1000, 3600 * NS),
    INT(counter_phase_ns, 0, 3600 * NS), INT(counter_lag_ns, 0, 3600 * NS),
    INT(counter_resolution_mj, 1, 1000000000), INT(counter_start_mj, 0, 1LL << 53), INT(counter_module, 0, 1),
    INT(mig_enabled, 0, 1),
};
static const struct { const char *name; size_t offset; } DEVICE_TEXTS[] = {
    {"name", offsetof(struct device, name)}, {"uuid", offsetof(struct device, uuid)},
    {"serial", offsetof(struct device, serial)}, {"part_number", offsetof(struct device, part_number)},
    {"vbios", offsetof(struct device, vbios)},
};

static int read_feed_use(struct reader *reader, char *value) {
    struct device *device = reader->device;
    i64 file, who, initial;
    if (device->n_feeds == MAX_DEVICE_FEEDS)
        return fail(reader, "more than %d feeds on a device", MAX_DEVICE_FEEDS);
    if (number(reader, &value, 0, reader->scenario->n_feeds - 1, &file) || number(reader, &value, 0, UINT32_MAX, &who) ||
        number(reader, &value, 0, UINT32_MAX, &initial))
        return -1;
    struct device_feed *feed = &device->feeds[device->n_feeds++];
    feed->file = (int)file;
    feed->number = (unsigned int)who;
    return wave_append(&feed->wave, 0, initial) ? fail(reader, "out of memory") : 0;
}

static int read_mig(struct reader *reader, char *value) {
    struct device *device = reader->device;
    if (device->n_migs == MAX_MIG)
        return fail(reader, "more than %d MIG instances on a device", MAX_MIG);
    struct mig *mig = &device->migs[device->n_migs];
    i64 *const fields[] = {&mig->gi, &mig->ci, &mig->slices, &mig->compute_slices, &mig->memory_mib, &mig->sms};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (number(reader, &value, 0, 1LL << 32, fields[i]))
            return -1;
    char *space = strchr(value, ' ');
    if (!space)
        return fail(reader, "a MIG line ends with a UUID and a profile");
    *space = '\0';
    device->n_migs++;
    return text_into(reader, value, mig->uuid, TEXT) || text_into(reader, space + 1, mig->profile, TEXT) ? -1 : 0;
}

static int read_process(struct reader *reader, char *value) {
    struct device *device = reader->device;
    if (device->n_processes == MAX_PROCESSES)
        return fail(reader, "more than %d processes on a device", MAX_PROCESSES);
    struct process *process = &device->processes[device->n_processes++];
    return number(reader, &value, 1, UINT32_MAX, &process->pid) || number(reader, &value, 0, 1LL << 52, &process->bytes) ||
                   number(reader, &value, 0, UINT32_MAX, &process->gi) || number(reader, &value, 0, UINT32_MAX, &process->ci)
               ? -1
               : 0;
}

static int read_wave(struct reader *reader, struct wave *wave, char *value) {
    reader->wave = wave;
    return number(reader, &value, 0, FOREVER, &wave->loop_from) || number(reader, &value, 0, FOREVER / 4, &wave->loop_ns)
               ? -1
               : 0;
}

static int read_point(struct reader *reader, char *value) {
    i64 t, mw;
    if (!reader->wave)
        return fail(reader, "a point without a wave");
    if (number(reader, &value, 0, FOREVER / 4, &t) || number(reader, &value, 0, UINT32_MAX, &mw))
        return -1;
    struct wave *wave = reader->wave;
    if (wave->n == 0 ? t != 0 : t <= wave->t[wave->n - 1])
        return fail(reader, "points start at 0 and their times increase");
    return wave_append(wave, t, mw) ? fail(reader, "out of memory") : 0;
}

static int device_key(struct reader *reader, const char *key, char *value) {
    for (size_t i = 0; i < sizeof DEVICE_INTS / sizeof DEVICE_INTS[0]; i++)
        if (strcmp(key, DEVICE_INTS[i].name) == 0)
            return number(reader, &value, DEVICE_INTS[i].low, DEVICE_INTS[i].high,
                          (i64 *)((char *)reader->device + DEVICE_INTS[i].offset));
    for (size_t i = 0; i < sizeof DEVICE_TEXTS / sizeof DEVICE_TEXTS[0]; i++)
        if (strcmp(key, DEVICE_TEXTS[i].name) == 0)
            return text_into(reader, value, (char *)reader->device + DEVICE_TEXTS[i].offset, TEXT);
    if (strcmp(key, "gpu_wave") == 0)
        return read_wave(reader, &reader->device->gpu, value);
    if (strcmp(key, "module_wave") == 0)
        return read_wave(reader, &reader->device->module, value);
    if (strcmp(key, "feed_use") == 0)
        return read_feed_use(reader, value);
    if (strcmp(key, "mig") == 0)
        return read_mig(reader, value);
    if (strcmp(key, "process") == 0)
        return read_process(reader, value);
    return fail(reader, "unknown key '%.40s'", key);
}

static int read_fault(struct reader *reader, char *value) {
    struct scenario *scenario = reader->scenario;
    if (scenario->n_faults == MAX_FAULTS)
        return fail(reader, "more than %d faults", MAX_FAULTS);
    struct fault *fault = &scenario->faults[scenario->n_faults++];
    return number(reader, &value, FAULT_ERROR, FAULT_WALL_JUMP, &fault->kind) ||
                   number(reader, &value, -1, MAX_DEVICES - 1, &fault->device) ||
                   number(reader, &value, INT64_MIN, FOREVER, &fault->from) ||
                   number(reader, &value, INT64_MIN, FOREVER, &fault->until) ||
                   number(reader, &value, 0, 999, &fault->code) || number(reader, &value, 0, 1000000, &fault->times) ||
                   number(reader, &value, INT64_MIN, FOREVER, &fault->amount) ||
                   text_into(reader, value, fault->call, TEXT)
               ? -1
               : 0;
}

static int new_device(struct reader *reader) {
    struct scenario *scenario = reader->scenario;
    if (scenario->n_devices == MAX_DEVICES)
        return fail(reader, "more than %d devices", MAX_DEVICES);
    reader->device = &scenario->devices[scenario->n_devices++];
    reader->wave = NULL;
    /* Defaults only for the values that are divisors, in case their line is missing. */
    reader->device->update_ns = reader->device->window_ns = reader->device->counter_update_ns = NS / 10;
    reader->device->average_samples = reader->device->resolution_mw = reader->device->counter_resolution_mj = 1;
    reader->device->gain_ppm = 1000000;
    reader->device->limit_mw = 1;
    return 0;
}

static int scenario_key(struct reader *reader, const char *key, char *value) {
    struct scenario *scenario = reader->scenario;
    if (strcmp(key, "t0_monotonic_ns") == 0)
        return number(reader, &value, 0, FOREVER / 2, &scenario->t0_monotonic_ns);
    if (strcmp(key, "t0_unix_ns") == 0)
        return number(reader, &value, 0, FOREVER / 2, &scenario->t0_unix_ns);
    if (strcmp(key, "cuda_version") == 0)
        return number(reader, &value, 0, 1000000, &scenario->cuda_version);
    if (strcmp(key, "driver_version") == 0)
        return text_into(reader, value, scenario->driver_version, TEXT);
    if (strcmp(key, "nvml_version") == 0)
        return text_into(reader, value, scenario->nvml_version, TEXT);
    if (strcmp(key, "virtual_clock") == 0)
        return text_into(reader, value, scenario->virtual_clock, sizeof scenario->virtual_clock);
    if (strcmp(key, "calls_dir") == 0)
        return text_into(reader, value, scenario->calls_dir, sizeof scenario->calls_dir);
    if (strcmp(key, "fault") == 0)
        return read_fault(reader, value);
    if (strcmp(key, "device") == 0)
        return new_device(reader);
    if (strcmp(key, "feed") == 0) {
        if (scenario->n_feeds == MAX_FEEDS)
            return fail(reader, "more than %d feeds", MAX_FEEDS);
        scenario->feeds[scenario->n_feeds].fd = -1;
        return text_into(reader, value, scenario->feeds[scenario->n_feeds++].path, sizeof scenario->feeds[0].path);
    }
    return reader->device ? device_key(reader, key, value) : fail(reader, "unknown key '%.40s'", key);
}

static int read_line(struct reader *reader, char *line) {
    char *space = strchr(line, ' ');
    char *value = space ? space + 1 : line + strlen(line);
    if (space)
        *space = '\0';
    if (reader->line == 1)
        return strcmp(line, FORMAT) != 0 || atoi(value) != FORMAT_VERSION
                   ? fail(reader, "not a compiled scenario of version %d", FORMAT_VERSION)
                   : 0;
    if (reader->ended)
        return fail(reader, "text after the end");
    if (strcmp(line, "end") == 0) {
        reader->ended = 1;
        return 0;
    }
    if (strcmp(line, "p") == 0)
        return read_point(reader, value);
    return scenario_key(reader, line, value);
}

static int check(struct reader *reader) {
    if (!reader->ended)
        return fail(reader, "no `end`: the file is cut off");
    for (int i = 0; i < reader->scenario->n_devices; i++) {
        const struct device *device = &reader->scenario->devices[i];
        const struct wave *waves[] = {&device->gpu, &device->module};
        for (int w = 0; w < 2; w++)
            if (waves[w]->n == 0)
                return fail(reader, "device %d has a wave without points", i);
    }
    return 0;
}

int scenario_load(const char *path, struct scenario *out, char *why, size_t why_size) {
    memset(out, 0, sizeof *out);
    struct reader reader = {out, NULL, NULL, 0, 0, why, why_size};
    FILE *file = fopen(path, "re");
    out->devices = calloc(MAX_DEVICES, sizeof *out->devices);
    int bad = !file || !out->devices ? fail(&reader, "cannot be opened") : 0;
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while (!bad && (length = getline(&line, &room, file)) >= 0) {
        reader.line++;
        if ((size_t)length != strlen(line))
            bad = fail(&reader, "a NUL byte");
        line[strcspn(line, "\n")] = '\0';
        bad = bad || read_line(&reader, line);
    }
    free(line);
    if (file)
        fclose(file);
    if (!bad)
        bad = check(&reader);
    if (bad)
        scenario_free(out);
    return bad;
}

void scenario_free(struct scenario *scenario) {
    feeds_close(scenario);
    for (int i = 0; i < scenario->n_devices; i++) {
        wave_free(&scenario->devices[i].gpu);
        wave_free(&scenario->devices[i].module);
        for (int f = 0; f < scenario->devices[i].n_feeds; f++)
            wave_free(&scenario->devices[i].feeds[f].wave);
    }
    free(scenario->devices);
    memset(scenario, 0, sizeof *scenario);
}
