/* Pages and their tree, step by step beside a model that is as plain as can be: a list of all pages ever made known,
 * each with its whole prefix. */
#include "engine/sched/kv.h"

#include "base/fault.h"
#include "base/mem.h"
#include "check.h"

#define P 4u      /* tokens of a page */
#define CAP 16u   /* pages of a sequence */

typedef struct seq {
    ag_kv_seq kv;
    uint32_t pages[CAP];
    int32_t tokens[CAP * P];
    uint32_t len, computed;
    bool live;
} seq;

static void seq_init(seq *s, uint64_t salt)
{
    *s = (seq){.kv = {.salt = salt, .cap = CAP}};
    s->kv.pages = s->pages;
}

/* ---- scenes ---- */

static ag_kv *scene(uint32_t pages)
{
    ag_kv *kv = NULL;
    assert_int_equal(ag_kv_open(&kv, pages, P, NULL), AG_OK);
    return kv;
}

static void fill(seq *s, const char *text)
{
    s->len = (uint32_t)strlen(text);
    for (uint32_t i = 0; i < s->len; i++) s->tokens[i] = text[i];
}

/* The whole text is computed and known to others. */
static void compute(ag_kv *kv, seq *s)
{
    assert_true(ag_kv_reserve(kv, &s->kv, s->len));
    s->computed = s->len;
    ag_kv_publish(kv, &s->kv, s->tokens, s->len);
    ag_kv_verify(kv);
}

static ag_kv_stats stats(const ag_kv *kv)
{
    ag_kv_stats st;
    ag_kv_stats_get(kv, &st);
    assert_int_equal(st.free + st.used + st.kept, st.pages);
    return st;
}

static void test_reuse_at_pages(void **state)
{
    (void)state;
    ag_kv *kv = scene(8);
    seq a, b;
    seq_init(&a, 7);
    fill(&a, "aaaabbbbccc");
    assert_int_equal(ag_kv_match(kv, &a.kv, a.tokens, a.len - 1), 0);
    compute(kv, &a);
    assert_int_equal(a.kv.n, 3);
    assert_int_equal(a.kv.shared, 2);
    seq_init(&b, 7);
    fill(&b, "aaaabbbbcccc");
    assert_int_equal(ag_kv_peek(kv, 7, b.tokens, b.len).tokens, 8);
    assert_int_equal(ag_kv_match(kv, &b.kv, b.tokens, b.len - 1), 8);
    assert_int_equal(b.pages[0], a.pages[0]);
    assert_int_equal(b.pages[1], a.pages[1]);
    compute(kv, &b);
    assert_int_equal(stats(kv).used, 4);
    ag_kv_drop(kv, &a.kv);
    assert_int_equal(stats(kv).kept, 0); /* b uses what was a's, and a's third page was not full */
    ag_kv_drop(kv, &b.kv);
    assert_int_equal(stats(kv).kept, 3);
    /* A prompt that is there entirely: its last token is computed anyway, so the last page does not count. */
    seq_init(&a, 7);
    fill(&a, "aaaabbbb");
    assert_int_equal(ag_kv_match(kv, &a.kv, a.tokens, a.len - 1), 4);
    ag_kv_drop(kv, &a.kv);
    assert_int_equal(stats(kv).hit_tokens, 12);
    assert_int_equal(stats(kv).asked_tokens, 10 + 11 + 7);
    ag_kv_close(kv);
}

