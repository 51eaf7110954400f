/* Prompts' pages from one run to the next: what comes back is what was there, answers are the same bit for bit, and a
 * file that is damaged, foreign or half written is never more than a cold start. */
#include "engine/prefix.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/serving.h"

enum { P = 4, PAGES = 12, PAGE_BYTES = 96, VOCAB = 300, CAP = 8 };

static char dir[64], path[128];

/* ---- a cache without a model ---- */

typedef struct cache {
    ag_kv *kv;
    unsigned char key[AG_PREFIX_KEY_BYTES];
    unsigned char bytes[PAGES][PAGE_BYTES];
    ag_prefix p;
} cache;

static unsigned char *page_of(void *arg, uint32_t page)
{
    cache *c = arg;
    assert_in_range(page, 0, PAGES - 1);
    return c->bytes[page];
}

static void cache_open(cache *c, uint32_t pages, unsigned char key)
{
    memset(c, 0, sizeof *c);
    assert_int_equal(ag_kv_open(&c->kv, pages, P, NULL), AG_OK);
    memset(c->key, key, sizeof c->key);
    c->p = (ag_prefix){.path = path, .bytes_max = 1 << 20, .model = 1, .program = 2, .cache = 3, .page_tokens = P,
                       .pages_max = pages, .vocab = VOCAB, .page_bytes = PAGE_BYTES, .kv = c->kv, .key = c->key,
                       .page = page_of, .arg = c};
}

static void tokens_of(const char *text, int32_t *tokens)
{
    for (uint32_t i = 0; text[i]; i++) tokens[i] = (unsigned char)text[i];
}

/* What a page holds says which prefix it is of. */
static void content_of(uint64_t salt, const char *text, uint32_t page, unsigned char *out)
{
    for (uint32_t i = 0; i < PAGE_BYTES; i++)
        out[i] = (unsigned char)(salt + 7 * i + XXH3_64bits(text, (size_t)(page + 1) * P));
}

static void use(cache *c, uint64_t salt, const char *text)
{
    uint32_t pages[CAP], n = (uint32_t)strlen(text);
    int32_t tokens[CAP * P];
    ag_kv_seq s = {.salt = salt, .pages = pages, .cap = CAP};
    tokens_of(text, tokens);
    ag_kv_match(c->kv, &s, tokens, n);
    assert_true(ag_kv_reserve(c->kv, &s, n));
    for (uint32_t i = s.shared; i < n / P; i++) content_of(salt, text, i, c->bytes[s.pages[i]]);
    ag_kv_publish(c->kv, &s, tokens, n);
    ag_kv_drop(c->kv, &s);
}

/* Tokens of this prefix that are there; what its pages hold is theirs. */
static uint32_t known(cache *c, uint64_t salt, const char *text)
{
    uint32_t pages[CAP], n = (uint32_t)strlen(text);
    int32_t tokens[CAP * P];
    unsigned char want[PAGE_BYTES];
    ag_kv_seq s = {.salt = salt, .pages = pages, .cap = CAP};
    tokens_of(text, tokens);
    uint32_t got = ag_kv_match(c->kv, &s, tokens, n);
    for (uint32_t i = 0; i < s.n; i++) {
        content_of(salt, text, i, want);
        assert_memory_equal(c->bytes[s.pages[i]], want, PAGE_BYTES);
    }
    ag_kv_drop(c->kv, &s);
    ag_kv_verify(c->kv);
    return got;
}

static void fill(cache *c)
{
    use(c, 5, "aaaabbbbcccc");
    use(c, 6, "aaaabbbb");
    use(c, 5, "aaaabbbbdddd");
    use(c, 6, "eeee");
    use(c, 5, "aaaaffffgggg");
}

static void store(void)
{
    cache c;
    uint32_t n;
    ag_err err = {0};
    cache_open(&c, PAGES, 9);
    fill(&c);
    if (ag_prefix_save(&c.p, &n, &err) != AG_OK) fail_msg("%s", err.text);
    assert_int_equal(n, 9);
    ag_kv_close(c.kv);
}

static size_t file_size(void)
{
    struct stat st;
    return stat(path, &st) == 0 ? (size_t)st.st_size : 0;
}

static bool temporary_there(void)
{
    char tmp[160];
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    return access(tmp, F_OK) == 0;
}

