/* responses.c - /v1/responses: what is kept of them, those that go on without their client, and looking them up. The
 * store reads and writes the disk, so workers ask it.
 *
 * A response in the background is detached from its client when its generations are submitted. Its beginning is kept
 * before its client is told of it; then it runs as any other, and its end is kept. Until then background.ids finds it
 * for those who look it up, or cancel it: they look there first, and in the store afterwards. So one that is kept
 * unfinished and not found there was broken off, in this process or in an earlier one. */
#include <time.h>

#include "base/mem.h"
#include "gateway/req.h"

#define SWEEP_MS 20u
#define ITEMS_LIMIT 20u
#define ITEMS_LIMIT_MAX 100u

static uint64_t now_s(void) { return ag_wall_us() / 1000000; }

/* PREPARE. */

static int no_previous(ag_req *r, int rc)
{
    if (rc != AG_E_RESPONSE_NOT_FOUND) return rc;
    ag_err_clear(&r->err);
    return ag_request_fail(&r->err, AG_E_PREVIOUS_NOT_FOUND, "previous_response_id",
                           "There is no response '%.100s' of yours here that could be gone on from.",
                           r->request.previous.p);
}

int ag__response_prepare(ag_req *r)
{
    const ag_request *q = &r->request;
    ag_stored before = {0};
    int rc = AG_OK;
    ag__reply_name(r);
    if (q->previous.p)
        rc = no_previous(r, ag_responses_get(r->gw->responses, r->tenant, q->previous.p, now_s(), &before, &r->err));
    if (rc == AG_OK)
        rc = ag_responses_converse(&r->request, ag_str_of(r->reply_id), ag_buf_str(&before.body),
                                   ag_buf_str(&before.items), &r->err);
    ag_stored_fini(&before);
    return rc;
}

/* In the background. */

int ag__response_enter(ag_req *r)
{
    ag_background *b = &r->gw->background;
    void *number = ag_slots_add(&r->loop->slots, r, AG_SLOT_BACKGROUND);
    if (number == NULL) return ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this request.");
    pthread_mutex_lock(&b->lock);
    bool ending = atomic_load(&b->ending), full = b->n >= b->max;
    r->counted = !ending && !full;
    b->n += r->counted;
    pthread_mutex_unlock(&b->lock);
    if (r->counted) r->number = number;
    else ag_slots_remove(&r->loop->slots, number);
    if (ending) return ag_err_set(&r->err, AG_E_DRAINING, "The server is shutting down; nothing new is taken.");
    if (full)
        return ag_err_set(&r->err, AG_E_QUEUE_FULL, "%u responses are in the background already; one must end first.",
                          b->max);
    return AG_OK;
}

void ag__response_list(ag_req *r)
{
    r->detached = r->listed = true;
    r->response.status = AG_RESPONSE_QUEUED;
    ag_response_write(&r->response.whole, &r->reply, NULL);
    r->background = (ag_ids_link){.r = r, .tenant = r->tenant, .id = r->reply_id};
    ag_ids_add(r->gw->background.ids, &r->background);
    r->worked = false;
    r->step = AG_STEP_KEEP;
}

void ag__response_unlist(ag_req *r)
{
    if (r->listed) ag_ids_remove(r->gw->background.ids, &r->background);
    r->listed = false;
}

/* The message is for one that waits for its client, whose generation may have ended before. */
static void use_end(ag_req *found, void *arg AG_UNUSED)
{
    if (found->sealed) return;
    for (uint32_t i = 0; i < found->n_choices; i++) ag_gen_cancel(found->choices[i].gen);
    ag_mbox_post(ag_http_loop_mbox(found->loop->loop), found->number);
}

void ag__response_forsake(ag_req *r)
{
    if (!r->blocked || !r->detached || !atomic_load(&r->gw->background.ending)) return;
    ag_http_on_writable(r->s, NULL);
    ag_http_abort(r->s);
    r->blocked = false;
    r->gone = true;
    ag__req_run(r);
}

/* It is under way no more. */
static void leave(ag_req *r)
{
    ag_background *b = &r->gw->background;
    if (!r->counted) return;
    r->counted = false;
    ag_slots_remove(&r->loop->slots, r->number);
    pthread_mutex_lock(&b->lock);
    b->n--;
    pthread_cond_broadcast(&b->fewer);
    pthread_mutex_unlock(&b->lock);
}

uint32_t ag__background_count(ag_gateway *gw)
{
    pthread_mutex_lock(&gw->background.lock);
    uint32_t n = gw->background.n;
    pthread_mutex_unlock(&gw->background.lock);
    return n;
}

/* Those that were let in, and are not listed yet, are found by a later sweep. */
void ag__background_end(ag_gateway *gw, uint32_t timeout_ms)
{
    ag_background *b = &gw->background;
    uint64_t until = ag_now_us() + (uint64_t)timeout_ms * 1000;
    pthread_mutex_lock(&b->lock);
    while (b->n && ag_now_us() < until) ag_cond_wait_until(&b->fewer, &b->lock, until);
    atomic_store(&b->ending, true);
    while (b->n) {
        pthread_mutex_unlock(&b->lock);
        ag_ids_each(b->ids, use_end, NULL);
        pthread_mutex_lock(&b->lock);
        if (b->n) ag_cond_wait_until(&b->fewer, &b->lock, ag_now_us() + SWEEP_MS * 1000);
    }
    pthread_mutex_unlock(&b->lock);
}

