/* metering.c - limits: each request counts in the meters of its key, its tenant, the model and its address, and in the
 * usage of its key. A POST is a request; looking something up is not. */
#include <arpa/inet.h>
#include <stdio.h>
#include <time.h>

#include "gateway/req.h"

#define WATCH_MS 500u

static const char *const limited_names[] = {
#define AG_LIMIT(field, words, flag, max, what) "key/" #field,
#include "keys/limits.def"
#undef AG_LIMIT
#define AG_LIMIT(field, words, flag, max, what) "tenant/" #field,
#include "keys/limits.def"
#undef AG_LIMIT
#define AG_LIMIT(field, words, flag, max, what) "model/" #field,
#include "keys/limits.def"
#undef AG_LIMIT
#define AG_LIMIT(field, words, flag, max, what) "address/" #field,
#include "keys/limits.def"
#undef AG_LIMIT
};

_Static_assert(AG_ARRAY_LEN(limited_names) == AG_METER_KIND_COUNT * AG_LIMIT_COUNT &&
                   AG_ARRAY_LEN(limited_names) <= AG_METRICS_VALUES_MAX,
               "a label value for each kind and limit, in the order of both");

void ag__meter_names(ag_metrics *m)
{
    ag_metrics_values(m, AG_LABELS_LIMIT, limited_names, AG_ARRAY_LEN(limited_names));
}

static ag_meter_time time_now(void)
{
    time_t wall = (time_t)(ag_wall_us() / 1000000);
    struct tm tm;
    gmtime_r(&wall, &tm);
    return (ag_meter_time){ag_now_us(), (uint32_t)(tm.tm_year * 12 + tm.tm_mon)};
}

void ag__meter_seed(ag_gateway *gw, const ag_usage_row *row)
{
    uint64_t n = row->prompt_tokens + row->output_tokens;
    uint32_t month = time_now().month;
    ag_meters *m = ag_limiter_meters(gw->limiter);
    bool ok = ag_meters_seed(m, AG_METER_KEY, row->key, month, n) &&
              ag_meters_seed(m, AG_METER_TENANT, row->tenant, month, n);
    if (!ok) AG_LOG(gw->log, AG_LOG_WARN, NULL, "keys", AG_LOG_Z("note", "No memory for what a key used this month."));
}

/* Who owns one IPv6 address owns its /64 at least, so those count together. */
static void address_of(const ag_req *r, char out[AG_METER_NAME_MAX + 1])
{
    struct in6_addr a;
    _Static_assert(sizeof r->client <= AG_METER_NAME_MAX + 1, "an address is a name");
    memcpy(out, r->client, sizeof r->client);
    if (inet_pton(AF_INET6, out, &a) != 1 || IN6_IS_ADDR_V4MAPPED(&a)) return;
    memset(&a.s6_addr[8], 0, 8);
    inet_ntop(AF_INET6, &a, out, AG_METER_NAME_MAX + 1);
}

/* What callers are told: as OpenAI sends it. */

static void write_time(char out[32], uint64_t us)
{
    uint64_t ms = (us + 999) / 1000, s = ms / 1000;
    int n = 0;
    if (ms < 1000) {
        snprintf(out, 32, "%llums", (unsigned long long)ms);
        return;
    }
    if (s >= 3600) n = snprintf(out, 32, "%lluh", (unsigned long long)(s / 3600));
    if (s >= 60) n += snprintf(out + n, 32 - (size_t)n, "%llum", (unsigned long long)(s / 60 % 60));
    snprintf(out + n, 32 - (size_t)n, "%gs", (double)(ms % 60000) / 1000);
}

/* And as Anthropic does: when that will be. */
static void write_moment(char out[32], uint64_t us)
{
    time_t at = (time_t)((ag_wall_us() + us + 999999) / 1000000);
    struct tm tm;
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&at, &tm));
}

static void write_view(const ag_req *r, char out[3][32], const ag_meter_view *v)
{
    if (v->limit == 0) return;
    snprintf(out[0], 32, "%llu", (unsigned long long)v->limit);
    snprintf(out[1], 32, "%llu", (unsigned long long)v->left);
    if (r->dialect->reset_is_moment) write_moment(out[2], v->reset_us);
    else write_time(out[2], v->reset_us);
}

static void write_views(ag_req *r, const ag_meter_views *v)
{
    write_view(r, r->rates[0], &v->requests);
    write_view(r, r->rates[1], &v->tokens);
}

uint32_t ag__meter_headers(const ag_req *r, ag_http_header *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < 6; i++)
        if (r->rates[i / 3][i % 3][0] && r->dialect->rates[i])
            out[n++] = (ag_http_header){ag_str_of(r->dialect->rates[i]), ag_str_of(r->rates[i / 3][i % 3])};
    return n;
}