static void test_round_trip(void **state)
{
    (void)state;
    cache c;
    uint32_t n;
    struct stat st;
    store();
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_false(temporary_there());
    cache_open(&c, PAGES, 1);
    assert_int_equal(ag_prefix_load(&c.p, &n, NULL), AG_OK);
    ag_kv_verify(c.kv);
    assert_int_equal(n, 9);
    assert_int_equal(c.key[3], 9); /* the salts are those of the file */
    assert_int_equal(known(&c, 5, "aaaabbbbcccc"), 12);
    assert_int_equal(known(&c, 5, "aaaabbbbdddd"), 12);
    assert_int_equal(known(&c, 5, "aaaaffffgggg"), 12);
    assert_int_equal(known(&c, 6, "aaaabbbb"), 8);
    assert_int_equal(known(&c, 6, "aaaaffff"), 4); /* tenants stay apart */
    assert_int_equal(known(&c, 7, "aaaabbbb"), 0);
    use(&c, 8, "hhhhiiiijjjjkkkkllllmmmm"); /* and it goes on as any other */
    ag_kv_verify(c.kv);
    assert_int_equal(known(&c, 8, "hhhhiiiijjjjkkkkllllmmmm"), 24);
    ag_kv_close(c.kv);
}

/* The order of use goes on, too: the first to go is what was used first before. */
static void test_order_of_use(void **state)
{
    (void)state;
    cache c;
    uint32_t n;
    cache_open(&c, 4, 1);
    use(&c, 5, "aaaa");
    use(&c, 5, "bbbb");
    use(&c, 5, "cccc");
    use(&c, 5, "dddd");
    assert_int_equal(known(&c, 5, "aaaa"), 4); /* used last now */
    assert_int_equal(ag_prefix_save(&c.p, &n, NULL), AG_OK);
    ag_kv_close(c.kv);
    cache_open(&c, 4, 1);
    assert_int_equal(ag_prefix_load(&c.p, &n, NULL), AG_OK);
    use(&c, 6, "xxxxyyyy");
    assert_int_equal(known(&c, 5, "bbbb") + known(&c, 5, "cccc"), 0);
    assert_int_equal(known(&c, 5, "aaaa") + known(&c, 5, "dddd"), 8);
    ag_kv_close(c.kv);
}

static void test_less_room(void **state)
{
    (void)state;
    cache c;
    uint32_t n;
    store();
    cache_open(&c, 3, 1); /* a smaller cache */
    assert_int_equal(ag_prefix_load(&c.p, &n, NULL), AG_OK);
    assert_int_equal(n, 3);
    assert_int_equal(known(&c, 5, "aaaaffffgggg"), 12);
    ag_kv_close(c.kv);
    for (uint32_t room = 0; room <= 10; room++) { /* a smaller file */
        unlink(path);
        cache_open(&c, PAGES, 1);
        fill(&c);
        c.p.bytes_max = sizeof(ag_prefix_head) + AG_PREFIX_DATA_ALIGN +
                        room * (sizeof(ag_prefix_row) + P * 4 + PAGE_BYTES);
        assert_int_equal(ag_prefix_save(&c.p, &n, NULL), AG_OK);
        assert_int_equal(n, AG_MIN(room, 9u));
        assert_in_range(file_size(), 0, c.p.bytes_max);
        ag_kv_close(c.kv);
        cache_open(&c, PAGES, 1);
        assert_int_equal(ag_prefix_load(&c.p, &n, NULL), room ? AG_OK : AG_E_NOT_FOUND);
        assert_int_equal(known(&c, 5, "aaaaffffgggg"), 4 * AG_MIN(room, 3u)); /* the last used first */
        assert_int_equal(known(&c, 6, "eeee"), room > 3 ? 4 : 0);
        ag_kv_close(c.kv);
    }
    store();
    cache_open(&c, PAGES, 1); /* nothing to keep: what is there stays */
    assert_int_equal(ag_prefix_save(&c.p, &n, NULL), AG_OK);
    assert_int_equal(n, 0);
    assert_true(file_size() > 0);
    ag_kv_close(c.kv);
}

/* Refused with this sentence, and nothing of it is taken. */
static void check_refused(cache *c, int code, const char *why)
{
    uint32_t n = 7;
    ag_err err = {0};
    ag_kv_stats st;
    assert_int_equal(ag_prefix_load(&c->p, &n, &err), code);
    if (strstr(err.text, why) == NULL) fail_msg("%s", err.text);
    assert_int_equal(n, 0);
    ag_kv_verify(c->kv);
    ag_kv_stats_get(c->kv, &st);
    assert_int_equal(st.free, st.pages);
    assert_int_equal(c->key[0], 1);
}

