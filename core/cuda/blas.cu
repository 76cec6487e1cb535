#include "core/cuda/blas.h"

#include <dlfcn.h>
#include <stdio.h>

blas_api blas;

#define STRING_(x) #x
#define STRING(x) STRING_(x)      /* the name after cublas_v2.h's renaming: cublasCreate_v2 */

typedef struct { void **to; const char *name; } symbol;

static int load(const char *stem, int version, const symbol *want, size_t n, err *e)
{
    char file[48];
    snprintf(file, sizeof file, "%s.so.%d", stem, version);
    void *lib = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        char plain[48];
        snprintf(plain, sizeof plain, "%s.so", stem);
        lib = dlopen(plain, RTLD_NOW | RTLD_LOCAL);
    }
    if (!lib)
        return ERR(e, ERR_DEVICE, "the CUDA engine needs %s, which could not be loaded (%s); install the CUDA toolkit's libraries or use --device cpu", file,
                   dlerror());
    for (size_t i = 0; i < n; i++)
        if (!(*want[i].to = dlsym(lib, want[i].name)))
            return ERR(e, ERR_DEVICE, "%s has no function %s: it is too old for this program; install CUDA %d or newer, or use --device cpu", file,
                       want[i].name, version);
    return 0;
}

int blas_load(err *e)
{
    static bool loaded;
    const symbol plain[] = {
        { (void **)&blas.create, STRING(cublasCreate) },
        { (void **)&blas.destroy, STRING(cublasDestroy) },
        { (void **)&blas.set_stream, STRING(cublasSetStream) },
        { (void **)&blas.set_math_mode, "cublasSetMathMode" },
        { (void **)&blas.sgemm_64, STRING(cublasSgemm_64) },
        { (void **)&blas.gemm_ex, "cublasGemmEx" },
        { (void **)&blas.status_string, "cublasGetStatusString" },
    };
    const symbol lt[] = {
        { (void **)&blas.lt_create, "cublasLtCreate" },
        { (void **)&blas.lt_destroy, "cublasLtDestroy" },
        { (void **)&blas.desc_create, "cublasLtMatmulDescCreate" },
        { (void **)&blas.desc_destroy, "cublasLtMatmulDescDestroy" },
        { (void **)&blas.desc_set, "cublasLtMatmulDescSetAttribute" },
        { (void **)&blas.layout_create, "cublasLtMatrixLayoutCreate" },
        { (void **)&blas.layout_destroy, "cublasLtMatrixLayoutDestroy" },
        { (void **)&blas.preference_create, "cublasLtMatmulPreferenceCreate" },
        { (void **)&blas.preference_destroy, "cublasLtMatmulPreferenceDestroy" },
        { (void **)&blas.preference_set, "cublasLtMatmulPreferenceSetAttribute" },
        { (void **)&blas.heuristic, "cublasLtMatmulAlgoGetHeuristic" },
        { (void **)&blas.matmul, "cublasLtMatmul" },
    };
    if (loaded)
        return 0;
    int rc = load("libcublas", CUBLAS_VER_MAJOR, plain, sizeof plain / sizeof *plain, e);
    if (!rc)
        rc = load("libcublasLt", CUBLAS_VER_MAJOR, lt, sizeof lt / sizeof *lt, e);
    loaded = !rc;
    return rc;
}