/* KEEP. */

static bool begins(const ag_req *r) { return r->detached && !r->begun_kept; }

static int keep(ag_req *r, ag_err *err)
{
    ag_responses *s = r->gw->responses;
    ag_str whole = ag_buf_str(&r->response.whole);
    if (r->response.whole.failed) return ag_err_set(err, AG_E_NOMEM, "The server has no memory left for this answer.");
    if (r->begun_kept) return ag_responses_finish(s, r->tenant, r->reply_id, whole, err);
    ag_buf items;
    ag_buf_init(&items, AG_RESPONSE_BYTES_MAX);
    int rc = ag_responses_items_write(&items, &r->request, err);
    if (rc == AG_OK)
        rc = ag_responses_put(s, r->tenant, r->reply_id, now_s(), !begins(r), whole, ag_buf_str(&items), err);
    ag_buf_fini(&items);
    return rc;
}

/* An answer that cannot be kept is told all the same, but one that could not be looked up later is not begun. */
static void note_unkept(ag_req *r, const ag_err *err)
{
    if (begins(r)) {
        r->err = *err;
        return;
    }
    ag_log_ctx ctx = {ag_str_of(r->id), ag_str_of(r->trace)};
    AG_LOG(r->gw->log, AG_LOG_WARN, &ctx, "response not kept", AG_LOG_Z("response", r->reply_id),
           AG_LOG_Z("error", err->text));
}

static void keep_work(void *arg)
{
    ag_req *r = arg;
    ag_err err = {0};
    if (keep(r, &err) != AG_OK) note_unkept(r, &err);
}

static void use_seal(ag_req *found, void *arg)
{
    found->sealed = true;
    *(bool *)arg = atomic_load(&found->cancel_asked);
}

bool ag__response_pending(const ag_req *r)
{
    return r->request.kind == AG_REQUEST_RESPONSE && r->request.store && !r->kept;
}

ag_next ag__response_keep(ag_req *r)
{
    bool asked = false;
    if (r->listed) ag_ids_use(r->gw->background.ids, r->tenant, r->reply_id, use_seal, &asked);
    /* Whoever was told that it is cancelled shall find it so. */
    if (asked) ag_err_set(&r->err, AG_E_CANCEL_ASKED, "The response was cancelled.");
    if (r->err.code != AG_OK) ag_response_fail(&r->reply, &r->err);
    ag_response_seal(&r->reply, &r->usage);
    r->worked = false;
    r->step = AG_STEP_KEEP;
    return AG_MORE;
}

/* Its client is told; from here on it is nobody's. */
static ag_next begun(ag_req *r)
{
    ag_buf *whole = &r->response.whole;
    if (r->err.code != AG_OK) {
        r->detached = false;
        return ag__req_refuse(r, r->err.code, "%s", "");
    }
    r->begun_kept = true;
    if (r->request.stream) {
        r->choices[0].begun = true;
        r->dialect->open(&r->out, &r->reply, &r->choices[0].place, &r->usage);
        r->step = AG_STEP_DELIVER;
    } else {
        ag__req_answer(r, 200, "application/json", ag_buf_str(whole), NULL, 0);
        r->step = AG_STEP_GENERATE;
    }
    ag_buf_reset(whole);
    return AG_MORE;
}

ag_next ag__step_keep(ag_req *r)
{
    if (r->working) return AG_PARKED;
    if (!r->worked) {
        r->working = true;
        if (ag_http_loop_work(r->loop->loop, keep_work, ag__req_worked, r)) return AG_PARKED;
        r->working = false;
        note_unkept(r, &(ag_err){.code = AG_E_NOMEM, .text = "The server has no memory left for this request."});
    }
    if (begins(r)) return begun(r);
    r->kept = true;
    ag__response_unlist(r); /* the store has it now */
    leave(r);
    r->step = AG_STEP_DELIVER;
    return AG_MORE;
}

/* Looking up. */

typedef enum verb { VERB_GET, VERB_DELETE, VERB_CANCEL, VERB_ITEMS } verb;

typedef struct ag_lookup {
    verb verb;
    ag_items_ask ask;
    const char *status; /* of one that is under way here; NULL: it is not */
    ag_buf out;
} ag_lookup;

static int no_streams(ag_err *err, const char *param)
{
    return ag_request_fail(
        err, AG_E_UNSUPPORTED, param,
        "The events of a response are told once, to who asks for it; without '%s' this tells how far it is.", param);
}

static int take_limit(uint32_t *limit, ag_str value, ag_err *err)
{
    uint64_t n = 0;
    if (!ag_str_u64(value, ITEMS_LIMIT_MAX, &n) || n < 1)
        return ag_request_fail(err, AG_E_PARAM, "limit", "'limit' must be a whole number from 1 to %u, not '%.*s'.",
                               ITEMS_LIMIT_MAX, (int)AG_MIN(value.n, 40u), value.p);
    *limit = (uint32_t)n;
    return AG_OK;
}