static void change(uint64_t at, unsigned char mask)
{
    unsigned char b;
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &b, 1, (off_t)at), 1);
    b ^= mask;
    assert_int_equal(pwrite(fd, &b, 1, (off_t)at), 1);
    close(fd);
}

static void test_every_byte(void **state)
{
    (void)state;
    cache c;
    store();
    size_t table = sizeof(ag_prefix_head) + 9 * (sizeof(ag_prefix_row) + P * 4), all = file_size();
    cache_open(&c, PAGES, 1);
    for (size_t at = 0; at < all; at++) {
        if (at == table) at = AG_ALIGN_UP(table, AG_PREFIX_DATA_ALIGN); /* zeros that nobody reads */
        change(at, (unsigned char)(1u << at % 8));
        check_refused(&c, AG_E_FILE, path);
        change(at, (unsigned char)(1u << at % 8));
    }
    uint32_t n;
    assert_int_equal(ag_prefix_load(&c.p, &n, NULL), AG_OK);
    ag_kv_close(c.kv);
}

static void test_every_length(void **state)
{
    (void)state;
    cache c;
    store();
    off_t all = (off_t)file_size();
    cache_open(&c, PAGES, 1);
    assert_int_equal(truncate(path, all + 1), 0);
    check_refused(&c, AG_E_FILE, "cut short");
    for (off_t n = all - 1; n >= 0; n--) {
        assert_int_equal(truncate(path, n), 0);
        check_refused(&c, AG_E_FILE, "cut short");
    }
    ag_kv_close(c.kv);
}

static void test_of_something_else(void **state)
{
    (void)state;
    cache c;
    store();
    cache_open(&c, PAGES, 1);
    c.p.model++;
    check_refused(&c, AG_E_FILE, "another model");
    c.p.model--;
    c.p.program++;
    check_refused(&c, AG_E_FILE, "another version of the program");
    c.p.program--;
    c.p.cache++;
    check_refused(&c, AG_E_FILE, "--kv");
    c.p.cache--;
    c.p.page_bytes--;
    check_refused(&c, AG_E_FILE, "--kv");
    c.p.page_bytes++;
    c.p.vocab = 'f';
    check_refused(&c, AG_E_FILE, "tokens that the model does not have");
    c.p.vocab = VOCAB;
    assert_int_equal(chmod(path, 0640), 0);
    check_refused(&c, AG_E_FILE, "mode 640; wanted 600");
    assert_int_equal(unlink(path), 0);
    check_refused(&c, AG_E_NOT_FOUND, "cannot be opened");
    assert_int_equal(mkfifo(path, 0600), 0);
    check_refused(&c, AG_E_FILE, "is not a file");
    unlink(path);
    ag_kv_close(c.kv);
}

