/* coalesce.c - generations that are not one request's alone: those that several follow who asked the same, and those
 * that renew a stale answer for nobody. */
#include "base/mem.h"
#include "gateway/req.h"

struct ag_renewal {
    ag_renewal *next, **at; /* in its loop's list */
    ag_gw_loop *loop;
    ag_engine *engine;
    ag_flight *flight;
    void *number;           /* in the loop's slots */
    ag_caching_item item;
    ag_record_form form;
    ag_record_prompt prompts[AG_REQUEST_PROMPTS_MAX]; /* their lengths */
};

static const char no_memory[] = "The server has no memory left for this request.";

bool ag__caching_coalesces(const ag_req *r) { return r->caching.keeps && !ag__embeds(r); }

/* Followers. */

static void unfollow(ag_req *r)
{
    for (uint32_t i = 0; i < r->n_choices; i++) {
        ag_choice *c = &r->choices[i];
        if (c->number) ag_slots_remove(&r->loop->slots, c->number);
        if (c->gen) ag_gen_cancel(c->gen);
        ag_gen_put(c->gen);
        c->number = NULL;
        c->gen = NULL;
    }
}

static void begun(ag_req *r)
{
    for (uint32_t i = 0; i < r->n_choices; i++) r->choices[i].prompt = i / r->request.n;
    for (uint32_t i = 0; i < r->n_choices; i++) r->choices[i].dirty = true; /* there may be news already */
    for (uint32_t i = 0; i < ag_request_prompts(&r->request); i++) ag__prompt_forget(&r->prompts[i]);
    atomic_store(&r->n_begun, r->n_choices);
}

/* Whether it comes to an answer, as far as one can tell by now. */
static bool flies(const ag_flight *f)
{
    bool good = true;
    for (uint32_t i = 0; i < f->n && good; i++) {
        ag_gen_state state;
        ag_gen_read(f->gens[i], 0, NULL, 0, &state);
        good = state != AG_GEN_FAILED && state != AG_GEN_CANCELLED && !ag_gen_timed_out(f->gens[i]);
    }
    return good;
}

/* [entered] AG_E_CANCELLED: it has been given up. */
static int follow(ag_req *r, ag_flight *f)
{
    AG_ASSERT(f->n == r->n_choices);
    ag_gen_spec mine;
    ag__gen_spec(r, 0, &mine);
    ag_gen_follow_spec spec = {.band = mine.band, .deadline_us = mine.deadline_us};
    spec.notify = ag_http_loop_mbox(r->loop->loop);
    int rc = AG_OK;
    for (uint32_t i = 0; i < f->n && rc == AG_OK; i++) {
        ag_choice *c = &r->choices[i];
        spec.msg = c->number = ag_slots_add(&r->loop->slots, r, i);
        if (c->number == NULL) rc = ag_err_set(&r->err, AG_E_NOMEM, "%s", no_memory);
        else rc = ag_gen_follow(&c->gen, f->gens[i], &spec, &r->err);
    }
    if (rc != AG_OK) {
        unfollow(r);
        return rc;
    }
    ag_flights_hold(f);
    r->caching.flight = f;
    begun(r);
    return AG_OK;
}

static void coalesced(ag_req *r)
{
    r->caching.told = AG_TOLD_COALESCED;
    ag__caching_count(r, AG_CACHED_COALESCED);
}

/* Leaders. */

static void give_up(ag_gen **gens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (gens[i]) ag_gen_cancel(gens[i]);
        ag_gen_put(gens[i]);
    }
    ag_mem_free((void *)gens);
}

/* [entered] renewal NULL: they run for those who follow. */
static int create(const ag_req *r, const ag_renewal *renewal, ag_gen **gens, uint32_t n, ag_err *err)
{
    int rc = AG_OK;
    for (uint32_t i = 0; i < n && rc == AG_OK; i++) {
        ag_gen_spec spec;
        ag__gen_spec(r, i, &spec);
        if (renewal) {
            spec.notify = ag_http_loop_mbox(r->loop->loop);
            spec.msg = renewal->number;
            spec.band = AG_BANDS - 1;
            spec.deadline_us = 0;
        }
        rc = ag_gen_create(&gens[i], r->engine, &spec, err);
    }
    return rc;
}

