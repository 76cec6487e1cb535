/* Tensor maps for the copy engine of Hopper. */
#include <stdio.h>

#include "core/cuda/hopper.cuh"

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                              const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

int tma_map(backend *be, CUtensorMap *out, CUtensorMapDataType type, int rank, const void *base, const uint64_t *dim, const uint64_t *stride,
            const uint32_t *box, CUtensorMapSwizzle swizzle, const char *what, err *e)
{
    static encode_fn encode;
    static int driver;
    if (!encode) {
        void *p = NULL;
        cudaDriverEntryPointQueryResult found;
        cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &found);
        if (status != cudaSuccess || found != cudaDriverEntryPointSuccess || !p) {
            cudaGetLastError();
            return ERR(e, ERR_DEVICE, "%s: the driver has no cuTensorMapEncodeTiled; install a driver of CUDA 12.0 or newer", be->device);
        }
        CUDA_TRY(cudaDriverGetVersion(&driver), "asking for the driver's version");
        encode = (encode_fn)p;
    }
    cuuint64_t dims[5] = { 0 }, strides[5] = { 0 };
    cuuint32_t boxes[5] = { 0 }, steps[5] = { 1, 1, 1, 1, 1 };
    uint64_t bytes = 0;
    for (int i = 0; i < rank; i++) {
        dims[i] = dim[i];
        boxes[i] = box[i];
        if (i) {
            strides[i - 1] = stride[i - 1];
            bytes = dim[i] * stride[i - 1] > bytes ? dim[i] * stride[i - 1] : bytes;
        }
    }
    CUresult r = encode(out, type, (cuuint32_t)rank, (void *)(uintptr_t)base, dims, strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS)
        return ERR(e, ERR_INTERNAL, "%s: the tensor map of %s was refused (CUresult %d): rank %d, dims %llu %llu %llu %llu %llu, box %u %u %u %u %u, address %p",
                   be->device, what, (int)r, rank, (unsigned long long)dims[0], (unsigned long long)dims[1], (unsigned long long)dims[2],
                   (unsigned long long)dims[3], (unsigned long long)dims[4], boxes[0], boxes[1], boxes[2], boxes[3], boxes[4], base);
    /* drivers up to 13.1 set a bit for tensors under 128 KiB that makes them unusable for some boxes (CUTLASS clears it as well) */
    if (driver <= 13010 && bytes < 131072)
        ((uint64_t *)out)[1] &= ~(1ull << 21);
    return 0;
}
