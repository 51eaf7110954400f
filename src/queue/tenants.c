/* tenants.c - who they are, what they received, and when they are forgotten. */
#include <math.h>

#include "base/mem.h"
#include "queue/queue_inner.h"

#define TABLE_MIN 64
/* What an answer is taken for while nobody's was seen: a short chat turn. */
#define OUTPUT_UNKNOWN 128.0
/* Whose answers are mostly as long as they may be says how long they are. */
#define OUTPUT_TOLD 0.75
/* How much of a mean the latest answer is: about the last eight count. */
#define OUTPUT_LATEST 0.125

int ag_queue_open(ag_queue **out, const ag_queue_conf *conf, ag_err *err)
{
    AG_ASSERT(conf->entries_max > 0 && conf->tenants_max > 0);
    int rc = AG_E_NOMEM;
    ag_queue *q = ag_mem_zalloc(sizeof *q);
    if (q == NULL) goto out;
    q->conf = *conf;
    q->deadlines.handle_at = offsetof(ag_qent, due);
    q->active.handle_at = offsetof(ag__tenant_inner, active);
    q->over.handle_at = offsetof(ag__tenant_inner, over);
    randombytes_buf(q->key, sizeof q->key);
    q->table_n = TABLE_MIN;
    q->table = ag_mem_array(q->table_n, sizeof(ag__tenant_inner *));
    if (q->table == NULL) goto out;
    rc = AG_OK;
out:
    if (rc != AG_OK) {
        ag_queue_close(q);
        q = NULL;
        ag_err_set(err, rc, "There is no memory for a queue.");
    }
    *out = q;
    return rc;
}

void ag_queue_close(ag_queue *q)
{
    if (q == NULL) return;
    AG_ASSERT(q->n == 0);
    for (uint32_t i = 0; q->table != NULL && i < q->table_n; i++) {
        while (q->table[i] != NULL) {
            ag__tenant_inner *t = q->table[i];
            q->table[i] = t->next;
            ag_mem_free(t);
        }
    }
    ag_mem_free(q->table);
    ag__order_pool_free(&q->pool);
    ag__heap_free(&q->deadlines);
    ag__heap_free(&q->active);
    ag__heap_free(&q->over);
    ag_mem_free(q);
}

/* --- by level and backlog, for estimates -------------------------------------------------------------------------- */

unsigned ag__bucket_of(const ag__tenant_inner *t, uint8_t level)
{
    double backlog = (double)t->cost[level] * t->per_weight;
    uint64_t bits;
    memcpy(&bits, &backlog, sizeof bits);
    int power = (int)(bits >> 52) - 1023 + 24; /* its exponent: it has no sign */
    return (unsigned)AG_MIN(AG_MAX(power, 0), AG__BUCKETS - 1);
}

static void bucket_in(ag_queue *q, const ag__tenant_inner *t, uint8_t level)
{
    if (t->n[level] == 0) return;
    ag__bucket *b = &q->bucket[level][ag__bucket_of(t, level)];
    b->tenants++;
    b->entries += t->n[level];
    b->cost += t->cost[level];
    b->weight += t->weight;
}

static void bucket_out(ag_queue *q, const ag__tenant_inner *t, uint8_t level)
{
    if (t->n[level] == 0) return;
    ag__bucket *b = &q->bucket[level][ag__bucket_of(t, level)];
    b->tenants--;
    b->entries -= t->n[level];
    b->cost -= t->cost[level];
    b->weight -= t->weight;
}

