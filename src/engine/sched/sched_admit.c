/* Who has a place in the batch: admission, setting back, and pages for those who run. */
#include <stdlib.h>

#include "engine/sched/sched_inner.h"

static void remove_running(ag_sched *s, ag_seq *seq)
{
    uint32_t i = 0;
    while (i < s->n_running && s->running[i] != seq) i++;
    AG_ASSERT(i < s->n_running);
    memmove((void *)(s->running + i), (void *)(s->running + i + 1), (s->n_running - i - 1) * sizeof(ag_seq *));
    s->n_running--;
    uint32_t n = 0; /* it may go while a step is being chosen */
    for (i = 0; i < s->n_prompts; i++)
        if (s->prompts[i] != seq) s->prompts[n++] = s->prompts[i];
    s->n_prompts = n;
}

void ag__sched_leave(ag_sched *s, ag_seq *seq)
{
    remove_running(s, seq);
    ag_kv_drop(s->kv, &seq->kv);
    ag_queue_running(s->queue, seq->q.tenant, -1);
    seq->running = false;
    seq->computed = 0;
    seq->step_n = 0;
    seq->paused_us = seq->yielded_us = seq->sat_us = seq->resumed_us = 0;
    s->blocked = 0;
}

/* Who got no token in an age and several places, since it was set back each time before, rises as if it had waited. */
static void rise_by_being_stuck(const ag_sched *s, ag_seq *q, uint64_t now_us)
{
    uint64_t age = s->conf.queue.age_us;
    if (age == 0 || q->q.level == 0 || q->n_tokens > q->placed_tokens || q->stuck_us == q->placed_us) return;
    if (now_us - q->stuck_us < age) return;
    q->q.level--;
    q->stuck_us = now_us;
}

static void set_back(ag_sched *s, ag_seq *seq, uint64_t now_us, uint64_t *count)
{
    rise_by_being_stuck(s, seq, now_us);
    ag__sched_leave(s, seq);
    seq->set_back++;
    ++*count;
    seq->q.resumed = true;
    seq->q.cost = ag__sched_cost(s, seq, seq->furthest);
    seq->q.prompt = seq->n_tokens; /* its pages may be gone until it is back */
    ag_qent *displaced = NULL;
    if (ag_queue_push(s->queue, &seq->q, now_us, &displaced, NULL) != AG_OK) {
        ag__sched_out(s, seq, AG_OUT_DISPLACED, now_us);
        return;
    }
    AG_ASSERT(displaced == NULL);
    if (s->conf.events.set_back) s->conf.events.set_back(s->conf.events.arg, seq);
}

/* ---- prefixes ---- */

/* Tokens whose pages may come from the tree: the last one's logits are wanted, or its state, and so are those of
 * positions that have not been looked at yet. */
static uint32_t reusable(const ag_seq *q)
{
    uint32_t n = q->n_tokens - 1;
    if (q->states == AG_STATES_ALL) return AG_MIN(n, q->n_scored);
    return q->all_logits && q->n_scored < q->n_prompt ? AG_MIN(n, q->n_scored > 0 ? q->n_scored - 1 : 0) : n;
}

static void match(ag_sched *s, ag_seq *q)
{
    uint32_t before = q->computed, was = q->furthest;
    q->computed = ag_kv_match(s->kv, &q->kv, q->tokens, reusable(q));
    AG_ASSERT(q->computed >= before && q->computed < q->n_tokens);
    if (!q->running || q->computed == before) return;
    q->furthest = AG_MAX(was, q->computed);
    uint64_t gift = ag_queue_service(s->queue, AG_MIN(q->furthest, q->n_prompt) - AG_MIN(was, q->n_prompt), 0);
    if (q->prompt_done + q->output_done == 0) q->reused = q->computed;
    s->stats.reused_tokens += q->computed - before;
    if (gift == 0 || gift > q->charged) return;
    q->charged -= gift; /* somebody else computed what it was charged for */
    ag_queue_charge(s->queue, q->q.tenant, -(int64_t)gift);
    ag__sched_account(s, q);
}

static uint32_t need(const ag_sched *s, const ag_seq *q)
{
    uint32_t pages = ag__sched_pages_wanted(s, q);
    return pages > q->kv.n ? pages - q->kv.n : 0;
}

