#include "gateway/limiter.h"

#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/mem.h"
#include "gateway/guard.h"

#define ALIVE_MS 5000u /* without a word a server counts as alive for so long */
#define BEAT_TICKS (1000 / AG_LIMITER_TICK_MS)
#define LIVE_MAX 1024
#define REPLY_BYTES (16u << 10)
#define ANSWER_HEAD 11 /* numbers before those of the subjects */
#define NUMBERS 9      /* of a subject, in limits.lua */
#define AT_ONCE 32     /* subjects of one charge */
#define SLOTS (AG_LIMITER_OWED_MAX / 3 * 4)
#define KEY_BYTES (AG_LIMITER_PREFIX_MAX + AG_METER_NAME_MAX + 16)

__asm__(".pushsection .rodata\n"
        ".global ag__limits_lua, ag__limits_lua_end\n"
        "ag__limits_lua: .incbin \"" AG_LUA_FILE "\"\n"
        "ag__limits_lua_end: .byte 0\n"
        ".popsection");
extern const char ag__limits_lua[], ag__limits_lua_end[];

typedef struct subject { /* as the script is told */
    ag_meter_kind kind;
    const char *name;
    const ag_limits *limits;
    int64_t tokens, in_flight; /* in_flight -1: says nothing of it */
    uint64_t known;
} subject;

typedef struct owed {
    char name[AG_METER_NAME_MAX + 1]; /* "": a free slot */
    ag_meter_kind kind;
    ag_limits limits;
    int64_t tokens;
} owed;

typedef struct words { /* of a call, before they are copied */
    ag_str arg[1 + 1 + AT_ONCE + 4 + AT_ONCE * NUMBERS];
    uint32_t n;
    char text[(AT_ONCE + 1) * KEY_BYTES + AT_ONCE * NUMBERS * 21];
    size_t used;
} words;

struct ag_limiter_loop {
    ag_limiter *limiter;
    ag_redis *redis;
    bool there;
    uint32_t ticks, month, n_owed;
    uint32_t list[AG_LIMITER_OWED_MAX]; /* the slots that are taken */
    owed owed[SLOTS];
    words words;
};

struct ag_limiter {
    ag_meters *meters;
    ag_metrics *metrics;
    ag_log *log;
    bool shared;
    ag_redis_conf redis;
    ag_redis_script script;
    char prefix[AG_LIMITER_PREFIX_MAX + 1], set[AG_LIMITER_PREFIX_MAX + 16], id[33], alive[16];
    ag_str probe[6];
    uint8_t hash_key[crypto_shorthash_KEYBYTES];
    uint32_t n_loops;
    ag_limiter_loop **loops; /* NULL: not joined, or nothing is shared */
    _Atomic uint32_t live;   /* servers, this one among them */
    _Atomic uint64_t hold_us; /* until then it does not go down: when Redis is back all have yet to tell it of them */
    _Atomic uint32_t n_there;
    atomic_bool said;        /* that Redis is away */
};

static const char *const kinds[AG_METER_KIND_COUNT] = {"key", "tenant", "model", "address"};

/* How many live. */

static void on_beat(void *arg, const redisReply *reply)
{
    ag_limiter *l = arg;
    if (reply == NULL || reply->type != REDIS_REPLY_INTEGER) return;
    uint32_t n = (uint32_t)AG_MAX(1, AG_MIN(reply->integer, LIVE_MAX));
    if (n < atomic_load(&l->live) && ag_now_us() < atomic_load(&l->hold_us)) return;
    atomic_store(&l->live, n);
    ag_metric_set(l->metrics, AG_M_GATEWAYS, 0, n);
}

static void beat(ag_limiter_loop *on)
{
    ag_limiter *l = on->limiter;
    (void)ag_redis_eval(on->redis, &l->script, l->probe, AG_ARRAY_LEN(l->probe), on_beat, l);
}

