/* The cache's second tier with a real Redis behind it: what it finds, keeps, waits for and forgets. */
#include "tiered.h"

#include "base/fault.h"

static void what_one_stores_the_other_finds(void **state)
{
    (void)state;
    expect_find(0, 1, "ours");
    store(0, 1, "one");
    job j = {.op = FIND, .tier = 1, .loop = 0, .key = key_of(1)};
    run(&j);
    assert_string_equal(result_of(&j), "one");
    assert_int_equal(j.call.meta.stale_until_ms - j.call.meta.made_ms, 60000);
    assert_int_equal(j.call.meta.labels[1], 6);
    job_end(&j);
    int ttl = atoi(say("PTTL %s", name('c', 1)));
    assert_true(ttl > 0 && ttl <= 60000);
    assert_string_equal(say("EXISTS %s", name('l', 1)), "0");
    assert_int_equal(count(1, AG_M_TIER_HITS), 1);
    assert_int_equal(count(0, AG_M_TIER_MISSES), 1);
    /* What is too old already, or too large, is not stored. */
    uint64_t now = ag_wall_us() / 1000;
    job old = {.op = PUT, .tier = 0, .loop = 0, .key = key_of(2), .value = value_of("old", 0),
               .meta = {now - 3, now - 2, now - 1, {0}, 0}};
    run(&old);
    ag_cache_value_drop(old.value);
    put(0, 2, "large", AG_TIER_VALUE_MAX);
    UNTIL(count(0, AG_M_TIER_DROPPED) == 2);
    expect_find(0, 2, "ours");
}

static bool is_computed(void *arg AG_UNUSED) { return true; }

static void while_one_computes_the_other_waits(void **state)
{
    (void)state;
    expect_find(0, 1, "ours");
    job waits = {.op = FIND, .tier = 1, .loop = 1, .key = key_of(1)};
    job leaves = {.op = FIND, .tier = 1, .key = key_of(1)};
    post(&waits);
    post(&leaves);
    UNTIL(count(1, AG_M_TIER_WAITED) == 2);
    run(&(job){.op = LEAVE, .tier = 1, .whom = &leaves});
    store(0, 1, "one");
    wait_job(&waits);
    assert_string_equal(result_of(&waits), "one");
    job_end(&waits);
    /* Nothing comes of it: the one who waited computes. */
    expect_find(0, 2, "ours");
    job heir = {.op = FIND, .tier = 1, .key = key_of(2)};
    post(&heir);
    UNTIL(count(1, AG_M_TIER_WAITED) == 3);
    run(&(job){.op = GIVE_UP, .tier = 0, .key = key_of(2)});
    wait_job(&heir);
    assert_string_equal(result_of(&heir), "ours");
    /* Another's lock is not given back. */
    run(&(job){.op = GIVE_UP, .tier = 0, .key = key_of(2)});
    store(0, 3, "so that it was done");
    assert_string_equal(say("EXISTS %s", name('l', 2)), "1");
    /* One who leaves while asked about gives the lock back that comes for nobody. */
    job gone = {.op = FIND, .tier = 0, .key = key_of(4)};
    kill(redis_pid, SIGSTOP);
    post(&gone);
    run(&(job){.op = LOOP_DONE});
    run(&(job){.op = LEAVE, .tier = 0, .whom = &gone});
    kill(redis_pid, SIGCONT);
    expect_find(1, 4, "ours");
    /* A large value that is dropped gives its lock back. */
    put(1, 4, "large", AG_TIER_VALUE_MAX);
    expect_find(0, 4, "ours");
    /* What another loop of this server computes is waited for there, and stays locked. */
    job beside = {.op = FIND, .tier = 0, .loop = 1, .key = key_of(4), .call.computed_here = is_computed};
    run(&beside);
    assert_string_equal(result_of(&beside), "miss");
    assert_string_equal(say("EXISTS %s", name('l', 4)), "1");
}