/* One "name=value" of a query; those that mean nothing here are let pass. */
static int take_pair(ag_lookup *l, ag_str name, ag_str value, ag_err *err)
{
    bool items = l->verb == VERB_ITEMS;
    if (l->verb == VERB_GET && ag_str_eqz(name, "stream")) {
        if (ag_str_eqz(value, "true")) return no_streams(err, "stream");
        if (ag_str_eqz(value, "false")) return AG_OK;
        return ag_request_fail(err, AG_E_PARAM, "stream", "'stream' must be true or false.");
    }
    if (l->verb == VERB_GET && ag_str_eqz(name, "starting_after")) return no_streams(err, "starting_after");
    if (items && ag_str_eqz(name, "limit")) return take_limit(&l->ask.limit, value, err);
    if (items && ag_str_eqz(name, "after") &&
        (value.n == 0 || !ag__percent_decode(value, l->ask.after, sizeof l->ask.after)))
        return ag_request_fail(err, AG_E_PARAM, "after", "'after' must be the id of an item.");
    if (items && ag_str_eqz(name, "order")) {
        l->ask.ascending = ag_str_eqz(value, "asc");
        if (!l->ask.ascending && !ag_str_eqz(value, "desc"))
            return ag_request_fail(err, AG_E_PARAM, "order", "'order' must be asc or desc.");
    }
    return AG_OK;
}

int ag__response_look(ag_req *r)
{
    ag_lookup *l = r->lookup = ag_mem_zalloc(sizeof *l);
    if (l == NULL) return ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this request.");
    bool items = strcmp(r->route->id, "response_items") == 0, cancel = strcmp(r->route->id, "response_cancel") == 0;
    l->verb = items ? VERB_ITEMS : cancel ? VERB_CANCEL : strcmp(r->method, "DELETE") == 0 ? VERB_DELETE : VERB_GET;
    l->ask.limit = ITEMS_LIMIT;
    ag_buf_init(&l->out, AG_REPLY_BYTES_MAX);
    int rc = AG_OK;
    for (ag_str query = r->head->query, name, value; rc == AG_OK && ag__query_next(&query, &name, &value);)
        rc = take_pair(l, name, value, &r->err);
    return rc;
}

/* Where it stands; who deletes it ends it as well. */
static void use_look(ag_req *found, void *arg)
{
    ag_lookup *l = arg;
    ag_gen_wait w = {.state = AG_GEN_STOPPED};
    if (!found->sealed) ag_gen_wait_get(found->choices[0].gen, &w);
    if ((l->verb == VERB_CANCEL || l->verb == VERB_DELETE) && !ag_gen_ended(w.state)) {
        atomic_store(&found->cancel_asked, true);
        ag_gen_cancel(found->choices[0].gen);
    }
    l->status = atomic_load(&found->cancel_asked) ? "cancelled" : w.state == AG_GEN_WAITING ? "queued" : "in_progress";
}

static int look_up(ag_req *r, ag_lookup *l)
{
    ag_responses *s = r->gw->responses;
    ag_stored found = {0};
    bool background = false;
    if (l->verb == VERB_DELETE) {
        ag_responses_deleted(&l->out, ag_str_of(r->asked_id));
        return ag_responses_delete(s, r->tenant, r->asked_id, now_s(), &r->err);
    }
    int rc = ag_responses_get(s, r->tenant, r->asked_id, now_s(), &found, &r->err);
    const char *status = found.finished ? NULL : l->status ? l->status : "failed";
    if (rc == AG_OK && l->verb == VERB_ITEMS)
        rc = ag_responses_list(&l->out, ag_buf_str(&found.items), &l->ask, &r->err);
    else if (rc == AG_OK) rc = ag_responses_retell(&l->out, ag_buf_str(&found.body), status, &background, &r->err);
    if (rc == AG_OK && l->verb == VERB_CANCEL && !background)
        rc = ag_err_set(&r->err, AG_E_PARAM,
                        "The response '%.100s' was not asked for with 'background'; closing its connection "
                        "ends such a one.",
                        r->asked_id);
    ag_stored_fini(&found);
    return rc;
}

static void look_work(void *arg)
{
    ag_req *r = arg;
    ag_ids_use(r->gw->background.ids, r->tenant, r->asked_id, use_look, r->lookup);
    int rc = look_up(r, r->lookup);
    if (rc == AG_OK && r->lookup->out.failed) rc = AG_E_NOMEM;
    if (rc != AG_OK)
        ag_err_set(&r->err, rc, "The server has no memory left for this answer."); /* unless it was said better */
}

ag_next ag__answer_response(ag_req *r)
{
    if (!ag__req_work(r, false, look_work)) return AG_PARKED;
    if (r->err.code != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    return ag__req_answer(r, 200, "application/json", ag_buf_str(&r->lookup->out), NULL, 0);
}

void ag__response_free(ag_req *r)
{
    if (r->lookup) ag_buf_fini(&r->lookup->out);
    ag_mem_free(r->lookup);
    ag_response_fini(&r->response);
    leave(r);
}
