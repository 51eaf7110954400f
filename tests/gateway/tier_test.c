/* The cache's second tier with a real Redis behind it, to which things are done. */
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"
#include "gateway/tier_inner.h"

enum { TIERS = 2, PATIENT_MS = 20000, HASTY_MS = 20 };

/* Redis, started by us. */

static char folder[64], socket_path[96];
static pid_t redis_pid = -1;
static redisContext *side; /* a connection of the test's own */

static bool is_there(void) { return system("command -v redis-server >/dev/null 2>&1") == 0; }

static void side_open(void)
{
    if (side) redisFree(side);
    for (side = NULL; side == NULL || side->err; usleep(2000)) {
        if (side) redisFree(side);
        assert_int_equal(waitpid(redis_pid, NULL, WNOHANG), 0);
        side = redisConnectUnix(socket_path);
        assert_non_null(side);
    }
}

static void redis_start(const char *first, const char *second)
{
    if (redis_pid < 0) snprintf(folder, sizeof folder, "/tmp/autoglm-tier-XXXXXX"), assert_non_null(mkdtemp(folder));
    snprintf(socket_path, sizeof socket_path, "%s/redis.sock", folder);
    if ((redis_pid = fork()) == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        dup2(null, 2);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", socket_path, "--save", "", "--appendonly",
               "no", "--dir", folder, first, second, (char *)NULL);
        _exit(1);
    }
    assert_true(redis_pid > 0);
    side_open();
}

static void redis_kill(void)
{
    kill(redis_pid, SIGCONT);
    kill(redis_pid, SIGKILL);
    waitpid(redis_pid, NULL, 0);
    unlink(socket_path);
}

static void redis_end(void)
{
    redis_kill();
    redisFree(side);
    side = NULL;
    redis_pid = -1;
    DIR *d = opendir(folder);
    for (struct dirent *e; (e = readdir(d)) != NULL;) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    rmdir(folder);
}

/* What it says, as text; the next call's overwrites it. */
static const char *say(const char *format, ...)
{
    static char text[200];
    va_list args;
    va_start(args, format);
    redisReply *r = redisvCommand(side, format, args);
    va_end(args);
    if (r == NULL) fail_msg("Redis did not answer '%s': %s", format, side->errstr);
    if (r->type == REDIS_REPLY_INTEGER) snprintf(text, sizeof text, "%lld", r->integer);
    else snprintf(text, sizeof text, "%.199s", r->str ? r->str : "(nil)");
    freeReplyObject(r);
    return text;
}

/* Gateways, as far as the tier knows: two of them, on the loops of one server. */

static ag_http_server *server;
static ag_metrics *metrics[TIERS];
static ag_tier *tiers[TIERS];
static ag_log *logs;
static char log_path[96];
static const uint8_t secret[AG_TIER_SECRET_BYTES] = {42};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static char purged[TIERS][200];

#define UNTIL(e)                                                                                                       \
    while (!(e)) usleep(1000) /* in vain: the runner ends us, and says where */

static uint64_t count(uint32_t tier, ag_metric_id id)
{
    ag_tier_metrics(tiers[tier]);
    return ag_metric_get(metrics[tier], id, 0);
}

static void on_purged(void *arg, uint32_t loop AG_UNUSED, const ag_cache_key *k, uint64_t label)
{
    char *to = arg;
    size_t n = strlen(to);
    pthread_mutex_lock(&lock);
    if (k) snprintf(to + n, 200 - n, "k%u ", k->b[0]);
    else snprintf(to + n, 200 - n, "%s%u ", label ? "l" : "all", (unsigned)label);
    pthread_mutex_unlock(&lock);
}

typedef enum op { FIND, PUT, GIVE_UP, PURGE, PURGE_LABEL, LEAVE, LOOP_DONE } op;

typedef struct job {
    op op;
    uint32_t tier, loop;
    ag_cache_key key;
    uint64_t label;
    ag_cache_value *value;
    ag_cache_meta meta;
    ag_tier_call call;
    bool done;
} job;

