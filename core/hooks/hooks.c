#include "core/hooks/hooks.h"

int hooks_observe(hooks *h, hook_observer o, err *e)
{
    if (h->n_observers == HOOKS_MAX)
        return ERR(e, ERR_ARG, "at most %d observers can watch one run", HOOKS_MAX);
    h->observers[h->n_observers++] = o;
    return 0;
}

int hooks_edit(hooks *h, hook_editor ed, err *e)
{
    if (h->n_editors == HOOKS_MAX)
        return ERR(e, ERR_ARG, "at most %d editors can change one run", HOOKS_MAX);
    h->editors[h->n_editors++] = ed;
    return 0;
}

bool hooks_wanted(const hooks *h, const hook_point *p)
{
    for (int i = 0; h && i < h->n_observers; i++)
        if (h->observers[i].wants(p, h->observers[i].user))
            return true;
    return false;
}

int hooks_show(const hooks *h, const hook_point *p, const hook_data *d, err *e)
{
    int rc = 0;
    for (int i = 0; h && !rc && i < h->n_observers; i++)
        if (h->observers[i].wants(p, h->observers[i].user))
            rc = h->observers[i].show(p, d, h->observers[i].user, e);
    return rc;
}

bool hooks_edited(const hooks *h, const hook_point *p)
{
    for (int i = 0; h && i < h->n_editors; i++)
        if (h->editors[i].wants(p, h->editors[i].user))
            return true;
    return false;
}

int hooks_apply(const hooks *h, const hook_point *p, tensor *value, const attn_args *a, err *e)
{
    int rc = 0;
    for (int i = 0; h && !rc && i < h->n_editors; i++)
        if (h->editors[i].wants(p, h->editors[i].user))
            rc = h->editors[i].edit(p, value, a, h->editors[i].user, e);
    return rc;
}