static void test_salts_never_share(void **state)
{
    (void)state;
    ag_kv *kv = scene(16);
    const uint64_t salts[] = {1, 2, UINT64_MAX, AG_KV_ALONE};
    seq s[4];
    for (int i = 0; i < 4; i++) {
        seq_init(&s[i], salts[i]);
        fill(&s[i], "aaaabbbbc");
        assert_int_equal(ag_kv_match(kv, &s[i].kv, s[i].tokens, 8), 0);
        ag_kv_promise(kv, &s[i].kv, s[i].tokens, 8); /* one salt's promises hold nobody else up */
        assert_int_equal(s[i].kv.waits, 0);
        assert_int_equal(s[i].kv.promised != 0, salts[i] != AG_KV_ALONE);
    }
    for (int i = 0; i < 4; i++) compute(kv, &s[i]);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            for (uint32_t k = 0; k < 3 && i != j; k++) assert_int_not_equal(s[i].pages[k], s[j].pages[k]);
    for (int i = 0; i < 4; i++) ag_kv_drop(kv, &s[i].kv);
    assert_int_equal(stats(kv).kept, 6); /* who shares with nobody leaves nothing */
    assert_int_equal(ag_kv_peek(kv, AG_KV_ALONE, s[3].tokens, 8).tokens, 0);
    assert_int_equal(ag_kv_peek(kv, 3, s[0].tokens, 8).tokens, 0);
    ag_kv_close(kv);
}

static void test_promises(void **state)
{
    (void)state;
    ag_kv *kv = scene(32);
    seq a, b, c;
    seq_init(&a, 1);
    fill(&a, "aaaabbbbccccx");
    ag_kv_match(kv, &a.kv, a.tokens, 12);
    ag_kv_promise(kv, &a.kv, a.tokens, 13);
    assert_int_equal(ag_kv_match(kv, &a.kv, a.tokens, 12), 0); /* nobody waits for himself */
    assert_int_equal(a.kv.waits, 0);
    assert_true(ag_kv_reserve(kv, &a.kv, 13));
    seq_init(&b, 1);
    fill(&b, "aaaabbbbccccy");
    assert_int_equal(ag_kv_match(kv, &b.kv, b.tokens, 12), 0);
    assert_int_not_equal(b.kv.waits, 0);
    ag_kv_promise(kv, &b.kv, b.tokens, 13); /* promised by another already */
    assert_int_equal(b.kv.promised, 0);
    ag_kv_publish(kv, &a.kv, a.tokens, 9);
    assert_int_equal(ag_kv_match(kv, &b.kv, b.tokens, 12), 8); /* as far as it is there, */
    assert_int_not_equal(b.kv.waits, 0);                       /* and the rest is still coming */
    ag_kv_verify(kv);
    seq_init(&c, 1);
    fill(&c, "aaaabbbbdddd");
    assert_int_equal(ag_kv_match(kv, &c.kv, c.tokens, 11), 8);
    assert_int_equal(c.kv.waits, 0); /* another way */
    ag_kv_drop(kv, &a.kv);           /* its owner goes: who waited goes on for himself */
    assert_int_equal(ag_kv_match(kv, &b.kv, b.tokens, 12), 8);
    assert_int_equal(b.kv.waits, 0);
    ag_kv_promise(kv, &b.kv, b.tokens, 12);
    assert_int_not_equal(b.kv.promised, 0);
    seq_init(&a, 1); /* and the one that was set back waits for him */
    fill(&a, "aaaabbbbccccx");
    assert_int_equal(ag_kv_match(kv, &a.kv, a.tokens, 12), 8);
    assert_int_not_equal(a.kv.waits, 0);
    compute(kv, &b);
    assert_int_equal(ag_kv_match(kv, &a.kv, a.tokens, 12), 12);
    compute(kv, &a);
    ag_kv_drop(kv, &a.kv);
    ag_kv_drop(kv, &b.kv);
    ag_kv_drop(kv, &c.kv);
    ag_kv_close(kv);
}

