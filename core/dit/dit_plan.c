/* How much memory a DiT takes, and where its activations lie. Allocation and forecast share this. */
#include "core/attention8.h"
#include "core/dit/dit_internal.h"

enum { ALIGN = 256 };

static int64_t aligned(int64_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

typedef struct {
    backend *be;
    char *base;
    int64_t at;
} cursor;

static void place(cursor *c, tensor *t, dtype type, int64_t rows, int64_t cols)
{
    int64_t n = rows * cols * (int64_t)dtype_size(type);
    if (c->base && n)
        *t = tensor_wrap(c->be, c->base + c->at, type, 2, (int64_t[]){ rows, cols });
    c->at += aligned(n);
}

int64_t dit_work_layout(dit_work *w, const dit_config *c, const precision *prec, int64_t vace_cols, int64_t L, int64_t G, void *base)
{
    dtype s = prec->stream, a = prec->act;
    int64_t D = c->dim, pad = vace_cols ? VACE_PAD : 0;
    cursor at = { w->be, base, 0 };
    place(&at, &w->patches, a, L, (int64_t)c->in_dim * 4);
    place(&at, &w->x, s, L, D);
    place(&at, &w->h, a, L, D);
    place(&at, &w->y, a, L, D);
    place(&at, &w->out, s, L, (int64_t)c->out_dim * 4);
    if (vace_cols) {
        place(&at, &w->vace_patches, a, L, vace_cols);
        place(&at, &w->c, s, L, D);
    }
    /* q, k, v end with the attention, and the FFN begins after it */
    cursor ffn = at;
    place(&at, &w->q, a, L, D);
    place(&at, &w->k, a, L + pad, D);
    place(&at, &w->v, a, L + pad, D);
    place(&ffn, &w->ffn, a, L, c->ffn_dim);
    at.at = ffn.at > at.at ? ffn.at : at.at;
    place(&at, &w->ctx_k, a, c->text_len, D);
    place(&at, &w->ctx_v, a, c->text_len, D);
    place(&at, &w->sinusoid, DT_F32, G, c->freq_dim);
    place(&at, &w->t_hidden, DT_F32, G, D);
    place(&at, &w->t_emb, DT_F32, G, D);
    place(&at, &w->t_silu, DT_F32, G, D);
    place(&at, &w->t_mod, DT_F32, 6 * G, D);
    place(&at, &w->mod, DT_F32, 6 * G, D);
    if (s != a) {
        place(&at, &w->head_h, s, L < HEAD_ROWS ? L : HEAD_ROWS, D);
        place(&at, &w->lse, DT_F32, c->num_heads, L);
    }
    if (prec->block == DT_F8_E4M3) {
        cursor room = at;      /* q, k and v are in 8 bits only while no product's input is */
        place(&at, &w->x8, DT_F8_E4M3, L, c->ffn_dim > D ? c->ffn_dim : D);
        if (prec->attn == DT_F8_E4M3)
            place(&room, &w->room8, DT_U8, 1, attn8_bytes(L, L + pad, c->num_heads, (int)(D / c->num_heads)));
        at.at = room.at > at.at ? room.at : at.at;
        place(&at, &w->x8_scale, DT_F32, L, 1);
    }
    place(&at, &w->head_mod[0], DT_F32, G, D);
    place(&at, &w->head_mod[1], DT_F32, G, D);
    return at.at;
}

/* a matrix and its bias */
static int64_t linear(int64_t rows, int64_t cols, dtype type, dtype bias)
{
    /* "as in the file" is f32 on a GPU (core/cuda/cuda.cu) and at most that on a CPU */
    return aligned(rows * cols * (int64_t)dtype_size(type == DT_COUNT ? DT_F32 : type)) + aligned(rows * (int64_t)dtype_size(bias));
}

void dit_sizes_of(const dit_config *c, const precision *prec, bool bf16_file, bool vace, int64_t L, int64_t G, dit_sizes *out)
{
    int64_t D = c->dim, M = c->ffn_dim, row = aligned(D * 4);
    dit_work none = { 0 };
    dtype m = prec->weight, b = prec->block, a = prec->act, s = prec->act != DT_F32 && bf16_file ? DT_BF16 : DT_F32;
    *out = (dit_sizes){ 0 };
    out->fixed = linear(D, (int64_t)c->in_dim * 4, m, a) + linear(D, c->text_dim, m, a) + linear(D, D, m, a) + linear(D, c->freq_dim, s, DT_F32) +
                 linear(D, D, s, DT_F32) + linear(6 * D, D, s, DT_F32) + linear(4 * (int64_t)c->out_dim, D, s, DT_F32) + aligned(2 * D * 4);
    out->block = 6 * linear(D, D, b, a) + 2 * linear(D, D, m, a) + 6 * row + linear(M, D, b, a) + linear(D, M, b, a) + aligned(6 * D * 4);
    if (b == DT_F8_E4M3)
        out->block += 6 * row + aligned(D * 4) + aligned(M * 4);      /* a factor a row */
    if (vace) {
        out->vace_fixed = linear(D, (int64_t)c->vace_in_dim * 4, m, a) + linear(D, D, m, a);
        out->hint = out->block + linear(D, D, m, a);
    }
    for (int k = 0; k < 3; k++)      /* rotary tables: all pairs of a head together */
        out->fixed += aligned(ROPE_POSITIONS * (int64_t)(D / c->num_heads) * 4 / 3);
    out->work = dit_work_layout(&none, c, prec, vace ? (int64_t)c->vace_in_dim * 4 : 0, L, G, NULL);
}