/* One line when the first loop loses it, one when the last has it again. */
static void on_state(void *arg, bool there, const char *why)
{
    ag_limiter_loop *on = arg;
    ag_limiter *l = on->limiter;
    if (there != on->there) atomic_fetch_add(&l->n_there, there ? 1u : -1u);
    on->there = there;
    uint32_t n = atomic_load(&l->n_there), live = atomic_load(&l->live);
    if (there) {
        atomic_store(&l->hold_us, ag_now_us() + ALIVE_MS * 1000ull);
        beat(on);
    }
    if (!there && !atomic_exchange(&l->said, true))
        AG_LOG(l->log, AG_LOG_WARN, NULL, "limits", AG_LOG_Z("note", "Redis cannot be used: this server judges alone."),
               AG_LOG_Z("reason", why), AG_LOG_U("gateways", live));
    if (there && n == l->n_loops && atomic_exchange(&l->said, false))
        AG_LOG(l->log, AG_LOG_INFO, NULL, "limits", AG_LOG_Z("note", "Limits are shared by Redis again."));
}

void ag_limiter_metrics(ag_limiter *l)
{
    if (l == NULL || l->n_loops == 0) return;
    ag_metric_set(l->metrics, AG_M_LIMITS_SHARED, 0, (double)atomic_load(&l->n_there) / l->n_loops);
}

/* What the script is told. */

static void add_word(words *w, ag_str s)
{
    AG_ASSERT(w->n < AG_ARRAY_LEN(w->arg));
    w->arg[w->n++] = s;
}

static void add_number(words *w, int64_t n)
{
    char *at = w->text + w->used;
    int len = snprintf(at, sizeof w->text - w->used, "%lld", (long long)n);
    AG_ASSERT(len > 0 && w->used + (size_t)len < sizeof w->text);
    w->used += (size_t)len;
    add_word(w, (ag_str){at, (size_t)len});
}

static void add_key(words *w, const ag_limiter *l, const subject *s)
{
    char *at = w->text + w->used;
    int len = snprintf(at, sizeof w->text - w->used, "%s%s:%s", l->prefix, kinds[s->kind], s->name);
    AG_ASSERT(len > 0 && w->used + (size_t)len < sizeof w->text);
    w->used += (size_t)len;
    add_word(w, (ag_str){at, (size_t)len});
}

static bool call(ag_limiter_loop *on, const char *what, uint32_t month, const subject *list, uint32_t n,
                 ag_redis_fn *fn, void *arg)
{
    const ag_limiter *l = on->limiter;
    words *w = &on->words;
    w->n = 0;
    w->used = 0;
    add_number(w, n + 1);
    add_word(w, ag_str_of(l->set));
    for (uint32_t i = 0; i < n; i++) add_key(w, l, &list[i]);
    add_word(w, ag_str_of(what));
    add_word(w, ag_str_of(l->id));
    add_word(w, ag_str_of(l->alive));
    add_number(w, month);
    for (uint32_t i = 0; i < n; i++) {
        _Static_assert(AG_LIMIT_COUNT + 3 == NUMBERS, "the limits, in the order of limits.def, and three numbers more");
        for (uint32_t k = 0; k < AG_LIMIT_COUNT; k++) add_number(w, (int64_t)*ag_limit_at(list[i].limits, k));
        add_number(w, list[i].tokens);
        add_number(w, list[i].in_flight);
        add_number(w, (int64_t)list[i].known);
    }
    return ag_redis_eval(on->redis, &l->script, w->arg, w->n, fn, arg);
}

/* Those of a request that have limits. */
static uint32_t subjects_of(const ag_limiter_call *c, subject out[AG_METER_KIND_COUNT])
{
    uint32_t n = 0;
    ag_meter_known known;
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++) {
        if (c->ticket.meter[i] == NULL || !ag_limits_any(&c->full[i])) continue;
        subject *s = &out[n++];
        *s = (subject){.kind = (ag_meter_kind)i, .name = ag_meter_name(c->ticket.meter[i]), .limits = &c->full[i],
                       .tokens = (int64_t)c->tokens};
        ag_meters_known(c->limiter->meters, s->kind, s->name, c->when.month, &known);
        s->in_flight = known.in_flight;
        s->known = known.month_tokens;
    }
    return n;
}