/* A promised page that somebody else made: kept by that, and the rest of its owner's promises are void. */
static void test_promise_kept_by_another(void **state)
{
    (void)state;
    ag_kv *kv = scene(16);
    seq a, b, w;
    seq_init(&a, 1);
    fill(&a, "aaaabbbbcccc");
    ag_kv_promise(kv, &a.kv, a.tokens, 12);
    seq_init(&b, 1);
    fill(&b, "aaaa"); /* its only page may not be reused: it is computed by both */
    ag_kv_match(kv, &b.kv, b.tokens, 3);
    assert_int_equal(b.kv.waits, 0);
    compute(kv, &b);
    assert_int_equal(a.kv.promised, 0);
    seq_init(&w, 1);
    fill(&w, "aaaabbbbx");
    assert_int_equal(ag_kv_match(kv, &w.kv, w.tokens, 8), 4);
    assert_int_equal(w.kv.waits, 0);
    ag_kv_drop(kv, &b.kv);
    ag_kv_drop(kv, &w.kv);
    compute(kv, &a); /* gives its first page back for b's */
    assert_int_equal(a.kv.shared, 3);
    assert_int_equal(stats(kv).used, 3);
    assert_int_equal(stats(kv).kept, 0);
    ag_kv_drop(kv, &a.kv);
    ag_kv_close(kv);
}

/* One waits for the next in a row: each that goes lets the following one go on, nobody waits for ever. */
static void test_chain(void **state)
{
    (void)state;
    ag_kv *kv = scene(8);
    seq s[5];
    for (int i = 0; i < 5; i++) {
        seq_init(&s[i], 1);
        fill(&s[i], "aaaabbbbx");
        ag_kv_match(kv, &s[i].kv, s[i].tokens, 8);
        ag_kv_promise(kv, &s[i].kv, s[i].tokens, 8);
        assert_int_equal(s[i].kv.waits != 0, i > 0);
    }
    for (int i = 0; i < 4; i++) {
        ag_kv_drop(kv, &s[i].kv);
        uint32_t free_to_go = 0;
        for (int j = i + 1; j < 5; j++) {
            ag_kv_match(kv, &s[j].kv, s[j].tokens, 8);
            if (s[j].kv.waits == 0) {
                free_to_go++;
                ag_kv_promise(kv, &s[j].kv, s[j].tokens, 8);
            }
        }
        assert_int_equal(free_to_go, 1);
        ag_kv_verify(kv);
    }
    ag_kv_drop(kv, &s[4].kv);
    ag_kv_close(kv);
}

static void test_reclaim_order(void **state)
{
    (void)state;
    ag_kv *kv = scene(6);
    static const char *text[] = {"aaaabbbb", "aaaacccc", "ddddeeee"};
    seq s[3], big;
    for (int i = 0; i < 3; i++) {
        seq_init(&s[i], 1);
        fill(&s[i], text[i]);
        ag_kv_match(kv, &s[i].kv, s[i].tokens, 7);
        compute(kv, &s[i]);
    }
    assert_int_equal(stats(kv).free, 1);
    ag_kv_drop(kv, &s[2].kv);
    ag_kv_drop(kv, &s[0].kv);
    ag_kv_drop(kv, &s[1].kv);
    assert_int_equal(ag_kv_available(kv), 6);
    /* One page is free. Then the leaf used longest ago goes, and what was above it follows when its turn comes. */
    static const uint32_t left[3][6] = {{8, 8, 8, 4, 4, 0}, {8, 8, 8, 8, 4, 0}, {8, 4, 0, 0, 0, 0}};
    for (uint32_t n = 1; n <= 6; n++) {
        seq_init(&big, AG_KV_ALONE);
        assert_true(ag_kv_reserve(kv, &big.kv, n * P));
        ag_kv_verify(kv);
        for (int i = 0; i < 3; i++) assert_int_equal(ag_kv_peek(kv, 1, s[i].tokens, 8).tokens, left[i][n - 1]);
        ag_kv_drop(kv, &big.kv);
    }
    assert_int_equal(stats(kv).reclaimed, 5);
    ag_kv_close(kv);
}