static void a_lock_is_short(void **state)
{
    (void)state;
    redis_start("--loglevel", "warning");
    ag_tier_conf conf = conf_of(0, NULL);
    conf.lock_ms = 60;
    begin_with(conf);
    UNTIL(all_there());
    expect_find(0, 1, "ours");
    job j = {.op = FIND, .tier = 1, .loop = 1, .key = key_of(1)};
    run(&j);
    /* Its time is over: here, or in Redis, whichever was first. */
    assert_true(j.call.result == AG_TIER_MISS || j.call.result == AG_TIER_OURS);
    end_tiers();
    conf.lock_ms = 0;
    begin_with(conf);
    UNTIL(all_there());
    expect_find(0, 1, "miss");
    expect_find(1, 1, "miss");
    end(state);
}

static void what_is_not_ours_is_a_miss(void **state)
{
    (void)state;
    char bytes[4096];
    say("SET %s %s", name('c', 1), "hello");
    expect_find(0, 1, "miss");
    say("RPUSH %s x", name('c', 2));
    expect_find(0, 2, "ours");
    say("SET %s %s", name('c', 3), "");
    expect_find(0, 3, "ours");
    say("SETRANGE %s %d x", name('c', 4), AG_TIER_PACKED_MAX);
    expect_find(0, 4, "ours");
    assert_int_equal(count(0, AG_M_TIER_FOREIGN), 3);
    /* A bit; another key's value; another version. */
    store(0, 5, "five");
    redisReply *r = redisCommand(side, "GET %s", name('c', 5));
    assert_true(r && r->type == REDIS_REPLY_STRING && r->len < sizeof bytes);
    size_t n = r->len;
    memcpy(bytes, r->str, n);
    freeReplyObject(r);
    expect_find(1, 5, "five");
    say("SET %s %b", name('c', 6), bytes, n);
    expect_find(1, 6, "miss");
    bytes[n - 1] ^= 4;
    say("SET %s %b", name('c', 5), bytes, n);
    expect_find(1, 5, "miss");
    bytes[n - 1] ^= 4;
    bytes[0]++;
    say("SET %s %b", name('c', 5), bytes, n);
    expect_find(1, 5, "miss");
    assert_int_equal(count(1, AG_M_TIER_FOREIGN), 3);
    /* A lock of another kind is none of anybody's; a store mends what it finds. */
    say("RPUSH %s x", name('l', 7));
    job j = {.op = FIND, .tier = 0, .key = key_of(7)};
    post(&j);
    UNTIL(count(0, AG_M_TIER_WAITED) == 1);
    store(1, 7, "seven");
    wait_job(&j);
    assert_string_equal(result_of(&j), "seven");
    job_end(&j);
    store(0, 2, "two");
    expect_find(1, 2, "two");
    assert_int_equal(count(0, AG_M_TIER_FAILED) + count(0, AG_M_TIER_AWAY), 0);
}

/* What is made in the moment of a purge is purged. */
static void next_ms(void)
{
    for (uint64_t now = ag_wall_us() / 1000; ag_wall_us() / 1000 == now;) usleep(100);
}

static void purges_reach_the_others(void **state)
{
    (void)state;
    store(0, 1, "one");
    store(0, 2, "two");
    store(0, 3, "three");
    run(&(job){.op = PURGE, .tier = 0, .loop = 1, .key = key_of(1)});
    expect_find(0, 1, "ours"); /* at once; and the value is gone */
    UNTIL(heard(1, "k1 "));
    assert_string_equal(say("EXISTS %s", name('c', 1)), "0");
    expect_find(1, 2, "two");
    run(&(job){.op = PURGE_LABEL, .tier = 1, .label = 6});
    expect_find(1, 2, "miss");
    UNTIL(heard(0, "l6 "));
    expect_find(0, 3, "miss");
    next_ms();
    store(0, 3, "three again");
    expect_find(1, 3, "three again");
    /* All; lost with all that Redis had, and told again; by another's name as well. */
    say("DEL t:purged");
    say("RPUSH t:purged x");
    run(&(job){.op = PURGE_LABEL, .tier = 0, .label = 0});
    expect_find(0, 3, "miss");
    UNTIL(heard(1, "all0 "));
    expect_find(1, 3, "miss");
    say("FLUSHALL");
    UNTIL(atoi(say("EXISTS t:purged")));
    /* What is no purge of ours is heard by nobody, and taken away. */
    say("HSET t:purged hello 5 l0000000000000007 nonsense l0000000000000009 99999999999999");
    UNTIL(strcmp(say("HLEN t:purged"), "1") == 0);
    assert_false(heard(0, "l9"));
    /* One who comes later hears of them before its first answer. */
    next_ms();
    store(0, 9, "nine");
    end_tiers();
    char text[21];
    snprintf(text, sizeof text, "%llu", (unsigned long long)ag_wall_us() / 1000);
    say("HSET t:purged l0000000000000005 %s", text);
    begin_with(conf_of(0, NULL));
    UNTIL(all_there());
    expect_find(1, 9, "miss");
}

