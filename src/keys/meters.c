#include "keys/meters.h"

#include <pthread.h>
#include <sodium.h>

#include "base/mem.h"

#define CHAINS 65536u
#define SECOND_US 1000000ull
#define MINUTE_US 60000000ull
#define EVICT_TRIES 8 /* of those that were quiet longest, so that a full table costs no more than a few looks */

typedef struct link {
    struct link *prev, *next;
} link;

struct ag_meter {
    link quiet; /* in its kind's list, those with the oldest use first */
    ag_meter *next;
    ag_meter_kind kind;
    uint32_t in_flight; /* tickets */
    uint32_t month;
    uint64_t month_tokens, month_told;
    uint64_t full_us; /* when all buckets are */
    ag_bucket second, minute, tokens;
    char name[];
};

struct ag_meters {
    pthread_mutex_t lock;
    uint8_t key[crypto_shorthash_KEYBYTES]; /* names are the clients' to choose */
    uint32_t n[AG_METER_KIND_COUNT];
    link quiet[AG_METER_KIND_COUNT];
    ag_meter *chain[CHAINS];
};

static void link_cut(link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
}

static void link_add(link *list, link *l)
{
    l->prev = list->prev;
    l->next = list;
    list->prev->next = l;
    list->prev = l;
}

int ag_meters_open(ag_meters **out)
{
    ag_meters *m = ag_mem_zalloc(sizeof *m);
    if (m == NULL) return AG_E_NOMEM;
    pthread_mutex_init(&m->lock, NULL);
    crypto_shorthash_keygen(m->key);
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++) m->quiet[i].prev = m->quiet[i].next = &m->quiet[i];
    *out = m;
    return AG_OK;
}

void ag_meters_close(ag_meters *m)
{
    if (m == NULL) return;
    for (uint32_t i = 0; i < CHAINS; i++)
        for (ag_meter *at = m->chain[i], *next; at; at = next) {
            AG_ASSERT(at->in_flight == 0);
            next = at->next;
            ag_mem_free(at);
        }
    pthread_mutex_destroy(&m->lock);
    ag_mem_free(m);
}

/* Rates of limits. false: there is no such limit. */

static bool second_rate(const ag_limits *l, ag_rate *r)
{
    uint64_t n = l->requests_per_second;
    *r = (ag_rate){n, SECOND_US, l->burst ? l->burst : AG_MAX(n / 2, 1ull)};
    return n != 0;
}

static bool minute_rate(const ag_limits *l, ag_rate *r)
{
    *r = (ag_rate){l->requests_per_minute, MINUTE_US, l->requests_per_minute};
    return r->n != 0;
}

static bool token_rate(const ag_limits *l, ag_rate *r)
{
    *r = (ag_rate){l->tokens_per_minute, MINUTE_US, l->tokens_per_minute};
    return r->n != 0;
}

static void month_pass(ag_meter *at, uint32_t month)
{
    if (at->month == month) return;
    at->month = month;
    at->month_tokens = at->month_told = 0;
}

/* The table. */

static ag_meter **chain_of(ag_meters *m, ag_meter_kind kind, const char *name)
{
    uint64_t hash;
    crypto_shorthash((uint8_t *)&hash, (const uint8_t *)name, strlen(name), m->key);
    return &m->chain[(hash + kind) % CHAINS];
}

static ag_meter *find(ag_meters *m, ag_meter_kind kind, const char *name)
{
    ag_meter *at = *chain_of(m, kind, name);
    while (at && (at->kind != kind || strcmp(at->name, name) != 0)) at = at->next;
    return at;
}

static void drop(ag_meters *m, ag_meter *at)
{
    ag_meter **in = chain_of(m, at->kind, at->name);
    while (*in != at) in = &(*in)->next;
    *in = at->next;
    link_cut(&at->quiet);
    m->n[at->kind]--;
    ag_mem_free(at);
}

