/* The cache's second tier, and a real Redis that is not well. */
#include "tiered.h"

static void a_redis_that_stands_still_is_a_miss(void **state)
{
    (void)state;
    store(0, 1, "one");
    uint64_t before = count(0, AG_M_TIER_FAILED);
    kill(redis_pid, SIGSTOP);
    until_away(0, 1);
    assert_true(count(0, AG_M_TIER_FAILED) > before);
    kill(redis_pid, SIGCONT);
    UNTIL(all_there());
    expect_find(0, 1, "one");
    /* One that is killed, and started without what it knew. Who waits does no longer. */
    expect_find(0, 2, "ours");
    job j = {.op = FIND, .tier = 1, .loop = 1, .key = key_of(2)};
    post(&j);
    UNTIL(count(1, AG_M_TIER_WAITED) == 1);
    redis_kill();
    wait_job(&j);
    assert_string_equal(result_of(&j), "miss");
    until_away(0, 1);
    put(0, 1, "nobody hears", 0);
    UNTIL(logged("Redis cannot be used") && logged("Redis takes no answers"));
    redis_start("--loglevel", "warning");
    UNTIL(all_there());
    UNTIL(logged("Answers are looked for in Redis again") && logged("Answers are stored in Redis again"));
    expect_find(0, 1, "ours");
    store(0, 1, "one");
    expect_find(1, 1, "one");
}

/* Who left, and whose answer came too late for anybody, holds no lock. */
static void a_lock_that_comes_late_is_given_back(void **state)
{
    (void)state;
    enum { LEFT = 2, NEXT = 4, LAST = 6 }; /* keys of one loop */
    job left = {.op = FIND, .tier = 0, .key = key_of(LEFT)};
    kill(redis_pid, SIGSTOP);
    post(&left);
    run(&(job){.op = LOOP_DONE});
    run(&(job){.op = LEAVE, .tier = 0, .whom = &left});
    expect_find(0, NEXT, "miss"); /* its time was over later */
    kill(redis_pid, SIGCONT);
    UNTIL(all_there());
    store(0, LAST, "behind it on one connection");
    uint64_t hits = count(0, AG_M_TIER_HITS);
    while (count(0, AG_M_TIER_HITS) == hits) { /* and on the other */
        job j = {.op = FIND, .tier = 0, .key = key_of(LAST)};
        run(&j);
        job_end(&j);
    }
    assert_string_equal(say("EXISTS %s", name('l', LEFT)), "0");
}

static void one_that_takes_nothing_is_read(void **state)
{
    (void)state;
    store(0, 1, "one");
    say("CONFIG SET maxmemory 1");
    while (atomic_load(&tiers[0]->writers.n_there) == 2) put(0, 3, "three", 0), usleep(2000);
    assert_true(count(0, AG_M_TIER_STORE_FAILED) >= AG_REDIS_FAILS);
    expect_find(0, 1, "one");
    expect_find(0, 5, "miss"); /* no lock can be had */
    expect_find(1, 1, "one");
    UNTIL(logged("OOM"));
    say("CONFIG SET maxmemory 0");
    UNTIL(all_there());
    store(0, 3, "three");
    /* A replica. */
    say("REPLICAOF 127.0.0.1 1");
    while (atomic_load(&tiers[0]->writers.n_there) == 2) put(0, 3, "again", 0), usleep(2000);
    expect_find(0, 1, "one");
    expect_find(1, 3, "three");
    run(&(job){.op = PURGE, .tier = 0, .key = key_of(1)});
    expect_find(0, 1, "miss"); /* here at least; and there as soon as it can be written */
    say("REPLICAOF NO ONE");
    UNTIL(heard(1, "k1 "));
    UNTIL(all_there());
    store(0, 3, "again");
    assert_int_equal(count(0, AG_M_TIER_AWAY), 0);
}

static void *busy_main(void *arg AG_UNUSED)
{
    redisContext *c = redisConnectUnix(socket_path);
    freeReplyObject(redisCommand(c, "EVAL %s 0", "while true do end"));
    redisFree(c);
    return NULL;
}

static void one_that_is_busy_is_a_miss(void **state)
{
    (void)state;
    pthread_t busy;
    store(0, 1, "one");
    say("CONFIG SET busy-reply-threshold 50");
    pthread_create(&busy, NULL, busy_main, NULL);
    UNTIL(strncmp(say("PING"), "BUSY", 4) == 0);
    until_away(0, 1);
    until_away(1, 1);
    say("SCRIPT KILL");
    pthread_join(busy, NULL);
    UNTIL(all_there());
    expect_find(0, 1, "one");
    /* Scripts are forgotten: they are sent again. */
    say("SCRIPT FLUSH");
    expect_find(0, 1, "one");
}

static void expect_reason(const char *flag, const char *value, const char *why)
{
    redis_start(flag, value);
    begin_with(conf_of(0, NULL));
    UNTIL(logged(why));
    expect_find(0, 1, "miss");
    put(0, 1, "one", 0);
    assert_int_equal(count(0, AG_M_TIER_AWAY), 1);
    end_tiers();
    redis_end();
}

static void who_is_not_let_in_or_is_no_server_says_why(void **state)
{
    (void)state;
    expect_reason("--requirepass", "sesame", "NOAUTH");
    expect_reason("--cluster-enabled", "yes", "a node of a Redis Cluster, which is not followed");
    ag_err err = {0};
    ag_tier *t;
    static const char *const bad[] = {"rediss+sentinel://h", "redis-sentinel://h/m", "http://h", ""};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        ag_tier_conf conf = conf_of(0, bad[i]);
        assert_int_equal(ag_tier_open(&t, &conf, NULL, NULL, &err), AG_E_USAGE);
    }
    ag_tier_conf conf = conf_of(0, "redis://h");
    conf.prefix = "0123456789012345678901234567890123456789012345678901234567890123";
    assert_int_equal(ag_tier_open(&t, &conf, NULL, NULL, &err), AG_E_USAGE);
    conf = conf_of(0, "redis://h");
    conf.password_file = "/nowhere";
    assert_int_equal(ag_tier_open(&t, &conf, NULL, NULL, &err), AG_E_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TIERED_HASTY(a_redis_that_stands_still_is_a_miss),
        TIERED_HASTY(a_lock_that_comes_late_is_given_back),
        TIERED(one_that_takes_nothing_is_read),
        TIERED_HASTY(one_that_is_busy_is_a_miss),
        cmocka_unit_test(who_is_not_let_in_or_is_no_server_says_why),
    };
    if (!is_there()) {
        check_skipped(AG_ARRAY_LEN(tests), "redis-server is not installed");
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