/* false: it is none. */
static bool read_answer(ag_limiter_call *c, const redisReply *reply, uint64_t months[AG_METER_KIND_COUNT])
{
    static const int codes[] = {AG_OK, AG_E_RATE_LIMIT, AG_E_BUDGET};
    subject list[AG_METER_KIND_COUNT];
    uint64_t v[ANSWER_HEAD + AG_METER_KIND_COUNT];
    uint32_t n = subjects_of(c, list);
    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY || reply->elements != ANSWER_HEAD + n) return false;
    for (size_t i = 0; i < reply->elements; i++) {
        const redisReply *one = reply->element[i];
        if (one->type != REDIS_REPLY_INTEGER || one->integer < 0) return false;
        v[i] = (uint64_t)one->integer;
    }
    if (v[0] >= AG_ARRAY_LEN(codes) || v[1] >= n || v[2] >= AG_LIMIT_COUNT) return false;
    c->rc = codes[v[0]];
    c->why = (ag_refusal){list[v[1]].kind, (ag_limit_id)v[2], v[3], v[4] != 0};
    c->views = (ag_meter_views){{v[5], v[6], v[7]}, {v[8], v[9], v[10]}};
    for (uint32_t i = 0; i < n; i++) months[list[i].kind] = v[ANSWER_HEAD + i];
    return true;
}

/* Alone. */

static uint32_t live_of(const ag_limiter_call *c) { return c->shared ? atomic_load(&c->limiter->live) : 1; }

static uint64_t part(uint64_t all, uint32_t live) { return all ? AG_MAX(all / live, 1ull) : 0; }

/* Of a budget that is divided which was left when all of them were last counted together. */
static uint64_t budget_share(const ag_limiter_call *c, ag_meter_kind kind, const char *name)
{
    uint64_t budget = c->full[kind].tokens_per_month;
    ag_meter_known known;
    if (budget == 0 || live_of(c) == 1) return budget;
    ag_meters_known(c->limiter->meters, kind, name, c->when.month, &known);
    return budget > known.month_told ? known.month_told + part(budget - known.month_told, live_of(c)) : budget;
}

static void shares_of(const ag_limiter_call *c, const char *const names[AG_METER_KIND_COUNT],
                      ag_limits out[AG_METER_KIND_COUNT])
{
    for (uint32_t kind = 0; kind < AG_METER_KIND_COUNT; kind++) {
        if (names[kind] == NULL) continue;
        for (uint32_t i = 0; i < AG_LIMIT_COUNT; i++)
            *ag_limit_at(&out[kind], i) = part(*ag_limit_at(&c->full[kind], i), live_of(c));
        out[kind].tokens_per_month = budget_share(c, (ag_meter_kind)kind, names[kind]);
    }
}

/* Clients are told of the whole limit, and as much of it as is left of the share. */
static void widen(ag_limiter_call *c)
{
    ag_meter_view *views[] = {&c->views.requests, &c->views.tokens};
    for (uint32_t i = 0; i < AG_ARRAY_LEN(views); i++) {
        views[i]->limit *= live_of(c);
        views[i]->left *= live_of(c);
    }
}

static void enter_alone(ag_limiter_call *c, const char *const names[AG_METER_KIND_COUNT])
{
    ag_limits share[AG_METER_KIND_COUNT] = {0};
    c->alone = true;
    shares_of(c, names, share);
    c->rc = ag_meters_enter(c->limiter->meters, &c->ticket, names, share, c->when, &c->why, &c->views);
    widen(c);
    if (c->shared) ag_metric_add(c->limiter->metrics, AG_M_LIMITS_ALONE, 0, 1);
}

static void owe_tokens(const ag_limiter_call *c, int64_t tokens, uint32_t month);

/* A prompt that is larger than a share, but not than the limit, needs a whole share, and uses up what is to come. */
static uint64_t at_once(const ag_limiter_call *c)
{
    uint64_t n = c->tokens;
    for (uint32_t i = 0; c->shared && i < AG_METER_KIND_COUNT; i++) {
        uint64_t full = c->full[i].tokens_per_minute, share = c->ticket.limits[i].tokens_per_minute;
        if (c->ticket.meter[i] && full >= c->tokens) n = AG_MIN(n, share);
    }
    return n;
}

static void prompt_alone(ag_limiter_call *c)
{
    uint64_t n = at_once(c);
    ag_meters *m = c->limiter->meters;
    c->alone = true;
    c->rc = ag_meters_prompt(m, &c->ticket, n, c->when, &c->why, &c->views);
    if (c->rc == AG_OK && c->tokens > n) ag_meters_output(m, &c->ticket, c->tokens - n, c->when);
    widen(c);
    if (c->rc == AG_OK) owe_tokens(c, (int64_t)c->tokens, c->when.month);
}