/* [entered] *out: held for the caller, also where r could not follow it then. */
static int launch(ag_req *r, ag_flight **out)
{
    uint32_t n = r->n_choices;
    ag_gen **gens = ag_mem_array(n, sizeof *gens);
    int rc = gens ? create(r, NULL, gens, n, &r->err) : AG_E_NOMEM;
    if (rc == AG_OK) rc = ag__gens_submit(r, gens, n);
    if (rc == AG_OK) rc = ag_flights_add(r->gw->caching.flights, &r->caching.key, gens, n, out);
    if (rc != AG_OK) {
        give_up(gens, gens ? n : 0);
        return ag_err_set(&r->err, rc, "%s", no_memory); /* where nobody said it better */
    }
    ag_mem_free((void *)gens);
    rc = follow(r, *out);
    for (uint32_t i = 0; rc != AG_OK && i < n; i++) ag_gen_cancel((*out)->gens[i]);
    if (rc == AG_OK) atomic_store(&(*out)->payer, r);
    return rc;
}

int ag__caching_begin(ag_req *r)
{
    ag_req_caching *c = &r->caching;
    ag_flights *flights = r->gw->caching.flights;
    int rc = ag__cancel_check(r);
    if (rc != AG_OK) return rc;
    ag_flight *f = ag_flights_enter(flights, &c->key), *made = NULL;
    rc = f && c->finds && flies(f) ? follow(r, f) : AG_E_CANCELLED;
    bool followed = rc == AG_OK;
    if (rc == AG_E_CANCELLED) {
        ag_err_clear(&r->err);
        rc = launch(r, &made);
    }
    ag_flights_leave(flights, &c->key);
    if (made) ag_flights_drop(flights, made);
    if (rc == AG_OK) ag__sharing_launched(r);
    if (followed) {
        coalesced(r);
        ag__meter_forgive(r);
    } else if (rc == AG_OK) {
        ag__caching_count(r, c->finds ? AG_CACHED_MISS : AG_CACHED_REFRESH);
    }
    return rc;
}

bool ag__caching_take(ag_req *r)
{
    ag_req_caching *c = &r->caching;
    ag_flights *flights = r->gw->caching.flights;
    if (c->found) {
        AG_ASSERT(c->n_found == r->n_choices);
        if (c->renews) ag__caching_renew(r);
        for (uint32_t i = 0; i < r->n_choices; i++) r->choices[i].gen = c->found[i];
        ag_mem_free((void *)c->found);
        c->found = NULL;
        begun(r);
        return true;
    }
    if (!ag__caching_coalesces(r) || !c->finds) return false;
    ag_flight *f = ag_flights_enter(flights, &c->key);
    int rc = f && flies(f) ? follow(r, f) : AG_E_CANCELLED;
    ag_flights_leave(flights, &c->key);
    if (rc != AG_OK) {
        ag_err_clear(&r->err);
        return false;
    }
    coalesced(r);
    ag__sharing_launched(r);
    return true;
}

void ag__caching_leave(ag_req *r)
{
    ag_req_caching *c = &r->caching;
    ag__sharing_leave(r);
    if (c->found && c->renews) ag_cache_renew_failed(r->gw->caching.cache, &c->key); /* it was refused first */
    for (uint32_t i = 0; c->found && i < c->n_found; i++) ag_gen_put(c->found[i]);
    ag_mem_free((void *)c->found);
    c->found = NULL;
    if (c->flight == NULL) return;
    void *me = r;
    atomic_compare_exchange_strong(&c->flight->payer, &me, NULL);
    bool wasted = ag_flights_drop(r->gw->caching.flights, c->flight);
    if (wasted) ag_tier_give_up(r->gw->caching.tier, ag_http_loop_index(r->loop->loop), &c->key);
    c->flight = NULL;
}

/* Tokens that several read count once: for the first who came, then for one of those who are still there. */
bool ag__caching_pays(ag_req *r)
{
    const ag_req_caching *c = &r->caching;
    void *nobody = NULL;
    if (c->told == AG_TOLD_HIT) return false;
    if (c->told == AG_TOLD_STALE) return c->renews; /* as much as it is told, for what is computed anew */
    if (c->flight == NULL) return true;
    return atomic_load(&c->flight->payer) == r || atomic_compare_exchange_strong(&c->flight->payer, &nobody, r);
}

/* Renewals. */

