/* tiered.h - for tests of the cache's second tier: a real Redis, and two gateways as far as the tier knows, on the two
 * loops of one server. */
#ifndef TIERED_H
#define TIERED_H

#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "gateway/tier_inner.h"

enum { TIERS = 2, PATIENT_MS = 20000, HASTY_MS = 500 };

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
    pthread_mutex_lock(&lock);
    size_t n = strlen(to);
    if (k) snprintf(to + n, 200 - n, "k%u ", k->b[0]);
    else snprintf(to + n, 200 - n, "%s%u ", label ? "l" : "all", (unsigned)label);
    pthread_mutex_unlock(&lock);
}

static bool heard(uint32_t tier, const char *word)
{
    pthread_mutex_lock(&lock);
    bool yes = strstr(purged[tier], word) != NULL;
    pthread_mutex_unlock(&lock);
    return yes;
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
    struct job *whom; /* LEAVE */
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
    case LEAVE: ag_tier_leave(&j->whom->call); break;
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
    UNTIL(count(tier, AG_M_TIER_STORED) > before); /* what was put before may be stored as well */
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

AG_UNUSED static int begin_hasty(void **state)
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

AG_UNUSED static bool logged(const char *text)
{
    char all[1 << 16];
    FILE *f = fopen(log_path, "r");
    size_t n = fread(all, 1, sizeof all - 1, f);
    fclose(f);
    all[n] = 0;
    return strstr(all, text) != NULL;
}

AG_UNUSED static void until_away(uint32_t tier, uint8_t key)
{
    uint64_t before = count(tier, AG_M_TIER_AWAY);
    while (count(tier, AG_M_TIER_AWAY) == before) expect_find(tier, key, "miss");
}

#define TIERED(f) cmocka_unit_test_setup_teardown(f, begin, end)
#define TIERED_HASTY(f) cmocka_unit_test_setup_teardown(f, begin_hasty, end)

#endif
