#include "check.h"
#include "lib/gguf_build.h"
#include "lib/gguf_touch.h"

#include <glob.h>

#include "base/fault.h"

/* A file with a key of each type, arrays, and three tensors. */
static void everything(gb *b)
{
    static const char *const words[] = {"", "a", "\xc3\xa9", "<|end|>"};
    gb_init(b);
    gb_str(b, "general.architecture", "llama");
    gb_u8(b, "t.u8", 200);
    gb_i8(b, "t.i8", -100);
    gb_u16(b, "t.u16", 60000);
    gb_i16(b, "t.i16", -30000);
    gb_u32(b, "t.u32", 4000000000u);
    gb_i32(b, "t.i32", -2000000000);
    gb_f32(b, "t.f32", 0.5f);
    gb_bool(b, "t.bool", 1);
    gb_u64(b, "t.u64", UINT64_MAX);
    gb_i64(b, "t.i64", INT64_MIN);
    gb_f64(b, "t.f64", 0.25);
    gb_strings(b, "a.words", 4, words);
    gb_array(b, "a.i32", GB_I32, 3, (int32_t[]){1, -2, 3}, 12);
    gb_array(b, "a.f32", GB_F32, 2, (float[]){1.5f, -2.5f}, 8);
    gb_array(b, "a.bool", GB_BOOL, 2, (uint8_t[]){1, 0}, 2);
    gb_array(b, "a.none", GB_STRING, 0, NULL, 0);
    gb_tensor(b, "f32.weight", AG_Q_F32, 2, (uint64_t[]){3, 2}, (float[]){0, 1, 2, 3, 4, 5}, 24);
    gb_tensor(b, "q8.weight", AG_Q_Q8_0, 3, (uint64_t[]){64, 2, 2}, NULL, 34 * 8);
    gb_tensor(b, "q4_k.weight", AG_Q_Q4_K, 4, (uint64_t[]){256, 1, 1, 2}, NULL, 144 * 2);
}

static void test_values(void **state)
{
    (void)state;
    gb b;
    size_t n;
    ag_gguf *g;
    ag_err err = {0};
    everything(&b);
    uint8_t *bytes = gb_build(&b, &n);
    if (ag_gguf_open_mem(&g, "mem.gguf", bytes, n, &err) != AG_OK) fail_msg("%s", err.text);
    assert_string_equal(ag_gguf_path(g), "mem.gguf");
    assert_int_equal(ag_gguf_version(g), 3);
    assert_int_equal(ag_gguf_part_count(g), 1);
    assert_int_equal(ag_gguf_file_bytes(g), n);
    assert_int_equal(ag_gguf_value_count(g), 17);
    assert_true(ag_str_eqz(ag_gguf_value_at(g, 0)->key, "general.architecture"));
    const struct { const char *key; int64_t v; } ints[] = {
        {"t.u8", 200}, {"t.i8", -100}, {"t.u16", 60000}, {"t.i16", -30000}, {"t.u32", 4000000000}, {"t.bool", 1},
        {"t.i32", -2000000000}, {"t.u64", INT64_MAX}, {"t.i64", INT64_MIN},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(ints); i++)
        assert_int_equal(ag_gguf_int_at(ag_gguf_value_find(g, ints[i].key), 0), ints[i].v);
    assert_true(ag_gguf_float_at(ag_gguf_value_find(g, "t.f32"), 0) == 0.5);
    assert_true(ag_gguf_float_at(ag_gguf_value_find(g, "t.f64"), 0) == 0.25);
    const ag_gguf_value *v = ag_gguf_value_find(g, "a.words");
    assert_int_equal(v->type, AG_GGUF_ARRAY);
    assert_int_equal(v->item, AG_GGUF_STRING);
    assert_int_equal(v->n, 4);
    const void *at = v->data;
    assert_true(ag_str_eqz(ag_gguf_string_next(&at), ""));
    assert_true(ag_str_eqz(ag_gguf_string_next(&at), "a"));
    assert_true(ag_str_eqz(ag_gguf_string_next(&at), "\xc3\xa9"));
    assert_true(ag_str_eqz(ag_gguf_string_next(&at), "<|end|>"));
    assert_int_equal(ag_gguf_int_at(ag_gguf_value_find(g, "a.i32"), 1), -2);
    assert_true(ag_gguf_float_at(ag_gguf_value_find(g, "a.f32"), 1) == -2.5);
    assert_int_equal(ag_gguf_int_at(ag_gguf_value_find(g, "a.bool"), 1), 0);
    assert_int_equal(ag_gguf_value_find(g, "a.none")->n, 0);
    assert_null(ag_gguf_value_find(g, "t.u"));
    assert_null(ag_gguf_value_find(g, ""));
    assert_null(ag_gguf_value_find(g, "zzz"));
    ag_gguf_close(g);
    free(bytes);
    gb_free(&b);
}