static void stores_that_wait_are_bounded(void **state)
{
    (void)state;
    kill(redis_pid, SIGSTOP);
    enum { EACH = 1 << 20, SHARE = 8 << 20 };
    for (int i = 0; i < 20; i++) put(0, 2, "much", EACH);
    uint64_t lost = count(0, AG_M_TIER_DROPPED) + count(0, AG_M_TIER_STORE_FAILED); /* the latter if it takes long */
    assert_true(lost >= 20 - SHARE / EACH);
    assert_true(count(0, AG_M_TIER_QUEUE) <= SHARE + 20 * sizeof(ag__tier_put));
    kill(redis_pid, SIGCONT);
    UNTIL(count(0, AG_M_TIER_QUEUE) == 0);
    UNTIL(all_there());
    store(0, 1, "one");
    /* A loop that ends drops what waits. */
    kill(redis_pid, SIGSTOP);
    for (int i = 0; i < 5; i++) put(0, 2, "much", EACH);
    static job j; /* told when this function is over */
    j = (job){.op = FIND, .tier = 0, .key = key_of(1)};
    post(&j);
    run(&(job){.op = LOOP_DONE});
}

static void many_go_together(void **state)
{
    (void)state;
    enum { N = 250 };
    char text[N][16];
    for (int i = 0; i < N; i++) {
        snprintf(text[i], sizeof text[i], "v%d", i);
        put(0, (uint8_t)i, text[i], 0);
    }
    UNTIL(count(0, AG_M_TIER_STORED) == N);
    for (int i = 0; i < N; i++) expect_find(1, (uint8_t)i, text[i]);
}

static void no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    bool fired = true;
    for (uint32_t n = 1; fired; n++) {
        ag_err err = {0};
        ag_tier *t = NULL;
        ag_tier_conf conf = conf_of(0, "unix:///nowhere");
        assert_int_equal(open_server(), AG_OK);
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_tier_open(&t, &conf, NULL, NULL, &err);
        if (rc == AG_OK) rc = ag_tier_join(t, server, &err);
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        assert_true(!fired || err.text[0]);
        ag_http_server_close(server);
        ag_tier_close(t);
    }
#endif
}

/* A lookup or store for which there is none comes to nothing, and the next is served. */
static void no_memory_for_a_request(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    store(0, 1, "one");
    bool fired = true;
    ag_cache_value *v = value_of("one", 0);
    for (uint32_t n = 1; fired || n < 10; n++) {
        ag_fault_arm(AG_FAULT_ALLOC, n);
        job j = {.op = FIND, .tier = 0, .loop = 1, .key = key_of(1)};
        run(&j);
        uint64_t before = count(0, AG_M_TIER_STORED) + count(0, AG_M_TIER_STORE_FAILED) + count(0, AG_M_TIER_DROPPED);
        put_value(0, 1, v);
        UNTIL(count(0, AG_M_TIER_STORED) + count(0, AG_M_TIER_STORE_FAILED) + count(0, AG_M_TIER_DROPPED) > before);
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_true(j.call.result != AG_TIER_HIT || strcmp(result_of(&j), "one") == 0);
        job_end(&j);
        UNTIL(all_there());
    }
    ag_cache_value_drop(v);
    expect_find(0, 1, "one");
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TIERED(what_one_stores_the_other_finds),
        TIERED(while_one_computes_the_other_waits),
        cmocka_unit_test(a_lock_is_short),
        TIERED(what_is_not_ours_is_a_miss),
        TIERED(purges_reach_the_others),
        TIERED(stores_that_wait_are_bounded),
        TIERED(many_go_together),
        cmocka_unit_test(no_memory),
        TIERED(no_memory_for_a_request),
    };
    if (!is_there()) {
        check_skipped(AG_ARRAY_LEN(tests), "redis-server is not installed");
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
