/* Random calls against a queue that scans everything, with exact agreement on who is next, who is displaced and who
 * expires. AG_SEED=n repeats a run. */
#include "queue/queue_inner.h"

#include "base/mem.h"
#include "check.h"

enum { ENTRIES = 96, TENANTS = 7, TOGETHER = 3 };

typedef enum where { FREE, COMES, WAITING, RUNNING } where;

typedef struct entry {
    ag_qent e; /* first */
    where state;
    uint64_t since_us, came; /* to its level */
    uint8_t level;
    uint64_t stamp;   /* when it came to its band */
} entry;

typedef struct tenant {
    ag_tenant *t;
    uint64_t weight, ahead, taken_us[AG_BANDS], served_us[AG_BANDS];
    ag__vtime v;
    uint32_t running;
} tenant;

typedef struct model {
    ag_queue *q;
    ag_queue_conf conf;
    entry entries[ENTRIES];
    tenant tenants[TENANTS];
    ag__vtime floor, ahead;
    uint64_t taken_us[AG_BANDS], risen_us[AG_BANDS];
    uint64_t now, stamps, random;
    /* so that nothing goes untested unseen */
    uint32_t pushed, refused, displaced, expired, popped, set_back, idle, renewed, passed;
} model;

static uint64_t seed_of(void)
{
    const char *s = getenv("AG_SEED");
    return s != NULL ? strtoull(s, NULL, 10) : 20260101;
}

static uint32_t roll(model *m, uint32_t n)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return (uint32_t)((m->random >> 11) % n);
}


static void come_to(model *m, entry *e, uint8_t level, uint64_t since_us)
{
    e->level = level;
    e->since_us = since_us;
    e->came = ++m->stamps;
}

static uint32_t tenant_at(const model *m, const entry *e)
{
    uint32_t i = 0;
    while (m->tenants[i].t != e->e.tenant) i++;
    return i;
}

static tenant *tenant_of(model *m, const entry *e) { return &m->tenants[tenant_at(m, e)]; }

/* Of those who have been at their level longest. */
static bool is_oldest(const model *m, const entry *e)
{
    for (const entry *o = m->entries; o < m->entries + ENTRIES; o++)
        if (o->state == WAITING && o->level == e->level && o->came < e->came) return false;
    return true;
}

static uint64_t served_us(const model *m, const entry *e)
{
    uint64_t last = 0;
    for (uint8_t level = e->level; level <= e->e.band; level++)
        last = AG_MAX(last, m->tenants[tenant_at(m, e)].served_us[level]);
    return last;
}

static uint64_t starves_since(const model *m, const entry *e)
{
    uint64_t from = AG_MAX(e->since_us, served_us(m, e)), served = AG_MAX(from, m->taken_us[e->level]);
    uint64_t own = AG_MAX(from, m->tenants[tenant_at(m, e)].taken_us[e->level]) + 3 * m->conf.age_us;
    return AG_MIN(served, AG_MAX(own, m->risen_us[e->level]));
}

static bool rises_before(const model *m, const entry *a, const entry *b)
{
    uint64_t x = starves_since(m, a), y = starves_since(m, b);
    if (x != y) return x < y;
    if (a->level != b->level) return a->level < b->level;
    return a->since_us != b->since_us ? a->since_us < b->since_us : a->came < b->came;
}

static bool others_at(const model *m, const entry *e)
{
    for (const entry *o = m->entries; o < m->entries + ENTRIES; o++)
        if (o->state == WAITING && o->level == e->level && o->e.tenant != e->e.tenant) return true;
    return false;
}

static void pass_served(model *m, uint32_t passed[AG_BANDS])
{
    for (entry *next;; come_to(m, next, next->level, m->now)) {
        next = NULL;
        for (entry *e = m->entries; e < m->entries + ENTRIES && next == NULL; e++) {
            if (e->state != WAITING || e->level == 0 || !is_oldest(m, e) || !others_at(m, e)) continue;
            uint64_t age = m->conf.age_us;
            if (m->now - e->since_us >= age && m->now - served_us(m, e) < age && passed[e->level]++ < 64) next = e;
        }
        if (next == NULL) return;
        m->passed++;
    }
}