static void test_tensors(void **state)
{
    (void)state;
    gb b;
    size_t n;
    ag_gguf *g;
    everything(&b);
    uint8_t *bytes = gb_build(&b, &n);
    assert_int_equal(ag_gguf_open_mem(&g, "mem.gguf", bytes, n, NULL), AG_OK);
    assert_int_equal(ag_gguf_tensor_count(g), 3);
    const ag_gguf_tensor *t = ag_gguf_tensor_find(g, "f32.weight");
    assert_ptr_equal(t, ag_gguf_tensor_at(g, 0));
    assert_true(ag_str_eqz(t->name, "f32.weight"));
    assert_int_equal(t->type, AG_Q_F32);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dim[0], 3);
    assert_int_equal(t->dim[1], 2);
    assert_int_equal(t->dim[2], 1);
    assert_int_equal(t->dim[3], 1);
    assert_int_equal(t->bytes, 24);
    assert_memory_equal(t->data, ((float[]){0, 1, 2, 3, 4, 5}), 24);
    assert_int_equal(ag_gguf_tensor_find(g, "q8.weight")->bytes, 34 * 8);
    t = ag_gguf_tensor_find(g, "q4_k.weight");
    assert_int_equal(t->bytes, 144 * 2);
    assert_int_equal(((const uint8_t *)t->data - bytes) % 32, 0);
    assert_null(ag_gguf_tensor_find(g, "q4_k"));
    assert_null(ag_gguf_tensor_find(g, ""));
    ag_gguf_release(g, t->data, t->bytes); /* borrowed bytes must survive the advice */
    assert_memory_equal(ag_gguf_tensor_at(g, 0)->data, ((float[]){0, 1, 2, 3, 4, 5}), 24);
    ag_gguf_close(g);
    free(bytes);
    gb_free(&b);
}

/* Version 2, tensors without keys, keys without tensors, neither; another alignment; entries in another order than the
 * data; a hole between data. */
static void test_odd_but_right(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        gb b;
        size_t n;
        ag_gguf *g;
        ag_err err = {0};
        gb_init(&b);
        if (i == 0) b.version = 2;
        if (i == 1 || i == 3) gb_u32(&b, "general.alignment", b.align = i == 1 ? 8 : 4096);
        if (i < 4) gb_tensor(&b, "a", AG_Q_F32, 1, (uint64_t[]){1}, NULL, 4);
        if (i == 4) gb_str(&b, "only.key", "x");
        if (i == 2) {
            gb_entry(&b, "behind", AG_Q_F32, 1, (uint64_t[]){2}, 96);
            gb_entry(&b, "between", AG_Q_F32, 1, (uint64_t[]){2}, 32);
            gb_add(&b.data, NULL, 100);
        }
        uint8_t *bytes = gb_build(&b, &n);
        if (ag_gguf_open_mem(&g, "odd", bytes, n, &err) != AG_OK) fail_msg("%d: %s", i, err.text);
        gguf_touch(g);
        assert_int_equal(ag_gguf_tensor_count(g), i < 4 ? i == 2 ? 3 : 1 : 0);
        assert_int_equal(ag_gguf_version(g), i == 0 ? 2 : 3);
        ag_gguf_close(g);
        free(bytes);
        gb_free(&b);
    }
    ag_gguf_close(NULL);
}

static const char *shown(const char *s, size_t n, size_t cap)
{
    static char out[256];
    memset(out, '#', sizeof out);
    const char *r = ag_gguf_show(out, cap, (ag_str){s, n});
    assert_true(strlen(r) < cap && out[cap] == '#');
    return r;
}

static void test_show(void **state)
{
    (void)state;
    assert_string_equal(shown("", 0, 16), "");
    assert_string_equal(shown(NULL, 0, 16), "");
    assert_string_equal(shown("a\xc3\xa9\xe4\xb8\xad", 6, 16), "a\xc3\xa9\xe4\xb8\xad");
    assert_string_equal(shown("\x1b[31m\n\t\r\\\0\x7f", 11, 64), "\\u001b[31m\\n\\t\\r\\\\\\u0000\\u007f");
    assert_string_equal(shown("\xc2\x9b\xe2\x80\xae\xef\xbb\xbf", 8, 64), "\\u009b\\u202e\\ufeff");
    assert_string_equal(shown("\xff\xc3", 2, 64), "\\xff\\xc3");
    assert_string_equal(shown("123456789012345", 15, 16), "123456789012345");
    assert_string_equal(shown("1234567890123456", 16, 16), "123456789012...");
    assert_string_equal(shown("12345678901\xe4\xb8\xad\xe4\xb8\xad", 17, 16), "12345678901...");
    static const char mixed[] = "\n\x01\xff\xe4\xb8\xad\xf0\x9f\x98\x80 abc \x1b\x1b\x1b\x1b\x1b\x1b";
    for (size_t cap = 16; cap < 64; cap++) shown(mixed, sizeof mixed - 1, cap);
}

