/* Start and end of the library, its clock, its handles, and what every call does on entry. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

#ifndef SIM_VERSION
#define SIM_VERSION "unknown"
#endif
#define MAX_CALL_NAMES 512

/* Programs recognise this library by this symbol. */
EXPORT const char *costtrace_nvml_sim_version(void);
const char *costtrace_nvml_sim_version(void) {
    return SIM_VERSION;
}

struct scenario *sim;
static struct scenario storage;
static struct handle handles[MAX_DEVICES][1 + MAX_MIG];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int users;
static const i64 *virtual_now; /* mapped: ns since t0 */
static struct {
    const char *name;
    unsigned long long calls;
} calls[MAX_CALL_NAMES];

static void before_fork(void) {
    pthread_mutex_lock(&lock);
}
static void after_fork(void) {
    pthread_mutex_unlock(&lock);
}
__attribute__((constructor)) static void on_load(void) {
    pthread_atfork(before_fork, after_fork, after_fork);
}

static i64 now_ns(void) {
    if (virtual_now)
        return __atomic_load_n(virtual_now, __ATOMIC_ACQUIRE);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (i64)now.tv_sec * 1000000000 + now.tv_nsec - sim->t0_monotonic_ns;
}

/* The driver's own timestamp of a moment: microseconds since 1970. */
i64 sim_unix_us(i64 now) {
    return floor_div(sim->t0_unix_ns + now + fault_wall_ns(sim, now), 1000);
}

static void count_call(const char *name) {
    for (int i = 0; i < MAX_CALL_NAMES; i++) {
        if (!calls[i].name)
            calls[i].name = name;
        if (calls[i].name == name || strcmp(calls[i].name, name) == 0) {
            calls[i].calls++;
            return;
        }
    }
}

