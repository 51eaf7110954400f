/* Generations on the real engine with a tiny random model: what one gets does not depend on who else is served, on how
 * much memory there is, or on what fails. */
#include "engine/engine.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fault.h"
#include "engine/image.h"
#include "engine/held.h"

/* The engine tells; a semaphore is the simplest mailbox owner. */
static sem_t news;
static void ring(void *arg) { (void)arg; sem_post(&news); }

enum { MANY = 12 };
static int32_t alone[MANY][OUT_MAX];
static uint32_t alone_n[MANY];

static ag_gen_spec many_spec(int i)
{
    return spec_of(1 + (uint32_t)(i * 17 % 90), 20 + (uint32_t)(i * 13 % 60), (uint64_t)i);
}

static void answers_alone(void)
{
    ag_engine *e = open_engine(conf_of(1024, 1, 16));
    for (int i = 0; i < MANY; i++) {
        ag_gen_spec s = many_spec(i);
        ag_gen *g = start(e, &s);
        assert_int_equal(finish(g, alone[i], &alone_n[i]), AG_GEN_LENGTH);
        assert_int_equal(alone_n[i], s.max_tokens);
        ag_gen_put(g);
    }
    ag_engine_close(e);
}

static void same_in(ag_engine_conf conf, bool want_preempted)
{
    ag_engine *e = open_engine(conf);
    ag_gen *g[MANY];
    for (int i = 0; i < MANY; i++) {
        ag_gen_spec s = many_spec(i);
        assert_int_equal(ag_gen_create(&g[i], e, &s, NULL), AG_OK);
    }
    assert_int_equal(ag_gen_submit_all(g, MANY, NULL, NULL), AG_OK); /* all there together, so that pages run short */
    for (int i = 0; i < MANY; i++) {
        int32_t ids[OUT_MAX];
        uint32_t n;
        assert_int_equal(finish(g[i], ids, &n), AG_GEN_LENGTH);
        assert_int_equal(n, alone_n[i]);
        assert_memory_equal(ids, alone[i], n * sizeof *ids);
        ag_gen_put(g[i]);
    }
    ag_engine_stats st;
    ag_engine_stats_get(e, &st);
    assert_int_equal(st.kv_pages_used, 0);
    assert_int_equal(st.waiting, 0);
    if (want_preempted) assert_true(st.preemptions > 0);
    ag_engine_close(e);
}

static void test_same_alone_and_together(void **state)
{
    (void)state;
    answers_alone();
    bool distinct = false;
    for (int i = 1; i < MANY; i++) distinct |= memcmp(alone[0], alone[i], 20 * sizeof(int32_t)) != 0;
    assert_true(distinct);
    same_in(conf_of(4096, 64, 64), false);
    same_in(conf_of(4096, 5, 16), false);
    ag_engine_conf one = conf_of(4096, 64, 64);
    one.threads = 1;
    /* attention's bits are its own there */
    if (strcmp(ag_cpu_isa_find(NULL)->name, "avx512bf16") != 0) one.isa = "scalar";
    same_in(one, false);
}

/* So few pages that sequences are set back, and come again with the same answer. */
static void test_same_when_set_back(void **state)
{
    (void)state;
    answers_alone();
    same_in(conf_of(5 * 64, 64, 64), true);
}