static void renewal_free(ag_renewal *n)
{
    ag_caching *c = &n->loop->gw->caching;
    if (n->at) {
        *n->at = n->next;
        if (n->next) n->next->at = n->at;
    }
    if (n->number) ag_slots_remove(&n->loop->slots, n->number);
    if (n->flight) ag_flights_drop(c->flights, n->flight);
    atomic_fetch_sub(&c->renewals, 1);
    ag_mem_free(n);
}

/* [entered] */
static int renewal_launch(const ag_req *r, ag_renewal *n)
{
    uint32_t count = n->form.n;
    ag_err unwanted = {0};
    ag_gen **gens = ag_mem_array(count, sizeof *gens);
    int rc = gens ? create(r, n, gens, count, &unwanted) : AG_E_NOMEM;
    if (rc == AG_OK) rc = ag_gen_submit_all(gens, count, NULL, &unwanted);
    if (rc == AG_OK) rc = ag_flights_add(r->gw->caching.flights, &r->caching.key, gens, count, &n->flight);
    if (rc != AG_OK) {
        give_up(gens, gens ? count : 0);
        return rc;
    }
    ag_mem_free((void *)gens);
    atomic_store(&n->flight->prompt_paid, true); /* by r, */
    atomic_store(&n->flight->paid, UINT64_MAX);  /* and none of those who follow */
    return AG_OK;
}

static ag_renewal *renewal_make(ag_req *r)
{
    ag_caching *c = &r->gw->caching;
    bool room = atomic_fetch_add(&c->renewals, 1) < AG_RENEWALS_MAX;
    ag_renewal *n = room ? ag_mem_zalloc(sizeof *n) : NULL;
    if (n == NULL) {
        atomic_fetch_sub(&c->renewals, 1);
        return NULL;
    }
    n->loop = r->loop;
    n->engine = r->engine;
    n->form = ag__caching_form(r, n->prompts);
    if (n->form.prompts) n->form.prompts = n->prompts;
    ag__caching_item(r, &n->item);
    n->number = ag_slots_add(&r->loop->slots, n, AG_SLOT_RENEWAL);
    if (n->number) return n;
    renewal_free(n);
    return NULL;
}

void ag__caching_renew(ag_req *r)
{
    ag_caching *c = &r->gw->caching;
    const ag_cache_key *key = &r->caching.key;
    bool embeds = ag__embeds(r); /* of which there may be more than may run at once */
    ag_renewal *n = embeds ? NULL : renewal_make(r);
    int rc = AG_E_NOMEM;
    if (n) {
        bool under_way = ag_flights_enter(c->flights, key) != NULL;
        rc = under_way ? AG_E_CANCELLED : renewal_launch(r, n);
        ag_flights_leave(c->flights, key);
    }
    if (rc != AG_OK) {
        ag_cache_renew_failed(c->cache, key);
        r->caching.renews = false; /* nor pays for it */
        if (n) renewal_free(n);
        return;
    }
    n->next = r->loop->renewals;
    n->at = &r->loop->renewals;
    if (n->next) n->next->at = &n->next;
    r->loop->renewals = n;
}

static void renewal_end(ag_renewal *n, bool good)
{
    ag_cache_value *value = NULL;
    if (!atomic_exchange(&n->flight->kept, true)) {
        if (good && ag_record_make(&value, n->engine, &n->form, n->flight->gens) == AG_OK) {
            ag__caching_put(n->loop, &n->item, value);
        } else {
            const ag_caching *c = &n->loop->gw->caching;
            ag_cache_renew_failed(c->cache, &n->item.key);
            ag_tier_give_up(c->tier, ag_http_loop_index(n->loop->loop), &n->item.key); /* of one who followed it */
        }
        ag_cache_value_drop(value);
    }
    ag_flights_landed(n->loop->gw->caching.flights, n->flight);
    renewal_free(n);
}

void ag__renewal_news(ag_renewal *n)
{
    bool ended = true, good = true;
    for (uint32_t i = 0; i < n->flight->n; i++) { /* each, so that all tell of their next news */
        ag_gen_state state;
        ag_gen_read(n->flight->gens[i], 0, NULL, 0, &state);
        ended = ended && ag_gen_ended(state);
        good = good && ag__caching_good(n->flight->gens[i]);
    }
    if (ended) renewal_end(n, good);
}

void ag__renewals_end(ag_gw_loop *l)
{
    while (l->renewals) {
        for (uint32_t i = 0; i < l->renewals->flight->n; i++) ag_gen_cancel(l->renewals->flight->gens[i]);
        renewal_free(l->renewals);
    }
}
