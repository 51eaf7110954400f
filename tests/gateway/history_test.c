/* The access log: what its modes keep, what is counted of it, how it goes round, and what a full disk, a torn line and
 * a forged one come to. */
#include "gateway/history.c"

#include <signal.h>
#include <sys/resource.h>

#include "check.h"

static char dir[64], path[128];

static ag_history_conf conf_of(ag_history_mode mode)
{
    return (ag_history_conf){.mode = mode, .path = path, .bytes_max = AG_HISTORY_BYTES_MIN, .files_max = 3};
}

static ag_history *open_history(const ag_history_conf *c)
{
    ag_history *h = NULL;
    ag_err err = {0};
    if (ag_history_open(&h, c, NULL, NULL, &err) != AG_OK) fail_msg("%s", err.text);
    while (!ag_history_known(h)) sched_yield();
    return h;
}

static void clear(void)
{
    char name[PATH_MAX_BYTES + 16];
    for (uint32_t i = 0; i < 12; i++) {
        snprintf(name, sizeof name, i ? "%s.%u" : "%s", path, i);
        unlink(name);
    }
    snprintf(name, sizeof name, "%s.key", path);
    unlink(name);
}

static ag_cache_key key_of(uint32_t n)
{
    ag_cache_key k = {{0}};
    for (size_t i = 0; i < sizeof k.b; i++) k.b[i] = (uint8_t)(n * 131 + i * 7 + n / 256);
    memcpy(k.b, &n, sizeof n);
    return k;
}

static uint32_t number_of(const ag_cache_key *k)
{
    uint32_t n;
    memcpy(&n, k->b, sizeof n);
    return n;
}

static void add(ag_history *h, uint32_t n, const char *body)
{
    ag_history_record r = {.time_ms = 1700000000000 + n, .key = key_of(n), .route = AG_STR("chat_completions"),
                           .tenant = AG_STR("acme"), .model = AG_STR("tiny"), .body = ag_str_of(body)};
    ag_history_add(h, &r);
}

static void wait_for(ag_history *h, uint64_t records)
{
    ag_history_stats s;
    do ag_history_stats_get(h, &s);
    while (s.written + s.dropped < records && sched_yield() == 0);
    assert_int_equal(s.written + s.dropped, records);
}

static size_t size_of(const char *name)
{
    struct stat st;
    return stat(name, &st) == 0 ? (size_t)st.st_size : 0;
}

static char *read_file_at(const char *name, size_t *n)
{
    static char all[1 << 20];
    FILE *f = fopen(name, "r");
    *n = f ? fread(all, 1, sizeof all - 1, f) : 0;
    if (f) fclose(f);
    all[*n] = 0;
    return all;
}

/* ---- lines ---- */

static void test_lines(void **state)
{
    (void)state;
    const ag_history_record records[] = {
        {.time_ms = 0, .route = AG_STR("r"), .tenant = {0}, .model = AG_STR("-"), .body = {0}},
        {.time_ms = 1700000000123, .key = key_of(7), .route = AG_STR("chat_completions"),
         .tenant = AG_STR("a b%c\n\xc3\xbc"),
         .model = AG_STR("GLM-4 (q8).gguf"), .share = AG_STR("team"), .body = AG_STR("{\"messages\": [ \"x y\\n\" ]}")},
        {.time_ms = UINT64_MAX / 2, .key = key_of(1), .route = AG_STR("--"), .tenant = AG_STR("%"),
         .model = AG_STR(" "), .body = AG_STR(" ")},
    };
    ag_buf line, text;
    ag_buf_init(&line, AG_HISTORY_LINE_MAX + 64);
    ag_buf_init(&text, AG_HISTORY_LINE_MAX);
    for (size_t i = 0; i < AG_ARRAY_LEN(records); i++) {
        ag_history_record got;
        ag_buf_reset(&line);
        assert_true(ag__history_line_write(&line, &records[i]));
        assert_null(memchr(line.p, '\n', line.n));
        assert_true(ag__history_line_read(ag_buf_str(&line), &got, &text));
        assert_int_equal(got.time_ms, records[i].time_ms);
        assert_memory_equal(&got.key, &records[i].key, sizeof got.key);
        assert_true(ag_str_eq(got.route, records[i].route) && ag_str_eq(got.tenant, records[i].tenant));
        assert_true(ag_str_eq(got.model, records[i].model) && ag_str_eq(got.share, records[i].share));
        assert_true(ag_str_eq(got.body, records[i].body));
        for (size_t at = 0; at < line.n; at++) { /* whatever bit is wrong */
            line.p[at] ^= (char)(1 << at % 7);
            assert_false(ag__history_line_read(ag_buf_str(&line), &got, &text));
            line.p[at] ^= (char)(1 << at % 7);
        }
        for (size_t n = 0; n < line.n; n++) assert_false(ag__history_line_read((ag_str){line.p, n}, &got, &text));
    }
    char *long_body = calloc(1, AG_HISTORY_LINE_MAX);
    ag_history_record r = records[1];
    ag_buf_reset(&line);
    r.body = (ag_str){long_body, AG_HISTORY_LINE_MAX};
    assert_false(ag__history_line_write(&line, &r));
    free(long_body);
    ag_buf_fini(&line);
    ag_buf_fini(&text);
}