void ag__level_add(ag_queue *q, ag__tenant_inner *t, uint8_t level, bool in, uint64_t cost)
{
    bucket_out(q, t, level);
    t->n[level] += in ? 1 : -1u;
    t->cost[level] += in ? cost : 0 - cost;
    bucket_in(q, t, level);
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

static ag__tenant_inner **slot_of(ag_queue *q, uint64_t hash) { return &q->table[hash & (q->table_n - 1)]; }

static bool table_grow(ag_queue *q)
{
    if (q->tenants < q->table_n) return true;
    ag__tenant_inner **old = q->table, **table = ag_mem_array(2 * (size_t)q->table_n, sizeof *table);
    if (table == NULL) return false;
    uint32_t n = q->table_n;
    q->table = table;
    q->table_n = 2 * n;
    for (uint32_t i = 0; i < n; i++) {
        while (old[i] != NULL) {
            ag__tenant_inner *t = old[i], **slot = slot_of(q, t->hash);
            old[i] = t->next;
            t->next = *slot;
            *slot = t;
        }
    }
    ag_mem_free(old);
    return true;
}

static void idle_in(ag_queue *q, ag__tenant_inner *t)
{
    t->idle = true;
    t->idle_before = q->idle_latest;
    t->idle_after = NULL;
    *(q->idle_latest == NULL ? &q->idle_oldest : &q->idle_latest->idle_after) = t;
    q->idle_latest = t;
}

static void idle_out(ag_queue *q, ag__tenant_inner *t)
{
    t->idle = false;
    *(t->idle_before == NULL ? &q->idle_oldest : &t->idle_before->idle_after) = t->idle_after;
    *(t->idle_after == NULL ? &q->idle_latest : &t->idle_after->idle_before) = t->idle_before;
}

static void forget(ag_queue *q, ag__tenant_inner *t)
{
    idle_out(q, t);
    ag__tenant_inner **link = slot_of(q, t->hash);
    while (*link != t) link = &(*link)->next;
    *link = t->next;
    q->tenants--;
    ag_mem_free(t);
}

static void weigh(ag_queue *q, ag__tenant_inner *t, double weight)
{
    if (!(weight >= AG_TENANT_WEIGHT_MIN)) weight = AG_TENANT_WEIGHT_MIN; /* nor a NaN */
    weight = AG_MIN(weight, AG_TENANT_WEIGHT_MAX);
    uint64_t units = (uint64_t)llround(weight * AG__WEIGHT_UNIT);
    if (units == t->weight) return;
    ag__vtime received = ag__v_later(ag__v_received(t), ag__v_earlier(t->v, q->floor)); /* see ag__tenant_renew */
    ag__order_leave(q, t);
    for (uint8_t level = 0; level < AG_BANDS; level++) bucket_out(q, t, level);
    if (t->pub.waiting > 0) q->weight += units - t->weight;
    t->pub.weight = weight;
    t->weight = units;
    t->per_weight = (double)AG__WEIGHT_UNIT / (double)units;
    t->v_per_service = (uint64_t)(((ag__u128)AG__WEIGHT_UNIT << AG__V_BITS) / units);
    /* What does not come of what was charged ahead is given back by the new weight: left charged by the old, it would
     * leave a credit or a debt. */
    t->v = received + (ag__vtime)t->pub.ahead * t->v_per_service;
    t->pub.vtime = ldexp((double)t->v, -AG__V_BITS);
    for (uint8_t level = 0; level < AG_BANDS; level++) bucket_in(q, t, level);
    ag__order_join(q, t);
    ag__over_settle(q, t);
    if (ag__is_active(t)) ag__heap_set(&q->active, t, ag__v_received(t));
}

static ag__tenant_inner *make(ag_queue *q, ag_str name, uint64_t hash)
{
    while (q->tenants >= q->conf.tenants_max && q->idle_oldest != NULL) forget(q, q->idle_oldest);
    if (!table_grow(q) || !ag__heap_reserve(&q->active, q->tenants + 1) || !ag__heap_reserve(&q->over, q->tenants + 1))
        return NULL;
    ag__tenant_inner *t = ag_mem_zalloc(sizeof *t), **slot = slot_of(q, hash);
    if (t == NULL) return NULL;
    if (name.n > 0) memcpy(t->pub.name, name.p, name.n);
    t->name_n = (uint32_t)name.n;
    t->pub.inner = t;
    t->number = ++q->tenant_numbers;
    t->hash = hash;
    t->next = *slot;
    *slot = t;
    q->tenants++;
    idle_in(q, t);
    return t;
}

ag_tenant *ag_queue_tenant(ag_queue *q, ag_str name, double weight)
{
    AG_ASSERT(name.n <= AG_TENANT_NAME_MAX);
    uint64_t hash;
    _Static_assert(sizeof hash == crypto_shorthash_BYTES, "a hash is one word");
    crypto_shorthash((unsigned char *)&hash, (const unsigned char *)(name.n > 0 ? name.p : ""), name.n, q->key);
    ag__tenant_inner *t = *slot_of(q, hash);
    while (t != NULL && !(t->hash == hash && ag_str_eq(name, (ag_str){t->pub.name, t->name_n}))) t = t->next;
    if (t == NULL) t = make(q, name, hash);
    if (t == NULL) return NULL;
    weigh(q, t, weight);
    if (t->idle) { /* it was asked for: the latest of them */
        idle_out(q, t);
        idle_in(q, t);
    }
    return &t->pub;
}

void ag_queue_hold(ag_queue *q, ag_tenant *t)
{
    t->inner->held++;
    ag__tenant_settle(q, t->inner);
}

void ag_queue_release(ag_queue *q, ag_tenant *t)
{
    AG_ASSERT(t->inner->held > 0);
    t->inner->held--;
    ag__tenant_settle(q, t->inner);
}

/* --- what they received ------------------------------------------------------------------------------------------- */

/* Shapes the tree and nothing else: the order does not depend on it. */
static uint32_t draw(ag_queue *q) { return (uint32_t)(ag_random64(&q->draws) >> 32); }

void ag__order_leave(ag_queue *q, ag__tenant_inner *t)
{
    if (t->head != NULL) ag__tree_remove(&q->order, &t->node);
}

void ag__order_join(ag_queue *q, ag__tenant_inner *t)
{
    if (t->head == NULL) return;
    ag__u128 turn = ag__turn_key(t->head->level, t->v);
    ag__tree_insert(&q->order, &t->node, turn, ag__ent_key(t->head), t->head->cost, draw(q));
}

void ag__tenant_settle(ag_queue *q, ag__tenant_inner *t)
{
    if (ag__is_active(t)) {
        ag__heap_set(&q->active, t, ag__v_received(t));
    } else if (t->active != 0) {
        ag__heap_remove(&q->active, t);
        q->ahead = ag__v_later(q->ahead, t->v);
    }
    bool idle = !ag__is_active(t) && t->held == 0;
    if (idle && !t->idle) idle_in(q, t);
    if (!idle && t->idle) idle_out(q, t);
}

/* Those who are busy say where; once nobody is, all begin alike, from where the furthest came to. */
static ag__vtime floor_now(const ag_queue *q)
{
    const ag__heap_slot *first = ag__heap_first(&q->active);
    return ag__v_later(q->floor, first == NULL ? q->ahead : ag__heap_key(first));
}

ag__vtime ag__tenant_start(const ag_queue *q, const ag__tenant_inner *t)
{
    return ag__is_active(t) ? t->v : ag__v_later(t->v, floor_now(q));
}

void ag__tenant_begin(ag_queue *q, ag__tenant_inner *t)
{
    if (ag__is_active(t)) return;
    q->floor = floor_now(q);
    t->v = ag__v_later(t->v, q->floor);
    t->pub.vtime = ldexp((double)t->v, -AG__V_BITS);
}

void ag__tenant_renew(ag_queue *q, ag__tenant_inner *t)
{
    ag__vtime start = floor_now(q);
    if (t->v <= start) return;
    ag__order_leave(q, t);
    t->v = q->floor = start; /* with what it is charged ahead, or those who come would be before it still */
    t->pub.vtime = ldexp((double)t->v, -AG__V_BITS);
    ag__order_join(q, t);
    ag__tenant_settle(q, t);
}

void ag_queue_charge(ag_queue *q, ag_tenant *tenant, int64_t service)
{
    ag__tenant_inner *t = tenant->inner;
    bool back = service < 0;
    uint64_t amount = AG_MIN(back ? 0 - (uint64_t)service : (uint64_t)service, AG_QUEUE_COST_MAX);
    if (back) amount = AG_MIN(amount, t->pub.service);
    ag__vtime v = (ag__vtime)amount * t->v_per_service;
    ag__order_leave(q, t);
    /* Not below where those begin who come: nobody who is busy is there, but one that began anew. */
    if (back) t->v -= AG_MIN(v, t->v - ag__v_earlier(t->v, q->floor));
    else t->v += v < ~t->v ? v : ~t->v;
    t->pub.service += back ? 0 - amount : amount;
    t->pub.vtime = ldexp((double)t->v, -AG__V_BITS);
    ag__order_join(q, t);
    ag__tenant_settle(q, t);
}

void ag_queue_ahead(ag_queue *q, ag_tenant *t, int64_t service)
{
    AG_ASSERT(service >= 0 || t->ahead >= 0 - (uint64_t)service);
    t->ahead += (uint64_t)service;
    ag__tenant_settle(q, t->inner);
}

void ag_queue_running(ag_queue *q, ag_tenant *t, int32_t more)
{
    AG_ASSERT((int64_t)t->running + more >= 0);
    t->running += (uint32_t)more;
    q->running += (uint32_t)more;
    ag__tenant_settle(q, t->inner);
}

/* --- what requests cost ------------------------------------------------------------------------------------------- */

static double learned(double mean, double x) { return mean <= 0 ? x : mean + (x - mean) * OUTPUT_LATEST; }

void ag_queue_learn(ag_queue *q, ag_tenant *t, uint32_t output_tokens, uint32_t max_tokens)
{
    double x = AG_MAX(output_tokens, 1u), share = x / AG_MAX(x, max_tokens);
    t->output_mean = learned(t->output_mean, x);
    q->output_mean = learned(q->output_mean, x);
    t->output_share = learned(t->output_share, share);
    q->output_share = learned(q->output_share, share);
}

uint32_t ag_queue_expect(const ag_queue *q, const ag_tenant *t, uint32_t max_tokens)
{
    double mean = t->output_mean > 0 ? t->output_mean : q->output_mean > 0 ? q->output_mean : OUTPUT_UNKNOWN;
    double share = t->output_mean > 0 ? t->output_share : q->output_share;
    if (share > OUTPUT_TOLD) mean = share * max_tokens;
    return mean >= max_tokens ? max_tokens : (uint32_t)ceil(mean);
}

uint64_t ag_queue_service(const ag_queue *q, uint64_t prompt_tokens, uint64_t output_tokens)
{
    ag__u128 s = (ag__u128)prompt_tokens * q->conf.prompt_weight + (ag__u128)output_tokens * q->conf.output_weight;
    return s > AG_QUEUE_COST_MAX ? AG_QUEUE_COST_MAX : (uint64_t)s;
}