static void test_logprobs(void **state)
{
    (void)state;
    ag_engine *e = open_engine(conf_of(1024, 4, 64));
    ag_gen_spec s = spec_of(40, 5, 3);
    s.top_logprobs = 3;
    s.prompt_logprobs = true;
    int32_t ids[OUT_MAX];
    uint32_t n;
    ag_gen *g = start(e, &s);
    assert_int_equal(finish(g, ids, &n), AG_GEN_LENGTH);
    ag_gen_token t[8];
    assert_int_equal(ag_gen_read(g, 0, t, 8, NULL), 5);
    const ag_gen_token *p = ag_gen_prompt(g);
    assert_true(isnan(p[0].logprob));
    for (int i = 0; i < 45; i++) {
        const ag_gen_token *x = i < 40 ? &p[i] : &t[i - 40];
        if (i == 0) continue;
        assert_true(x->logprob < 0 && x->logprob > -50);
        assert_int_equal(x->n_top, 3);
        assert_true(x->top[0].logprob >= x->top[1].logprob && x->top[1].logprob >= x->top[2].logprob);
        assert_true(x->logprob <= x->top[0].logprob);
    }
    /* The same tokens as a prompt have the same log probabilities, bit for bit. */
    int32_t all[45];
    for (int i = 0; i < 40; i++) all[i] = s.prompt[i];
    for (int i = 0; i < 5; i++) all[40 + i] = t[i].id;
    ag_gen_spec again = s;
    again.prompt = all;
    again.n_prompt = 45;
    again.max_tokens = 0;
    ag_gen *h = start(e, &again);
    assert_int_equal(finish(h, ids, &n), AG_GEN_LENGTH);
    assert_int_equal(n, 0);
    for (int i = 0; i < 5; i++) assert_true(ag_gen_prompt(h)[40 + i].logprob == t[i].logprob);
    ag_gen_put(g);
    ag_gen_put(h);
    ag_engine_close(e);
}

/* The pieces of the tiny vocabulary's first 256 tokens are its bytes. */
static void test_stops(void **state)
{
    (void)state;
    ag_engine *e = open_engine(conf_of(1024, 4, 64));
    ag_gen_spec s = spec_of(10, 60, 5);
    int32_t ids[OUT_MAX], cut[OUT_MAX];
    uint32_t n, m;
    ag_gen *g = start(e, &s);
    finish(g, ids, &n);
    ag_buf text;
    ag_buf_init(&text, 4096);
    for (uint32_t i = 20; i < 23; i++) {
        ag_str p = ag_tokenizer_piece(shared.m.tokenizer, ids[i], false);
        ag_buf_add(&text, p.p, p.n);
    }
    assert_true(text.n >= 3);
    /* A stop string over the borders of three tokens. */
    ag_str stop = {text.p, text.n};
    s.stops = &stop;
    s.n_stops = 1;
    ag_gen *h = start(e, &s);
    assert_int_equal(finish(h, cut, &m), AG_GEN_STOPPED);
    assert_true(m <= 23 && m > 0);
    assert_memory_equal(ids, cut, m * sizeof *ids);
    ag_buf whole;
    ag_buf_init(&whole, 1 << 16);
    ag_tokenizer_decode(shared.m.tokenizer, cut, m, false, &whole);
    assert_int_equal(ag_gen_text_bytes(h), (const char *)memmem(whole.p, whole.n, stop.p, stop.n) - whole.p);
    ag_gen_token t[OUT_MAX];
    uint32_t k = ag_gen_read(h, 0, t, OUT_MAX, NULL);
    /* nothing of it was ever safe */
    for (uint32_t i = 0; i < k; i++) assert_true(t[i].text_safe <= ag_gen_text_bytes(h));
    ag_gen_put(h);
    /* A stop token; and neither before min_tokens. */
    s.n_stops = 0;
    s.stop_tokens = &ids[7];
    s.n_stop_tokens = 1;
    h = start(e, &s);
    assert_int_equal(finish(h, cut, &m), AG_GEN_STOPPED);
    assert_true(m <= 7);
    ag_gen_put(h);
    s.min_tokens = 60;
    h = start(e, &s);
    assert_int_equal(finish(h, cut, &m), AG_GEN_LENGTH);
    assert_int_equal(m, 60);
    assert_memory_equal(ids, cut, m * sizeof *ids);
    ag_gen_put(h);
    /* An end token forced by its bias ends at once, but not with ignore_eos. */
    ag_logit_bias bias = {ag_tokenizer_eos(shared.m.tokenizer), 100};
    ag_gen_spec f = spec_of(10, 5, 1);
    f.bias = &bias;
    f.n_bias = 1;
    f.ignore_eos = false;
    h = start(e, &f);
    assert_int_equal(finish(h, cut, &m), AG_GEN_STOPPED);
    assert_int_equal(m, 0);
    assert_int_equal(ag_gen_text_bytes(h), 0);
    ag_gen_put(h);
    f.min_tokens = 2;
    h = start(e, &f);
    assert_int_equal(finish(h, cut, &m), AG_GEN_STOPPED);
    assert_int_equal(m, 2);
    ag_gen_put(h);
    f.ignore_eos = true;
    h = start(e, &f);
    assert_int_equal(finish(h, cut, &m), AG_GEN_LENGTH);
    ag_gen_put(h);
    ag_gen_put(g);
    ag_buf_fini(&text);
    ag_buf_fini(&whole);
    ag_engine_close(e);
}