static void rise_all(model *m)
{
    uint32_t passed[AG_BANDS] = {0};
    for (entry *due;;) {
        pass_served(m, passed);
        due = NULL;
        for (entry *e = m->entries; e < m->entries + ENTRIES; e++) {
            if (e->state != WAITING || e->level == 0 || !is_oldest(m, e) ||
                m->now - starves_since(m, e) < m->conf.age_us)
                continue;
            if (due == NULL || rises_before(m, e, due)) due = e;
        }
        if (due == NULL) return;
        uint64_t when = starves_since(m, due) + m->conf.age_us;
        m->taken_us[due->level] = AG_MAX(m->taken_us[due->level], when);
        m->risen_us[due->level] = when;
        uint64_t latest = when;
        for (const entry *e = m->entries; e < m->entries + ENTRIES; e++)
            if (e->state == WAITING && e->level == due->level - 1) latest = AG_MAX(latest, e->since_us);
        come_to(m, due, due->level - 1, latest);
    }
}

static uint64_t backlog(const model *m, const tenant *t, uint32_t *n)
{
    uint64_t cost = 0;
    *n = 0;
    for (const entry *e = m->entries; e < m->entries + ENTRIES; e++) {
        if (e->state != WAITING || e->e.tenant != t->t) continue;
        cost += e->e.cost;
        ++*n;
    }
    return cost;
}

static bool is_active(const model *m, const tenant *t)
{
    uint32_t n;
    backlog(m, t, &n);
    return n > 0 || t->running > 0;
}

static ag__vtime ahead_of(const tenant *t)
{
    return (ag__vtime)t->ahead * (uint64_t)(((ag__u128)1000000 << 44) / t->weight);
}

static ag__vtime received_by(const tenant *t) { return ahead_of(t) < t->v ? t->v - ahead_of(t) : 0; }

static ag__vtime floor_of(const model *m)
{
    bool any = false;
    ag__vtime least = 0;
    for (const tenant *t = m->tenants; t < m->tenants + TENANTS; t++) {
        if (!is_active(m, t)) continue;
        if (!any || received_by(t) < least) least = received_by(t);
        any = true;
    }
    if (!any) least = m->ahead;
    return least > m->floor ? least : m->floor;
}

static void rise(model *m)
{
    if (m->conf.age_us == 0) return;
    rise_all(m);
    for (const entry *e = m->entries; e < m->entries + ENTRIES; e++) {
        if (e->state != WAITING || e->level != 0 || !is_oldest(m, e)) continue;
        tenant *t = tenant_of(m, e);
        uint64_t since = AG_MAX(e->since_us, t->taken_us[0]);
        if (t->running > 0 || m->taken_us[0] <= since || m->now - since < 4 * m->conf.age_us) return;
        if (m->now - m->risen_us[0] < m->conf.age_us) return;
        m->risen_us[0] = m->now;
        if (t->v > floor_of(m)) {
            t->v = m->floor = floor_of(m);
            m->renewed++;
        }
        return;
    }
}

static void left(model *m, const tenant *t)
{
    if (!is_active(m, t) && t->v > m->ahead) m->ahead = t->v;
}

static uint64_t due_of(const model *m, const entry *e)
{
    if (e->e.deadline_us) return e->e.deadline_us;
    return m->conf.age_us ? e->e.arrive_us + 4 * m->conf.age_us : UINT64_MAX;
}

static bool before(model *m, const entry *a, const entry *b)
{
    if (a->level != b->level) return a->level < b->level;
    ag__vtime va = tenant_of(m, a)->v, vb = tenant_of(m, b)->v;
    if (va != vb) return va < vb;
    uint64_t da = due_of(m, a), db = due_of(m, b);
    if (da != db) return da < db;
    if (a->e.resumed != b->e.resumed) return a->e.resumed;
    return a->e.number < b->e.number;
}