/* Sums that are right over a tree that is none. */
static void test_forged_trees(void **state)
{
    (void)state;
    cache c;
    cache_open(&c, PAGES, 1);
    static unsigned char file[1 << 16];
    const struct { uint32_t row; size_t at; uint32_t value; const char *why; } forged[] = {
        {1, offsetof(ag_prefix_row, before), 1, "damaged tree"},          /* itself */
        {0, offsetof(ag_prefix_row, before), 5, "damaged tree"},          /* what comes later */
        {3, offsetof(ag_prefix_row, before), 1 << 30, "damaged tree"},
        {7, offsetof(ag_prefix_row, before), 0, "damaged tree"},          /* another tenant's */
        {2, offsetof(ag_prefix_row, zero), 1, "damaged tree"},
        {0, offsetof(ag_prefix_row, salt), 0, "damaged tree"},            /* shares with nobody */
        {1, offsetof(ag_prefix_row, sum), 0, "checksum"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(forged); i++) {
        store();
        ag_prefix_head h;
        int fd = open(path, O_RDWR);
        ssize_t n = read(fd, file, sizeof file);
        assert_true(n > (ssize_t)sizeof h);
        memcpy(&h, file, sizeof h);
        memcpy(file + sizeof h + forged[i].row * sizeof(ag_prefix_row) + forged[i].at, &forged[i].value,
               sizeof forged[i].value);
        size_t table = h.pages * (sizeof(ag_prefix_row) + P * sizeof(int32_t));
        h.check = 0;
        memcpy(file, &h, sizeof h);
        h.check = XXH3_64bits(file, sizeof h + table);
        memcpy(file, &h, sizeof h);
        assert_int_equal(pwrite(fd, file, (size_t)n, 0), n);
        close(fd);
        check_refused(&c, AG_E_FILE, forged[i].why);
    }
    ag_kv_close(c.kv);
}

/* Without room for all of it the file of before stays, and nothing half done beside it. */
static void test_no_room(void **state)
{
    (void)state;
    cache c;
    uint32_t n;
    struct rlimit before, small;
    store();
    size_t all = file_size();
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (size_t room = 0; room < all; room += 37) {
        ag_err err = {0};
        cache_open(&c, PAGES, 1);
        fill(&c);
        small = (struct rlimit){.rlim_cur = room, .rlim_max = before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        assert_int_equal(ag_prefix_save(&c.p, &n, &err), AG_E_IO);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_non_null(strstr(err.text, "File too large"));
        assert_int_equal(n, 0);
        assert_false(temporary_there());
        ag_kv_close(c.kv);
    }
    signal(SIGXFSZ, SIG_DFL);
    cache_open(&c, PAGES, 1);
    assert_int_equal(ag_prefix_load(&c.p, &n, NULL), AG_OK);
    assert_int_equal(n, 9);
    ag_kv_close(c.kv);
}

static void test_somebody_writes(void **state)
{
    (void)state;
    cache c;
    uint32_t n;
    char tmp[160];
    ag_err err = {0};
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    cache_open(&c, PAGES, 1);
    fill(&c);
    int fd = open(tmp, O_RDWR | O_CREAT, 0666);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(ag_prefix_save(&c.p, &n, &err), AG_E_INTERNAL);
    close(fd);
    unlink(path);
    assert_int_equal(fchmodat(AT_FDCWD, tmp, 0666, 0), 0); /* left by one that died, open to all */
    assert_int_equal(ag_prefix_save(&c.p, &n, NULL), AG_OK);
    struct stat st;
    assert_true(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600);
    c.p.path = "/tmp/there-is-no-such-folder/x";
    ag_err_clear(&err);
    assert_int_equal(ag_prefix_save(&c.p, &n, &err), AG_E_IO);
    ag_kv_close(c.kv);
}

static void test_faults(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    const ag_fault_kind kinds[] = {AG_FAULT_ALLOC, AG_FAULT_OPEN, AG_FAULT_READ, AG_FAULT_WRITE, AG_FAULT_SYNC,
                                   AG_FAULT_RENAME};
    cache c;
    for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++)
        for (uint32_t nth = 1;; nth++) { /* writing */
            ag_err err = {0};
            uint32_t n;
            store();
            cache_open(&c, PAGES, 1);
            use(&c, 5, "zzzz");
            ag_fault_arm(kinds[k], nth);
            int rc = ag_prefix_save(&c.p, &n, &err);
            bool fired = ag_fault_disarm(kinds[k]);
            assert_true(fired ? rc != AG_OK && err.text[0] : rc == AG_OK);
            assert_false(temporary_there());
            ag_kv_close(c.kv);
            cache_open(&c, PAGES, 1);
            assert_int_equal(ag_prefix_load(&c.p, &n, NULL), AG_OK); /* the old one, or the new */
            assert_int_equal(n, fired ? 9 : 1);
            ag_kv_close(c.kv);
            if (!fired) break;
        }
    store();
    for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++)
        for (uint32_t nth = 1;; nth++) { /* reading */
            ag_err err = {0};
            uint32_t n;
            ag_kv_stats st;
            cache_open(&c, PAGES, 1);
            ag_fault_arm(kinds[k], nth);
            int rc = ag_prefix_load(&c.p, &n, &err);
            bool fired = ag_fault_disarm(kinds[k]);
            assert_true(fired ? rc != AG_OK && err.text[0] : rc == AG_OK);
            ag_kv_verify(c.kv);
            ag_kv_stats_get(c.kv, &st);
            assert_int_equal(st.kept, fired ? 0 : 9);
            ag_kv_close(c.kv);
            if (!fired) break;
        }
#else
    check_skipped(1, "built without fault points");
#endif
}

/* ---- with a model ---- */

static char notes[4096];

static void take_note(void *arg, bool bad, const char *text)
{
    (void)arg;
    size_t n = strlen(notes);
    snprintf(notes + n, sizeof notes - n, "%s%s\n", bad ? "bad: " : "", text);
}

static ag_engine *open_stored(ag_engine_conf c)
{
    notes[0] = 0;
    c.prefix_path = path;
    c.prefix_bytes = 64 << 20;
    c.prefix_note = take_note;
    return open_engine(c);
}

