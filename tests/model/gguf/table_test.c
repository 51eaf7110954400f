/* table.c is compiled in here with a counting memcmp: what sorting and finding cost is counted, not timed. */
#include "check.h"
#include "lib/gguf_build.h"

#include "base/mem.h"
#include "model/gguf/gguf_priv.h"

static uint64_t compared;

static int counting_memcmp(const void *a, const void *b, size_t n)
{
    compared++;
    return memcmp(a, b, n);
}

#define memcmp counting_memcmp
#include "model/gguf/table.c"
#undef memcmp

static ag_gguf *open_keys(gb *b, uint8_t **bytes)
{
    size_t n;
    ag_gguf *g;
    ag_err err = {0};
    *bytes = gb_build(b, &n);
    if (ag_gguf_open_mem(&g, "t.gguf", *bytes, n, &err) != AG_OK) fail_msg("%s", err.text);
    return g;
}

#define EXPECT(call, wanted, says)                                                         \
    do {                                                                                   \
        ag_err_clear(&err);                                                                \
        int rc_ = (call);                                                                  \
        if (rc_ != (wanted) || rc_ != err.code || strstr(err.text, says) == NULL)          \
            fail_msg("%s: %d \"%s\", expected \"%s\"", #call, rc_, err.text, says);        \
    } while (0)

static void test_u32(void **state)
{
    (void)state;
    gb b;
    uint8_t *bytes;
    ag_err err = {0};
    gb_init(&b);
    gb_u8(&b, "u8", 255);
    gb_i8(&b, "i8", 127);
    gb_u16(&b, "u16", 65535);
    gb_i16(&b, "i16", 32767);
    gb_u32(&b, "u32", UINT32_MAX);
    gb_i32(&b, "i32", INT32_MAX);
    gb_u64(&b, "u64", UINT32_MAX);
    gb_i64(&b, "i64", 7);
    gb_u64(&b, "u64.large", UINT32_MAX + 1ull);
    gb_u64(&b, "u64.huge", UINT64_MAX);
    gb_i8(&b, "i8.minus", -1);
    gb_i64(&b, "i64.min", INT64_MIN);
    gb_f32(&b, "f32", 1);
    gb_bool(&b, "bool", 1);
    gb_array(&b, "array", GB_U32, 1, "\1\0\0\0", 4);
    ag_gguf *g = open_keys(&b, &bytes);
    const struct { const char *key; uint32_t v; } good[] = {
        {"u8", 255}, {"i8", 127}, {"u16", 65535}, {"i16", 32767}, {"u32", UINT32_MAX}, {"i32", INT32_MAX},
        {"u64", UINT32_MAX}, {"i64", 7},
    };
    uint32_t v;
    for (size_t i = 0; i < AG_ARRAY_LEN(good); i++) {
        EXPECT(ag_gguf_u32(g, good[i].key, true, &v, &err), AG_OK, "");
        assert_int_equal(v, good[i].v);
    }
    v = 42;
    EXPECT(ag_gguf_u32(g, "missing", false, &v, &err), AG_OK, "");
    EXPECT(ag_gguf_u32(g, "missing", true, &v, &err), AG_E_FILE, "t.gguf: key missing is missing");
    EXPECT(ag_gguf_u32(g, "u64.large", true, &v, &err), AG_E_FILE, "key u64.large is 4294967296; 0 to 4294967295");
    EXPECT(ag_gguf_u32(g, "u64.huge", false, &v, &err), AG_E_FILE, "key u64.huge is");
    EXPECT(ag_gguf_u32(g, "i8.minus", true, &v, &err), AG_E_FILE, "key i8.minus is -1; 0 to 4294967295");
    EXPECT(ag_gguf_u32(g, "i64.min", true, &v, &err), AG_E_FILE, "key i64.min is -9223372036854775808");
    EXPECT(ag_gguf_u32(g, "f32", true, &v, &err), AG_E_FILE, "key f32 is of type f32; an integer was expected");
    EXPECT(ag_gguf_u32(g, "bool", false, &v, &err), AG_E_FILE, "key bool is of type bool; an integer was expected");
    EXPECT(ag_gguf_u32(g, "array", true, &v, &err), AG_E_FILE, "key array is of type array; an integer was expected");
    assert_int_equal(v, 42);
    ag_gguf_close(g);
    free(bytes);
    gb_free(&b);
}

static void test_other_types(void **state)
{
    (void)state;
    gb b;
    uint8_t *bytes;
    ag_err err = {0};
    gb_init(&b);
    gb_f32(&b, "f32", 1.5f);
    gb_f64(&b, "f64", -2.25);
    gb_f64(&b, "f64.large", 1e300);
    gb_f32(&b, "nan", NAN);
    gb_f32(&b, "inf", -INFINITY);
    gb_u32(&b, "u32", 1);
    gb_bool(&b, "yes", 1);
    gb_bool(&b, "no", 0);
    gb_strn(&b, "text", "a\0b", 3);
    gb_str(&b, "empty", "");
    gb_strings(&b, "texts", 1, (const char *const[]){"x"});
    ag_gguf *g = open_keys(&b, &bytes);
    float f = 9;
    EXPECT(ag_gguf_f32(g, "f32", true, &f, &err), AG_OK, "");
    assert_true(f == 1.5f);
    EXPECT(ag_gguf_f32(g, "f64", true, &f, &err), AG_OK, "");
    assert_true(f == -2.25f);
    EXPECT(ag_gguf_f32(g, "missing", false, &f, &err), AG_OK, "");
    EXPECT(ag_gguf_f32(g, "missing", true, &f, &err), AG_E_FILE, "key missing is missing");
    EXPECT(ag_gguf_f32(g, "f64.large", true, &f, &err), AG_E_FILE, "key f64.large is 1e+300; a finite f32");
    EXPECT(ag_gguf_f32(g, "nan", true, &f, &err), AG_E_FILE, "a finite f32 was expected");
    EXPECT(ag_gguf_f32(g, "inf", true, &f, &err), AG_E_FILE, "key inf is -inf");
    EXPECT(ag_gguf_f32(g, "u32", true, &f, &err), AG_E_FILE, "key u32 is of type u32; f32 was expected");
    assert_true(f == -2.25f);
    bool yes = false;
    EXPECT(ag_gguf_bool(g, "yes", true, &yes, &err), AG_OK, "");
    assert_true(yes);
    EXPECT(ag_gguf_bool(g, "no", true, &yes, &err), AG_OK, "");
    assert_false(yes);
    EXPECT(ag_gguf_bool(g, "missing", false, &yes, &err), AG_OK, "");
    EXPECT(ag_gguf_bool(g, "missing", true, &yes, &err), AG_E_FILE, "key missing is missing");
    EXPECT(ag_gguf_bool(g, "u32", false, &yes, &err), AG_E_FILE, "key u32 is of type u32; bool was expected");
    ag_str s = {0};
    EXPECT(ag_gguf_string(g, "text", true, &s, &err), AG_OK, "");
    assert_true(ag_str_eq(s, (ag_str){"a\0b", 3}));
    EXPECT(ag_gguf_string(g, "empty", true, &s, &err), AG_OK, "");
    assert_int_equal(s.n, 0);
    EXPECT(ag_gguf_string(g, "missing", false, &s, &err), AG_OK, "");
    EXPECT(ag_gguf_string(g, "missing", true, &s, &err), AG_E_FILE, "key missing is missing");
    EXPECT(ag_gguf_string(g, "texts", true, &s, &err), AG_E_FILE, "key texts is of type array; string was expected");
    ag_gguf_close(g);
    free(bytes);
    gb_free(&b);
}

typedef enum { SORTED, REVERSED, PERMUTED, LONG_PREFIX, ORDERS } order;

/* Comparisons for a table of n keys, built and asked for each of them. */
static uint64_t cost(uint32_t n, order o)
{
    ag__gguf_table t = {.v = ag_mem_array(n, sizeof *t.v), .n = n};
    char *names = ag_mem_alloc((size_t)n * 64);
    assert_true(t.v != NULL && names != NULL);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = o == REVERSED ? n - 1 - i : o == PERMUTED ? (uint32_t)((uint64_t)i * 48271 % n) : i;
        const char *prefix = o == LONG_PREFIX ? "a.prefix.that.all.share." : "k";
        int len = snprintf(names + (size_t)i * 64, 64, "%s%06u", prefix, k);
        t.v[i].key = (ag_str){names + (size_t)i * 64, (size_t)len};
    }
    compared = 0;
    assert_int_equal(ag__gguf_table_index(&t, "t", NULL), AG_OK);
    for (uint32_t i = 0; i < n; i++) assert_ptr_equal(ag__gguf_table_find(&t, t.v[i].key), &t.v[i]);
    ag_mem_free(names);
    ag__gguf_table_fini(&t);
    return compared;
}

static void test_cost_grows_as_n_log_n(void **state)
{
    (void)state;
    for (order o = 0; o < ORDERS; o++) {
        uint64_t once = cost(16384, o), twice = cost(32768, o);
        assert_true(once > 16384);
        if (twice * 10 > once * 23) /* n log n gives 2.14; n^2 would give 4 */
            fail_msg("order %d: %llu comparisons for n, %llu for 2n", (int)o, (unsigned long long)once,
                     (unsigned long long)twice);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_u32), cmocka_unit_test(test_other_types), cmocka_unit_test(test_cost_grows_as_n_log_n),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
