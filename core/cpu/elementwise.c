#include "core/base/parallel.h"
#include "core/cpu/cpu.h"

/* Everything that touches each element once: activations, gates, rotary positions, sampler arithmetic, layouts. */

enum { CHUNK = 1 << 14 };

typedef struct {
    float *out;
    const float *x, *y;
    float a, b;
    int64_t n, width, rows_per_group;
    enum { SILU, GATED_GELU, AXPBY, DIV, GATE_ADD, ADD } kind;
} ew_job;

CPU_CLONES static void ew_range(const ew_job *j, int64_t i0, int64_t i1)
{
    float *o = j->out;
    const float *x = j->x, *y = j->y;
    switch (j->kind) {
    case SILU:
        for (int64_t i = i0; i < i1; i++)
            o[i] = cpu_silu(x[i]);
        break;
    case GATED_GELU:
        for (int64_t i = i0; i < i1; i++)
            o[i] = x[i] * cpu_gelu_tanh(y[i]);
        break;
    case AXPBY:
        for (int64_t i = i0; i < i1; i++)
            o[i] = j->a * x[i] + j->b * y[i];      /* three roundings: the build forbids contraction */
        break;
    case DIV:
        for (int64_t i = i0; i < i1; i++)
            o[i] = x[i] / j->a;
        break;
    case ADD:
        for (int64_t i = i0; i < i1; i++)
            o[i] += x[i];
        break;
    case GATE_ADD:
        for (int64_t r = i0 / j->width; r * j->width < i1; r++) {      /* chunks are whole rows here */
            const float *g = y + r / j->rows_per_group * j->width;
            for (int64_t i = 0; i < j->width; i++)
                o[r * j->width + i] += x[r * j->width + i] * g[i];
        }
        break;
    }
}

static void ew_piece(int64_t piece, int thread, void *arg)
{
    ew_job *j = arg;
    int64_t chunk = j->kind == GATE_ADD ? (CHUNK / j->width + 1) * j->width : CHUNK;
    int64_t i1 = (piece + 1) * chunk;
    (void)thread;
    ew_range(j, piece * chunk, i1 < j->n ? i1 : j->n);
}

static int run(ew_job *j)
{
    int64_t chunk = j->kind == GATE_ADD ? (CHUNK / j->width + 1) * j->width : CHUNK;
    parallel_for((j->n + chunk - 1) / chunk, ew_piece, j);
    return 0;
}

int cpu_silu_op(backend *be, tensor *out, const tensor *x, err *e)
{
    (void)be, (void)e;
    return run(&(ew_job){ .out = out->data, .x = x->data, .n = tensor_count(x), .kind = SILU });
}

int cpu_gated_gelu(backend *be, tensor *out, const tensor *x, const tensor *gate, err *e)
{
    (void)be, (void)e;
    return run(&(ew_job){ .out = out->data, .x = x->data, .y = gate->data, .n = tensor_count(x), .kind = GATED_GELU });
}

int cpu_axpby(backend *be, tensor *out, float a, const tensor *x, float b, const tensor *y, err *e)
{
    (void)be, (void)e;
    return run(&(ew_job){ .out = out->data, .x = x->data, .y = y->data, .a = a, .b = b, .n = tensor_count(x),
                          .kind = AXPBY });
}

int cpu_div_scalar(backend *be, tensor *out, const tensor *x, float d, err *e)
{
    (void)be, (void)e;
    return run(&(ew_job){ .out = out->data, .x = x->data, .a = d, .n = tensor_count(x), .kind = DIV });
}

int cpu_x0(backend *be, tensor *out, const tensor *x, double sigma, const tensor *v, err *e)
{
    (void)be, (void)e;
    const float *a = x->data, *b = v->data;
    float *o = out->data;
    for (int64_t i = 0, n = tensor_count(x); i < n; i++)
        o[i] = (float)((double)a[i] - sigma * (double)b[i]);
    return 0;
}

int cpu_nonfinite(backend *be, tensor *flag, const tensor *x, err *e)
{
    (void)be, (void)e;
    const char *bits = x->data;
    int32_t found = 0;
    for (int64_t i = 0, n = tensor_count(x); i < n; i++) {
        uint32_t b;
        memcpy(&b, bits + 4 * i, 4);
        found |= (b & 0x7f800000u) == 0x7f800000u;
    }
    *(int32_t *)flag->data = found;
    return 0;
}

int cpu_gate_add(backend *be, tensor *x, const tensor *y, const tensor *gate, err *e)
{
    (void)be, (void)e;
    return run(&(ew_job){ .out = x->data, .x = y->data, .y = gate ? gate->data : NULL, .n = tensor_count(x),
                          .width = tensor_cols(x), .rows_per_group = gate ? tensor_nrows(x) / tensor_nrows(gate) : 1,
                          .kind = gate ? GATE_ADD : ADD });
}