/* It will compute from here on: others may wait for its pages, and all that its prompt needs is its own now. */
static bool begin(ag_sched *s, ag_seq *q)
{
    uint32_t more = need(s, q);
    if (ag_kv_available(s->kv) < more) return false;
    ag_kv_promise(s->kv, &q->kv, q->tokens, q->n_tokens);
    return ag_kv_reserve(s->kv, &q->kv, (q->kv.n + more) * s->conf.page_tokens);
}

/* ---- those who run ---- */

static int64_t urgency_of(const ag_sched *s, const ag_seq *q, uint64_t now_us)
{
    uint64_t age = s->conf.queue.age_us, paused = q->paused_us && now_us > q->paused_us ? now_us - q->paused_us : 0;
    return (int64_t)q->q.level - (age ? (int64_t)(paused / age) : 0);
}

/* Whose going frees pages for the others: the least urgent, of the tenant with most for its weight, newest. */
static bool goes_before(const ag_seq *a, const ag_seq *b)
{
    if (a->urgency != b->urgency) return a->urgency > b->urgency;
    double x = ag__seq_share(a, 0), y = ag__seq_share(b, 0);
    return x != y ? x > y : a->q.number > b->q.number;
}

static ag_seq *who_goes(const ag_sched *s)
{
    ag_seq *stays = s->running[0], *goes = NULL;
    for (uint32_t i = 1; i < s->n_running; i++) {
        ag_seq *q = s->running[i];
        if (q->urgency < stays->urgency || (q->urgency == stays->urgency && q->q.number < stays->q.number)) stays = q;
    }
    for (uint32_t i = 0; i < s->n_running; i++) {
        ag_seq *q = s->running[i];
        if (q != stays && (goes == NULL || goes_before(q, goes))) goes = q;
    }
    return goes ? goes : stays;
}

/* Those whose prefix has been computed (or will not be) begin. Too few pages by now: back into the queue, which costs
 * nothing, as nothing of it has been computed. */
static void end_waits(ag_sched *s, uint64_t now_us)
{
    for (uint32_t i = s->n_running; i-- > 0;) {
        ag_seq *q = s->running[i];
        if (q->kv.waits == 0) continue;
        match(s, q);
        if (q->kv.waits == 0 && !begin(s, q)) set_back(s, q, now_us, &s->stats.set_back_pages);
    }
}

static void give_decodes_pages(ag_sched *s, uint64_t now_us)
{
    for (uint32_t i = 0; i < s->n_running;) {
        ag_seq *q = s->running[i];
        if (!ag__seq_decodes(q) || q->kv.n >= ag__sched_pages(s, q->n_tokens) ||
            ag_kv_reserve(s->kv, &q->kv, q->n_tokens)) {
            i++;
            continue;
        }
        ag_seq *goes = who_goes(s);
        AG_ASSERT(s->n_running > 1); /* submit has seen that each fits alone */
        set_back(s, goes, now_us, &s->stats.set_back_pages);
        i = 0; /* places have moved; those that have their page are passed over quickly */
    }
}

/* Of prompts that are equal otherwise the one admitted first is first; but in every other step one of about a quarter
 * of the length passes, so that nobody's short question waits until a long text has been read, and the long text is
 * read at half the speed at worst. */
static uint32_t length_class(const ag_seq *q)
{
    uint32_t rest = q->n_tokens - q->computed;
    return (31u - (uint32_t)__builtin_clz(rest)) / 2;
}

static int compare(const ag_seq *a, const ag_seq *b, bool short_first)
{
    if (a->urgency != b->urgency) return a->urgency < b->urgency ? -1 : 1;
    double s = ag__seq_share(a, -1), t = ag__seq_share(b, -1);
    if (s != t) return s < t ? -1 : 1;
    if (short_first && length_class(a) != length_class(b)) return length_class(a) < length_class(b) ? -1 : 1;
    return a->order < b->order ? -1 : 1;
}

static int compare_by_order(const void *x, const void *y)
{
    return compare(*(ag_seq *const *)x, *(ag_seq *const *)y, false);
}
static int compare_by_length(const void *x, const void *y)
{
    return compare(*(ag_seq *const *)x, *(ag_seq *const *)y, true);
}