static bool as_new(const ag_meter *at, ag_meter_time when)
{
    return when.now_us >= at->full_us && (at->month_tokens == 0 || at->month != when.month);
}

static bool make_room(ag_meters *m, ag_meter_kind kind, ag_meter_time when)
{
    if (m->n[kind] < AG_METERS_MAX) return true;
    link *l = m->quiet[kind].next;
    for (uint32_t i = 0; i < EVICT_TRIES && l != &m->quiet[kind]; i++, l = l->next) {
        ag_meter *at = (ag_meter *)(void *)l;
        if (at->in_flight || (kind != AG_METER_ADDRESS && !as_new(at, when))) continue;
        drop(m, at);
        return true;
    }
    return false;
}

static ag_meter *find_or_add(ag_meters *m, ag_meter_kind kind, const char *name, ag_meter_time when)
{
    ag_meter *at = find(m, kind, name);
    size_t n = strlen(name);
    if (at) {
        link_cut(&at->quiet);
        link_add(&m->quiet[kind], &at->quiet);
        return at;
    }
    if (n > AG_METER_NAME_MAX || !make_room(m, kind, when)) return NULL;
    if ((at = ag_mem_zalloc(sizeof *at + n + 1)) == NULL) return NULL;
    ag_meter **in = chain_of(m, kind, name);
    at->kind = kind;
    memcpy(at->name, name, n + 1);
    at->next = *in;
    *in = at;
    link_add(&m->quiet[kind], &at->quiet);
    m->n[kind]++;
    return at;
}

/* Requests. */

static void refuse(ag_refusal *why, int *rc, ag_meter_kind kind, ag_limit_id limit, uint64_t wait_us)
{
    /* The longest wait is told: sooner it would be refused again. A budget lasts longest. */
    bool first = *rc == AG_OK, budget = limit == AG_LIMIT_tokens_per_month;
    if (first || budget || (*rc != AG_E_BUDGET && wait_us > why->wait_us))
        *why = (ag_refusal){kind, limit, wait_us, false};
    if (first || budget) *rc = budget ? AG_E_BUDGET : AG_E_RATE_LIMIT;
}

static void look(ag_meter *at, const ag_limits *l, ag_meter_time when, ag_refusal *why, int *rc)
{
    ag_rate r;
    uint64_t wait;
    month_pass(at, when.month);
    if (second_rate(l, &r)) {
        ag_bucket_pass(&at->second, &r, when.now_us);
        if ((wait = ag_bucket_wait_us(&at->second, &r, 1)))
            refuse(why, rc, at->kind, AG_LIMIT_requests_per_second, wait);
    }
    if (minute_rate(l, &r)) {
        ag_bucket_pass(&at->minute, &r, when.now_us);
        if ((wait = ag_bucket_wait_us(&at->minute, &r, 1)))
            refuse(why, rc, at->kind, AG_LIMIT_requests_per_minute, wait);
    }
    if (token_rate(l, &r)) {
        ag_bucket_pass(&at->tokens, &r, when.now_us);
        if ((wait = ag_bucket_wait_us(&at->tokens, &r, 1))) refuse(why, rc, at->kind, AG_LIMIT_tokens_per_minute, wait);
    }
    if (l->concurrent && at->in_flight >= l->concurrent) refuse(why, rc, at->kind, AG_LIMIT_concurrent, 0);
    if (l->tokens_per_month && at->month_tokens >= l->tokens_per_month)
        refuse(why, rc, at->kind, AG_LIMIT_tokens_per_month, 0);
}

static void draw(ag_meter *at, ag_bucket *b, const ag_rate *r, uint64_t n, bool to_empty, uint64_t now_us)
{
    ag_bucket_pass(b, r, now_us);
    ag_bucket_draw(b, r, n);
    if (to_empty) ag_bucket_at_least_empty(b, r);
    at->full_us = AG_MAX(at->full_us, now_us + ag_bucket_wait_us(b, r, r->burst));
}