/* ---- modes ---- */

static void test_full(void **state)
{
    (void)state;
    size_t n;
    struct stat st;
    ag_hot_key top[8];
    ag_history_record r;
    ag_buf text;
    clear();
    ag_history_conf c = conf_of(AG_HISTORY_FULL);
    ag_history *h = open_history(&c);
    uint8_t secret[32];
    memcpy(secret, ag_history_secret(h), sizeof secret);
    add(h, 1, "{\"prompt\":\n\"a secret\"}");
    add(h, 2, "{\"prompt\": \"another\"}");
    add(h, 1, "{\"prompt\":\n\"a secret\"}");
    wait_for(h, 3);
    assert_non_null(strstr(read_file_at(path, &n), "a secret"));
    ag_buf_init(&text, AG_HISTORY_LINE_MAX);
    for (int run = 0; run < 2; run++) { /* as it came, and read back by the next */
        assert_int_equal(ag_history_top(h, top, 8), 2);
        assert_int_equal(number_of(&top[0].key), 1);
        assert_int_equal(top[0].count, 2);
        assert_true(ag_history_get(h, &top[0], &r, &text));
        assert_true(ag_str_eqz(r.body, "{\"prompt\": \"a secret\"}")); /* on one line */
        assert_true(ag_str_eqz(r.route, "chat_completions") && ag_str_eqz(r.tenant, "acme") &&
                    ag_str_eqz(r.model, "tiny"));
        assert_int_equal(r.time_ms, 1700000000001);
        top[0].key.b[9] ^= 1;
        assert_false(ag_history_get(h, &top[0], &r, &text)); /* a place that has another's record now */
        ag_history_close(h);
        h = open_history(&c);
        assert_memory_equal(ag_history_secret(h), secret, sizeof secret);
    }
    ag_history_close(h);
    ag_buf_fini(&text);
    assert_true(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600);
    char key[160];
    snprintf(key, sizeof key, "%s.key", path);
    assert_true(stat(key, &st) == 0 && (st.st_mode & 07777) == 0600);
}

static void test_hashes(void **state)
{
    (void)state;
    size_t n;
    ag_hot_key top[8];
    ag_history_record r;
    ag_buf text;
    clear();
    ag_history_conf c = conf_of(AG_HISTORY_HASHES);
    ag_history *h = open_history(&c);
    add(h, 1, "{\"prompt\": \"a secret\"}");
    add(h, 1, "{\"prompt\": \"a secret\"}");
    wait_for(h, 2);
    char *all = read_file_at(path, &n);
    assert_null(strstr(all, "secret"));
    assert_non_null(strstr(all, "acme"));
    ag_buf_init(&text, AG_HISTORY_LINE_MAX);
    assert_int_equal(ag_history_top(h, top, 8), 1);
    assert_int_equal(top[0].count, 2);
    assert_false(ag_history_get(h, &top[0], &r, &text));
    ag_buf_fini(&text);
    ag_history_close(h);
    ag_history_mode mode;
    assert_true(ag_history_mode_find("off", &mode) && mode == AG_HISTORY_OFF);
    assert_false(ag_history_mode_find("some", &mode));
}