static entry *head_of(model *m)
{
    entry *best = NULL;
    for (entry *e = m->entries; e < m->entries + ENTRIES; e++)
        if (e->state == WAITING && (best == NULL || before(m, e, best))) best = e;
    return best;
}

static entry *some(model *m, where s)
{
    uint32_t at = roll(m, ENTRIES);
    for (uint32_t i = 0; i < ENTRIES; i++)
        if (m->entries[(at + i) % ENTRIES].state == s) return &m->entries[(at + i) % ENTRIES];
    return NULL;
}

/* --- displacement ------------------------------------------------------------------------------------------------- */

/* Those that come together, of one tenant and band. */
typedef struct several { entry *e[TOGETHER]; uint32_t n; uint64_t tokens, bytes, cost; } several;

static bool fits(const model *m, const several *new)
{
    uint64_t n = new->n, tokens = new->tokens, bytes = new->bytes;
    for (const entry *e = m->entries; e < m->entries + ENTRIES; e++) {
        if (e->state != WAITING || e->e.resumed) continue;
        n++;
        tokens += e->e.tokens;
        bytes += e->e.bytes;
    }
    return n <= m->conf.entries_max && (m->conf.tokens_max == 0 || tokens <= m->conf.tokens_max) &&
           (m->conf.bytes_max == 0 || bytes <= m->conf.bytes_max);
}

static entry *victim_of(model *m, const several *all)
{
    const entry *new = all->e[0];
    int band = -1;
    for (const entry *e = m->entries; e < m->entries + ENTRIES; e++)
        if (e->state == WAITING && !e->e.resumed) band = AG_MAX(band, e->e.band);
    if (band < new->e.band) return NULL;
    tenant *worst = NULL, *mine = tenant_of(m, new);
    uint64_t worst_cost = 0, all_cost = all->cost, all_weight = 0, mine_cost = 0;
    for (tenant *t = m->tenants; t < m->tenants + TENANTS; t++) {
        uint32_t n;
        uint64_t cost = backlog(m, t, &n);
        bool has = false;
        for (const entry *e = m->entries; e < m->entries + ENTRIES; e++)
            has |= e->state == WAITING && !e->e.resumed && e->e.band == band && e->e.tenant == t->t;
        all_cost += cost;
        all_weight += n > 0 || t == mine ? t->weight : 0;
        if (t == mine) mine_cost = cost + all->cost;
        if (has && (worst == NULL || (ag__u128)cost * worst->weight > (ag__u128)worst_cost * t->weight)) {
            worst = t;
            worst_cost = cost;
        }
    }
    if (band == new->e.band && (worst == mine || (ag__u128)mine_cost * all_weight > (ag__u128)all_cost * mine->weight ||
                                (ag__u128)worst_cost * all_weight <= (ag__u128)all_cost * worst->weight))
        return NULL;
    entry *newest = NULL;
    for (entry *e = m->entries; e < m->entries + ENTRIES; e++)
        if (e->state == WAITING && !e->e.resumed && e->e.band == band && e->e.tenant == worst->t &&
            (newest == NULL || e->stamp > newest->stamp)) newest = e;
    return newest;
}

/* Who would go, first to last. */
static uint32_t victims_of(model *m, const several *new, entry **gone, bool *enough)
{
    uint32_t n = 0;
    bool alone = new->n <= m->conf.entries_max && (m->conf.tokens_max == 0 || new->tokens <= m->conf.tokens_max) &&
                 (m->conf.bytes_max == 0 || new->bytes <= m->conf.bytes_max);
    for (entry *v; alone && !fits(m, new) && n < AG__DISPLACED_MAX * new->n && (v = victim_of(m, new)) != NULL;) {
        v->state = FREE;
        gone[n++] = v;
    }
    *enough = alone && fits(m, new);
    for (uint32_t i = 0; !*enough && i < n; i++) gone[i]->state = WAITING;
    return *enough ? n : 0;
}

/* --- what happens ------------------------------------------------------------------------------------------------- */

