/* What the machine is, and at what clock it runs: through the driver's management library where it can be loaded. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/bench.h"

/* nvml.h, by its documented binary interface: a result of 0 is success, clock 1 is that of the multiprocessors, 2 the memory's */
typedef int (*nvml_void)(void);
typedef int (*nvml_text)(char *, unsigned);
typedef int (*nvml_int)(int *);
typedef int (*nvml_by_index)(unsigned, void **);
typedef int (*nvml_clock)(void *, int, unsigned *);

static void read_cpu(bench_machine *m)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        char *text = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !text)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(m->cpu, sizeof m->cpu, "%s", text + 1 + strspn(text + 1, " "));
        break;
    }
    if (f)
        fclose(f);
}

void bench_machine_open(bench_machine *m, const backend *be)
{
    memset(m, 0, sizeof *m);
    snprintf(m->device, sizeof m->device, "%s", be->device);
    read_cpu(m);
    if (strcmp(be->ops->name, "cuda") || !(m->nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)))
        return;
    nvml_void init = (nvml_void)dlsym(m->nvml, "nvmlInit_v2");
    nvml_text driver = (nvml_text)dlsym(m->nvml, "nvmlSystemGetDriverVersion");
    nvml_int cuda = (nvml_int)dlsym(m->nvml, "nvmlSystemGetCudaDriverVersion_v2");
    nvml_by_index find = (nvml_by_index)dlsym(m->nvml, "nvmlDeviceGetHandleByIndex_v2");
    int version = 0;
    if (!init || init()) {
        dlclose(m->nvml);
        m->nvml = NULL;
        return;
    }
    if (driver && driver(m->driver, sizeof m->driver))
        m->driver[0] = 0;
    if (cuda && !cuda(&version))
        snprintf(m->cuda, sizeof m->cuda, "%d.%d", version / 1000, version % 1000 / 10);
    /* the library counts all GPUs; where some are hidden, the clocks could be another one's and are left out */
    if (find && !getenv("CUDA_VISIBLE_DEVICES") && backend_gpu_count() == 1 && find(0, &m->gpu))
        m->gpu = NULL;
}

void bench_machine_close(bench_machine *m)
{
    if (m->nvml) {
        nvml_void end = (nvml_void)dlsym(m->nvml, "nvmlShutdown");
        if (end)
            end();
        dlclose(m->nvml);
    }
    memset(m, 0, sizeof *m);
}

int bench_machine_clock(const bench_machine *m, bool memory)
{
    unsigned mhz = 0;
    nvml_clock clock = m->gpu ? (nvml_clock)dlsym(m->nvml, "nvmlDeviceGetClockInfo") : NULL;
    return clock && !clock(m->gpu, memory ? 2 : 1, &mhz) ? (int)mhz : 0;
}