static void job_done(void *arg)
{
    job *j = arg;
    pthread_mutex_lock(&lock);
    j->done = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void on_message(void *arg AG_UNUSED, ag_http_loop *l AG_UNUSED, void *msg)
{
    job *j = msg;
    ag_tier *t = tiers[j->tier];
    switch (j->op) {
    case FIND:
        j->call.done = job_done;
        j->call.arg = j;
        if (!ag_tier_find(t, j->loop, &j->key, ag_wall_us() / 1000, &j->call)) return;
        break;
    case PUT: ag_tier_put(t, j->loop, &j->key, j->value, &j->meta); break;
    case GIVE_UP: ag_tier_give_up(t, j->loop, &j->key); break;
    case PURGE: ag_tier_purge(t, j->loop, &j->key, 0); break;
    case PURGE_LABEL: ag_tier_purge(t, j->loop, NULL, j->label); break;
    case LEAVE: ag_tier_leave(&j->call); break;
    case LOOP_DONE: break;
    }
    job_done(j);
}

static void post(job *j)
{
    j->done = false;
    while (!ag_mbox_post(ag_http_loop_mbox(ag_http_server_loop(server, j->loop)), j)) usleep(1000);
}

static void wait_job(job *j)
{
    pthread_mutex_lock(&lock);
    while (!j->done) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void run(job *j)
{
    post(j);
    wait_job(j);
}

static ag_cache_key key_of(uint8_t n) { return (ag_cache_key){{n}}; }

static const char *result_of(const job *j)
{
    static char text[64];
    if (j->call.result != AG_TIER_HIT) return j->call.result == AG_TIER_OURS ? "ours" : "miss";
    snprintf(text, sizeof text, "%.*s", (int)AG_MIN(ag_cache_value_size(j->call.value), 60),
             (const char *)ag_cache_value_bytes(j->call.value));
    return text;
}

static void job_end(job *j)
{
    ag_cache_value_drop(j->call.value);
    j->call.value = NULL;
}

static void expect_find(uint32_t tier, uint8_t key, const char *want)
{
    job j = {.op = FIND, .tier = tier, .loop = key % 2, .key = key_of(key)};
    run(&j);
    assert_string_equal(result_of(&j), want);
    job_end(&j);
}

static ag_cache_value *value_of(const char *text, size_t more)
{
    ag_cache_value *v;
    assert_int_equal(ag_cache_value_make(&v, strlen(text) + more), AG_OK);
    memcpy(ag_cache_value_bytes(v), text, strlen(text));
    memset(ag_cache_value_bytes(v) + strlen(text), ' ', more);
    return v;
}

/* Made now, for a minute, of labels 5 and 6. */
static void put_value(uint32_t tier, uint8_t key, ag_cache_value *v)
{
    uint64_t now = ag_wall_us() / 1000;
    run(&(job){.op = PUT, .tier = tier, .loop = key % 2, .key = key_of(key), .value = v,
               .meta = {now, now + 30000, now + 60000, {5, 6}, 0}});
}

static void put(uint32_t tier, uint8_t key, const char *text, size_t more)
{
    ag_cache_value *v = value_of(text, more);
    put_value(tier, key, v);
    ag_cache_value_drop(v);
}

static void store(uint32_t tier, uint8_t key, const char *text)
{
    uint64_t before = count(tier, AG_M_TIER_STORED);
    put(tier, key, text, 0);
    UNTIL(count(tier, AG_M_TIER_STORED) == before + 1);
}

/* Its name in Redis. */
static const char *name(char kind, uint8_t key)
{
    static char text[100];
    snprintf(text, sizeof text, "t:%c:{%02x%062d}", kind, key, 0);
    return text;
}

static void on_head(void *arg AG_UNUSED, ag_http_stream *s AG_UNUSED, const ag_http_head *h AG_UNUSED,
                    void **user AG_UNUSED) {}
static void on_body(void *user AG_UNUSED, ag_http_stream *s AG_UNUSED, const char *p AG_UNUSED, size_t n AG_UNUSED) {}
static void on_event(void *user AG_UNUSED, ag_http_stream *s AG_UNUSED) {}

static int open_server(void)
{
    ag_err err = {0};
    ag_http_conf conf = {.host = "127.0.0.1", .loops = 2, .header_bytes_max = 4096, .headers_max = 32,
                         .target_bytes_max = 4096,
                         .body_bytes_max = 1 << 20, .header_timeout_ms = 20000, .body_timeout_ms = 20000,
                         .idle_timeout_ms = 20000, .write_timeout_ms = 20000, .connections_max = 20,
                         .connections_per_address_max = 20, .mailbox_cap = 64, .out_bytes_max = 1 << 16,
                         .h2_streams_max = 100, .h2_window_bytes = 1 << 18, .h2_connection_window_bytes = 1 << 20,
                         .tls_handshakes_max = 1000, .h2_resets_max = 1000, .h2_frames_max = 10000};
    ag_http_handler h = {.on_head = on_head, .on_body = on_body, .on_end = on_event, .on_gone = on_event,
                         .done = on_event, .on_message = on_message};
    return ag_http_server_open(&server, &conf, &h, &err);
}

static ag_tier_conf conf_of(uint32_t tier, const char *url)
{
    return (ag_tier_conf){.redis = url, .prefix = "t:", .secret = secret, .timeout_ms = PATIENT_MS,
                          .lock_ms = PATIENT_MS, .queue_bytes = 16 << 20, .purged = on_purged,
                          .purged_arg = purged[tier]};
}

static void begin_with(ag_tier_conf conf)
{
    ag_err err = {0};
    char url[128];
    snprintf(url, sizeof url, "unix://%s", socket_path);
    snprintf(log_path, sizeof log_path, "%s/log", folder);
    memset(purged, 0, sizeof purged);
    assert_int_equal(ag_log_open(&logs, &(ag_log_conf){.level = AG_LOG_INFO, .file = log_path}, &err), AG_OK);
    assert_int_equal(open_server(), AG_OK);
    for (uint32_t i = 0; i < TIERS; i++) {
        conf.redis = url;
        conf.purged_arg = purged[i];
        assert_int_equal(ag_metrics_open(&metrics[i], "1", ""), AG_OK);
        assert_int_equal(ag_tier_open(&tiers[i], &conf, metrics[i], logs, &err), AG_OK);
        assert_int_equal(ag_tier_join(tiers[i], server, &err), AG_OK);
    }
    assert_int_equal(ag_http_server_start(server, &err), AG_OK);
}

/* Two connections of each of two loops of both. */
static bool all_there(void)
{
    for (uint32_t i = 0; i < TIERS; i++)
        if (atomic_load(&tiers[i]->readers.n_there) != 2 || atomic_load(&tiers[i]->writers.n_there) != 2) return false;
    return true;
}

static int begin(void **state)
{
    (void)state;
    redis_start("--loglevel", "warning");
    begin_with(conf_of(0, NULL));
    UNTIL(all_there());
    return 0;
}

static int begin_hasty(void **state)
{
    (void)state;
    redis_start("--loglevel", "warning");
    ag_tier_conf conf = conf_of(0, NULL);
    conf.timeout_ms = HASTY_MS;
    begin_with(conf);
    UNTIL(all_there());
    return 0;
}

static void end_tiers(void)
{
    ag_http_server_stop(server, 0);
    ag_http_server_close(server);
    for (uint32_t i = 0; i < TIERS; i++) {
        ag_tier_close(tiers[i]);
        ag_metrics_close(metrics[i]);
    }
    ag_log_close(logs);
    unlink(log_path);
}

static int end(void **state)
{
    (void)state;
    end_tiers();
    redis_end();
    return 0;
}

/* The tests. */

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

static void while_one_computes_the_other_waits(void **state)
{
    (void)state;
    expect_find(0, 1, "ours");
    job waits = {.op = FIND, .tier = 1, .loop = 1, .key = key_of(1)};
    job leaves = {.op = FIND, .tier = 1, .key = key_of(1)};
    post(&waits);
    post(&leaves);
    UNTIL(count(1, AG_M_TIER_WAITED) == 2);
    leaves.op = LEAVE;
    run(&leaves);
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
    gone.op = LEAVE;
    run(&gone);
    kill(redis_pid, SIGCONT);
    expect_find(1, 4, "ours");
    /* A large value that is dropped gives its lock back. */
    put(1, 4, "large", AG_TIER_VALUE_MAX);
    expect_find(0, 4, "ours");
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
    UNTIL(strstr(purged[1], "k1 "));
    assert_string_equal(say("EXISTS %s", name('c', 1)), "0");
    expect_find(1, 2, "two");
    run(&(job){.op = PURGE_LABEL, .tier = 1, .label = 6});
    expect_find(1, 2, "miss");
    UNTIL(strstr(purged[0], "l6 "));
    expect_find(0, 3, "miss");
    next_ms();
    store(0, 3, "three again");
    expect_find(1, 3, "three again");
    /* All; lost with all that Redis had, and told again; by another's name as well. */
    say("DEL t:purged");
    say("RPUSH t:purged x");
    run(&(job){.op = PURGE_LABEL, .tier = 0, .label = 0});
    expect_find(0, 3, "miss");
    UNTIL(strstr(purged[1], "all0 "));
    expect_find(1, 3, "miss");
    say("FLUSHALL");
    UNTIL(atoi(say("EXISTS t:purged")));
    /* What is no purge of ours is heard by nobody, and taken away. */
    say("HSET t:purged hello 5 l0000000000000007 nonsense l0000000000000009 99999999999999");
    UNTIL(strcmp(say("HLEN t:purged"), "1") == 0);
    assert_null(strstr(purged[0], "l9"));
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

static bool logged(const char *text)
{
    char all[1 << 16];
    FILE *f = fopen(log_path, "r");
    size_t n = fread(all, 1, sizeof all - 1, f);
    fclose(f);
    all[n] = 0;
    return strstr(all, text) != NULL;
}

static void until_away(uint32_t tier, uint8_t key)
{
    uint64_t before = count(tier, AG_M_TIER_AWAY);
    while (count(tier, AG_M_TIER_AWAY) == before) expect_find(tier, key, "miss");
}

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
    left.op = LEAVE;
    run(&left);
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
    UNTIL(strstr(purged[1], "k1 "));
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
    static const char *const bad[] = {"rediss://h", "redis-sentinel://h/m", "http://h", ""};
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

static void stores_that_wait_are_bounded(void **state)
{
    (void)state;
    kill(redis_pid, SIGSTOP);
    enum { EACH = 1 << 20, SHARE = 8 << 20 };
    for (int i = 0; i < 20; i++) put(0, 2, "much", EACH);
    assert_true(count(0, AG_M_TIER_DROPPED) >= 20 - SHARE / EACH);
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
        cmocka_unit_test_setup_teardown(what_one_stores_the_other_finds, begin, end),
        cmocka_unit_test_setup_teardown(while_one_computes_the_other_waits, begin, end),
        cmocka_unit_test(a_lock_is_short),
        cmocka_unit_test_setup_teardown(what_is_not_ours_is_a_miss, begin, end),
        cmocka_unit_test_setup_teardown(purges_reach_the_others, begin, end),
        cmocka_unit_test_setup_teardown(a_redis_that_stands_still_is_a_miss, begin_hasty, end),
        cmocka_unit_test_setup_teardown(a_lock_that_comes_late_is_given_back, begin_hasty, end),
        cmocka_unit_test_setup_teardown(one_that_takes_nothing_is_read, begin, end),
        cmocka_unit_test_setup_teardown(one_that_is_busy_is_a_miss, begin_hasty, end),
        cmocka_unit_test(who_is_not_let_in_or_is_no_server_says_why),
        cmocka_unit_test_setup_teardown(stores_that_wait_are_bounded, begin, end),
        cmocka_unit_test_setup_teardown(many_go_together, begin, end),
        cmocka_unit_test(no_memory),
        cmocka_unit_test_setup_teardown(no_memory_for_a_request, begin, end),
    };
    if (!is_there()) {
        check_skipped(AG_ARRAY_LEN(tests), "redis-server is not installed");
        return 0;
    }
    cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