static void begin(model *m, tenant *t)
{
    if (is_active(m, t)) return;
    m->idle++;
    m->floor = floor_of(m);
    if (t->v < m->floor) t->v = m->floor;
}

/* One, or now and then several together. */
static several make_some(model *m)
{
    several new = {.n = 0};
    ag_tenant *t = m->tenants[roll(m, 4) == 0 ? roll(m, TENANTS) : roll(m, 2)].t;
    uint8_t band = (uint8_t)roll(m, AG_BANDS);
    for (uint32_t wanted = roll(m, 4) == 0 ? TOGETHER : 1; new.n < wanted; new.n++) {
        entry *e = some(m, FREE);
        if (e == NULL) break;
        *e = (entry){.e = {.tenant = t, .band = band, .tokens = 1 + roll(m, 50), .bytes = roll(m, 1000),
                           .cost = roll(m, 10) == 0 ? 0 : 1 + roll(m, 400), .prompt = roll(m, 300)},
                     .state = COMES};
        if (roll(m, 2)) e->e.deadline_us = m->now + roll(m, 3000) + 1;
        if (new.n > 0) new.e[new.n - 1]->e.newer = &e->e;
        new.e[new.n] = e;
        new.tokens += e->e.tokens;
        new.bytes += e->e.bytes;
        new.cost += e->e.cost;
    }
    for (uint32_t i = 0; i < new.n; i++) new.e[i]->state = FREE;
    return new;
}

static void do_push(model *m)
{
    several new = make_some(m);
    entry *gone[ENTRIES];
    if (new.n == 0) return;
    rise(m);
    bool enough;
    uint32_t n = victims_of(m, &new, gone, &enough);
    ag_qent *out = NULL;
    ag_err err = {0};
    int rc = new.n == 1 ? ag_queue_push(m->q, &new.e[0]->e, m->now, &out, &err)
                        : ag_queue_push_all(m->q, &new.e[0]->e, m->now, &out, &err);
    assert_int_equal(rc == AG_OK, enough);
    if (!enough) {
        assert_true(rc == AG_E_QUEUE_FULL || rc == AG_E_LIMIT);
        assert_int_not_equal(err.text[0], 0);
        assert_null(out);
        m->refused++;
        return;
    }
    m->pushed++;
    m->displaced += n;
    for (uint32_t i = 0; i < n; i++, out = out->newer) {
        assert_ptr_equal(out, &gone[i]->e);
        assert_false(out->queued);
        left(m, tenant_of(m, gone[i]));
    }
    assert_null(out);
    begin(m, tenant_of(m, new.e[0]));
    for (uint32_t i = 0; i < new.n; i++) {
        entry *e = new.e[i];
        e->state = WAITING;
        come_to(m, e, e->e.band, m->now);
        e->stamp = ++m->stamps;
    }
}

static void charge(model *m, tenant *t, int64_t service)
{
    uint64_t before_us = t->t->service;
    ag_queue_charge(m->q, t->t, service);
    uint64_t amount = service < 0 ? AG_MIN((uint64_t)-service, before_us) : (uint64_t)service;
    ag__vtime v = (ag__vtime)amount * (uint64_t)(((ag__u128)1000000 << 44) / t->weight);
    ag__vtime least = t->v < m->floor ? t->v : m->floor;
    t->v = service >= 0 ? t->v + v : v < t->v - least ? t->v - v : least;
    assert_int_equal(t->t->service, service < 0 ? before_us - amount : before_us + amount);
}

static void ahead(model *m, tenant *t, int64_t more)
{
    if (more < 0) more = -(int64_t)AG_MIN((uint64_t)-more, t->ahead);
    ag_queue_ahead(m->q, t->t, more);
    t->ahead += (uint64_t)more;
}

