/* What both checkpoint targets do with the bytes: open, look at every tensor, translate names, detect, check. */
#ifndef WANSCOPE_FUZZ_CKPT_H
#define WANSCOPE_FUZZ_CKPT_H

#include <stdint.h>
#include <stdlib.h>

#include "core/dit/dit_config.h"
#include "core/io/ckpt.h"
#include "core/io/ckpt_internal.h"
#include "core/io/expect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t fuzz_sink;

static void fuzz_tensors(const ckpt *c, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < ckpt_count(c); i++) {
        const ckpt_tensor *t = ckpt_at(c, i);
        const uint8_t *p = t->data;
        size_t bytes;
        if (!ckpt_shape_bytes(t->shape, t->ndim, t->dtype, &bytes) || bytes != t->bytes)
            abort();
        if (p < data || t->bytes > size || (size_t)(p - data) > size - t->bytes)
            abort();
        if (t->bytes)
            fuzz_sink = (uint8_t)(p[0] + p[t->bytes - 1]);
        if (ckpt_find(c, t->name) != t)
            abort();
    }
}

static void fuzz_ckpt(ckpt_format format, const uint8_t *data, size_t size)
{
    for (int kind = CKPT_DIT; kind <= CKPT_VAE; kind++) {
        ckpt *c;
        ckpt_want *w = NULL;
        dit_config dit;
        umt5_config t5;
        vae_config vae;
        char digest[65];
        err e = { 0 };
        if (ckpt_open_memory(&c, format, data, size, "fuzz", &e)) {
            if (!e.text[0] || c)
                abort();
            return;
        }
        fuzz_tensors(c, data, size);
        if (ckpt_normalise(c, (ckpt_kind)kind, &e) == 0) {
            fuzz_tensors(c, data, size);
            if (ckpt_digest(c, digest, &e) || ckpt_want_begin(&w, c, "network", &e))
                abort();
            if (kind == CKPT_DIT && dit_config_detect(&dit, c, NULL, &e) == 0)
                expect_dit(w, &dit);
            else if (kind == CKPT_T5 && umt5_config_detect(&t5, c, &e) == 0)
                expect_umt5(w, &t5);
            else if (kind == CKPT_VAE && vae_config_detect(&vae, c, &e) == 0)
                expect_vae(w, &vae);
            ckpt_want_finish(w, true, &e);
        }
        ckpt_close(c);
    }
}

#endif
