/* engine_prefixes.c - what is kept of prompts, from one run of an engine to the next. */
#include <stdarg.h>
#include <stdio.h>

#include "engine/engine_inner.h"
#include "engine/prefix.h"

static void prefix_note(const ag_engine *e, bool bad, const char *fmt, ...) AG_PRINTF(3, 4);
static void prefix_note(const ag_engine *e, bool bad, const char *fmt, ...)
{
    char text[640];
    va_list args;
    if (e->conf.prefix_note == NULL) return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    e->conf.prefix_note(e->conf.note_arg, bad, text);
}

static bool prefix_of(ag_engine *e, ag_prefix *p)
{
    if (e->conf.prefix_path == NULL || e->conf.no_reuse) return false;
    _Static_assert(sizeof e->door.salt_key == AG_PREFIX_KEY_BYTES, "the file has room for the key");
    ag_prefix_init(p, e->lm, ag_sched_kv(e->door.sched), e->door.salt_key);
    p->path = e->conf.prefix_path;
    p->bytes_max = e->conf.prefix_bytes;
    return true;
}

/* A file that cannot be used is no reason not to serve. */
void ag__engine_prefixes_load(ag_engine *e)
{
    ag_prefix p;
    ag_err err = {0};
    uint64_t from = ag_now_us();
    if (!prefix_of(e, &p)) return;
    int rc = ag_prefix_load(&p, &e->restored, &err);
    unsigned long long ms = (ag_now_us() - from) / 1000;
    if (rc == AG_OK) prefix_note(e, false, "%u pages of prompts come from %s, in %llu ms", e->restored, p.path, ms);
    else if (rc != AG_E_NOT_FOUND) prefix_note(e, true, "nothing is kept of earlier prompts: %s", err.text);
}

/* Nobody is there any more. Pages that unchecked or damaged weights had a part in are no good for the next run. */
void ag__engine_prefixes_save(ag_engine *e)
{
    ag_prefix p;
    ag_err err = {0};
    ag_weights_info info;
    uint32_t pages;
    if (!prefix_of(e, &p)) return;
    ag__door_shut(&e->door);
    e->lm->ops->weights(e->lm->backend, &info);
    if (info.from_image && !info.moved) { /* stored ones, not yet checked */
        e->lm->ops->settle(e->lm->backend);
        e->lm->ops->weights(e->lm->backend, &info);
    }
    ag__engine_heed(e, info.damage);
    uint64_t from = ag_now_us();
    int rc = ag_prefix_save(&p, &pages, &err);
    unsigned long long ms = (ag_now_us() - from) / 1000;
    if (rc != AG_OK) prefix_note(e, true, "pages of prompts are not kept for the next start: %s", err.text);
    else if (pages) prefix_note(e, false, "%u pages of prompts are stored in %s, in %llu ms", pages, p.path, ms);
}
