/* `wanscope bench`: single operations: attention whole and by shots, matrix products. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/attention8.h"
#include "core/dit/shots.h"
#include "experiments/bench.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static int attend(void *user, err *e)
{
    return op_attention(user, e);
}

/* One row: n queries over m keys, or what the plan lets them see (`pairs` of query and key). */
static int attention_row(bench *b, const char *what, const char *item, int64_t n, int64_t m, attn_plan plan, double pairs, const char *note, err *e)
{
    int rc = 0, heads = b->model.dit.num_heads;
    int64_t dim = b->model.dit.dim, nq[2] = { n, dim }, nk[2] = { m, dim };
    tensor q = { 0 }, k = { 0 }, v = { 0 }, out = { 0 }, room8 = { 0 };
    int64_t bytes8 = b->prec->attn == DT_F8_E4M3 && n == m && plan.n_segments == 0 ? attn8_bytes(n, m, heads, (int)(dim / heads)) : 0;      /* self-attention */
    double *ms = malloc((size_t)b->repeat * sizeof *ms);
    bench_row row = BENCH_ROW_INIT;
    if (!ms)
        return ERR(e, ERR_MEMORY, "memory ran out");
    TRY(bench_random(b, &q, b->prec->act, 2, nq, 1, 1, e));
    TRY(bench_random(b, &k, b->prec->act, 2, nk, 2, 1, e));
    TRY(bench_random(b, &v, b->prec->act, 2, nk, 3, 1, e));
    TRY(tensor_new(&out, b->be, b->prec->act, 2, nq, e));
    attn_args a = { .out = &out, .q = &q, .k = &k, .v = &v, .n_heads = heads, .scale = 1.0f / sqrtf((float)(dim / heads)), .plan = plan };
    if (bytes8) {
        TRY(tensor_new(&room8, b->be, DT_U8, 2, (int64_t[]){ 1, bytes8 }, e));
        a.room8 = &room8;
    }
    TRY(bench_time(b, attend, &a, ms, e));
    row.what = what;
    row.item = item;
    row.ops = 4 * pairs * (double)dim;
    row.bytes = (double)dtype_size(b->prec->act) * (double)dim * 2 * (double)(n + m);
    str_addf(&row.shape, "q[%" PRId64 " %" PRId64 "] kv[%" PRId64 " %" PRId64 "] heads %d", n, dim, m, dim, heads);
    str_add(&row.note, bytes8 ? "8 bits, with the rounding of q, k and v; floor of bf16" : note);
    rc = bench_put(b, &row, ms, b->repeat, e);
out:
    tensor_free(&room8);
    tensor_free(&q);
    tensor_free(&k);
    tensor_free(&v);
    tensor_free(&out);
    free(ms);
    return rc;
}

int bench_attention(bench *b, err *e)
{
    int64_t n = b->tokens, t = b->model.dit.text_len;
    int rc = attention_row(b, "attention", "self", n, n, (attn_plan){ 0 }, (double)n * (double)n, "", e);
    return rc ? rc : attention_row(b, "attention", "cross", n, t, (attn_plan){ 0 }, (double)n * (double)t, "", e);
}

int bench_sparse(bench *b, err *e)
{
    int rc = 0, n_shots = b->frames / 40 < 2 ? 2 : b->frames / 40;
    shot_plans plans = { 0 };
    int *shot = malloc((size_t)b->F * sizeof *shot);
    char note[64];
    double pairs = 0;
    if (!shot)
        return ERR(e, ERR_MEMORY, "memory ran out");
    if (b->F < n_shots) {
        rc = ERR(e, ERR_ARG, "bench sparse: %" PRId64 " latent frames make no %d shots; give more --frames", b->F, n_shots);
        goto out;
    }
    for (int s = 0; s < n_shots; s++)
        for (int64_t f = s * b->F / n_shots; f < (s + 1) * b->F / n_shots; f++)
            shot[f] = s;
    TRY(shots_make_plans(&plans, shot, (int)b->F, b->per_frame, NULL, b->model.dit.text_len, e));
    for (int i = 0; i < plans.sparse.n_segments; i++) {
        const attn_segment *s = &plans.sparse.segments[i];
        for (int k = 0; k < s->n_ranges; k++)
            pairs += (double)(s->q_end - s->q_begin) * (double)(s->ranges[k].end - s->ranges[k].begin);
    }
    snprintf(note, sizeof note, "%d shots; each sees itself and every shot's first frame", n_shots);
    rc = attention_row(b, "sparse", "attention", b->tokens, b->tokens, plans.sparse, pairs, note, e);
out:
    shot_plans_release(&plans);
    free(shot);
    return rc;
}

/* ---- matrix products ---- */

typedef struct product {
    tensor x, x8, w, bias, out;      /* x8: x in 8 bits, where w is */
    activation act;
} product;