static void test_all_or_none(void **state)
{
    (void)state;
    ag_kv *kv = scene(3);
    seq a, b;
    seq_init(&a, 1);
    fill(&a, "aaaabbbb");
    compute(kv, &a);
    seq_init(&b, 2);
    assert_false(ag_kv_reserve(kv, &b.kv, 5));
    assert_int_equal(b.kv.n, 0);
    assert_true(ag_kv_reserve(kv, &b.kv, 4));
    assert_true(ag_kv_reserve(kv, &b.kv, 4)); /* and no more than that */
    assert_int_equal(b.kv.n, 1);
    assert_true(ag_kv_reserve(kv, &b.kv, 0));
    assert_false(ag_kv_reserve(kv, &b.kv, 5));
    ag_kv_drop(kv, &a.kv);
    assert_true(ag_kv_reserve(kv, &b.kv, 12));
    assert_int_equal(stats(kv).kept, 0);
    ag_kv_drop(kv, &b.kv);
    ag_kv_close(kv);
}

static void test_forget(void **state)
{
    (void)state;
    ag_kv *kv = scene(16);
    seq a, b, c;
    seq_init(&a, 1);
    fill(&a, "aaaabbbb");
    compute(kv, &a);
    ag_kv_drop(kv, &a.kv); /* kept */
    seq_init(&a, 1);
    fill(&a, "aaaabbbbcccc");
    ag_kv_match(kv, &a.kv, a.tokens, 11);
    seq_init(&b, 1);
    fill(&b, "aaaadddd");
    ag_kv_match(kv, &b.kv, b.tokens, 7);
    ag_kv_promise(kv, &b.kv, b.tokens, 8);
    ag_kv_forget(kv);
    ag_kv_verify(kv);
    assert_int_equal(b.kv.promised, 0);
    assert_int_equal(ag_kv_peek(kv, 1, a.tokens, 12).tokens, 0);
    compute(kv, &a); /* goes on alone: nothing hangs below what was forgotten */
    ag_kv_promise(kv, &b.kv, b.tokens, 8);
    assert_int_equal(b.kv.promised, 0);
    compute(kv, &b);
    seq_init(&c, 1);
    fill(&c, "aaaabbbb");
    assert_int_equal(ag_kv_match(kv, &c.kv, c.tokens, 7), 0);
    compute(kv, &c); /* and new pages are known again */
    assert_int_equal(stats(kv).used, 6);
    ag_kv_drop(kv, &a.kv);
    ag_kv_drop(kv, &b.kv);
    ag_kv_verify(kv);
    assert_int_equal(stats(kv).kept, 0);
    assert_int_equal(stats(kv).free, 14);
    ag_kv_drop(kv, &c.kv);
    assert_int_equal(ag_kv_peek(kv, 1, c.tokens, 8).tokens, 8);
    ag_kv_close(kv);
}

/* ---- the model ---- */

#define PAGES 24u
#define SEQS 8u
#define KNOWN_MAX (2 * PAGES)

typedef struct known {
    uint64_t salt;
    int32_t tokens[CAP * P];
    uint32_t n;
    uint32_t page, users, owner;
    uint64_t used;
} known;

typedef struct world {
    known k[KNOWN_MAX]; /* n tokens: a prefix, its last page is `page`; owner: 1 + the sequence that promised it */
    uint32_t n;
    seq s[SEQS];
    uint64_t tick, reclaimed;
} world;

static bool prefix_is(const known *k, uint64_t salt, const int32_t *tokens, uint32_t n)
{
    return k->n == n && k->salt == salt && memcmp(k->tokens, tokens, n * sizeof *tokens) == 0;
}

static known *model_find(world *w, uint64_t salt, const int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < w->n; i++)
        if (prefix_is(&w->k[i], salt, tokens, n)) return &w->k[i];
    return NULL;
}

static bool has_longer(const world *w, const known *k)
{
    for (uint32_t i = 0; i < w->n; i++)
        if (w->k[i].n == k->n + P && prefix_is(k, w->k[i].salt, w->k[i].tokens, k->n)) return true;
    return false;
}

static void model_remove(world *w, known *k) { *k = w->k[--w->n]; }

static void model_void(world *w, uint32_t who)
{
    for (uint32_t i = w->n; i-- > 0;)
        if (w->k[i].owner == who + 1) model_remove(w, &w->k[i]);
}

