#include "core/cuda/blas.h"

#include <dlfcn.h>
#include <stdio.h>

blas_api blas;

#define STRING_(x) #x
#define STRING(x) STRING_(x)      /* the name after cublas_v2.h's renaming: cublasCreate_v2 */

int blas_load(err *e)
{
    static bool loaded;
    char major[32];
    if (loaded)
        return 0;
    snprintf(major, sizeof major, "libcublas.so.%d", CUBLAS_VER_MAJOR);
    void *lib = dlopen(major, RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        lib = dlopen("libcublas.so", RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        return ERR(e, ERR_DEVICE, "the CUDA engine needs %s, which could not be loaded (%s); install the CUDA toolkit's libraries or use --device cpu", major,
                   dlerror());
    struct { void **to; const char *name; } want[] = {
        { (void **)&blas.create, STRING(cublasCreate) },
        { (void **)&blas.destroy, STRING(cublasDestroy) },
        { (void **)&blas.set_stream, STRING(cublasSetStream) },
        { (void **)&blas.set_math_mode, "cublasSetMathMode" },
        { (void **)&blas.sgemm_64, STRING(cublasSgemm_64) },
        { (void **)&blas.status_string, "cublasGetStatusString" },
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        if (!(*want[i].to = dlsym(lib, want[i].name)))
            return ERR(e, ERR_DEVICE, "%s has no function %s: it is too old for this program; install CUDA %d or newer, or use --device cpu", major,
                       want[i].name, CUBLAS_VER_MAJOR);
    loaded = true;
    return 0;
}
