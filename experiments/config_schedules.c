/* Settings that are maps or lists of mappings: schedules by step, the timeline of prompts, the shape of what is only checked. */
#include <string.h>

#include "experiments/config_internal.h"

int setting_put_schedule(void *field, const setting *s, const yml_node *v, err *e)
{
    guidance_schedule g = { 0 };
    prompt_schedule p = { 0 };
    err why = { 0 };
    int rc = 0;
    if (v->kind != YML_MAP)
        return setting_wrong(s, v, e);
    for (int i = 0; i < v->n && !rc; i++) {
        const yml_node *key = v->keys[i], *value = v->items[i];
        int64_t step;
        double x = 0;
        if (!yml_int(key, &step) || step < 0 || step > 100000)
            rc = ERR(&why, ERR_CONFIG, "'%.60s' at line %d is no step, expected a whole number from 0", key->text,
                     key->line);
        else if (s->type == SETTING_GUIDANCE && !yml_double(value, &x))
            rc = ERR(&why, ERR_CONFIG, "step %lld has %s, expected a finite number", (long long)step,
                     yml_kind_name(value));
        else if (s->type == SETTING_GUIDANCE)
            rc = guidance_schedule_add(&g, step, x == 0 ? 0 : x, &why);
        else if (value->kind != YML_SCALAR || value->text[strspn(value->text, " \t\n")] == 0)
            rc = ERR(&why, ERR_CONFIG, "step %lld has %s, expected a prompt%s", (long long)step,
                     value->kind == YML_SCALAR ? "an empty text" : yml_kind_name(value),
                     value->kind == YML_LIST ? "; a text that begins with '[' needs quotes" : "");
        else
            rc = prompt_schedule_add(&p, step, value->text, &why);
    }
    if (rc) {
        guidance_schedule_release(&g);
        prompt_schedule_release(&p);
        return ERR(e, rc, "%s: %s", s->key, why.text);
    }
    if (s->type == SETTING_GUIDANCE) {
        guidance_schedule_release(field);
        *(guidance_schedule *)field = g;
    } else {
        prompt_schedule_release(field);
        *(prompt_schedule *)field = p;
    }
    return 0;
}

/* [{at: 0, text: ...}, {at: 21, text: ...}] */
int setting_put_timeline(prompt_schedule *field, const setting *s, const yml_node *v, err *e)
{
    prompt_schedule p = { 0 };
    err why = { 0 };
    int rc = 0;
    if (v->kind != YML_LIST)
        return setting_wrong(s, v, e);
    for (int i = 0; i < v->n && !rc; i++) {
        const yml_node *m = v->items[i], *text = NULL, *at = NULL;
        int64_t frame = 0;
        for (int k = 0; m->kind == YML_MAP && k < m->n && !rc; k++) {
            if (!strcmp(m->keys[k]->text, "at"))
                at = m->items[k];
            else if (!strcmp(m->keys[k]->text, "text"))
                text = m->items[k];
            else
                rc = ERR(&why, ERR_CONFIG, "entry %d has an unknown key '%.60s' (line %d), expected at and text", i, m->keys[k]->text, m->keys[k]->line);
        }
        if (rc)
            break;
        if (m->kind != YML_MAP || !at || !text)
            rc = ERR(&why, ERR_CONFIG, "entry %d (line %d) is %s, expected {at: latent frame, text: prompt}", i, m->line,
                     m->kind != YML_MAP ? yml_kind_name(m) : !at ? "without 'at'" : "without 'text'");
        else if (!yml_int(at, &frame) || frame < 0 || frame > 100000)
            rc = ERR(&why, ERR_CONFIG, "entry %d begins at '%.60s', expected a latent frame, a whole number from 0", i, at->kind == YML_SCALAR ? at->text : "");
        else if (text->kind != YML_SCALAR || text->text[strspn(text->text, " \t\n")] == 0)
            rc = ERR(&why, ERR_CONFIG, "entry %d has %s, expected a prompt%s", i, text->kind == YML_SCALAR ? "an empty text" : yml_kind_name(text),
                     text->kind == YML_LIST ? "; a text that begins with '[' needs quotes" : "");
        else if (i == 0 && frame != 0)
            rc = ERR(&why, ERR_CONFIG, "the first prompt begins at latent frame %lld, expected 0", (long long)frame);
        else if (i && frame <= p.steps[p.n - 1])
            rc = ERR(&why, ERR_CONFIG, "entry %d begins at latent frame %lld, expected one after %lld, where the prompt before it begins", i, (long long)frame,
                     (long long)p.steps[p.n - 1]);
        else
            rc = prompt_schedule_add(&p, frame, text->text, &why);
    }
    if (rc) {
        prompt_schedule_release(&p);
        return ERR(e, rc, "%s: %s", s->key, why.text);
    }
    prompt_schedule_release(field);
    *field = p;
    return 0;
}

int setting_check_shape(const setting *s, const yml_node *v, err *e)
{
    size_t n = 0;
    while (s->names[n])
        n++;
    if (v->kind != YML_LIST)
        return setting_wrong(s, v, e);
    for (int i = 0; i < v->n; i++) {
        const yml_node *m = v->items[i];
        if (m->kind != YML_MAP)
            return ERR(e, ERR_CONFIG, "entry %d of %s (line %d) is %s, expected a mapping", i, s->key, m->line,
                       yml_kind_name(m));
        for (int k = 0; k < m->n; k++) {
            size_t f = 0;
            while (f < n && strcmp(s->names[f], m->keys[k]->text))
                f++;
            if (f < n)
                continue;
            const char *near = str_nearest(m->keys[k]->text, s->names, n);
            return ERR(e, ERR_CONFIG, "entry %d of %s has an unknown key '%.60s' (line %d)%s%s%s", i, s->key,
                       m->keys[k]->text,
                       m->keys[k]->line, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
        }
    }
    return 0;
}