static uint32_t model_kept(const world *w)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < w->n; i++) kept += w->k[i].owner == 0 && w->k[i].users == 0;
    return kept;
}

/* Taken by nobody and in no prefix. */
static uint32_t model_free(const world *w)
{
    bool taken[PAGES] = {false};
    for (uint32_t i = 0; i < w->n; i++)
        if (w->k[i].owner == 0) taken[w->k[i].page] = true;
    for (uint32_t i = 0; i < SEQS; i++)
        for (uint32_t p = 0; p < w->s[i].kv.n; p++) taken[w->s[i].pages[p]] = true;
    uint32_t n = 0;
    for (uint32_t i = 0; i < PAGES; i++) n += !taken[i];
    return n;
}

static void model_reclaim(world *w, uint32_t pages)
{
    for (; pages > 0; pages--) {
        known *oldest = NULL;
        for (uint32_t i = 0; i < w->n; i++) {
            known *k = &w->k[i];
            if (k->owner == 0 && k->users == 0 && !has_longer(w, k) && (oldest == NULL || k->used < oldest->used))
                oldest = k;
        }
        assert_non_null(oldest);
        model_remove(w, oldest);
        w->reclaimed++;
    }
}

static uint32_t rnd(uint64_t *x, uint32_t n)
{
    *x = *x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*x >> 33) % n;
}

static void do_start(world *w, uint32_t i, uint64_t *x)
{
    seq *s = &w->s[i];
    static const uint64_t salts[] = {AG_KV_ALONE, 5, 6};
    seq_init(s, salts[rnd(x, 6) == 0 ? 0 : 1 + rnd(x, 2)]);
    s->live = true;
    s->len = 1 + rnd(x, CAP * P / 2);
    /* few tokens: much is alike */
    for (uint32_t t = 0; t < s->len; t++) s->tokens[t] = t % P == 0 ? (int32_t)rnd(x, 2) : 1;
}

static void do_match(world *w, ag_kv *kv, uint32_t i)
{
    seq *s = &w->s[i];
    uint32_t was = s->kv.n, want = was;
    bool waits = false, may = s->kv.salt != AG_KV_ALONE && was == s->kv.shared;
    uint32_t got = ag_kv_match(kv, &s->kv, s->tokens, s->len - 1);
    if (may) {
        while ((want + 1) * P <= s->len - 1) {
            known *k = model_find(w, s->kv.salt, s->tokens, (want + 1) * P);
            if (k && k->owner) waits = k->owner != i + 1;
            if (k == NULL || k->owner) break;
            assert_int_equal(s->pages[want], k->page);
            k->users++;
            want++;
        }
        s->computed = want * P;
        assert_int_equal(got, want * P);
        assert_int_equal(s->kv.n, want);
    } else {
        assert_int_equal(s->kv.n, was);
    }
    assert_int_equal(s->kv.waits != 0, waits);
}

static void do_promise(world *w, ag_kv *kv, uint32_t i)
{
    seq *s = &w->s[i];
    ag_kv_promise(kv, &s->kv, s->tokens, s->len);
    if (s->kv.salt == AG_KV_ALONE || s->kv.n != s->kv.shared) return;
    uint32_t promised = 0;
    for (uint32_t k = 0; k < w->n; k++) promised += w->k[k].owner != 0;
    for (uint32_t n = (s->kv.n + 1) * P; n <= s->len; n += P) {
        known *k = model_find(w, s->kv.salt, s->tokens, n);
        if (k && k->owner != i + 1) break;
        if (k) continue;
        if (promised++ == PAGES) break;
        k = &w->k[w->n++];
        *k = (known){.salt = s->kv.salt, .n = n, .owner = i + 1, .page = PAGES};
        memcpy(k->tokens, s->tokens, n * sizeof *s->tokens);
    }
}