/* Shared. */

static void took_answer(ag_limiter_call *c)
{
    ag_metric_add(c->limiter->metrics, AG_M_LIMITS_ASKED, 0, 1);
    ag_metric_observe_us(c->limiter->metrics, AG_M_LIMITS_TIME, 0, ag_now_us() - c->asked_us);
}

static void on_enter(void *arg, const redisReply *reply)
{
    ag_limiter_call *c = arg;
    ag_meters *m = c->limiter->meters;
    uint64_t months[AG_METER_KIND_COUNT] = {0};
    if (read_answer(c, reply, months)) {
        took_answer(c);
        if (c->rc == AG_OK) ag_meters_took(m, &c->ticket, months, c->when);
        else ag_meters_leave(m, &c->ticket);
    } else {
        char texts[AG_METER_KIND_COUNT][AG_METER_NAME_MAX + 1];
        const char *names[AG_METER_KIND_COUNT] = {0};
        for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++) {
            if (c->ticket.meter[i] == NULL) continue;
            snprintf(texts[i], sizeof texts[i], "%s", ag_meter_name(c->ticket.meter[i]));
            names[i] = texts[i];
        }
        ag_meters_leave(m, &c->ticket);
        enter_alone(c, names);
    }
    c->done(c->arg);
}

static void on_prompt(void *arg, const redisReply *reply)
{
    ag_limiter_call *c = arg;
    uint64_t months[AG_METER_KIND_COUNT] = {0};
    if (read_answer(c, reply, months)) {
        took_answer(c);
        if (c->rc == AG_OK) ag_meters_output(c->limiter->meters, &c->ticket, c->tokens, c->when);
    } else {
        prompt_alone(c);
    }
    c->done(c->arg);
}

static bool ask_to_enter(ag_limiter_call *c)
{
    subject list[AG_METER_KIND_COUNT];
    c->asked_us = ag_now_us();
    return call(c->loop, "enter", c->when.month, list, subjects_of(c, list), on_enter, c);
}

bool ag_limiter_enter(ag_limiter *l, ag_limiter_call *c, const char *const names[AG_METER_KIND_COUNT])
{
    c->limiter = l;
    for (uint32_t i = 0; c->loop && i < AG_METER_KIND_COUNT; i++) c->shared |= names[i] && ag_limits_any(&c->full[i]);
    if (c->shared && ag_redis_there(c->loop->redis)) {
        ag_limits share[AG_METER_KIND_COUNT] = {0};
        shares_of(c, names, share);
        if ((c->rc = ag_meters_hold(l->meters, &c->ticket, names, share, c->when)) != AG_OK) return true;
        if (ask_to_enter(c)) return false;
        ag_meters_leave(l->meters, &c->ticket);
    }
    enter_alone(c, names);
    return true;
}

static bool limits_tokens(const ag_limits *l) { return l->tokens_per_minute || l->tokens_per_month; }

bool ag_limiter_prompt(ag_limiter_call *c, uint64_t tokens, ag_meter_time when)
{
    subject list[AG_METER_KIND_COUNT];
    bool any = false; /* a limit that they count in */
    c->tokens = tokens;
    c->when = when;
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++) any |= c->ticket.meter[i] && limits_tokens(&c->full[i]);
    if (c->shared && !any) {
        ag_meters_output(c->limiter->meters, &c->ticket, tokens, when); /* the month's, for a budget to come */
        c->rc = AG_OK;
        return true;
    }
    c->asked_us = ag_now_us();
    if (any && !c->alone && ag_redis_there(c->loop->redis) &&
        call(c->loop, "prompt", when.month, list, subjects_of(c, list), on_prompt, c))
        return false;
    prompt_alone(c);
    return true;
}

/* What is owed. */

/* Done, or lost with the connection. */
static void on_charged(void *arg AG_UNUSED, const redisReply *reply AG_UNUSED) {}