/* One `name count` on each line, written at the last shutdown and at the process's end: all calls since loading. */
static void write_calls(void) {
    if (!sim || !sim->calls_dir[0])
        return;
    char path[4200];
    snprintf(path, sizeof path, "%s/calls.%d.tsv", sim->calls_dir, (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file)
        return;
    for (int i = 0; i < MAX_CALL_NAMES && calls[i].name; i++)
        fprintf(file, "%s\t%llu\n", calls[i].name, calls[i].calls);
    fclose(file);
}

__attribute__((destructor)) static void on_unload(void) {
    write_calls();
}

static int map_clock(void) {
    virtual_now = NULL;
    if (!sim->virtual_clock[0])
        return 0;
    int fd = open(sim->virtual_clock, O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    void *page = size < 8 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (page == MAP_FAILED)
        return -1;
    virtual_now = page;
    return 0;
}

static void forget(void) {
    if (virtual_now)
        munmap((void *)(uintptr_t)virtual_now, 8);
    virtual_now = NULL;
    if (sim)
        scenario_free(sim);
    sim = NULL;
}

static int start(void) {
    char why[256];
    const char *path = getenv("COSTTRACE_NVML_SIM");
    if (!path) {
        fprintf(stderr, "costtrace nvml-sim: COSTTRACE_NVML_SIM is not set; start the program with "
                        "`costtrace nvml-sim run SCENARIO -- COMMAND`\n");
        return NVML_ERROR_DRIVER_NOT_LOADED;
    }
    if (scenario_load(path, &storage, why, sizeof why) != 0) {
        fprintf(stderr, "costtrace nvml-sim: %s: %s\n", path, why);
        return NVML_ERROR_UNKNOWN;
    }
    sim = &storage;
    if (map_clock() != 0) {
        fprintf(stderr, "costtrace nvml-sim: %s: the virtual clock cannot be read\n", sim->virtual_clock);
        forget();
        return NVML_ERROR_UNKNOWN;
    }
    i64 now = now_ns();
    int code = fault_active(sim, FAULT_DRIVER_UNLOADED, -1, now) ? NVML_ERROR_DRIVER_NOT_LOADED
                                                                : fault_error(sim, "nvmlInit", -1, now);
    for (int i = 0; i < sim->n_devices; i++) {
        sim->devices[i].present = !fault_active(sim, FAULT_ABSENT, i, now);
        for (int m = 0; m <= MAX_MIG; m++)
            handles[i][m] = (struct handle){i, m - 1};
    }
    if (code != NVML_SUCCESS)
        forget();
    return code;
}

int sim_init(void) {
    pthread_mutex_lock(&lock);
    count_call("nvmlInit");
    int code = users > 0 ? NVML_SUCCESS : start();
    if (code == NVML_SUCCESS)
        users++;
    pthread_mutex_unlock(&lock);
    return code;
}

int sim_shutdown(void) {
    pthread_mutex_lock(&lock);
    count_call("nvmlShutdown");
    int code = users > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
    if (code == NVML_SUCCESS && --users == 0) {
        write_calls();
        forget();
    }
    pthread_mutex_unlock(&lock);
    return code;
}

void *sim_handle(int device, int mig) {
    return &handles[device][mig + 1];
}

static const struct handle *known(const void *handle) {
    uintptr_t first = (uintptr_t)handles, at = (uintptr_t)handle;
    if (at < first || at >= first + sizeof handles || (at - first) % sizeof(struct handle) != 0)
        return NULL;
    const struct handle *candidate = handle;
    if (candidate->device >= sim->n_devices || candidate->mig >= sim->devices[candidate->device].n_migs)
        return NULL;
    return candidate;
}

/* Waits as long as the driver would take, without the lock. With a virtual clock it does not wait. */
static void wait_us(i64 us) {
    if (us <= 0 || virtual_now)
        return;
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    pthread_mutex_unlock(&lock);
    while (nanosleep(&left, &left) != 0) {
    }
    pthread_mutex_lock(&lock);
}

static int enter(const char *name, int index, struct call *call) {
    i64 called = now_ns();
    call->latency_us = fault_latency_us(sim, name, index, called);
    wait_us(call->latency_us);
    if (!sim)
        return NVML_ERROR_UNINITIALIZED; /* another thread shut the library down while this one waited */
    call->now = now_ns();
    if (fault_active(sim, FAULT_DRIVER_UNLOADED, -1, call->now))
        return NVML_ERROR_DRIVER_NOT_LOADED;
    feeds_refresh(sim);
    return fault_error(sim, name, index, call->now);
}

int sim_enter_system(const char *name, struct call *call) {
    pthread_mutex_lock(&lock);
    count_call(name);
    *call = (struct call){.index = -1};
    int code = sim ? enter(name, -1, call) : NVML_ERROR_UNINITIALIZED;
    return code == NVML_SUCCESS ? code : sim_leave(code);
}

/* Enters a call on a device. With NVML_SUCCESS the lock is held until sim_leave; otherwise it is released. */
int sim_enter(const char *name, const void *handle, struct call *call) {
    pthread_mutex_lock(&lock);
    count_call(name);
    *call = (struct call){.index = -1};
    if (!sim)
        return sim_leave(NVML_ERROR_UNINITIALIZED);
    const struct handle *target = known(handle);
    if (!target)
        return sim_leave(NVML_ERROR_INVALID_ARGUMENT);
    int code = enter(name, target->device, call);
    if (code != NVML_SUCCESS)
        return sim_leave(code);
    if (target->device >= sim->n_devices)
        return sim_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (fault_active(sim, FAULT_LOST, target->device, call->now) ||
        fault_active(sim, FAULT_ABSENT, target->device, call->now))
        return sim_leave(NVML_ERROR_GPU_IS_LOST);
    call->index = target->device;
    call->device = &sim->devices[target->device];
    call->mig = target->mig < 0 ? NULL : &call->device->migs[target->mig];
    return NVML_SUCCESS;
}

int sim_leave(int code) {
    pthread_mutex_unlock(&lock);
    return code;
}

/* A call that is not simulated returns NOT_SUPPORTED, but only where NVML would have got that far. */
int sim_stub(const char *name) {
    struct call call;
    int code = sim_enter_system(name, &call);
    return code == NVML_SUCCESS ? sim_leave(NVML_ERROR_NOT_SUPPORTED) : code;
}
