#include "check.h"
#include "lib/gguf_build.h"
#include "lib/gguf_touch.h"

#include <unistd.h>

#include "base/fault.h"

#define PARTS 3

static char dir[64];

static const char *part_path(uint32_t no, uint32_t count)
{
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/m-%05u-of-%05u.gguf", dir, no, count);
    return path[turn];
}

typedef struct split { /* what is written into one part; 0 leaves the right value */
    bool no_keys;
    uint16_t no, count;
    int32_t tensors;
    const char *tensor; /* its name */
    uint32_t align;
    bool damaged;
} split;

/* Three parts: keys and no tensor, then one tensor each. */
static void save(const split s[PARTS])
{
    for (uint32_t i = 0; i < PARTS; i++) {
        gb b;
        gb_init(&b);
        if (i == 0) gb_str(&b, "general.architecture", "llama");
        if (!s[i].no_keys) {
            gb_u16(&b, "split.no", s[i].no ? (uint16_t)(s[i].no - 1) : (uint16_t)i);
            gb_u16(&b, "split.count", s[i].count ? s[i].count : PARTS);
            gb_i32(&b, "split.tensors.count", s[i].tensors ? s[i].tensors : PARTS - 1);
        }
        if (s[i].align) gb_u32(&b, "general.alignment", b.align = s[i].align);
        float w = (float)i;
        if (i > 0) gb_tensor(&b, s[i].tensor ? s[i].tensor : i == 1 ? "one" : "two", 0, 1, (uint64_t[]){1}, &w, 4);
        size_t n;
        uint8_t *p = gb_build(&b, &n);
        gb_save_bytes(part_path(i + 1, PARTS), p, s[i].damaged ? n - 1 : n);
        free(p);
        gb_free(&b);
    }
}

static void clean(void)
{
    for (uint32_t i = 1; i <= PARTS; i++) unlink(part_path(i, PARTS));
}

static void test_open(void **state)
{
    (void)state;
    save((split[PARTS]){{0}, {.align = 4096}, {.align = 8}});
    ag_gguf *g;
    ag_err err = {0};
    if (ag_gguf_open(&g, part_path(1, PARTS), &err) != AG_OK) fail_msg("%s", err.text);
    assert_int_equal(ag_gguf_part_count(g), PARTS);
    assert_int_equal(ag_gguf_tensor_count(g), 2);
    assert_string_equal(ag_gguf_path(g), part_path(1, PARTS));
    assert_true(*(const float *)ag_gguf_tensor_find(g, "one")->data == 1.0f);
    assert_true(*(const float *)ag_gguf_tensor_find(g, "two")->data == 2.0f);
    assert_int_equal(ag_gguf_value_count(g), 4); /* those of the first part */
    assert_true(ag_gguf_file_bytes(g) > 4096);
    gguf_touch(g);
    ag_gguf_close(g);
    clean();
}

static void refused(const split s[PARTS], uint32_t open_no, int code, uint32_t named, const char *says)
{
    save(s);
    ag_gguf *g = NULL;
    ag_err err = {0};
    int rc = ag_gguf_open(&g, part_path(open_no, PARTS), &err);
    const char *path = part_path(named, PARTS);
    if (rc != code || err.code != rc || strstr(err.text, says) == NULL || strncmp(err.text, path, strlen(path)) != 0)
        fail_msg("%d \"%s\"; expected %d, part %u, \"%s\"", rc, err.text, code, named, says);
    assert_null(g);
    clean();
}

static void test_refused(void **state)
{
    (void)state;
    refused((split[PARTS]){{0}}, 2, AG_E_FILE, 2, "is part 2 of 3 by its name; open the first, ");
    refused((split[PARTS]){{0}}, 3, AG_E_FILE, 3, "m-00001-of-00003.gguf");
    refused((split[PARTS]){{.no_keys = true}}, 1, AG_E_FILE, 1, "key split.count is missing");
    refused((split[PARTS]){{.count = 2}}, 1, AG_E_FILE, 1, "one of 3 parts by its name, and one of 2 by its key");
    refused((split[PARTS]){{.no = 2}}, 1, AG_E_FILE, 1, "is part 2 of 3 (key split.no); open the first part");
    refused((split[PARTS]){{0}, {.no = 3}}, 1, AG_E_FILE, 2, "key split.no is 2; 1 is right for this part");
    refused((split[PARTS]){{0}, {0}, {.no = 1}}, 1, AG_E_FILE, 3, "key split.no is 0; 2 is right for this part");
    refused((split[PARTS]){{0}, {.count = 4}}, 1, AG_E_FILE, 2, "key split.count is 4, and 3 in the first part");
    refused((split[PARTS]){{0}, {.tensors = 9}}, 1, AG_E_FILE, 2, "key split.tensors.count is 9, and 2 in the first");
    refused((split[PARTS]){{0}, {.no_keys = true}}, 1, AG_E_FILE, 2, "key split.count is missing");
    refused((split[PARTS]){{.tensors = 5}, {.tensors = 5}, {.tensors = 5}}, 1, AG_E_FILE, 1,
            "its 3 parts hold 2 tensors; its key split.tensors.count says 5");
    refused((split[PARTS]){{.tensors = -1}}, 1, AG_E_FILE, 1, "key split.tensors.count is -1");
    refused((split[PARTS]){{0}, {.tensor = "same"}, {.tensor = "same"}}, 1, AG_E_FILE, 1, "tensor same is there twice");
    refused((split[PARTS]){{0}, {0}, {.damaged = true}}, 1, AG_E_FILE, 3, "tensor two (4 bytes at offset 0) go past");
}