static uint32_t answer(ag_engine *e, const char *tenant, int32_t *ids, uint32_t *reused)
{
    uint32_t n;
    ag_gen_spec s = spec_of(200, 40, 3);
    s.tenant = ag_str_of(tenant);
    ag_gen *g = start(e, &s);
    assert_int_equal(finish(g, ids, &n), AG_GEN_LENGTH);
    *reused = ag_gen_reused(g);
    ag_gen_put(g);
    return n;
}

static void check_restart(ag_engine_conf c)
{
    int32_t want[OUT_MAX], ids[OUT_MAX];
    uint32_t reused;
    ag_engine_stats st;
    unlink(path);
    ag_engine *e = open_stored(c);
    uint32_t n = answer(e, "a", want, &reused);
    assert_int_equal(reused, 0);
    ag_engine_close(e);
    assert_non_null(strstr(notes, "3 pages of prompts are stored in"));
    e = open_stored(c);
    assert_non_null(strstr(notes, "3 pages of prompts come from"));
    ag_engine_stats_get(e, &st);
    assert_int_equal(st.kv_pages_restored, 3);
    assert_int_equal(st.kv_pages_kept, 3);
    assert_int_equal(answer(e, "a", ids, &reused), n);
    assert_int_equal(reused, 192);
    assert_memory_equal(ids, want, n * sizeof *ids);
    assert_int_equal(answer(e, "b", ids, &reused), n); /* another tenant computes for itself */
    assert_int_equal(reused, 0);
    ag_engine_close(e);
    assert_non_null(strstr(notes, "6 pages of prompts are stored in"));
    e = open_stored(c); /* and then finds its own */
    answer(e, "b", ids, &reused);
    assert_int_equal(reused, 192);
    assert_memory_equal(ids, want, n * sizeof *ids);
    const char *isa = ag_engine_isa(e);
    bool other = strcmp(isa, "scalar") != 0;
    ag_engine_close(e);
    c.isa = "scalar";
    if (!other) return;
    e = open_stored(c);
    assert_non_null(strstr(notes, "--isa"));
    answer(e, "a", ids, &reused);
    assert_int_equal(reused, 0);
    ag_engine_close(e);
}

static void test_answers_after_a_restart(void **state)
{
    (void)state;
    ag_engine_conf c = conf_of(2048, 2, 16);
    check_restart(c);
    c.kv = AG_KV_F32;
    ag_engine *e = open_stored(c); /* what is there is f16 */
    assert_non_null(strstr(notes, "bad: nothing is kept of earlier prompts"));
    ag_engine_close(e);
    check_restart(c);
}

static void test_a_damaged_file_is_a_cold_start(void **state)
{
    (void)state;
    int32_t want[OUT_MAX], ids[OUT_MAX];
    uint32_t reused;
    ag_engine_conf c = conf_of(2048, 2, 16);
    unlink(path);
    ag_engine *e = open_stored(c);
    uint32_t n = answer(e, "a", want, &reused);
    ag_engine_close(e);
    size_t all = file_size();
    change(all - 5, 0x40);
    e = open_stored(c);
    assert_non_null(strstr(notes, "bad: nothing is kept of earlier prompts"));
    assert_int_equal(answer(e, "a", ids, &reused), n);
    assert_int_equal(reused, 0);
    assert_memory_equal(ids, want, n * sizeof *ids);
    ag_engine_close(e); /* and writes it anew */
    e = open_stored(c);
    answer(e, "a", ids, &reused);
    assert_int_equal(reused, 192);
    assert_memory_equal(ids, want, n * sizeof *ids);
    ag_engine_close(e);
}

int main(void)
{
    tiny_model_open(&shared, true);
    strcpy(dir, "/tmp/ag-prefix-XXXXXX");
    if (mkdtemp(dir) == NULL) return 1;
    snprintf(path, sizeof path, "%s/kept", dir);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_order_of_use), cmocka_unit_test(test_less_room),
        cmocka_unit_test(test_every_byte), cmocka_unit_test(test_every_length),
        cmocka_unit_test(test_of_something_else),
        cmocka_unit_test(test_forged_trees), cmocka_unit_test(test_no_room), cmocka_unit_test(test_somebody_writes),
        cmocka_unit_test(test_faults), cmocka_unit_test(test_answers_after_a_restart),
        cmocka_unit_test(test_a_damaged_file_is_a_cold_start),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(dir);
    tiny_model_close(&shared);
    return rc;
}