static void do_pop(model *m)
{
    ag_qent *head = ag_queue_head(m->q, m->now);
    rise(m);
    entry *want = head_of(m);
    assert_ptr_equal(head, want);
    if (head == NULL || roll(m, 3) == 0) return;
    rise(m); /* take does it once more */
    tenant *t = tenant_of(m, want);
    m->popped++;
    if (roll(m, 2)) { /* both orders are ours to take */
        ag_queue_take(m->q, head, m->now);
        ag_queue_running(m->q, head->tenant, 1);
        want->state = FREE;
        left(m, t);
    } else {
        ag_queue_running(m->q, head->tenant, 1);
        ag_queue_take(m->q, head, m->now);
    }
    m->taken_us[want->level] = m->now;
    for (uint8_t level = want->level; level <= want->e.band; level++) t->taken_us[level] = m->now;
    want->state = RUNNING;
    t->running++;
    charge(m, t, (int64_t)head->cost);
    ahead(m, t, (int64_t)head->cost);
}

static void do_running(model *m)
{
    entry *e = some(m, RUNNING);
    if (e == NULL) return;
    tenant *t = tenant_of(m, e);
    if (roll(m, 2)) charge(m, t, (int64_t)roll(m, 100) - 40);
    if (roll(m, 2)) ahead(m, t, -(int64_t)roll(m, 300));
    if (roll(m, 4) == 0) {
        ag_queue_served(m->q, t->t, e->e.band, m->now);
        t->served_us[e->e.band] = m->now;
    }
    if (roll(m, 3) == 0) { /* set back */
        ag_qent *out = NULL;
        e->e.resumed = true;
        m->set_back++;
        e->e.cost = roll(m, 100);
        e->e.prompt = roll(m, 300);
        ag_queue_running(m->q, t->t, -1);
        t->running--;
        left(m, t);
        assert_int_equal(ag_queue_push(m->q, &e->e, m->now, &out, NULL), AG_OK);
        assert_null(out);
        rise(m);
        e->state = WAITING;
        come_to(m, e, e->level, m->now); /* what it had risen to is its own */
        return;
    }
    ag_queue_running(m->q, t->t, -1);
    t->running--;
    e->state = FREE;
    left(m, t);
}

static void do_change(model *m)
{
    entry *e = some(m, WAITING);
    if (e == NULL) return;
    tenant *t = tenant_of(m, e);
    switch (roll(m, 4)) {
    case 0:
        ag_queue_remove(m->q, &e->e);
        e->state = FREE;
        left(m, t);
        break;
    case 1: {
        uint8_t band = (uint8_t)roll(m, AG_BANDS), was = e->e.band;
        ag_queue_move(m->q, &e->e, band, m->now);
        rise(m);
        if (band == was) break;
        uint8_t risen = was - e->level, level = band < was ? AG_MIN(e->level, band) : (uint8_t)(band - risen);
        if (level != e->level) come_to(m, e, level, m->now);
        e->stamp = ++m->stamps;
        break;
    }
    case 2:
        ag_queue_deadline_set(m->q, &e->e, roll(m, 3) == 0 ? 0 : m->now + roll(m, 3000) + 1);
        break;
    default: {
        ag__vtime received = received_by(t), least = t->v < m->floor ? t->v : m->floor;
        if (received < least) received = least;
        uint64_t weight = (uint64_t[]){500000, 1000000, 3000000}[roll(m, 3)];
        if (weight != t->weight) {
            t->weight = weight;
            t->v = received + ahead_of(t);
        }
        assert_ptr_equal(ag_queue_tenant(m->q, ag_str_of(t->t->name), (double)t->weight * 1e-6), t->t);
    }
    }
}

static void do_time(model *m)
{
    m->now += roll(m, 10) == 0 ? roll(m, 4000) : roll(m, 40);
    for (;;) {
        entry *due = NULL;
        for (entry *e = m->entries; e < m->entries + ENTRIES; e++) {
            if (e->state != WAITING || e->e.deadline_us == 0) continue;
            if (due == NULL || e->e.deadline_us < due->e.deadline_us ||
                (e->e.deadline_us == due->e.deadline_us && e->e.number < due->e.number)) due = e;
        }
        assert_int_equal(ag_queue_deadline(m->q), due == NULL ? UINT64_MAX : due->e.deadline_us);
        if (due != NULL && due->e.deadline_us > m->now) due = NULL;
        assert_ptr_equal(ag_queue_expired(m->q, m->now), due);
        if (due == NULL) break;
        due->state = FREE;
        m->expired++;
        left(m, tenant_of(m, due));
    }
}