static void list_prompts(ag_sched *s)
{
    s->n_prompts = 0;
    for (uint32_t i = 0; i < s->n_running; i++) {
        ag_seq *q = s->running[i];
        if (ag__seq_decodes(q) || q->computed == q->n_tokens) continue;
        s->prompts[s->n_prompts++] = q;
        ag_kv_seq *other = ag_kv_waits_for(s->kv, &q->kv);
        if (other == NULL) continue;
        ag_seq *p = (ag_seq *)((char *)other - offsetof(ag_seq, kv));
        p->urgency = AG_MIN(p->urgency, q->urgency);
    }
    if (s->n_prompts > 1)
        qsort((void *)s->prompts, s->n_prompts, sizeof(ag_seq *),
              s->short_first ? compare_by_length : compare_by_order);
}

/* Who rose by age has its place for this part of age_us at least, and until it got a token: however much that is more
 * urgent comes without end, it gets on. Then what it gained by waiting is used up, and whoever is more urgent
 * does not wait for its end. */
#define KEEPS_OF_AGE 16

static void use_up_age(ag_sched *s, ag_seq *q, uint64_t now_us)
{
    if (q->q.level == q->q.band || q->n_tokens == q->placed_tokens) return;
    if (now_us < q->placed_us + s->conf.queue.age_us / KEEPS_OF_AGE) return;
    ag_queue_sink(&q->q);
    s->blocked = 0;
}

void ag__sched_look(ag_sched *s, uint64_t now_us)
{
    s->n_prompts = 0;
    for (uint32_t i = 0; i < s->n_running; i++) {
        s->running[i]->step_n = 0;
        use_up_age(s, s->running[i], now_us);
        s->running[i]->urgency = urgency_of(s, s->running[i], now_us);
    }
    end_waits(s, now_us);
    give_decodes_pages(s, now_us);
    list_prompts(s);
}

/* ---- admission ---- */

bool ag__sched_may_precede(const ag_sched *s, const ag_seq *head, const ag_seq *p)
{
    if (head->q.level != p->urgency) return head->q.level < p->urgency;
    double a = ag__seq_share(head, 0), b = ag__seq_share(p, -1);
    if (head->q.tenant == p->q.tenant) a = b;
    return a < b || (a == b && s->short_first && length_class(head) < length_class(p));
}

/* Who wants a place, and as how urgent. */
typedef struct asker {
    const ag_seq *head;
    int64_t band;
} asker;

static bool has_risen(const ag_seq *v) { return v->q.level < v->q.band; }

/* What counts is the band that it asked for: by age it has the next place that comes free, not somebody else's, who
 * would rise in turn. But where others who asked for more than it wait behind it, it takes the place that they could
 * take, or they would wait as long as it. */
static asker asker_of(const ag_sched *s, const ag_seq *head)
{
    ag_queue_stats q;
    ag_queue_stats_get(s->queue, &q);
    asker a = {head, head->q.band};
    for (uint8_t band = 0; band < head->q.band; band++)
        if (q.by_band[band]) {
            a.band = AG_MAX(band, head->q.level);
            break;
        }
    return a;
}

bool ag__sched_gives_way(const ag_seq *v, const ag_seq *head, int64_t band, uint32_t before)
{
    if (has_risen(v)) return false;
    if (v->urgency != band) return v->urgency > band;
    return band == head->q.band && v->q.tenant != head->q.tenant &&
           ag__seq_share(head, 1) <= ag__seq_share(v, -1 - (int32_t)before);
}

static bool may_go(const ag_seq *v, const asker *a, uint32_t before)
{
    return v->step_n == 0 && ag__sched_gives_way(v, a->head, a->band, before);
}

static ag_seq *victim(const ag_sched *s, const asker *a)
{
    ag_seq *best = NULL;
    for (uint32_t i = 0; i < s->n_running; i++) {
        ag_seq *v = s->running[i];
        if (!may_go(v, a, 0)) continue;
        bool urgent = v->urgency > a->band;
        if (best == NULL) best = v;
        else if (v->urgency != best->urgency) best = v->urgency > best->urgency ? v : best;
        else if (urgent ? v->q.number > best->q.number : goes_before(v, best)) best = v;
    }
    return best;
}

/* How many of v's tenant would be set back before v. */
static uint32_t gone_before(const ag_sched *s, const ag_seq *v)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_running; i++) {
        const ag_seq *o = s->running[i];
        bool before = o->urgency > v->urgency || (o->urgency == v->urgency && o->q.number > v->q.number);
        n += before && o->q.tenant == v->q.tenant && o->step_n == 0 && !has_risen(o);
    }
    return n;
}