static void count_request(ag_meter *at, const ag_limits *l, bool to_empty, uint64_t now_us)
{
    ag_rate r;
    if (second_rate(l, &r)) draw(at, &at->second, &r, 1, to_empty, now_us);
    if (minute_rate(l, &r)) draw(at, &at->minute, &r, 1, to_empty, now_us);
}

static void tighter(ag_meter_view *v, ag_bucket *b, const ag_rate *r, uint64_t now_us)
{
    ag_bucket_pass(b, r, now_us);
    uint64_t left = ag_bucket_left(b, r);
    if (v->limit && (double)left / (double)r->burst >= (double)v->left / (double)v->limit) return;
    *v = (ag_meter_view){r->burst, left, ag_bucket_wait_us(b, r, r->burst)};
}

static void look_around(const ag_ticket *t, uint64_t now_us, ag_meter_views *v)
{
    ag_rate r;
    *v = (ag_meter_views){0};
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++) {
        ag_meter *at = t->meter[i];
        if (at == NULL) continue;
        if (second_rate(&t->limits[i], &r)) tighter(&v->requests, &at->second, &r, now_us);
        if (minute_rate(&t->limits[i], &r)) tighter(&v->requests, &at->minute, &r, now_us);
        if (token_rate(&t->limits[i], &r)) tighter(&v->tokens, &at->tokens, &r, now_us);
    }
}

int ag_meters_enter(ag_meters *m, ag_ticket *t, const char *const names[AG_METER_KIND_COUNT],
                    const ag_limits limits[AG_METER_KIND_COUNT], ag_meter_time when, ag_refusal *why,
                    ag_meter_views *views)
{
    int rc = AG_OK;
    ag_ticket got = {0};
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT && rc != AG_E_NOMEM; i++) {
        if (names[i] == NULL) continue;
        got.limits[i] = limits[i];
        if ((got.meter[i] = find_or_add(m, (ag_meter_kind)i, names[i], when)) == NULL) rc = AG_E_NOMEM;
        else look(got.meter[i], &limits[i], when, why, &rc);
    }
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT && rc == AG_OK; i++)
        if (got.meter[i]) {
            count_request(got.meter[i], &limits[i], false, when.now_us);
            got.meter[i]->in_flight++;
        }
    look_around(&got, when.now_us, views);
    if (rc == AG_OK) *t = got;
    pthread_mutex_unlock(&m->lock);
    return rc;
}

/* A prompt that is larger than all that a minute gives would wait for ever. */
static void look_prompt(ag_meter *at, const ag_limits *l, uint64_t n, ag_meter_time when, ag_refusal *why, int *rc)
{
    ag_rate r;
    uint64_t wait;
    month_pass(at, when.month);
    if (token_rate(l, &r)) {
        ag_bucket_pass(&at->tokens, &r, when.now_us);
        if ((wait = ag_bucket_wait_us(&at->tokens, &r, n)) || n > r.burst)
            refuse(why, rc, at->kind, AG_LIMIT_tokens_per_minute, wait);
        if (n > r.burst && *rc == AG_E_RATE_LIMIT)
            *why = (ag_refusal){at->kind, AG_LIMIT_tokens_per_minute, wait, true};
    }
    if (l->tokens_per_month && (at->month_tokens >= l->tokens_per_month || n > l->tokens_per_month - at->month_tokens))
        refuse(why, rc, at->kind, AG_LIMIT_tokens_per_month, 0);
}

static void count_tokens(ag_meter *at, const ag_limits *l, uint64_t n, bool to_empty, ag_meter_time when)
{
    ag_rate r;
    month_pass(at, when.month);
    if (token_rate(l, &r)) draw(at, &at->tokens, &r, n, to_empty, when.now_us);
    at->month_tokens += n;
}