/* Each prefix of a file is refused with a sentence; the last tensor's data reach the very end. */
static void test_truncated_anywhere(void **state)
{
    (void)state;
    gb b;
    size_t n;
    ag_gguf *g;
    everything(&b);
    uint8_t *bytes = gb_build(&b, &n);
    for (size_t cut = 0; cut < n; cut++) {
        ag_err err = {0};
        uint8_t *part = malloc(cut ? cut : 1); /* of its exact size */
        memcpy(part, bytes, cut);
        int rc = ag_gguf_open_mem(&g, "cut.gguf", part, cut, &err);
        if (rc == AG_OK) fail_msg("%zu bytes of %zu are taken for a whole file", cut, n);
        assert_true(rc == AG_E_FILE && err.code == rc && strstr(err.text, "cut.gguf") != NULL);
        free(part);
    }
    free(bytes);
    gb_free(&b);
}

/* Any one damaged byte before the data: a sentence, or a file that can be read through. */
static void test_flipped_anywhere(void **state)
{
    (void)state;
    gb b;
    size_t n, opened = 0, refused = 0;
    ag_gguf *g;
    everything(&b);
    uint8_t *bytes = gb_build(&b, &n);
    size_t head = n - b.data.n;
    for (size_t i = 0; i < head * 9; i++) {
        ag_err err = {0};
        uint8_t flip = i % 9 == 8 ? 0xFF : (uint8_t)(1u << i % 9);
        bytes[i / 9] ^= flip;
        int rc = ag_gguf_open_mem(&g, "flip.gguf", bytes, n, &err);
        if (rc == AG_OK) {
            gguf_touch(g);
            ag_gguf_close(g);
            opened++;
        } else {
            assert_true((rc == AG_E_FILE || rc == AG_E_UNSUPPORTED) && strstr(err.text, "flip.gguf") != NULL);
            refused++;
        }
        bytes[i / 9] ^= flip;
    }
    assert_true(opened > 100 && refused > 1000); /* both ways were walked */
    free(bytes);
    gb_free(&b);
}

#ifdef AG_FAULTS
static void test_no_memory(void **state)
{
    (void)state;
    gb b;
    size_t n;
    everything(&b);
    uint8_t *bytes = gb_build(&b, &n);
    for (uint32_t nth = 1;; nth++) {
        ag_gguf *g = NULL;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, nth);
        int rc = ag_gguf_open_mem(&g, "mem.gguf", bytes, n, &err);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        assert_int_equal(err.code, rc);
        if (rc == AG_OK) ag_gguf_close(g);
        if (!fired) {
            assert_true(nth > 5);
            break;
        }
    }
    free(bytes);
    gb_free(&b);
}
#endif

static void test_real_files(void **state)
{
    (void)state;
    const char *const patterns[] = {"%s/vocab/*.gguf", "%s/models/*.gguf"};
    const size_t expected[] = {5, 1};
    for (int i = 0; i < 2; i++) {
        char pattern[4096];
        glob_t found = {0};
        snprintf(pattern, sizeof pattern, patterns[i], check_data_dir());
        if (glob(pattern, 0, NULL, &found) != 0) {
            check_skipped((unsigned)expected[i], pattern);
            continue;
        }
        assert_true(found.gl_pathc >= expected[i]);
        for (size_t k = 0; k < found.gl_pathc; k++) {
            ag_gguf *g;
            ag_err err = {0};
            ag_str arch = {0};
            if (ag_gguf_open(&g, found.gl_pathv[k], &err) != AG_OK) fail_msg("%s", err.text);
            gguf_touch(g);
            assert_int_equal(ag_gguf_string(g, "general.architecture", true, &arch, NULL), AG_OK);
            assert_true(arch.n > 0);
            if (i == 0) {
                assert_int_equal(ag_gguf_tensor_count(g), 0);
                assert_true(ag_gguf_value_find(g, "tokenizer.ggml.tokens")->n > 30000);
            } else {
                const ag_gguf_tensor *t = ag_gguf_tensor_find(g, "token_embd.weight");
                assert_true(t != NULL && t->dim[0] == 64 && t->dim[1] == 512 && t->type == AG_Q_F32);
                float w = *(const float *)t->data;
                ag_gguf_release(g, t->data, t->bytes); /* a mapping's pages come back from the file */
                assert_true(*(const float *)t->data == w);
            }
            ag_gguf_close(g);
        }
        globfree(&found);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_tensors), cmocka_unit_test(test_odd_but_right),
        cmocka_unit_test(test_show), cmocka_unit_test(test_truncated_anywhere),
        cmocka_unit_test(test_flipped_anywhere), cmocka_unit_test(test_real_files),
#ifdef AG_FAULTS
        cmocka_unit_test(test_no_memory),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