int cpu_add_row(backend *be, tensor *out, const tensor *x, const tensor *row, err *e)
{
    (void)be, (void)e;
    int64_t width = tensor_cols(x), rows = tensor_nrows(x), each = rows / tensor_nrows(row);
    const float *in = x->data;
    float *o = out->data;
    for (int64_t r = 0; r < rows; r++) {
        const float *add = (const float *)row->data + r / each * width;
        for (int64_t i = 0; i < width; i++)
            o[r * width + i] = in[r * width + i] + add[i];
    }
    return 0;
}

typedef struct {
    tensor *x;
    const rope_table *r;
    int n_heads;
} rope_job;

static void rope_piece(int64_t token, int thread, void *arg)
{
    rope_job *j = arg;
    const rope_table *r = j->r;
    int64_t at[3] = { token / (r->grid[1] * r->grid[2]) + r->frame_offset, token / r->grid[2] % r->grid[1],
                      token % r->grid[2] };
    float *x = (float *)j->x->data + token * tensor_cols(j->x);
    (void)thread;
    for (int h = 0; h < j->n_heads; h++)
        for (int a = 0; a < 3; a++) {
            const float *cs = (const float *)r->cs[a]->data + at[a] * r->pairs[a] * 2;
            for (int p = 0; p < r->pairs[a]; p++, x += 2, cs += 2) {
                float re = x[0] * cs[0] - x[1] * cs[1], im = x[0] * cs[1] + x[1] * cs[0];
                x[0] = re;
                x[1] = im;
            }
        }
}

int cpu_rope(backend *be, tensor *x, const rope_table *r, int n_heads, err *e)
{
    (void)be, (void)e;
    parallel_for(tensor_nrows(x), rope_piece, &(rope_job){ x, r, n_heads });
    return 0;
}

int cpu_embed(backend *be, tensor *out, const tensor *table, const int32_t *ids, int64_t n, err *e)
{
    (void)be, (void)e;
    int64_t width = tensor_cols(table), size = (int64_t)dtype_size(table->dtype);
    for (int64_t i = 0; i < n; i++)
        dtype_to_f32((float *)out->data + i * width, (const char *)table->data + ids[i] * width * size, table->dtype, width);
    return 0;
}

/* Both patch orders in one loop: `conv_order` is column c*4 + q*2 + r, otherwise (q*2 + r)*C + c. */
static void patches(float *tokens, float *latents, const int64_t *shape, bool to_tokens, bool conv_order)
{
    int64_t C = shape[0], F = shape[1], H = shape[2], W = shape[3];
    for (int64_t c = 0; c < C; c++)
        for (int64_t f = 0; f < F; f++)
            for (int64_t y = 0; y < H; y++)
                for (int64_t x = 0; x < W; x++) {
                    int64_t token = (f * (H / 2) + y / 2) * (W / 2) + x / 2, q = y % 2 * 2 + x % 2;
                    float *t = tokens + token * 4 * C + (conv_order ? c * 4 + q : q * C + c);
                    float *l = latents + ((c * F + f) * H + y) * W + x;
                    if (to_tokens)
                        *t = *l;
                    else
                        *l = *t;
                }
}

int cpu_patchify(backend *be, tensor *tokens, const tensor *latents, err *e)
{
    (void)be, (void)e;
    patches(tokens->data, latents->data, latents->shape, true, true);
    return 0;
}

int cpu_unpatchify(backend *be, tensor *latents, const tensor *tokens, err *e)
{
    (void)be, (void)e;
    patches(tokens->data, latents->data, latents->shape, false, false);
    return 0;
}

int cpu_time_interleave(backend *be, tensor *out, const tensor *x, err *e)
{
    (void)be, (void)e;
    int64_t pixels = x->shape[1] * x->shape[2], C = out->shape[3];
    for (int64_t t = 0; t < x->shape[0]; t++)
        for (int64_t p = 0; p < pixels; p++)
            for (int k = 0; k < 2; k++)
                memcpy((float *)out->data + ((2 * t + k) * pixels + p) * C,
                       (const float *)x->data + ((t * pixels + p) * 2 + k) * C, (size_t)C * 4);
    return 0;
}

int cpu_to_channels_last(backend *be, tensor *out, const tensor *x, const float *div, const float *add, err *e)
{
    (void)be, (void)e;
    int64_t C = x->shape[0], n = tensor_count(x) / (C ? C : 1);
    const float *in = x->data;
    float *o = out->data;
    for (int64_t c = 0; c < C; c++)
        for (int64_t i = 0; i < n; i++)
            o[i * C + c] = div ? in[c * n + i] / div[c] + add[c] : in[c * n + i];
    return 0;
}

int cpu_to_channels_first(backend *be, tensor *out, const tensor *x, const float *sub, const float *mul, err *e)
{
    (void)be, (void)e;
    int64_t C = out->shape[0], Cx = x->shape[3], n = tensor_count(x) / (Cx ? Cx : 1);
    const float *in = x->data;
    float *o = out->data;
    for (int64_t c = 0; c < C; c++)
        for (int64_t i = 0; i < n; i++)
            o[c * n + i] = sub ? (in[i * Cx + c] - sub[c]) * mul[c] : in[i * Cx + c];
    return 0;
}