/* ---- rotation ---- */

static void test_rotation(void **state)
{
    (void)state;
    enum { RECORDS = 90, BODY = 200 << 10 };
    static char body[BODY + 1];
    char name[PATH_MAX_BYTES + 16];
    clear();
    ag_history_conf c = conf_of(AG_HISTORY_FULL);
    ag_history *h = open_history(&c);
    memset(body, 'x', BODY);
    for (uint32_t i = 0; i < RECORDS; i++) {
        add(h, i, body);
        if (i % 10 == 9) wait_for(h, i + 1);
    }
    for (int run = 0; run < 2; run++) {
        size_t all = 0;
        for (uint32_t i = 0; i < 3; i++) {
            path_of(h, i, name);
            assert_in_range(size_of(name), i ? AG_HISTORY_BYTES_MIN - 2 * BODY : 1, AG_HISTORY_BYTES_MIN);
            all += size_of(name) / BODY;
        }
        path_of(h, 3, name);
        assert_int_equal(size_of(name), 0); /* no more files than were asked for */
        static ag_hot_key top[RECORDS];
        uint32_t n = ag_history_top(h, top, RECORDS), there = 0;
        assert_int_equal(n, run ? all : RECORDS);
        ag_buf text;
        ag_history_record r;
        ag_buf_init(&text, AG_HISTORY_LINE_MAX);
        for (uint32_t i = 0; i < n; i++) {
            bool got = ag_history_get(h, &top[i], &r, &text);
            if (got) assert_int_equal(r.time_ms - 1700000000000, number_of(&top[i].key));
            /* places are right whatever a file is called */
            assert_int_equal(got, number_of(&top[i].key) >= RECORDS - all);
            there += got;
        }
        assert_int_equal(there, all);
        ag_buf_fini(&text);
        ag_history_close(h);
        h = open_history(&c);
    }
    ag_history_close(h);
    c.files_max = 1; /* fewer than before, and then one that starts over */
    h = open_history(&c);
    for (uint32_t i = 0; i < 40; i++) {
        add(h, i, body);
        wait_for(h, i + 1);
    }
    assert_in_range(size_of(path), 1, AG_HISTORY_BYTES_MIN);
    ag_history_close(h);
}

/* ---- what is found at the start ---- */

static void append(const char *text, size_t n)
{
    FILE *f = fopen(path, "a");
    fwrite(text, 1, n, f);
    fclose(f);
}

static void test_torn_and_damaged(void **state)
{
    (void)state;
    size_t n;
    ag_history_stats s;
    ag_hot_key top[16];
    clear();
    ag_history_conf c = conf_of(AG_HISTORY_FULL);
    ag_history *h = open_history(&c);
    for (uint32_t i = 0; i < 5; i++) add(h, i, "{\"prompt\": \"text\"}");
    ag_history_close(h);
    size_t whole = size_of(path);
    char *all = read_file_at(path, &n), copy[64];
    char *second = strchr(all, '\n') + 1;
    memcpy(copy, all, sizeof copy);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "Z", 1, second - all + 40), 1); /* inside of the second line */
    close(fd);
    append("\n\n!\n", 4);              /* empty lines are none */
    append(copy, sizeof copy);         /* a torn end */
    h = open_history(&c);
    ag_history_stats_get(h, &s);
    assert_int_equal(s.damaged, 3);
    assert_int_equal(ag_history_top(h, top, 16), 4);
    add(h, 9, "{\"prompt\": \"after\"}"); /* stands on a line of its own */
    ag_history_close(h);
    assert_int_equal(size_of(path), whole + 4 + whole / 5 + 1);
    h = open_history(&c);
    ag_history_stats_get(h, &s);
    assert_int_equal(s.damaged, 2);
    assert_int_equal(ag_history_top(h, top, 16), 5);
    ag_history_close(h);
    /* A line without end, and bytes of any kind. */
    char *junk = malloc(5 << 20);
    for (size_t i = 0; i < 5 << 20; i++) junk[i] = (char)('a' + i % 26);
    append(junk, 5 << 20);
    append("\n", 1);
    free(junk);
    h = open_history(&c);
    add(h, 1, "{}");
    ag_history_close(h);
    h = open_history(&c);
    assert_in_range(ag_history_top(h, top, 16), 1, 6);
    ag_history_close(h);
}