static void test_cancel(void **state)
{
    (void)state;
    ag_engine *e = open_held(conf_of(2048, 2, 16), 1);
    ag_gen *g[6];
    int32_t ids[OUT_MAX];
    uint32_t n;
    for (int i = 0; i < 6; i++) {
        ag_gen_spec s = spec_of(40, 400, (uint64_t)i);
        g[i] = start(e, &s);
    }
    await_held();
    ag_gen_cancel(g[5]); /* waits for a place */
    ag_gen_cancel(g[0]); /* runs */
    ag_gen_cancel(g[0]);
    let_go();
    assert_int_equal(finish(g[5], ids, &n), AG_GEN_CANCELLED);
    assert_int_equal(finish(g[0], ids, &n), AG_GEN_CANCELLED);
    assert_true(n < 400);
    for (int i = 1; i < 5; i++) ag_gen_cancel(g[i]);
    for (int i = 1; i < 5; i++) finish(g[i], ids, &n);
    ag_gen_spec s = spec_of(4, 4, 9);
    ag_gen *before = NULL, *after = start(e, &s);
    assert_int_equal(ag_gen_create(&before, e, &s, NULL), AG_OK);
    ag_gen_cancel(before); /* before it was handed over */
    assert_int_equal(ag_gen_submit(before, NULL, NULL), AG_OK);
    assert_int_equal(finish(before, ids, &n), AG_GEN_CANCELLED);
    assert_int_equal(finish(after, ids, &n), AG_GEN_LENGTH);
    ag_gen_cancel(after); /* harmless */
    ag_engine_stats st;
    ag_engine_stats_get(e, &st);
    assert_int_equal(st.kv_pages_used, 0);
    assert_int_equal(st.waiting, 0);
    for (int i = 0; i < 6; i++) ag_gen_put(g[i]);
    ag_gen_put(before);
    ag_gen_put(after);
    ag_engine_close(e);
}

/* Threads' time inside steps: it grows by steps alone, and by no more than there was. */
static void test_busy(void **state)
{
    (void)state;
    ag_engine_stats st, idle;
    uint64_t opened = ag_now_us();
    ag_engine *e = open_engine(conf_of(4096, 8, 64));
    ag_engine_stats_get(e, &st);
    assert_int_equal(st.busy_us, 0);
    assert_true(st.threads >= 1);
    for (uint64_t before = 0; before < 1000;) { /* the first steps may be too short to show */
        ag_gen_spec s = spec_of(40, 60, before);
        ag_gen *g = start(e, &s);
        int32_t ids[OUT_MAX];
        uint32_t n;
        assert_int_equal(finish(g, ids, &n), AG_GEN_LENGTH);
        ag_gen_put(g);
        ag_engine_stats_get(e, &st);
        assert_true(st.busy_us > before);
        before = st.busy_us;
    }
    assert_true(st.busy_us <= (ag_now_us() - opened) * st.threads);
    ag_engine_stats_get(e, &idle);
    assert_int_equal(idle.busy_us, st.busy_us);
    ag_engine_close(e);
}