static void do_compute(world *w, ag_kv *kv, uint32_t i, uint64_t *x)
{
    seq *s = &w->s[i];
    uint32_t to = s->computed + 1 + rnd(x, 2 * P);
    if (to > CAP * P) return;
    for (; s->len < to; s->len++) s->tokens[s->len] = (int32_t)rnd(x, 2); /* an answer */
    uint32_t need = (to + P - 1) / P, left = model_free(w), kept = model_kept(w);
    uint32_t more = need > s->kv.n ? need - s->kv.n : 0;
    bool fits = more <= left + kept;
    assert_int_equal(ag_kv_reserve(kv, &s->kv, to), fits);
    if (!fits) return;
    if (more > left) model_reclaim(w, more - left);
    ag_kv_verify(kv);
    s->computed = to;
    uint32_t shared = s->kv.shared, own[CAP];
    memcpy(own, s->pages, sizeof own);
    ag_kv_publish(kv, &s->kv, s->tokens, to);
    if (s->kv.salt == AG_KV_ALONE) return;
    for (; (shared + 1) * P <= to; shared++) {
        known *k = model_find(w, s->kv.salt, s->tokens, (shared + 1) * P);
        if (k && k->owner) {
            uint32_t owner = k->owner - 1;
            k->owner = 0;
            k->page = own[shared];
            if (owner != i) model_void(w, owner);
            k = model_find(w, s->kv.salt, s->tokens, (shared + 1) * P);
        } else if (k == NULL) {
            k = &w->k[w->n++];
            *k = (known){.salt = s->kv.salt, .n = (shared + 1) * P, .page = own[shared]};
            memcpy(k->tokens, s->tokens, k->n * sizeof *s->tokens);
        }
        k->users++;
        assert_int_equal(s->pages[shared], k->page);
    }
    assert_int_equal(s->kv.shared, shared);
}

static void do_drop(world *w, ag_kv *kv, uint32_t i)
{
    seq *s = &w->s[i];
    uint32_t shared = s->kv.shared;
    ag_kv_drop(kv, &s->kv);
    model_void(w, i);
    w->tick++;
    for (uint32_t n = 0; n < shared; n++) {
        known *k = model_find(w, s->kv.salt, s->tokens, (n + 1) * P);
        assert_non_null(k);
        k->users--;
        k->used = w->tick;
    }
    assert_int_equal(s->kv.n, 0);
    s->live = false;
}

static void test_against_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        ag_kv *kv = scene(PAGES);
        world *w = ag_mem_zalloc(sizeof *w);
        uint64_t x = seed;
        for (uint32_t turn = 0; turn < 400; turn++) {
            uint32_t i = rnd(&x, SEQS), what = rnd(&x, 10);
            if (!w->s[i].live) do_start(w, i, &x);
            else if (what < 3) do_match(w, kv, i);
            else if (what < 5) do_promise(w, kv, i);
            else if (what < 9) do_compute(w, kv, i, &x);
            else do_drop(w, kv, i);
            ag_kv_verify(kv);
            ag_kv_stats st = stats(kv);
            if (st.kept != model_kept(w) || st.free != model_free(w) || st.reclaimed != w->reclaimed)
                fail_msg("seed %u turn %u: %u kept of %u, %u free of %u", (unsigned)seed, turn, st.kept, model_kept(w),
                         st.free, model_free(w));
        }
        for (uint32_t i = 0; i < SEQS; i++) do_drop(w, kv, i);
        ag_mem_free(w);
        ag_kv_close(kv);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    for (uint32_t n = 1;; n++) {
        ag_kv *kv = NULL;
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_kv_open(&kv, 8, P, NULL);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        ag_kv_close(kv);
        if (!fired) break;
    }
#else
    check_skipped(1, "built without fault points");
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reuse_at_pages), cmocka_unit_test(test_salts_never_share),
        cmocka_unit_test(test_promises),
        cmocka_unit_test(test_promise_kept_by_another), cmocka_unit_test(test_chain),
        cmocka_unit_test(test_reclaim_order),
        cmocka_unit_test(test_all_or_none), cmocka_unit_test(test_forget), cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