static void charge_some(ag_limiter_loop *on, const uint32_t *at, uint32_t n)
{
    subject list[AT_ONCE];
    for (uint32_t i = 0; i < n; i++) {
        const owed *o = &on->owed[at[i]];
        subject *s = &list[i];
        ag_meter_known known;
        *s = (subject){.kind = o->kind, .name = o->name, .limits = &o->limits, .tokens = o->tokens};
        ag_meters_known(on->limiter->meters, s->kind, s->name, on->month, &known);
        s->known = known.month_tokens;
        if (o->tokens > 0) s->known -= AG_MIN(s->known, (uint64_t)o->tokens); /* they are in there already */
        s->in_flight = o->limits.concurrent ? (int64_t)known.in_flight : -1;
    }
    (void)call(on, "charge", on->month, list, n, on_charged, NULL);
}

static void charge(ag_limiter_loop *on)
{
    for (uint32_t i = 0; i < on->n_owed; i += AT_ONCE) charge_some(on, on->list + i, AG_MIN(on->n_owed - i, AT_ONCE));
    for (uint32_t i = 0; i < on->n_owed; i++) on->owed[on->list[i]].name[0] = 0;
    on->n_owed = 0;
}

/* Requests that outlive it, on their way out, owe it nothing. */
static void on_gone(void *arg)
{
    ag_limiter_loop *on = arg;
    on->redis = NULL;
}

static void on_tick(void *arg)
{
    ag_limiter_loop *on = arg;
    charge(on);
    if (++on->ticks % BEAT_TICKS == 0) beat(on);
}

/* NULL: there is no room. */
static owed *find_owed(ag_limiter_loop *on, ag_meter_kind kind, const char *name)
{
    uint64_t hash;
    crypto_shorthash((uint8_t *)&hash, (const uint8_t *)name, strlen(name), on->limiter->hash_key);
    uint32_t at = (uint32_t)((hash + kind) % SLOTS);
    while (on->owed[at].name[0] && (on->owed[at].kind != kind || strcmp(on->owed[at].name, name) != 0))
        at = (at + 1) % SLOTS;
    owed *o = &on->owed[at];
    if (o->name[0]) return o;
    if (on->n_owed == AG_LIMITER_OWED_MAX) return NULL;
    on->list[on->n_owed++] = at;
    *o = (owed){.kind = kind};
    memcpy(o->name, name, strlen(name) + 1);
    return o;
}

static void owe(const ag_limiter_call *c, uint32_t kind, int64_t tokens, uint32_t month)
{
    ag_limiter_loop *on = c->loop;
    const char *name = ag_meter_name(c->ticket.meter[kind]);
    bool there = ag_redis_there(on->redis);
    on->month = month;
    owed *o = find_owed(on, (ag_meter_kind)kind, name);
    if (o == NULL && there) {
        charge(on);
        o = find_owed(on, (ag_meter_kind)kind, name);
    }
    if (o == NULL) return;
    o->limits = c->full[kind];
    if (!there) o->limits.tokens_per_minute = 0; /* when Redis is back that minute is over; the month is not */
    o->tokens += tokens;
}

static void owe_tokens(const ag_limiter_call *c, int64_t tokens, uint32_t month)
{
    if (!c->shared) return;
    for (uint32_t i = 0; i < AG_METER_KIND_COUNT; i++)
        if (c->ticket.meter[i] && limits_tokens(&c->full[i])) owe(c, i, tokens, month);
}

void ag_limiter_prompt_undo(ag_limiter_call *c, uint64_t tokens)
{
    ag_meters_prompt_undo(c->limiter->meters, &c->ticket, tokens);
    owe_tokens(c, -(int64_t)tokens, c->when.month);
}

void ag_limiter_output(ag_limiter_call *c, uint64_t tokens, ag_meter_time when)
{
    ag_meters_output(c->limiter->meters, &c->ticket, tokens, when);
    owe_tokens(c, (int64_t)tokens, when.month);
}

void ag_limiter_leave(ag_limiter_call *c)
{
    for (uint32_t i = 0; c->shared && i < AG_METER_KIND_COUNT; i++)
        if (c->ticket.meter[i] && c->full[i].concurrent) owe(c, i, 0, c->when.month);
    if (c->limiter) ag_meters_leave(c->limiter->meters, &c->ticket);
}

/* Opening. */

static bool is_set(const char *text) { return text && text[0]; }