static void test_not_ours(void **state)
{
    (void)state;
    ag_err err = {0};
    ag_history *h = NULL, *other = NULL;
    clear();
    ag_history_conf c = conf_of(AG_HISTORY_FULL);
    h = open_history(&c);
    assert_int_equal(ag_history_open(&other, &c, NULL, NULL, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "another server's"));
    ag_history_close(h);
    ag_err_clear(&err);
    unlink(path);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    assert_int_equal(ag_history_open(&other, &c, NULL, NULL, &err), AG_E_IO);
    unlink(path);
    ag_err_clear(&err);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(ag_history_open(&other, &c, NULL, NULL, &err), AG_E_USAGE);
    unlink(path);
    ag_err_clear(&err);
    c.path = "/tmp/there-is-no-such-folder/log";
    assert_int_equal(ag_history_open(&other, &c, NULL, NULL, &err), AG_E_IO);
    ag_err_clear(&err);
    c.path = "";
    assert_int_equal(ag_history_open(&other, &c, NULL, NULL, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "--history-file"));
}

/* ---- disks ---- */

static void test_full_disk(void **state)
{
    (void)state;
    char log_path[96];
    size_t n;
    struct rlimit before, small;
    ag_history *h = NULL;
    ag_log *log = NULL;
    ag_history_stats s;
    clear();
    snprintf(log_path, sizeof log_path, "%s/log", dir);
    ag_log_conf lc = {.format = AG_LOG_TEXT, .level = AG_LOG_INFO, .file = log_path};
    assert_int_equal(ag_log_open(&log, &lc, NULL), AG_OK);
    ag_history_conf c = conf_of(AG_HISTORY_FULL);
    assert_int_equal(ag_history_open(&h, &c, NULL, log, NULL), AG_OK);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){.rlim_cur = 5000, .rlim_max = before.rlim_max};
    add(h, 0, "{\"prompt\": \"first\"}");
    wait_for(h, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (uint32_t i = 1; i < 200; i++) {
        add(h, i, "{\"prompt\": \"some text that takes its place in the file, until there is none\"}");
        wait_for(h, i + 1);
    }
    assert_in_range(size_of(path), 1, 5000);
    ag_history_stats_get(h, &s);
    assert_in_range(s.written, 2, 40);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
    uint64_t written = s.written;
    for (uint32_t i = 200; i < 210; i++) add(h, i, "{}");
    wait_for(h, 210);
    ag_history_stats_get(h, &s);
    assert_int_equal(s.written, written + 10);
    assert_int_equal(s.bytes, size_of(path));
    ag_history_close(h);
    ag_log_close(log);
    char *said = read_file_at(log_path, &n), *once = strstr(said, "cannot be written");
    assert_non_null(once);
    assert_null(strstr(once + 1, "cannot be written"));
    assert_non_null(strstr(said, "written again"));
    unlink(log_path);
    h = open_history(&c); /* nothing is torn */
    ag_history_stats_get(h, &s);
    assert_int_equal(s.damaged, 0);
    ag_history_close(h);
}