static void test_bounds(void **state)
{
    (void)state;
    ag_engine_conf c = conf_of(256, 1, 16);
    c.queue_max = 2;
    ag_engine *e = open_engine(c);
    assert_int_equal(ag_engine_ctx_max(e), 256);
    ag_gen *g[32] = {NULL}, *x = NULL;
    ag_err err = {0};
    ag_gen_spec s = spec_of(100, 156, 1);
    int full = 0;
    for (int i = 0; i < 32; i++) {
        assert_int_equal(ag_gen_create(&g[i], e, &s, NULL), AG_OK);
        if (ag_gen_submit(g[i], NULL, NULL) != AG_E_QUEUE_FULL) continue;
        full++;
        ag_gen_put(g[i]);
        g[i] = NULL;
    }
    assert_true(full > 0); /* one runs, two wait: of 32 at once some are refused */
#define REFUSED(change, code, says) \
    do { \
        s = spec_of(10, 10, 1); \
        change; \
        err = (ag_err){0}; \
        assert_int_equal(ag_gen_create(&x, e, &s, &err), code); \
        assert_string_equal(err.text, says); \
    } while (0)
    REFUSED(s.n_prompt = 0, AG_E_PARAM, "the prompt is empty; it needs at least one token");
    REFUSED(s.max_tokens = 0, AG_E_PARAM, "max_tokens is 0; it should be at least 1");
    REFUSED(s.max_tokens = 247, AG_E_CTX_LENGTH,
            "10 prompt tokens and 247 to answer do not fit the context of 256 tokens");
    REFUSED(s.max_tokens = UINT32_MAX, AG_E_CTX_LENGTH,
            "10 prompt tokens and 4294967295 to answer do not fit the context of 256 tokens");
    REFUSED(s.sampling.temperature = NAN, AG_E_PARAM, "temperature is nan; it should be at least 0 and at most 10");
    REFUSED(s.sampling.top_p = 0, AG_E_PARAM, "top_p is 0; it should be above 0 and at most 1");
    REFUSED(s.sampling.presence_penalty = 3, AG_E_PARAM,
            "presence_penalty is 3; it should be at least -2 and at most 2");
    int32_t bad = -1;
    REFUSED((s.prompt = &bad, s.n_prompt = 1), AG_E_PARAM,
            "prompt token -1 at position 0 is not in the vocabulary of 273");
    ag_logit_bias bias = {273, 1};
    REFUSED((s.bias = &bias, s.n_bias = 1), AG_E_PARAM,
            "logit_bias names token 273, which is not in the vocabulary of 273");
    REFUSED(s.top_logprobs = 21, AG_E_PARAM, "21 log probabilities; at most 20 are given");
    ag_engine_drain(e);
    s = spec_of(10, 10, 1);
    assert_int_equal(ag_gen_create(&x, e, &s, NULL), AG_OK);
    assert_int_equal(ag_gen_submit(x, NULL, NULL), AG_E_DRAINING);
    ag_gen_put(x);
    int32_t ids[OUT_MAX];
    uint32_t n;
    for (int i = 0; i < 32; i++)
        if (g[i]) {
            assert_int_equal(finish(g[i], ids, &n), AG_GEN_LENGTH); /* what was taken goes on */
            ag_gen_put(g[i]);
        }
    ag_engine_close(e);
}

/* A mailbox of two for eight generations: nothing is lost, only late. */
static void test_told(void **state)
{
    (void)state;
    ag_mbox *m = NULL;
    sem_init(&news, 0, 0);
    assert_int_equal(ag_mbox_open(&m, 2, ring, NULL), AG_OK);
    ag_engine *e = open_engine(conf_of(4096, 8, 64));
    ag_gen *g[8];
    uint32_t got[8] = {0}, ended = 0;
    for (uintptr_t i = 0; i < 8; i++) {
        ag_gen_spec s = spec_of(5, 30, i);
        s.notify = m;
        s.msg = (void *)(i + 1);
        g[i] = start(e, &s);
    }
    while (ended < 8) {
        sem_wait(&news);
        for (void *msg; (msg = ag_mbox_take(m));) {
            uintptr_t i = (uintptr_t)msg - 1;
            ag_gen_token t[4];
            ag_gen_state st;
            if (got[i] > 30) continue; /* ended before */
            uint32_t k;
            do {
                k = ag_gen_read(g[i], got[i], t, 4, &st);
                got[i] += k;
            } while (k == 4);
            if (!ag_gen_ended(st)) continue;
            assert_int_equal(got[i], 30);
            got[i] = 31;
            ended++;
        }
    }
    ag_engine_close(e);
    while (ag_mbox_take(m)) {}
    for (int i = 0; i < 8; i++) ag_gen_put(g[i]);
    ag_mbox_close(m);
    sem_destroy(&news);
}