static void say_whose(const ag_req *r, ag_meter_kind kind, char out[AG_METER_NAME_MAX + 32])
{
    switch (kind) {
    case AG_METER_TENANT: snprintf(out, AG_METER_NAME_MAX + 32, "the tenant '%s'", r->tenant); break;
    case AG_METER_MODEL: snprintf(out, AG_METER_NAME_MAX + 32, "the model '%s'", r->gw->model_name); break;
    case AG_METER_KEY: snprintf(out, AG_METER_NAME_MAX + 32, "this key"); break;
    default: snprintf(out, AG_METER_NAME_MAX + 32, "your address"); break;
    }
}

static int refuse(ag_req *r, uint64_t tokens)
{
    const ag_limiter_call *c = &r->limit;
    const ag_refusal *why = &c->why;
    char whose[AG_METER_NAME_MAX + 32];
    if (c->rc == AG_E_NOMEM)
        return ag_err_set(&r->err, c->rc, "The server has no memory left to count this request.");
    const ag_limit_row *row = &ag_limit_rows[why->limit];
    unsigned long long limit = *ag_limit_at(&c->full[why->kind], why->limit), wait_ms = (why->wait_us + 999) / 1000;
    say_whose(r, why->kind, whose);
    ag_metric_add(r->gw->metrics, AG_M_LIMITED, why->kind * AG_LIMIT_COUNT + why->limit, 1);
    r->retry_us = why->wait_us;
    if (c->rc == AG_E_BUDGET)
        return ag_err_set(&r->err, c->rc,
                          "The budget of %s (%s: %llu) is used up%s; it begins anew on the first (UTC).", whose,
                          row->words, limit, tokens ? " with this prompt" : "");
    if (why->never)
        return ag_err_set(&r->err, AG_E_LIMIT, "The prompt has %llu tokens, more than %s may send at all (%s: %llu).",
                          (unsigned long long)tokens, whose, row->words, limit);
    if (why->limit == AG_LIMIT_concurrent)
        return ag_err_set(&r->err, c->rc, "The limit of %s (%s: %llu) is reached; one of them must end first.", whose,
                          row->words, limit);
    return ag_err_set(&r->err, c->rc, "The limit of %s (%s: %llu) is reached; try again in %llu.%03llu s.", whose,
                      row->words, limit, wait_ms / 1000, wait_ms % 1000);
}

static void on_answer(void *arg)
{
    ag_req *r = arg;
    if (r->metered && r->limit.rc == AG_OK) r->prompt_charged = r->limit.tokens; /* also of one who has left */
    r->asking = false;
    r->asked = true;
    ag__req_run(r);
}

/* What was set for an alias counts as its model's: where there are several limits, the tightest. */
static void limits_of_model(const ag_req *r, ag_limits *out)
{
    ag_str rest = r->live->aliases, alias;
    bool own = ag_keyring_limits(r->gw->ring, "model", r->gw->model_name, out);
    while (ag_str_next(&rest, &alias)) {
        char name[AG_ALIAS_BYTES_MAX + 1];
        ag_limits l;
        snprintf(name, sizeof name, "%.*s", (int)alias.n, alias.p);
        if (!ag_keyring_limits(r->gw->ring, "model", name, &l)) continue;
        for (uint32_t i = 0; own && i < AG_LIMIT_COUNT; i++) {
            uint64_t a = *ag_limit_at(out, i), *b = ag_limit_at(&l, i);
            if (*b == 0 || (a && a < *b)) *b = a;
        }
        own = true;
        *out = l;
    }
}

static bool enter(ag_req *r)
{
    ag_limiter_call *c = &r->limit;
    const char *names[AG_METER_KIND_COUNT] = {0};
    char address[AG_METER_NAME_MAX + 1];
    bool served = atomic_load_explicit(&r->gw->engine, memory_order_acquire) != NULL;
    *c = (ag_limiter_call){.loop = ag_limiter_on(r->gw->limiter, ag_http_loop_index(r->loop->loop)),
                           .when = time_now(), .done = on_answer, .arg = r};
    address_of(r, address);
    if (r->key) c->full[AG_METER_KEY] = r->key->limits;
    ag_keyring_limits(r->gw->ring, "tenant", r->tenant, &c->full[AG_METER_TENANT]);
    ag_keyring_limits(r->gw->ring, "address", address, &c->full[AG_METER_ADDRESS]);
    if (served) limits_of_model(r, &c->full[AG_METER_MODEL]);
    /* What a key and its tenant use of a month counts also before there is a budget. */
    if (r->key && !r->key->of_token) names[AG_METER_KEY] = r->key->id;
    names[AG_METER_TENANT] = r->tenant;
    if (ag_limits_any(&c->full[AG_METER_ADDRESS])) names[AG_METER_ADDRESS] = address;
    if (ag_limits_any(&c->full[AG_METER_MODEL])) names[AG_METER_MODEL] = r->gw->model_name;
    return ag_limiter_enter(r->gw->limiter, c, names);
}

