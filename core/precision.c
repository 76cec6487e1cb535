#include "core/precision.h"

#include <string.h>

static const precision policies[] = {
    { "exact", DT_F32, DT_F32, DT_COUNT },
};

int precision_find(const precision **out, const char *name, err *e)
{
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
        if (!strcmp(policies[i].name, name)) {
            *out = &policies[i];
            return 0;
        }
    return ERR(e, ERR_CONFIG, "model.precision '%s': this build computes in 'exact' (f32) only; set model.precision to exact",
               name);
}