/* More mailboxes than the engine collects for one waking: each message is there when its owner is woken for the last
 * time. The first waking holds the engine until all work waits, so that one step serves them all. */
enum { BOXES = 80 };
static sem_t all_submitted;
static ag_mbox *boxes[BOXES];
static int taken[BOXES];
static void take_woken(void *arg)
{
    int i = (int)(intptr_t)arg;
    while (ag_mbox_take(boxes[i])) taken[i]++;
    if (i == 0) sem_wait(&all_submitted);
}

static void test_told_in_many_mailboxes(void **state)
{
    (void)state;
    sem_init(&all_submitted, 0, 0);
    ag_engine *e = open_engine(conf_of(64 * (BOXES + 1), BOXES, 64));
    ag_gen *g[BOXES];
    for (intptr_t i = 0; i < BOXES; i++) {
        taken[i] = 0;
        assert_int_equal(ag_mbox_open(&boxes[i], 2, take_woken, (void *)i), AG_OK);
        ag_gen_spec s = spec_of(2, 1, (uint64_t)i);
        s.notify = boxes[i];
        s.msg = (void *)(i + 1);
        g[i] = start(e, &s);
    }
    sem_post(&all_submitted);
    for (int i = 0; i < BOXES; i++) {
        int32_t ids[OUT_MAX];
        uint32_t n;
        assert_int_equal(finish(g[i], ids, &n), AG_GEN_LENGTH);
    }
    ag_engine_close(e);
    for (int i = 0; i < BOXES; i++) {
        assert_int_equal(taken[i], 1);
        ag_gen_put(g[i]);
        ag_mbox_close(boxes[i]);
    }
    sem_destroy(&all_submitted);
}

static void test_close_with_work(void **state)
{
    (void)state;
    ag_engine *e = open_engine(conf_of(512, 2, 16));
    ag_gen *g[4];
    for (int i = 0; i < 4; i++) {
        ag_gen_spec s = spec_of(20, 400, 1);
        g[i] = start(e, &s);
    }
    ag_engine_close(e);
    for (int i = 0; i < 4; i++) {
        ag_gen_state st;
        ag_gen_read(g[i], 0, NULL, 0, &st);
        assert_true(ag_gen_ended(st));
        ag_gen_cancel(g[i]);
        ag_gen_put(g[i]);
    }
}

/* The first token of an answer holds the engine until the thread that checks stored weights has found the damage. */
static sem_t stored, damaged;
static char image_path[300];

static void take_note(void *arg, bool bad, const char *text)
{
    (void)arg;
    (void)bad;
    if (sscanf(text, "repacked weights are stored in %299[^,]", image_path) == 1) sem_post(&stored);
    if (strstr(text, "does not have its checksum")) sem_post(&damaged);
}

static void wait_for_damage(void *arg)
{
    if (*(bool *)arg) return;
    *(bool *)arg = true;
    sem_wait(&damaged);
}