int ag_meters_prompt(ag_meters *m, ag_ticket *t, uint64_t tokens, ag_meter_time when, ag_refusal *why,
                     ag_meter_views *views)
{
    int rc = AG_OK;
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++)
        if (t->meter[i]) look_prompt(t->meter[i], &t->limits[i], tokens, when, why, &rc);
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT && rc == AG_OK; i++)
        if (t->meter[i]) count_tokens(t->meter[i], &t->limits[i], tokens, t->elsewhere, when);
    look_around(t, when.now_us, views);
    pthread_mutex_unlock(&m->lock);
    return rc;
}

void ag_meters_prompt_undo(ag_meters *m, ag_ticket *t, uint64_t tokens)
{
    ag_rate r;
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++) {
        ag_meter *at = t->meter[i];
        if (at == NULL) continue;
        if (token_rate(&t->limits[i], &r)) ag_bucket_give_back(&at->tokens, &r, tokens);
        at->month_tokens -= AG_MIN(at->month_tokens, tokens);
    }
    pthread_mutex_unlock(&m->lock);
}

void ag_meters_output(ag_meters *m, ag_ticket *t, uint64_t tokens, ag_meter_time when)
{
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++)
        if (t->meter[i]) count_tokens(t->meter[i], &t->limits[i], tokens, t->elsewhere, when);
    pthread_mutex_unlock(&m->lock);
}

void ag_meters_leave(ag_meters *m, ag_ticket *t)
{
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++) {
        if (t->meter[i] == NULL) continue;
        AG_ASSERT(t->meter[i]->in_flight > 0);
        t->meter[i]->in_flight--;
    }
    pthread_mutex_unlock(&m->lock);
    *t = (ag_ticket){0};
}

int ag_meters_hold(ag_meters *m, ag_ticket *t, const char *const names[AG_METER_KIND_COUNT],
                   const ag_limits limits[AG_METER_KIND_COUNT], ag_meter_time when)
{
    int rc = AG_OK;
    ag_ticket got = {.elsewhere = true};
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT && rc == AG_OK; i++) {
        if (names[i] == NULL) continue;
        got.limits[i] = limits[i];
        if ((got.meter[i] = find_or_add(m, (ag_meter_kind)i, names[i], when)) == NULL) rc = AG_E_NOMEM;
    }
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT && rc == AG_OK; i++)
        if (got.meter[i]) got.meter[i]->in_flight++;
    if (rc == AG_OK) *t = got;
    pthread_mutex_unlock(&m->lock);
    return rc;
}

void ag_meters_took(ag_meters *m, ag_ticket *t, const uint64_t months[AG_METER_KIND_COUNT], ag_meter_time when)
{
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++) {
        ag_meter *at = t->meter[i];
        if (at == NULL) continue;
        count_request(at, &t->limits[i], true, when.now_us);
        month_pass(at, when.month);
        at->month_tokens = AG_MAX(at->month_tokens, months[i]);
        if (months[i]) at->month_told = at->month_tokens;
    }
    pthread_mutex_unlock(&m->lock);
}

void ag_meters_known(ag_meters *m, ag_meter_kind kind, const char *name, uint32_t month, ag_meter_known *out)
{
    *out = (ag_meter_known){0};
    pthread_mutex_lock(&m->lock);
    const ag_meter *at = find(m, kind, name);
    if (at) out->in_flight = at->in_flight;
    if (at && at->month == month) out->month_tokens = at->month_tokens, out->month_told = at->month_told;
    pthread_mutex_unlock(&m->lock);
}

const char *ag_meter_name(const ag_meter *at) { return at->name; }

bool ag_meters_seed(ag_meters *m, ag_meter_kind kind, const char *name, uint32_t month, uint64_t tokens)
{
    pthread_mutex_lock(&m->lock);
    ag_meter *at = find_or_add(m, kind, name, (ag_meter_time){0, month});
    if (at) {
        month_pass(at, month);
        at->month_told = at->month_tokens += tokens;
    }
    pthread_mutex_unlock(&m->lock);
    return at != NULL;
}
