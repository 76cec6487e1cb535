/* dit_internal: what dit.c (loading, memory) and dit_forward.c (the forward pass) share. */
#ifndef WANSCOPE_DIT_INTERNAL_H
#define WANSCOPE_DIT_INTERNAL_H

#include "core/dit/dit.h"
#include "core/dit/dit_swap.h"
#include "core/dit/dit_weights.h"

enum {
    ROPE_POSITIONS = 1024,      /* model.py:477-485: tables for 1024 positions an axis */
    HEAD_ROWS = 2048,           /* tokens the head handles at a time where the stream's type is not that of the activations */
    VACE_PAD = 128,             /* scope/src/scope/core/pipelines/wan2_1/vace: keys padded to a multiple of this */
};

struct dit {
    uint64_t serial;                 /* no two of a process have the same: another may come to lie at the same address */
    backend *be;
    uint64_t number;                 /* of this process, each once: an address may be another model's later */
    dit_config cfg;
    const precision *prec;
    dit_weights w;
    dit_vace vace;                   /* n_blocks 0: none */
    int n_swapped;                   /* main blocks in host memory, of VACE's as many in proportion */
    dit_swap *swap;                  /* NULL: all are on the device */
    int *order;                      /* room for the ids of all blocks */
    tensor rope_cs[3];               /* f32 [1024, pairs, 2] for frames, rows, columns */
    int rope_pairs[3];
};

enum { DIT_GRAPHS = 4 };             /* two branches of guidance, two experts */

/* What a recorded pass depends on beside the contents of tensors. */
typedef struct dit_graph_key {
    uint64_t model;                  /* dit.number */
    const void *latents, *context, *velocity;
    int64_t F, H, W, frame_offset;
    uint64_t plans;                  /* hash of both plans and the shots of the frames */
    int64_t n_timesteps;
} dit_graph_key;

typedef struct dit_graph {
    dit_graph_key key;
    bool seen;                       /* a pass of this kind has run: all memory is there */
    void *graph;
} dit_graph;

struct dit_work {
    backend *be;
    dit_graph graphs[DIT_GRAPHS];
    int next_graph;
    tensor memory;                   /* everything below lies in it (dit_plan.c) */
    int64_t capacity;                /* tokens */
    int64_t groups;                  /* timesteps the modulation tensors hold */
    tensor patches, x, h, q, k, v, y, ffn, out;
    tensor vace_patches, c;          /* the stream of the hint blocks; only with VACE */
    tensor ctx_k, ctx_v;             /* [text_len, D] */
    tensor sinusoid, t_hidden, t_emb, t_silu;   /* [G, ...] */
    tensor t_mod, mod;               /* [6G, D]: of each of the six, the groups */
    tensor head_mod[2];              /* [G, D] each */
    tensor head_h;                   /* [HEAD_ROWS at most, D] in the stream's type; empty where h has that type */
    tensor x8, x8_scale;             /* with 8-bit blocks: the input of a product, bytes [L, D or M], and its factors; else empty */
    tensor room8;                    /* with 8-bit attention: its q, k and v (core/attention8.h); else empty. Shares x8's place */
    tensor lse;                      /* f32 [N, L] of the cross-attention, where its kernel gives one cheaply; else empty */
    float *host_sinusoid;
};

/* Where the tensors of a dit_work lie, as views into one buffer whose size is returned; `base` NULL: only the size is wanted. What
 * is never alive at the same time shares memory: the FFN's hidden layer takes the place of q, k and v. */
int64_t dit_work_layout(dit_work *w, const dit_config *c, const precision *prec, int64_t vace_cols, int64_t L, int64_t G, void *base);

/* Makes room for L tokens and G timesteps; keeps what is there when it suffices. */
int dit_work_reserve(dit_work *w, const dit *d, int64_t L, int64_t G, err *e);

/* dit_graph.c: the place of passes like this one, or NULL where they cannot be recorded: with a cache, swapped or skipped blocks, VACE,
 * or anybody looking in. Recorded passes give the bits of others. */
dit_graph *dit_graph_find(dit_work *w, const dit *d, const dit_input *in, const tensor *velocity, const hooks *h, const hook_point *at);
void dit_graphs_free(dit_work *w);

/* Blocks by number, as in dit_swap.h. A pass announces those it will use: all main blocks but `skip` (num_layers, or NULL), and the
 * first n_hints of VACE. Ops queued between begin and end may read the block. */
int dit_pass_begin(dit *d, const bool *skip, int n_hints, err *e);
int dit_block_begin(dit *d, int id, const dit_block **out, err *e);
int dit_block_end(dit *d, int id, err *e);

#endif