/* Whether setting back everyone who may go would be enough: else nobody is set back in vain. */
static bool could_fit(const ag_sched *s, const asker *a, uint32_t pages)
{
    uint64_t most = ag_kv_available(s->kv);
    bool place = s->n_running < s->conf.running_max;
    ag_kv_leaving_begin(s->kv);
    for (uint32_t i = 0; i < s->n_running && !(place && most >= pages); i++) {
        const ag_seq *v = s->running[i];
        if (!may_go(v, a, 0) || (v->urgency == a->band && !may_go(v, a, gone_before(s, v)))) continue;
        place = true;
        most += ag_kv_leaving(s->kv, &s->running[i]->kv);
    }
    return place && most >= pages;
}

/* A place and pages. What it has matched is its own already and will not be reclaimed meanwhile. */
static bool make_room(ag_sched *s, const asker *a, uint64_t now_us)
{
    uint32_t pages = a->head->kv.waits ? 0 : need(s, a->head);
    if (!could_fit(s, a, pages)) return false;
    while (s->n_running == s->conf.running_max || ag_kv_available(s->kv) < pages) {
        ag_seq *v = victim(s, a);
        if (v == NULL) return false;
        set_back(s, v, now_us, v->urgency > a->band ? &s->stats.set_back_urgent : &s->stats.set_back_share);
    }
    return true;
}

static void take_place(ag_sched *s, ag_seq *q, uint64_t now_us)
{
    ag_queue_take(s->queue, &q->q, now_us);
    ag_queue_running(s->queue, q->q.tenant, 1);
    s->running[s->n_running++] = q;
    s->blocked = 0;
    q->running = true;
    q->order = ++s->admissions;
    q->urgency = q->q.level;
    q->placed_us = now_us;
    if (q->placed_tokens != q->n_tokens) q->stuck_us = now_us;
    q->placed_tokens = q->n_tokens;
    q->yields = false;
    q->furthest = AG_MAX(q->furthest, q->computed);
    s->stats.reused_tokens += q->computed;
    if (q->started) return;
    q->started = true;
    q->admit_us = now_us;
    q->reused = q->computed;
    q->charged = ag__sched_cost(s, q, q->computed);
    ag_queue_charge(s->queue, q->q.tenant, (int64_t)q->charged);
    ag__sched_account(s, q);
    if (s->conf.events.admitted) s->conf.events.admitted(s->conf.events.arg, q, now_us);
}

/* The head's turn has come, and there is no point in it: its deadline will not be met. One that has begun goes on, and
 * so does everybody where nobody else wants the machine. */
static bool too_late(const ag_sched *s, const ag_seq *head, uint64_t now_us)
{
    if (!s->conf.refuse_late || head->q.deadline_us == 0 || head->started || head->sure) return false;
    ag_queue_stats q;
    ag_queue_stats_get(s->queue, &q);
    if (s->n_running == 0 && q.entries == 1) return false;
    double us = ag__sched_finish_us(s, head, head->computed, 0, q.entries > 1);
    return (double)now_us + us > (double)head->q.deadline_us;
}

ag__admitted ag__sched_admit(ag_sched *s, ag_seq *head, uint64_t now_us)
{
    uint32_t available = ag_kv_available(s->kv);
    const asker a = asker_of(s, head);
    if (s->n_running > 0 && s->blocked == head->q.number + 1 && available <= s->blocked_pages &&
        a.band >= s->blocked_band)
        return AG__NOT_NOW;
    match(s, head);
    bool late = too_late(s, head, now_us);
    if (!late && make_room(s, &a, now_us)) {
        bool begun = head->kv.waits || begin(s, head);
        AG_ASSERT(begun);
        take_place(s, head, now_us);
        return AG__IN;
    }
    ag_kv_drop(s->kv, &head->kv);
    head->computed = 0;
    if (late) {
        ag_queue_remove(s->queue, &head->q);
        s->stats.expired++;
        ag__sched_out(s, head, AG_OUT_EXPIRED, now_us);
        return AG__TOO_LATE;
    }
    /* Those who have rows in this step may yet go before the next. */
    s->blocked = s->step.n_rows > 0 ? 0 : head->q.number + 1;
    s->blocked_pages = available;
    s->blocked_band = a.band;
    return AG__NOT_NOW;
}
