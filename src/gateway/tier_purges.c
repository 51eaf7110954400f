#include "gateway/tier_purges.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

#define KEY 'k'
#define LABEL 'l'
#define ALL "all"
#define LABEL_BYTES 8

typedef struct purge {
    uint8_t what[1 + AG_CACHE_KEY_BYTES]; /* KEY and a key, or LABEL and a label, its first byte the highest */
    bool told;
    uint64_t ms;
} purge;

struct ag_tier_purges {
    pthread_mutex_t lock;
    uint64_t all_ms; /* 0: never */
    bool all_told;
    uint32_t n;
    purge list[AG_TIER_PURGES_MAX]; /* by what */
};

int ag_tier_purges_open(ag_tier_purges **out)
{
    ag_tier_purges *p = ag_mem_zalloc(sizeof *p);
    if (p == NULL) return AG_E_NOMEM;
    pthread_mutex_init(&p->lock, NULL);
    *out = p;
    return AG_OK;
}

void ag_tier_purges_close(ag_tier_purges *p)
{
    if (p == NULL) return;
    pthread_mutex_destroy(&p->lock);
    ag_mem_free(p);
}

static purge purge_of(const ag_cache_key *k, uint64_t label)
{
    purge w = {.what = {k ? KEY : LABEL}};
    if (k) memcpy(w.what + 1, k->b, sizeof k->b);
    for (int i = 0; k == NULL && i < LABEL_BYTES; i++) w.what[1 + i] = (uint8_t)(label >> (56 - 8 * i));
    return w;
}

/* Where it stands, or would. */
static uint32_t place_of(const ag_tier_purges *p, const purge *w, bool *there)
{
    uint32_t from = 0, to = p->n;
    *there = false;
    while (from < to) {
        uint32_t at = from + (to - from) / 2;
        int order = memcmp(p->list[at].what, w->what, sizeof w->what);
        if (order == 0) *there = true;
        if (order < 0) from = at + 1;
        else to = at;
    }
    return from;
}

static void forget_until(ag_tier_purges *p, uint64_t ms)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n; i++)
        if (p->list[i].ms > ms) p->list[n++] = p->list[i];
    p->n = n;
}

static bool add_all(ag_tier_purges *p, uint64_t ms, bool told)
{
    if (ms == p->all_ms) p->all_told |= told;
    if (ms <= p->all_ms) return false;
    p->all_ms = ms;
    p->all_told = told;
    forget_until(p, ms);
    return true;
}