static int share_open(ag_limiter *l, const ag_limiter_conf *conf, ag_err *err)
{
    ag_redis_at *at = &l->redis.at;
    int rc = ag_redis_at_parse(at, conf->redis, err);
    if (rc != AG_OK) return rc;
    if (strlen(conf->prefix) > AG_LIMITER_PREFIX_MAX)
        return ag_err_set(err, AG_E_USAGE, "The prefix of the keys in Redis may have %d bytes.", AG_LIMITER_PREFIX_MAX);
    rc = ag_redis_at_password(at, conf->password, conf->password_file, err);
    if (rc == AG_OK) rc = ag_redis_tls_open(&l->redis.tls, at, &conf->files, err);
    if (rc != AG_OK) return rc;
    ag_str text = {ag__limits_lua, (size_t)(ag__limits_lua_end - ag__limits_lua)};
    if (ag_redis_script_init(&l->script, text) != AG_OK)
        return ag_err_set(err, AG_E_NOMEM, "There is no memory for the limits that are shared.");
    snprintf(l->prefix, sizeof l->prefix, "%s", conf->prefix);
    snprintf(l->set, sizeof l->set, "%sgateways", conf->prefix);
    snprintf(l->alive, sizeof l->alive, "%u", ALIVE_MS * 1000);
    ag_random_hex(l->id, 16);
    crypto_shorthash_keygen(l->hash_key);
    const ag_str probe[] = {AG_STR("1"), ag_str_of(l->set), AG_STR("beat"), ag_str_of(l->id), ag_str_of(l->alive),
                            AG_STR("0")};
    _Static_assert(sizeof probe == sizeof l->probe, "all of them");
    memcpy(l->probe, probe, sizeof probe);
    l->redis.timeout_ms = conf->timeout_ms;
    l->redis.reply_bytes_max = REPLY_BYTES;
    l->redis.probe = &l->script;
    l->redis.probe_args = l->probe;
    l->redis.n_probe_args = AG_ARRAY_LEN(l->probe);
    l->redis.state = on_state;
    l->redis.tick = on_tick;
    l->redis.gone = on_gone;
    l->redis.tick_ms = AG_LIMITER_TICK_MS;
    l->shared = true;
    return AG_OK;
}

int ag_limiter_open(ag_limiter **out, const ag_limiter_conf *conf, ag_metrics *metrics, ag_log *log, ag_err *err)
{
    ag_limiter *l = ag_mem_zalloc(sizeof *l);
    int rc = l ? ag_meters_open(&l->meters) : AG_E_NOMEM;
    if (rc != AG_OK) {
        ag_mem_free(l);
        return ag_err_set(err, rc, "There is no memory for the limits of keys.");
    }
    l->metrics = metrics;
    l->log = log;
    atomic_init(&l->live, 1);
    if (is_set(conf->redis)) rc = share_open(l, conf, err);
    if (rc == AG_OK) *out = l;
    else ag_limiter_close(l);
    return rc;
}

int ag_limiter_join(ag_limiter *l, ag_http_server *s, ag_err *err)
{
    if (!l->shared) return AG_OK;
    l->n_loops = ag_http_server_loops(s);
    l->loops = ag_mem_array(l->n_loops, sizeof *l->loops);
    for (uint32_t i = 0; l->loops && i < l->n_loops; i++) {
        if ((l->loops[i] = ag_mem_zalloc(sizeof *l->loops[i])) == NULL) break;
        l->loops[i]->limiter = l;
        ag_redis_conf conf = l->redis;
        conf.arg = l->loops[i];
        if (ag_redis_open(&l->loops[i]->redis, ag_http_server_loop(s, i), &conf) != AG_OK) break;
        if (i + 1 == l->n_loops) return AG_OK;
    }
    return ag_err_set(err, AG_E_NOMEM, "There is no memory for the limits that are shared.");
}

void ag_limiter_close(ag_limiter *l)
{
    if (l == NULL) return;
    for (uint32_t i = 0; l->loops && i < l->n_loops; i++) ag_mem_free(l->loops[i]);
    ag_mem_free(l->loops);
    ag_meters_close(l->meters);
    sodium_memzero(&l->redis.at, sizeof l->redis.at);
    ag_redis_tls_close(l->redis.tls);
    ag_mem_free(l);
}

ag_meters *ag_limiter_meters(ag_limiter *l) { return l->meters; }

ag_limiter_loop *ag_limiter_on(ag_limiter *l, uint32_t loop) { return l->loops ? l->loops[loop] : NULL; }