/* A disk that takes its time: whoever adds is not held up, what is over is dropped. */
static void test_slow_disk(void **state)
{
    (void)state;
    enum { MANY = 3 * AG_HISTORY_RING };
    ag_history_stats s;
    clear();
    ag_history_conf c = conf_of(AG_HISTORY_FULL);
    ag_history *h = open_history(&c);
    pthread_mutex_lock(&h->lock); /* the writer stops at its first batch */
    for (uint32_t i = 0; i < MANY; i++) add(h, i % 100, "{\"prompt\": \"text\"}");
    ag_history_stats_get(h, &s);
    assert_in_range(s.dropped, MANY - AG_HISTORY_RING - 2 * BATCH_BYTES / 64, MANY - AG_HISTORY_RING);
    pthread_mutex_unlock(&h->lock);
    wait_for(h, MANY);
    static char body[AG_HISTORY_BODY_MAX + 1];
    memset(body, 'x', AG_HISTORY_BODY_MAX);
    pthread_mutex_lock(&h->lock);
    uint64_t before = s.dropped;
    for (uint32_t i = 0; i < 300; i++) add(h, i, body); /* bounded in bytes, too */
    ag_history_stats_get(h, &s);
    assert_in_range(s.dropped - before, 150, 180);
    assert_in_range(atomic_load(&h->ring_bytes), 0, AG_HISTORY_RING_BYTES);
    pthread_mutex_unlock(&h->lock);
    ag_history_close(h);
}

/* What could not be opened at the start and can be later goes on where it ended. */
static void test_not_opened(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    ag_hot_key top[8];
    ag_history_stats s;
    ag_history_conf c = conf_of(AG_HISTORY_FULL);
    clear();
    ag_history *h = open_history(&c);
    for (uint32_t i = 0; i < 5; i++) add(h, i, "{\"prompt\": \"some text\"}");
    wait_for(h, 5);
    ag_history_close(h);
    ag_fault_arm(AG_FAULT_OPEN, 2); /* the first is its secret */
    ag_err err = {0};
    assert_int_equal(ag_history_open(&h, &c, NULL, NULL, &err), AG_E_IO);
    assert_true(ag_fault_disarm(AG_FAULT_OPEN));
    assert_non_null(strstr(err.text, "cannot be opened"));
    h = open_history(&c);
    ag_history_stats_get(h, &s);
    assert_int_equal(s.damaged, 0);
    assert_int_equal(ag_history_top(h, top, 8), 5);
    ag_history_close(h);
#else
    check_skipped(1, "built without fault points");
#endif
}

static void test_faults(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    const ag_fault_kind kinds[] = {AG_FAULT_ALLOC, AG_FAULT_OPEN, AG_FAULT_READ, AG_FAULT_WRITE, AG_FAULT_SYNC,
                                   AG_FAULT_THREAD};
    ag_history_conf c = conf_of(AG_HISTORY_FULL);
    for (int old = 0; old < 2; old++)
        for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++)
            for (uint32_t nth = 1;; nth++) {
                ag_history *h = NULL;
                ag_err err = {0};
                if (old == 0) clear();
                ag_fault_arm(kinds[k], nth);
                int rc = ag_history_open(&h, &c, NULL, NULL, &err);
                if (rc == AG_OK) {
                    while (!ag_history_known(h)) sched_yield();
                    for (uint32_t i = 0; i < 4; i++) add(h, i, "{\"prompt\": \"text\"}");
                    wait_for(h, 4);
                }
                bool fired = ag_fault_disarm(kinds[k]);
                if (rc != AG_OK) assert_true(fired && err.text[0]);
                ag_history_close(h);
                h = open_history(&c); /* and nothing that is damaged */
                ag_history_stats s;
                ag_history_stats_get(h, &s);
                assert_int_equal(s.damaged, 0);
                ag_history_close(h);
                if (!fired) break;
            }
#else
    check_skipped(1, "built without fault points");
#endif
}

int main(void)
{
    strcpy(dir, "/tmp/ag-history-XXXXXX");
    if (mkdtemp(dir) == NULL || sodium_init() < 0) return 1;
    snprintf(path, sizeof path, "%s/history", dir);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines), cmocka_unit_test(test_full), cmocka_unit_test(test_hashes),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_torn_and_damaged), cmocka_unit_test(test_not_ours), cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_slow_disk), cmocka_unit_test(test_not_opened), cmocka_unit_test(test_faults),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    clear();
    rmdir(dir);
    return rc;
}