static int by_time(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void fold(ag_tier_purges *p)
{
    uint64_t times[AG_TIER_PURGES_MAX];
    for (uint32_t i = 0; i < p->n; i++) times[i] = p->list[i].ms;
    qsort(times, p->n, sizeof times[0], by_time);
    add_all(p, times[p->n / 2], false);
}

/* Whether it is news. */
static bool add(ag_tier_purges *p, purge w)
{
    bool there;
    if (w.ms <= p->all_ms) return false;
    uint32_t at = place_of(p, &w, &there);
    if (there) {
        purge *old = &p->list[at];
        if (w.ms == old->ms) old->told |= w.told;
        if (w.ms <= old->ms) return false;
        *old = w;
        return true;
    }
    if (p->n == AG_TIER_PURGES_MAX) {
        fold(p);
        return w.ms > p->all_ms ? add(p, w) : true;
    }
    memmove(&p->list[at + 1], &p->list[at], (p->n - at) * sizeof p->list[0]);
    p->list[at] = w;
    p->n++;
    return true;
}

void ag_tier_purges_add(ag_tier_purges *p, const ag_cache_key *k, uint64_t label, uint64_t ms)
{
    purge w = purge_of(k, label);
    w.ms = ms;
    pthread_mutex_lock(&p->lock);
    if (k || label) add(p, w);
    else add_all(p, ms, false);
    pthread_mutex_unlock(&p->lock);
}

static bool is_purged(const ag_tier_purges *p, const purge *w, uint64_t made_ms)
{
    bool there;
    uint32_t at = place_of(p, w, &there);
    return there && made_ms <= p->list[at].ms;
}

bool ag_tier_purges_hold(ag_tier_purges *p, const ag_cache_key *k, const ag_cache_meta *m)
{
    pthread_mutex_lock(&p->lock);
    bool yes = m->made_ms <= p->all_ms;
    if (!yes && p->n) {
        purge w = purge_of(k, 0);
        yes = is_purged(p, &w, m->made_ms);
        for (uint32_t i = 0; !yes && i < AG_CACHE_LABELS_MAX; i++) {
            if (m->labels[i] == 0) continue;
            w = purge_of(NULL, m->labels[i]);
            yes = is_purged(p, &w, m->made_ms);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return yes;
}

/* Talking. */

static bool read_name(ag_str name, purge *w, bool *all)
{
    size_t want = 2 * (name.n && name.p[0] == KEY ? AG_CACHE_KEY_BYTES : LABEL_BYTES), got = 0;
    *all = ag_str_eqz(name, ALL);
    if (*all) return true;
    if (name.n != 1 + want || (name.p[0] != KEY && name.p[0] != LABEL)) return false;
    *w = (purge){.what = {(uint8_t)name.p[0]}};
    return sodium_hex2bin(w->what + 1, sizeof w->what - 1, name.p + 1, want, NULL, &got, NULL) == 0 && got == want / 2;
}

static ag_str next_word(ag_str *text)
{
    const char *at = text->n ? memchr(text->p, ' ', text->n) : NULL;
    ag_str word = {text->p, at ? (size_t)(at - text->p) : text->n};
    *text = at ? (ag_str){at + 1, text->n - word.n - 1} : (ag_str){NULL, 0};
    return word;
}

static void tell(const purge *w, bool all, ag_tier_purged_fn *fn, void *arg)
{
    ag_cache_key k;
    uint64_t label = 0;
    memcpy(k.b, w->what + 1, sizeof k.b);
    for (int i = 0; i < LABEL_BYTES; i++) label = label << 8 | w->what[1 + i];
    if (all) fn(arg, NULL, 0);
    else if (w->what[0] == KEY) fn(arg, &k, 0);
    else fn(arg, NULL, label);
}

bool ag_tier_purges_read(ag_tier_purges *p, ag_str text, uint64_t now_ms, uint64_t keep_ms, ag_tier_purged_fn *fn,
                         void *arg)
{
    bool good = true;
    pthread_mutex_lock(&p->lock);
    p->all_told = false;
    for (uint32_t i = 0; i < p->n; i++) p->list[i].told = false;
    forget_until(p, now_ms - AG_MIN(keep_ms, now_ms)); /* nothing that it is about can be there any more */
    pthread_mutex_unlock(&p->lock);
    while (text.n) {
        purge w = {0};
        bool all = false;
        ag_str name = next_word(&text), ms = next_word(&text);
        if (!read_name(name, &w, &all) || !ag_str_u64(ms, now_ms + AG_TIER_PURGE_AHEAD_MS, &w.ms)) {
            good = false;
            continue;
        }
        w.told = true;
        pthread_mutex_lock(&p->lock);
        bool news = all ? add_all(p, w.ms, true) : add(p, w);
        pthread_mutex_unlock(&p->lock);
        if (news && fn) tell(&w, all, fn, arg);
    }
    return good;
}

uint32_t ag_tier_purges_untold(ag_tier_purges *p, ag_tier_purge_words *out, uint32_t max)
{
    uint32_t n = 0;
    pthread_mutex_lock(&p->lock);
    if (p->all_ms && !p->all_told && max) {
        memcpy(out[n].name, ALL, sizeof ALL);
        snprintf(out[n++].ms, sizeof out->ms, "%llu", (unsigned long long)p->all_ms);
    }
    for (uint32_t i = 0; i < p->n && n < max; i++) {
        const purge *w = &p->list[i];
        if (w->told) continue;
        out[n].name[0] = (char)w->what[0];
        sodium_bin2hex(out[n].name + 1, sizeof out->name - 1, w->what + 1,
                       w->what[0] == KEY ? AG_CACHE_KEY_BYTES : LABEL_BYTES);
        snprintf(out[n++].ms, sizeof out->ms, "%llu", (unsigned long long)w->ms);
    }
    pthread_mutex_unlock(&p->lock);
    return n;
}