static void test_damage_ends_what_it_had_a_part_in(void **state)
{
    (void)state;
    char dir[] = "/tmp/ag-damage-XXXXXX";
    assert_non_null(mkdtemp(dir));
    sem_init(&stored, 0, 0);
    sem_init(&damaged, 0, 0);
    ag_engine_conf c = conf_of(1024, 2, 16);
    c.image = AG_IMAGE_ON;
    c.image_dir = dir;
    c.note = take_note;
    int32_t want[OUT_MAX], ids[OUT_MAX];
    uint32_t n;
    ag_gen_spec s = spec_of(100, 40, 3);
    ag_engine *e = open_engine(c);
    ag_gen *g = start(e, &s);
    assert_int_equal(finish(g, want, &n), AG_GEN_LENGTH);
    ag_gen_put(g);
    sem_wait(&stored);
    ag_engine_close(e);

    unsigned char byte;
    int fd = open(image_path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, AG_IMAGE_DATA_ALIGN), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, AG_IMAGE_DATA_ALIGN), 1);
    close(fd);

    ag_mbox *m = NULL;
    bool waited = false;
    assert_int_equal(ag_mbox_open(&m, 4, wait_for_damage, &waited), AG_OK);
    c.image = AG_IMAGE_READ;
    ag_gen_spec told = s;
    told.notify = m;
    told.msg = &waited;
    bool late = true; /* whose first token takes two seconds, until which its weights wait, tries again */
    for (int tries = 0; late; tries++) {
        assert_in_range(tries, 0, 9);
        waited = false;
        e = open_engine(c);
        g = start(e, &told);
        late = finish(g, ids, &n) != AG_GEN_FAILED || n == 0;
        if (!late) break;
        ag_gen_put(g);
        ag_engine_close(e);
        while (ag_mbox_take(m)) {}
    }
    ag_err err = {0};
    assert_int_equal(n, 1);
    assert_int_equal(ag_gen_error(g, &err), AG_E_INTERNAL);
    assert_non_null(strstr(err.text, "ask again"));
    ag_gen_put(g);
    g = start(e, &s);
    assert_int_equal(finish(g, ids, &n), AG_GEN_LENGTH);
    assert_memory_equal(ids, want, n * sizeof *ids);
    assert_int_equal(ag_gen_reused(g), 0); /* nor was anything of its prompt kept */
    ag_gen_put(g);
    ag_engine_close(e);
    while (ag_mbox_take(m)) {}
    ag_mbox_close(m);
    sem_destroy(&stored);
    sem_destroy(&damaged);
    unlink(image_path);
    rmdir(dir);
}

/* Each allocation fails once, while opening and while generating: an error, or the right answer; nothing left
 * behind. */
static void test_faults(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    answers_alone();
    const ag_fault_kind kinds[] = {AG_FAULT_THREAD, AG_FAULT_MMAP, AG_FAULT_ALLOC};
    for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++)
        for (uint32_t n = 1;; n++) {
            ag_engine *e = NULL;
            ag_gen *g = NULL;
            ag_err err = {0};
            ag_engine_conf c = conf_of(1024, 2, 16);
            ag_gen_spec s = many_spec(4);
            s.top_logprobs = 2;
            int32_t ids[OUT_MAX];
            uint32_t got = 0;
            ag_fault_arm(kinds[k], n);
            int rc = ag_engine_open(&e, &shared.m, &c, &err);
            if (rc == AG_OK) rc = ag_gen_create(&g, e, &s, &err);
            if (rc == AG_OK) rc = ag_gen_submit(g, NULL, &err);
            if (rc == AG_OK && finish(g, ids, &got) == AG_GEN_FAILED) rc = ag_gen_error(g, &err);
            bool fired = ag_fault_disarm(kinds[k]);
            if (rc == AG_OK) {
                assert_int_equal(got, alone_n[4]);
                assert_memory_equal(ids, alone[4], got * sizeof *ids);
            } else {
                assert_true(fired);
                assert_true(err.text[0] != 0);
            }
            ag_gen_put(g);
            ag_engine_close(e);
            if (!fired) break;
        }
#endif
}

int main(void)
{
    tiny_model_open(&shared, true);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_alone_and_together), cmocka_unit_test(test_same_when_set_back),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_stops), cmocka_unit_test(test_cancel), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_told), cmocka_unit_test(test_told_in_many_mailboxes),
        cmocka_unit_test(test_close_with_work), cmocka_unit_test(test_damage_ends_what_it_had_a_part_in),
        cmocka_unit_test(test_faults),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    tiny_model_close(&shared);
    return rc;
}