static int multiply(void *user, err *e)
{
    product *p = user;
    int rc = p->x8.data ? op_quantise(&p->x8, &p->x, e) : 0;
    return rc ? rc : op_linear(&p->out, p->x8.data ? &p->x8 : &p->x, &p->w, &p->bias, p->act, e);
}

/* Both sides in 8 bits, as the transformer has them with precision fp8. */
static int narrow(bench *b, product *p, err *e)
{
    int rc = 0;
    tensor wide = p->w;
    p->w = (tensor){ 0 };
    TRY(tensor_new_scaled(&p->w, b->be, wide.shape[0], wide.shape[1], e));
    TRY(op_quantise(&p->w, &wide, e));
    TRY(tensor_new_scaled(&p->x8, b->be, tensor_nrows(&p->x), tensor_cols(&p->x), e));
out:
    tensor_free(&wide);
    return rc;
}

/* A weight as the loader makes it: bf16 in the file, then what the precision holds the blocks' matrices in. */
static int weight(bench *b, tensor *out, int64_t rows, int64_t cols, err *e)
{
    tensor host = { 0 };
    int64_t shape[2] = { rows, cols };
    void *data = malloc((size_t)(rows * cols) * 2);
    backend *cpu = NULL;
    bench on_cpu = *b;
    int rc = data ? 0 : ERR(e, ERR_MEMORY, "memory ran out");
    rc = rc ? rc : backend_open_cpu(&cpu, e);
    if (!rc) {
        on_cpu.be = cpu;
        host = tensor_wrap(cpu, data, DT_BF16, 2, shape);
        rc = bench_fill(&on_cpu, &host, 4, 1 / sqrtf((float)cols), e);
    }
    ckpt_tensor t = { .name = "weight", .file_name = "weight", .dtype = DT_BF16, .ndim = 2, .shape = { rows, cols }, .data = data,
                      .bytes = (size_t)(rows * cols) * 2, .file = "random weights" };
    rc = rc ? rc : op_weight(b->be, out, &t, b->prec->block, e);
    rc = rc ? rc : b->be->ops->sync(b->be, e);
    if (!rc && out->data == data) {                 /* a view: give it memory of its own, which outlives `data` */
        tensor view = *out;
        rc = tensor_new(out, b->be, view.dtype, 2, shape, e);
        rc = rc ? rc : op_copy(out, &view, e);
    }
    backend_close(cpu);
    free(data);
    return rc;
}

static int gemm_row(bench *b, const char *item, int64_t rows, int64_t k, int64_t n, activation act, err *e)
{
    int rc = 0;
    product p = { .act = act };
    double *ms = malloc((size_t)b->repeat * sizeof *ms);
    bench_row row = BENCH_ROW_INIT;
    if (!ms)
        return ERR(e, ERR_MEMORY, "memory ran out");
    TRY(bench_random(b, &p.x, b->prec->act, 2, (int64_t[]){ rows, k }, 1, 1, e));
    TRY(bench_random(b, &p.bias, DT_F32, 1, &n, 2, 0.02f, e));
    TRY(weight(b, &p.w, n, k, e));
    if (b->prec->block == DT_F8_E4M3)
        TRY(narrow(b, &p, e));
    TRY(tensor_new(&p.out, b->be, b->prec->act, 2, (int64_t[]){ rows, n }, e));
    TRY(bench_time(b, multiply, &p, ms, e));
    row.what = "gemm";
    row.item = item;
    row.ops = 2 * (double)rows * (double)k * (double)n;
    row.bytes = (double)tensor_bytes(&p.x) + (double)tensor_bytes(&p.w) + (double)tensor_bytes(&p.out);
    str_addf(&row.shape, "[%" PRId64 " %" PRId64 "] x [%" PRId64 " %" PRId64 "]", rows, k, n, k);
    if (p.x8.data)
        str_add(&row.note, "8 bits, with the rounding of the activations; floor of bf16");
    rc = bench_put(b, &row, ms, b->repeat, e);
out:
    tensor_free(&p.x);
    tensor_free(&p.x8);
    tensor_free(&p.w);
    tensor_free(&p.bias);
    tensor_free(&p.out);
    free(ms);
    return rc;
}

int bench_gemm(bench *b, err *e)
{
    const dit_config *c = &b->model.dit;
    int rc = gemm_row(b, "proj", b->tokens, c->dim, c->dim, ACT_NONE, e);
    rc = rc ? rc : gemm_row(b, "ffn-up", b->tokens, c->dim, c->ffn_dim, ACT_GELU_TANH, e);
    return rc ? rc : gemm_row(b, "ffn-down", b->tokens, c->ffn_dim, c->dim, ACT_NONE, e);
}