/* The exact place by playing it out; for one tenant what is told must be that. */
static void do_place(model *m)
{
    entry *e = some(m, WAITING);
    if (e == NULL) return;
    ag_queue_place p;
    ag_queue_place_get(m->q, &e->e, m->now, &p);
    rise(m);
    assert_int_equal(e->e.level, e->level);
    uint32_t better = 0, all = 0, own = 0;
    for (const entry *o = m->entries; o < m->entries + ENTRIES; o++) {
        if (o->state != WAITING || o == e) continue;
        all++;
        better += o->level < e->level;
        own += o->level == e->level && o->e.tenant == e->e.tenant && before(m, o, e);
    }
    assert_in_range(p.ahead, better + own, all);
    if (head_of(m) == e) assert_int_equal(p.ahead, 0);
}

static void run(uint64_t seed, ag_queue_conf conf, uint32_t operations, uint32_t verify_each)
{
    model *m = calloc(1, sizeof *m);
    m->random = seed * 2654435761u + 1;
    m->conf = conf;
    print_message("AG_SEED=%llu\n", (unsigned long long)seed);
    assert_int_equal(ag_queue_open(&m->q, &conf, NULL), AG_OK);
    for (uint32_t i = 0; i < TENANTS; i++) {
        char name[] = {'t', (char)('a' + i), 0};
        m->tenants[i] = (tenant){.t = ag_queue_tenant(m->q, ag_str_of(name), 1), .weight = 1000000};
        ag_queue_hold(m->q, m->tenants[i].t);
    }
    for (uint32_t i = 0; i < operations; i++) {
        bool lull = i / 2000 % 4 == 3; /* now and then all goes idle */
        switch (roll(m, 16)) {
        case 0: do_time(m); break;
        case 1: case 2: case 3: case 4: do_running(m); break;
        case 5: do_change(m); break;
        case 6: do_place(m); break;
        case 7: case 8: case 9: do_pop(m); break;
        default: lull ? do_pop(m) : do_push(m);
        }
        if (i % verify_each == 0) ag_queue_verify(m->q);
    }
    uint32_t often = operations / 500;
    assert_true(m->pushed > often && m->popped > often && m->expired > often && m->set_back > often && m->idle > often);
    if (conf.age_us && conf.age_us < 1000) assert_true(m->renewed > 0 && m->passed > 0);
    if (conf.entries_max < ENTRIES) assert_true(m->refused > often && m->displaced > often);
    for (entry *e = m->entries; e < m->entries + ENTRIES; e++)
        if (e->state == WAITING) ag_queue_remove(m->q, &e->e);
        else if (e->state == RUNNING) ag_queue_running(m->q, e->e.tenant, -1);
    ag_queue_verify(m->q);
    ag_queue_close(m->q);
    free(m);
}

static void test_against_model(void **state)
{
    (void)state;
    uint64_t seed = seed_of();
    ag_queue_conf roomy = {.entries_max = 1000, .tenants_max = 100, .prompt_weight = 1, .output_weight = 4,
                           .age_us = 500};
    ag_queue_conf tight = {.entries_max = 24, .tokens_max = 500, .bytes_max = 9000, .tenants_max = 100,
                           .prompt_weight = 1, .output_weight = 4, .age_us = 2000};
    ag_queue_conf ageless = {.entries_max = 40, .tenants_max = 100, .prompt_weight = 1, .output_weight = 4};
    run(seed, roomy, 40000, 1);
    run(seed + 1, tight, 40000, 1);
    run(seed + 2, ageless, 40000, 7);
    run(seed + 3, tight, 150000, 1000);
    run(seed + 4, roomy, 150000, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
