/* A file that is written is the file that is read; and whatever fails on the way, nothing is left behind. */
#include "check.h"
#include "lib/gguf_build.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "model/gguf/write.h"

static char dir[64];

static const char *in_dir(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static unsigned files(void)
{
    unsigned n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* A model with a key of each type and tensors of odd sizes. */
static uint8_t *sample(uint32_t align, size_t *n)
{
    static const char *const words[] = {"one", "", "three\0x"};
    uint8_t data[144 * 3];
    gb b;
    gb_init(&b);
    b.align = align;
    b.version = 2;
    if (align != 32) gb_u32(&b, "general.alignment", align);
    gb_u8(&b, "u8", 200), gb_i8(&b, "i8", -100), gb_u16(&b, "u16", 60000), gb_i16(&b, "i16", -30000);
    gb_u32(&b, "u32", 4000000000u), gb_i32(&b, "i32", -2000000000), gb_f32(&b, "f32", 0.1f), gb_bool(&b, "bool", 1);
    gb_str(&b, "string", "a string"), gb_str(&b, "empty", "");
    gb_u64(&b, "u64", UINT64_MAX), gb_i64(&b, "i64", INT64_MIN), gb_f64(&b, "f64", 0.1);
    gb_strings(&b, "words", 3, words);
    gb_array(&b, "numbers", GB_U16, 3, (uint16_t[]){1, 2, 3}, 6);
    gb_array(&b, "nothing", GB_F32, 0, NULL, 0);
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7);
    gb_tensor(&b, "f32", 0, 1, (uint64_t[]){5}, data, 20);
    gb_tensor(&b, "f16", 1, 3, (uint64_t[]){3, 2, 1}, data + 1, 12);
    gb_tensor(&b, "q4_k", 12, 2, (uint64_t[]){256, 3}, data, 144 * 3);
    gb_tensor(&b, "q8_0", 8, 4, (uint64_t[]){32, 1, 2, 1}, data + 2, 68);
    uint8_t *bytes = gb_build(&b, n);
    gb_free(&b);
    return bytes;
}

/* Writes g anew, its data in bites of `step` bytes that go across tensors. */
static int copy(const ag_gguf *g, const char *path, bool replace, size_t step, ag_err *err)
{
    uint32_t n = ag_gguf_tensor_count(g), keys = ag_gguf_value_count(g), alignment = 32;
    gb_bytes data = {0};
    ag_gguf_writer *w = NULL;
    int rc = ag_gguf_u32(g, "general.alignment", false, &alignment, err);
    for (uint32_t i = 0; i < n; i++) gb_add(&data, ag_gguf_tensor_at(g, i)->data, ag_gguf_tensor_at(g, i)->bytes);
    if (rc == AG_OK) rc = ag_gguf_writer_open(&w, path, replace, keys + 1, n, alignment, err);
    for (uint32_t i = 0; i < keys && rc == AG_OK; i++) rc = ag_gguf_writer_value(w, ag_gguf_value_at(g, i), err);
    if (rc == AG_OK) rc = ag_gguf_writer_u32(w, "added", 42, err);
    for (uint32_t i = 0; i < n && rc == AG_OK; i++) rc = ag_gguf_writer_tensor(w, ag_gguf_tensor_at(g, i), err);
    for (size_t at = 0; at < data.n && rc == AG_OK; at += step)
        rc = ag_gguf_writer_data(w, data.p + at, AG_MIN(step, data.n - at), err);
    if (rc == AG_OK) rc = ag_gguf_writer_finish(w, err);
    if (rc == AG_OK) {
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal((uint64_t)st.st_size, ag_gguf_writer_bytes(w));
        assert_int_equal(st.st_mode & 0777, 0644);
    }
    ag_gguf_writer_close(w);
    free(data.p);
    return rc;
}

static void compare(const ag_gguf *a, const char *path)
{
    ag_gguf *b;
    ag_err err = {0};
    uint32_t added = 0;
    if (ag_gguf_open(&b, path, &err) != AG_OK) fail_msg("%s", err.text);
    assert_int_equal(ag_gguf_version(b), 3);
    assert_int_equal(ag_gguf_value_count(b), ag_gguf_value_count(a) + 1);
    assert_int_equal(ag_gguf_u32(b, "added", true, &added, NULL), AG_OK);
    assert_int_equal(added, 42);
    for (uint32_t i = 0; i < ag_gguf_value_count(a); i++) {
        const ag_gguf_value *x = ag_gguf_value_at(a, i), *y = ag_gguf_value_at(b, i);
        const void *p = x->data, *q = y->data;
        assert_true(ag_str_eq(x->key, y->key) && x->type == y->type && x->item == y->item && x->n == y->n);
        for (uint64_t k = 0; k < x->n; k++) {
            if (x->item == AG_GGUF_STRING) assert_true(ag_str_eq(ag_gguf_string_next(&p), ag_gguf_string_next(&q)));
            else if (x->item == AG_GGUF_F32 || x->item == AG_GGUF_F64)
                assert_true(ag_gguf_float_at(x, k) == ag_gguf_float_at(y, k));
            else assert_int_equal(ag_gguf_int_at(x, k), ag_gguf_int_at(y, k));
        }
    }
    assert_int_equal(ag_gguf_tensor_count(b), ag_gguf_tensor_count(a));
    for (uint32_t i = 0; i < ag_gguf_tensor_count(a); i++) {
        const ag_gguf_tensor *x = ag_gguf_tensor_at(a, i), *y = ag_gguf_tensor_at(b, i);
        assert_true(ag_str_eq(x->name, y->name) && x->type == y->type && x->n_dims == y->n_dims &&
                    x->bytes == y->bytes);
        assert_memory_equal(x->dim, y->dim, sizeof x->dim);
        assert_memory_equal(x->data, y->data, x->bytes);
    }
    ag_gguf_close(b);
}

static void test_copies(void **state)
{
    (void)state;
    static const uint32_t aligns[] = {8, 32, 64, 4096, 2u << 20};
    static const size_t steps[] = {1, 7, 100, 1u << 22};
    for (size_t i = 0; i < AG_ARRAY_LEN(aligns); i++)
        for (size_t k = 0; k < AG_ARRAY_LEN(steps); k++) {
            size_t n;
            uint8_t *bytes = sample(aligns[i], &n);
            ag_gguf *g;
            ag_err err = {0};
            if (ag_gguf_open_mem(&g, "sample", bytes, n, &err) != AG_OK) fail_msg("%s", err.text);
            if (copy(g, in_dir("out.gguf"), k > 0, steps[k], &err) != AG_OK) fail_msg("%s", err.text);
            compare(g, in_dir("out.gguf"));
            assert_int_equal(files(), 1);
            if (k + 1 == AG_ARRAY_LEN(steps)) unlink(in_dir("out.gguf"));
            ag_gguf_close(g);
            free(bytes);
        }
}

static void refused(const ag_gguf *g, const char *path, int code, const char *says)
{
    ag_err err = {0};
    unsigned before = files();
    if (copy(g, path, false, 100, &err) != code || strstr(err.text, says) == NULL)
        fail_msg("%s: \"%s\"; expected \"%s\"", path, err.text, says);
    assert_int_equal(files(), before);
}

static void test_refusals(void **state)
{
    (void)state;
    size_t n;
    uint8_t *bytes = sample(32, &n);
    ag_gguf *g;
    ag_gguf_writer *w;
    ag_err err = {0};
    assert_int_equal(ag_gguf_open_mem(&g, "sample", bytes, n, &err), AG_OK);
    refused(g, in_dir("x-00001-of-00002.gguf"), AG_E_USAGE, "one part of many");
    refused(g, dir, AG_E_USAGE, "is not a file");
    refused(g, "", AG_E_USAGE, "is empty");
    assert_int_equal(symlink("nowhere", in_dir("link.gguf")), 0);
    refused(g, in_dir("link.gguf"), AG_E_USAGE, "a link that leads nowhere");
    assert_int_equal(copy(g, in_dir("link.gguf"), true, 100, &err), AG_OK); /* in the link's place */
    unlink(in_dir("link.gguf"));
    assert_int_equal(files(), 0);
    refused(g, in_dir("no/such.gguf"), AG_E_IO, "cannot be written: No such file");
    gb_save_bytes(in_dir("there.gguf"), "x", 1);
    refused(g, in_dir("there.gguf"), AG_E_USAGE, "is there already");
    unlink(in_dir("there.gguf"));
    /* A file that appears while ours is written is not overwritten. */
    assert_int_equal(ag_gguf_writer_open(&w, in_dir("late.gguf"), false, 0, 0, 32, &err), AG_OK);
    gb_save_bytes(in_dir("late.gguf"), "mine", 4);
    assert_int_equal(ag_gguf_writer_finish(w, &err), AG_E_IO);
    assert_non_null(strstr(err.text, "cannot be put in place: File exists"));
    ag_gguf_writer_close(w);
    assert_int_equal(files(), 1);
    struct stat st;
    assert_int_equal(stat(in_dir("late.gguf"), &st), 0);
    assert_int_equal(st.st_size, 4);
    unlink(in_dir("late.gguf"));
    /* More than any disk holds. */
    ag_err_clear(&err);
    assert_int_equal(ag_gguf_writer_open(&w, in_dir("big.gguf"), false, 0, 1, 32, &err), AG_OK);
    ag_gguf_tensor t = {.name = AG_STR("t"), .type = AG_Q_F32, .n_dims = 1, .dim = {1ull << 58, 1, 1, 1}};
    assert_int_equal(ag_gguf_writer_tensor(w, &t, &err), AG_E_IO);
    assert_non_null(strstr(err.text, "but the disk has room for"));
    ag_gguf_writer_close(w);
    assert_int_equal(files(), 0);
    ag_gguf_close(g);
    free(bytes);
}

static void test_the_umask_is_heeded(void **state)
{
    (void)state;
    ag_gguf_writer *w;
    ag_err err = {0};
    struct stat st;
    umask(077);
    int rc = ag_gguf_writer_open(&w, in_dir("mine.gguf"), false, 0, 0, 32, &err);
    if (rc == AG_OK) rc = ag_gguf_writer_finish(w, &err);
    assert_int_equal(umask(022), 077);
    assert_int_equal(rc, AG_OK);
    ag_gguf_writer_close(w);
    assert_int_equal(stat(in_dir("mine.gguf"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    unlink(in_dir("mine.gguf"));
}

static void test_failures(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    static const ag_fault_kind kinds[] = {AG_FAULT_ALLOC, AG_FAULT_OPEN, AG_FAULT_WRITE, AG_FAULT_SYNC,
                                          AG_FAULT_RENAME};
    size_t n;
    uint8_t *bytes = sample(2u << 20, &n);
    ag_gguf *g;
    ag_err err = {0};
    assert_int_equal(ag_gguf_open_mem(&g, "sample", bytes, n, &err), AG_OK);
    for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++)
        for (uint32_t nth = 1;; nth++) {
            ag_err_clear(&err);
            ag_fault_arm(kinds[k], nth);
            int rc = copy(g, in_dir("out.gguf"), nth % 2, 100, &err);
            bool fired = ag_fault_disarm(kinds[k]);
            assert_int_equal(rc == AG_OK, !fired);
            assert_int_equal(files(), rc == AG_OK ? 1 : 0);
            unlink(in_dir("out.gguf"));
            if (!fired) {
                assert_true(nth > 1);
                break;
            }
            assert_int_equal(rc, kinds[k] == AG_FAULT_ALLOC ? AG_E_NOMEM : AG_E_IO);
            assert_int_equal(strncmp(err.text, in_dir("out.gguf"), strlen(in_dir("out.gguf"))), 0);
        }
    ag_gguf_close(g);
    free(bytes);
#else
    check_skipped(1, "built without fault points");
#endif
}

int main(void)
{
    umask(022);
    snprintf(dir, sizeof dir, "/tmp/autoglm-write-XXXXXX");
    if (mkdtemp(dir) == NULL) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_the_umask_is_heeded), cmocka_unit_test(test_failures),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return failed;
}