int ag__meter_enter(ag_req *r)
{
    if (r->gw->limiter == NULL || r->asking) return AG_OK;
    if (!r->asked && !enter(r)) {
        r->asking = true;
        return AG_OK;
    }
    r->asked = false;
    r->metered = r->limit.rc == AG_OK;
    write_views(r, &r->limit.views);
    return r->metered ? AG_OK : refuse(r, 0);
}

int ag__meter_prompt(ag_req *r, uint64_t tokens)
{
    if (!r->metered || r->asking) return AG_OK;
    if (!r->asked && !ag_limiter_prompt(&r->limit, tokens, time_now())) {
        r->asking = true;
        return AG_OK;
    }
    r->asked = false;
    write_views(r, &r->limit.views);
    if (r->limit.rc != AG_OK) return refuse(r, tokens);
    r->prompt_charged = tokens;
    return AG_OK;
}

static void use(ag_req *r, uint64_t requests, uint64_t prompt_tokens, uint64_t output_tokens)
{
    ag_usage_what what = {ag__key_name(r), r->tenant, r->gw->model_name, requests, prompt_tokens, output_tokens};
    ag_usage_add(ag_keyring_usage(r->gw->ring), ag_wall_us() / 1000000, &what);
}

/* What several read counts once: for one who is there when it begins, whether or not it was the one who came first and
 * was asked for it; what is renewed for whoever was told the stale one. */
static void count_prompt(ag_req *r, bool pays)
{
    ag_flight *f = r->caching.flight;
    if (r->prompt_used && (f == NULL || atomic_load(&f->prompt_paid))) return;
    bool kept = r->caching.told == AG_TOLD_HIT || r->caching.told == AG_TOLD_STALE, begun = kept || ag__any_begun(r);
    bool owes = pays && begun && (f ? !atomic_exchange(&f->prompt_paid, true) : !r->prompt_used);
    uint64_t more = owes ? r->usage.prompt_tokens - r->prompt_charged : 0;
    if (more) ag_limiter_output(&r->limit, more, time_now());
    bool first = !r->prompt_used && (begun || !pays);
    if (first || more) use(r, first, (first ? r->prompt_charged : 0) + more, 0);
    r->prompt_used = r->prompt_used || first;
}

void ag__meter_output(ag_req *r)
{
    uint64_t made = 0;
    if (!r->metered || r->choices == NULL) return;
    bool pays = ag__caching_pays(r);
    count_prompt(r, pays);
    if (!pays) return;
    for (uint32_t i = 0; i < r->n_choices; i++) made += r->choices[i].gen ? ag_gen_count(r->choices[i].gen) : 0;
    ag_flight *f = r->caching.flight;
    uint64_t charged = f ? atomic_load(&f->paid) : r->charged;
    if (made <= charged) return;
    ag_limiter_output(&r->limit, made - charged, time_now());
    use(r, 0, 0, made - charged);
    r->charged = made;
    if (f) atomic_store(&f->paid, made);
}

void ag__meter_settle(ag_req *r)
{
    ag__meter_output(r);
    if (r->metered && !r->prompt_used) ag_limiter_prompt_undo(&r->limit, r->prompt_charged);
    r->prompt_charged = 0;
}

void ag__meter_forgive(ag_req *r)
{
    if (r->metered) ag_limiter_prompt_undo(&r->limit, r->prompt_charged);
    r->prompt_charged = 0;
}

/* Nobody wakes a request whose client does not read, while its generations go on. */
static void on_watch(void *user, ag_http_stream *s AG_UNUSED)
{
    ag_req *r = user;
    ag__meter_output(r);
    ag__caching_tick(r);
    if (r->blocked) {
        ag__meter_watch(r);
    } else if (r->request.position_events && r->first_us == 0) { /* whose timer this was */
        r->tick = true;
        if (r->step == AG_STEP_GENERATE) ag__req_run(r);
    }
}

void ag__meter_watch(ag_req *r)
{
    if (r->metered && !r->gone) ag_http_timer(r->s, WATCH_MS, on_watch);
}

void ag__meter_leave(ag_req *r)
{
    ag_limiter_leave(&r->limit); /* also one that was let in when it had left */
    r->metered = false;
}