static void test_part_missing(void **state)
{
    (void)state;
    save((split[PARTS]){{0}});
    unlink(part_path(2, PARTS));
    ag_gguf *g;
    ag_err err = {0};
    assert_int_equal(ag_gguf_open(&g, part_path(1, PARTS), &err), AG_E_IO);
    if (strstr(err.text, "m-00002-of-00003.gguf cannot be opened") == NULL) fail_msg("%s", err.text);
    clean();
}

/* A name that only looks like a part's belongs to a whole file; so does the only part of one. */
static void test_stems(void **state)
{
    (void)state;
    static const struct { const char *path, *stem; } cases[] = {
        {"m.gguf", "m"}, {"a/m-00001-of-00002.gguf", "a/m"}, {"mix-3-of-4-experts.gguf", "mix-3-of-4-experts"},
        {"m", "m"}, {".gguf", ".gguf"}, {"m-00003-of-00002.gguf", "m-00003-of-00002"}, {"", ""},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++)
        assert_int_equal(ag_gguf_stem_bytes(cases[i].path), strlen(cases[i].stem));
}

static void test_names(void **state)
{
    (void)state;
    static const char *const whole[] = {
        "m-00001-of-00001.gguf", "-00001-of-00002.gguf", "m-0001-of-0002.gguf", "m-00003-of-00002.gguf",
        "m-00000-of-00002.gguf", "m-00001-of-00002.bin", "m-0000x-of-00002.gguf", "m_00001-of-00002.gguf",
        "m-00001-of-00000.gguf", "m-00001_of-00002.gguf", "m-00001-of-0000x.gguf", "m-00001-of-001-2.gguf",
        "m-00001-of-00002.gguv", "m-00001-of-00002.GGUF",
    };
    char old[4096];
    assert_non_null(getcwd(old, sizeof old));
    assert_int_equal(chdir(dir), 0); /* the second name has nothing in front, not even a folder */
    for (size_t i = 0; i < AG_ARRAY_LEN(whole); i++) {
        gb b;
        gb_init(&b);
        gb_str(&b, "k", "v");
        gb_save(&b, whole[i]);
        gb_free(&b);
        ag_gguf *g;
        ag_err err = {0};
        if (ag_gguf_open(&g, whole[i], &err) != AG_OK) fail_msg("%s", err.text);
        assert_int_equal(ag_gguf_part_count(g), 1);
        ag_gguf_close(g);
        unlink(whole[i]);
    }
    assert_int_equal(chdir(old), 0);
}

#ifdef AG_FAULTS
static void test_faults(void **state)
{
    (void)state;
    static const struct { ag_fault_kind kind; int code; } kinds[] = {
        {AG_FAULT_ALLOC, AG_E_NOMEM}, {AG_FAULT_OPEN, AG_E_IO}, {AG_FAULT_MMAP, AG_E_IO},
    };
    save((split[PARTS]){{0}});
    for (size_t i = 0; i < AG_ARRAY_LEN(kinds); i++) {
        for (uint32_t nth = 1;; nth++) {
            ag_gguf *g = NULL;
            ag_err err = {0};
            ag_fault_arm(kinds[i].kind, nth);
            int rc = ag_gguf_open(&g, part_path(1, PARTS), &err);
            bool fired = ag_fault_disarm(kinds[i].kind);
            assert_int_equal(rc, fired ? kinds[i].code : AG_OK);
            assert_int_equal(err.code, rc);
            if (!fired) {
                assert_int_equal(ag_gguf_tensor_count(g), 2);
                ag_gguf_close(g);
                assert_true(nth > PARTS);
                break;
            }
        }
    }
    clean();
}
#endif

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/gguf-split-XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
    if (mkdtemp(dir) == NULL) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open), cmocka_unit_test(test_refused), cmocka_unit_test(test_part_missing),
        cmocka_unit_test(test_names), cmocka_unit_test(test_stems),
#ifdef AG_FAULTS
        cmocka_unit_test(test_faults),
#endif
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return failed;
}
