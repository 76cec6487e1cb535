/* A sequence of launches recorded once and started again as one. */
#include <stdlib.h>

#include "core/cuda/cuda.cuh"

struct cuda_retired {
    void *p;
    struct cuda_retired *next;
};

void cuda_retire(backend *be, void *p)
{
    cuda_impl *c = impl(be);
    struct cuda_retired *r = p && c->graphs ? (struct cuda_retired *)malloc(sizeof *r) : NULL;
    if (r) {
        r->p = p;
        r->next = c->retired;
        c->retired = r;
    } else if (p && !c->graphs) {
        cudaFreeAsync(p, c->stream);
    }      /* with graphs and no memory for a note the block stays taken: a leak is better than a wrong result */
}

static void free_retired(backend *be)
{
    cuda_impl *c = impl(be);
    while (c->retired && !c->graphs) {
        struct cuda_retired *r = c->retired;
        c->retired = r->next;
        cudaFreeAsync(r->p, c->stream);
        free(r);
    }
}

extern "C" int cuda_graph_begin(backend *be, err *e)
{
    CUDA_TRY(cudaStreamBeginCapture(impl(be)->stream, cudaStreamCaptureModeThreadLocal), "recording a graph");
    return 0;
}

extern "C" int cuda_graph_end(backend *be, void **out, err *e)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cudaError_t status = cudaStreamEndCapture(impl(be)->stream, &graph);
    *out = NULL;
    if (status == cudaSuccess)
        status = cudaGraphInstantiate(&exec, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    if (status != cudaSuccess)
        return cuda_fail(be, status, "recording a graph", e);
    impl(be)->graphs++;
    *out = exec;
    return 0;
}

extern "C" int cuda_graph_launch(backend *be, void *graph, err *e)
{
    CUDA_TRY(cudaGraphLaunch((cudaGraphExec_t)graph, impl(be)->stream), "starting a graph");
    return cuda_launched(be, "a graph", e);
}

extern "C" void cuda_graph_free(backend *be, void *graph)
{
    cudaStreamSynchronize(impl(be)->stream);      /* it may still run */
    cudaGraphExecDestroy((cudaGraphExec_t)graph);
    impl(be)->graphs--;
    free_retired(be);
}
