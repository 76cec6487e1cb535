#include "core/precision.h"

#include <string.h>

#include "core/backend.h"

static const precision policies[] = {
    { "exact", DT_F32, DT_F32, DT_COUNT, DT_COUNT, DT_F32, DT_F32 },
    { "bf16", DT_F32, DT_BF16, DT_BF16, DT_BF16, DT_BF16, DT_BF16 },
    { "fp8", DT_F32, DT_BF16, DT_BF16, DT_F8_E4M3, DT_F8_E4M3, DT_BF16 },
};

int precision_find(const precision **out, const char *name, err *e)
{
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
        if (!strcmp(policies[i].name, name)) {
            *out = &policies[i];
            return 0;
        }
    return ERR(e, ERR_CONFIG, "model.precision '%s' is not in this build: use exact (f32), bf16 or fp8", name);
}

const precision *precision_on(const precision *p, const backend *be)
{
    if (p->act != DT_F32 && !be->ops->bf16)
        return &policies[0];
    return p->block == DT_F8_E4M3 && !be->ops->fp8 ? &policies[1] : p;
}
