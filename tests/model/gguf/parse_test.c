/* One wrong thing a file, and the sentence that names it. */
#include "check.h"
#include "lib/gguf_build.h"
#include "model/gguf/gguf.h"

static const uint64_t one[] = {1, 1, 1, 1, 1};

/* An F32 tensor in a file with 64 bytes of data. */
static void f32_at(gb *b, const char *name, uint64_t weights, uint64_t offset)
{
    if (b->data.n == 0) gb_add(&b->data, NULL, 64);
    gb_entry(b, name, AG_Q_F32, 1, &weights, offset);
}

static void version_1(gb *b) { b->version = 1; }
static void version_4(gb *b) { b->version = 4; }
static void version_0(gb *b) { b->version = 0; }
static void big_endian(gb *b) { b->version = 0x03000000; }
static void keys_claimed(gb *b) { b->extra_keys = 5; }
static void keys_huge(gb *b) { b->extra_keys = UINT64_MAX; }
static void keys_past_limit(gb *b) { b->extra_keys = AG_GGUF_KEYS_MAX + 1; }
static void tensors_claimed(gb *b) { b->extra_tensors = 5; }
static void tensors_huge(gb *b) { b->extra_tensors = UINT64_MAX; }
static void tensors_past_limit(gb *b) { b->extra_tensors = AG_GGUF_TENSORS_MAX + 1; }
static void key_cut(gb *b)
{
    b->n_keys++;
    gb_add_u64(&b->keys, 100);
    gb_add(&b->keys, "too short", 9);
}
static void key_length_huge(gb *b)
{
    b->n_keys++;
    gb_add_u64(&b->keys, UINT64_MAX - 3);
    gb_add(&b->keys, NULL, 40);
}
static void key_empty(gb *b) { gb_u32(b, "", 1); }
static void key_not_utf8(gb *b) { gb_u32(b, "a\xff", 1); }
static void key_with_zero(gb *b) { gb_key_n(b, "a\0b", 3, GB_U8, "", 1); }
static void key_long(gb *b)
{
    static char name[AG_GGUF_KEY_MAX + 2];
    memset(name, 'k', sizeof name - 1);
    gb_u32(b, name, 1);
}
static void key_twice(gb *b)
{
    gb_u32(b, "some.key", 1);
    gb_str(b, "other.key", "x");
    gb_u32(b, "some.key", 1);
}
static void key_type(gb *b) { gb_key(b, "some.key", 13, "\0\0\0\0\0\0\0\0", 8); }
static void key_escaped(gb *b) { gb_key(b, "some\x1b[2Jkey", 13, "\0\0\0\0\0\0\0\0", 8); }
static void value_cut(gb *b) { gb_key(b, "some.key", GB_U64, "\0\0", 2); }
static void type_cut(gb *b)
{
    b->n_keys++;
    gb_add_str(&b->keys, "some.key", 8);
    gb_add(&b->keys, "\0", 1);
}
static void bool_2(gb *b) { gb_bool(b, "some.key", 2); }
static void bools_255(gb *b) { gb_array(b, "some.key", GB_BOOL, 3, "\0\1\377", 3); }
static void string_long(gb *b)
{
    gb_key(b, "some.key", GB_STRING, NULL, 0);
    gb_add_u64(&b->keys, 1000);
}
static void array_head_cut(gb *b) { gb_key(b, "some.key", GB_ARRAY, "\4\0\0\0\1", 5); }
static void array_type(gb *b) { gb_array(b, "some.key", 99, 1, "\0\0\0\0\0\0\0\0", 8); }
static void array_nested(gb *b) { gb_array(b, "some.key", GB_ARRAY, 1, "\0\0\0\0\0\0\0\0\0\0\0\0", 12); }
static void array_long(gb *b) { gb_array(b, "some.key", GB_U32, 1000, "\0\0\0\0", 4); }
static void array_overflow(gb *b) { gb_array(b, "some.key", GB_U64, UINT64_MAX / 8 + 2, NULL, 0); }
static void strings_long(gb *b) { gb_array(b, "some.key", GB_STRING, UINT64_MAX, NULL, 0); }
static void strings_cut(gb *b) { gb_array(b, "some.key", GB_STRING, 2, "\1\0\0\0\0\0\0\0a\x0f\0\0\0\0\0\0\0bc", 19); }
static void align_type(gb *b) { gb_str(b, "general.alignment", "32"); }
static void align_0(gb *b) { gb_u32(b, "general.alignment", 0); }
static void align_4(gb *b) { gb_u32(b, "general.alignment", 4); }
static void align_48(gb *b) { gb_u32(b, "general.alignment", 48); }
static void align_huge(gb *b) { gb_u32(b, "general.alignment", 1u << 31); }
static void align_negative(gb *b) { gb_i32(b, "general.alignment", -32); }
static void tensor_cut(gb *b)
{
    b->n_tensors++;
    gb_add_u64(&b->infos, 100);
    gb_add(&b->infos, NULL, 60);
}
static void tensor_entry_cut(gb *b)
{
    b->n_tensors++;
    gb_add_str(&b->infos, "some.weight", 11);
    gb_add_u32(&b->infos, 2);
    gb_add(&b->infos, NULL, 14);
}
static void tensor_dims_0(gb *b) { gb_entry(b, "some.weight", AG_Q_F32, 0, one, 0); }
static void tensor_dims_5(gb *b) { gb_entry(b, "some.weight", AG_Q_F32, 5, one, 0); }
static void tensor_dims_huge(gb *b)
{
    gb_entry(b, "some.weight", AG_Q_F32, 1, one, 0);
    gb_put_u32(b->infos.p, 8 + 11, UINT32_MAX);
}
static void tensor_dim_0(gb *b) { gb_entry(b, "some.weight", AG_Q_F32, 2, (uint64_t[]){4, 0}, 0); }
static void tensor_overflow(gb *b)
{
    gb_entry(b, "some.weight", AG_Q_F32, 4, (uint64_t[]){1u << 31, 1u << 31, 1u << 31, 1u << 31}, 0);
}
static void tensor_wraps_to_4(gb *b) /* 2^32 * 2^32 * 4 is 4 when nobody looks */
{
    gb_entry(b, "some.weight", AG_Q_F32, 3, (uint64_t[]){1ull << 32, 1ull << 32, 4}, 0);
}
static void tensor_bytes_overflow(gb *b) { gb_entry(b, "some.weight", AG_Q_F32, 1, (uint64_t[]){1ull << 62}, 0); }
static void tensor_weights_2_63(gb *b) { gb_entry(b, "some.weight", AG_Q_Q2_K, 2, (uint64_t[]){1ull << 62, 2}, 0); }
static void tensor_bytes_2_63(gb *b) { gb_entry(b, "some.weight", AG_Q_F32, 1, (uint64_t[]){1ull << 61}, 0); }
static void tensor_type(gb *b) { gb_entry(b, "some.weight", 16, 1, (uint64_t[]){256}, 0); }
static void tensor_type_unknown(gb *b) { gb_entry(b, "some.weight", 4000000000u, 1, (uint64_t[]){256}, 0); }
static void tensor_blocks(gb *b) { gb_entry(b, "some.weight", AG_Q_Q4_K, 2, (uint64_t[]){128, 2}, 0); }
static void tensor_twice(gb *b)
{
    f32_at(b, "some.weight", 1, 0);
    f32_at(b, "some.weight", 1, 32);
}
static void tensor_empty_name(gb *b) { f32_at(b, "", 1, 0); }
static void tensor_bad_name(gb *b) { f32_at(b, "\xed\xa0\x80", 1, 0); } /* half of a surrogate pair */
static void tensor_long_name(gb *b)
{
    char name[AG_GGUF_NAME_MAX + 2];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    f32_at(b, name, 1, 0);
}
static void offset_odd(gb *b) { f32_at(b, "some.weight", 1, 4); }
static void offset_past(gb *b) { f32_at(b, "some.weight", 1, 1 << 20); }
static void offset_wraps(gb *b) { f32_at(b, "some.weight", 16, UINT64_MAX - 31); }
static void data_short(gb *b) { f32_at(b, "some.weight", 17, 0); }
static void data_overlap(gb *b)
{
    f32_at(b, "some.weight", 1, 32);
    f32_at(b, "other.weight", 9, 0);
}
static void data_same(gb *b)
{
    f32_at(b, "some.weight", 1, 0);
    f32_at(b, "other.weight", 1, 0);
}
static void split_second(gb *b)
{
    gb_u16(b, "split.no", 1);
    gb_u16(b, "split.count", 2);
    gb_i32(b, "split.tensors.count", 2);
}
static void split_in_memory(gb *b)
{
    gb_u16(b, "split.no", 0);
    gb_u16(b, "split.count", 2);
    gb_i32(b, "split.tensors.count", 2);
}
static void split_no_missing(gb *b) { gb_u16(b, "split.count", 1); }
static void split_count_0(gb *b)
{
    gb_u16(b, "split.no", 0);
    gb_u16(b, "split.count", 0);
    gb_i32(b, "split.tensors.count", 2);
}
static void split_count_huge(gb *b)
{
    gb_u16(b, "split.no", 0);
    gb_u16(b, "split.count", 65535);
    gb_i32(b, "split.tensors.count", 2);
}

static const struct { void (*make)(gb *b); int code; const char *says; } cases[] = {
    {version_0, AG_E_UNSUPPORTED, "version 0; versions 2 and 3 are read"},
    {version_1, AG_E_UNSUPPORTED, "version 1; versions 2 and 3 are read"},
    {version_4, AG_E_UNSUPPORTED, "version 4; versions 2 and 3 are read"},
    {big_endian, AG_E_UNSUPPORTED, "big-endian"},
    {keys_claimed, AG_E_FILE, "claims 5 keys, more than a file of this size can hold"},
    {keys_huge, AG_E_FILE, "keys; at most 65536"},
    {keys_past_limit, AG_E_FILE, "claims 65537 keys; at most 65536"},
    {tensors_claimed, AG_E_FILE, "claims 5 tensors, more than a file of this size can hold"},
    {tensors_huge, AG_E_FILE, "tensors; at most 65536"},
    {tensors_past_limit, AG_E_FILE, "claims 65537 tensors; at most 65536"},
    {key_cut, AG_E_FILE, "ends inside key 0 of 1"},
    {key_length_huge, AG_E_FILE, "ends inside key 0 of 1"},
    {key_empty, AG_E_FILE, "the name of key 0 is empty"},
    {key_not_utf8, AG_E_FILE, "the name of key 0 is not UTF-8"},
    {key_with_zero, AG_E_FILE, "the name of key 0 is not UTF-8"},
    {key_long, AG_E_FILE, "the name of key 0 has 65536 bytes; at most 65535"},
    {key_twice, AG_E_FILE, "key some.key is there twice"},
    {key_type, AG_E_FILE, "key some.key is of type 13, which does not exist"},
    {key_escaped, AG_E_FILE, "key some\\u001b[2Jkey is of type 13"},
    {value_cut, AG_E_FILE, "the value of key some.key goes past the end of the file"},
    {type_cut, AG_E_FILE, "the value of key some.key goes past the end of the file"},
    {bool_2, AG_E_FILE, "key some.key holds a bool of 2"},
    {bools_255, AG_E_FILE, "key some.key holds a bool of 255"},
    {string_long, AG_E_FILE, "the value of key some.key goes past the end"},
    {array_head_cut, AG_E_FILE, "the value of key some.key goes past the end"},
    {array_type, AG_E_FILE, "key some.key is an array of type 99"},
    {array_nested, AG_E_UNSUPPORTED, "key some.key is an array of arrays"},
    {array_long, AG_E_FILE, "the value of key some.key goes past the end"},
    {array_overflow, AG_E_FILE, "the value of key some.key goes past the end"},
    {strings_long, AG_E_FILE, "the value of key some.key goes past the end"},
    {strings_cut, AG_E_FILE, "the value of key some.key goes past the end"},
    {align_type, AG_E_FILE, "key general.alignment is of type string; an integer was expected"},
    {align_0, AG_E_FILE, "key general.alignment is 0; a power of two"},
    {align_4, AG_E_FILE, "key general.alignment is 4; a power of two from 8 to 2097152"},
    {align_48, AG_E_FILE, "key general.alignment is 48; a power of two"},
    {align_huge, AG_E_FILE, "key general.alignment is 2147483648; a power of two"},
    {align_negative, AG_E_FILE, "key general.alignment is -32"},
    {tensor_cut, AG_E_FILE, "ends inside tensor entry 0 of 1"},
    {tensor_entry_cut, AG_E_FILE, "ends inside the entry of tensor some.weight"},
    {tensor_dims_0, AG_E_FILE, "tensor some.weight has 0 dimensions; 1 to 4"},
    {tensor_dims_5, AG_E_FILE, "tensor some.weight has 5 dimensions; 1 to 4"},
    {tensor_dims_huge, AG_E_FILE, "tensor some.weight has 4294967295 dimensions"},
    {tensor_dim_0, AG_E_FILE, "dimension 1 of tensor some.weight is 0"},
    {tensor_overflow, AG_E_FILE, "dimensions of tensor some.weight are too large"},
    {tensor_wraps_to_4, AG_E_FILE, "dimensions of tensor some.weight are too large"},
    {tensor_bytes_overflow, AG_E_FILE, "dimensions of tensor some.weight are too large"},
    {tensor_weights_2_63, AG_E_FILE, "dimensions of tensor some.weight are too large"},
    {tensor_bytes_2_63, AG_E_FILE, "dimensions of tensor some.weight are too large"},
    {tensor_type, AG_E_UNSUPPORTED, "tensor some.weight is of type 16 (IQ2_XXS); the types that are read are F32, F16"},
    {tensor_type_unknown, AG_E_UNSUPPORTED, "tensor some.weight is of type 4000000000 (unknown)"},
    {tensor_blocks, AG_E_FILE, "rows of tensor some.weight have 128 weights; a multiple of 256 is right for Q4_K"},
    {tensor_twice, AG_E_FILE, "tensor some.weight is there twice"},
    {tensor_empty_name, AG_E_FILE, "the name of tensor 0 is empty"},
    {tensor_bad_name, AG_E_FILE, "the name of tensor 0 is not UTF-8"},
    {tensor_long_name, AG_E_FILE, "the name of tensor 0 has 257 bytes; at most 256"},
    {offset_odd, AG_E_FILE, "tensor some.weight begin at offset 4, which is no multiple of the alignment 32"},
    {offset_past, AG_E_FILE, "tensor some.weight (4 bytes at offset 1048576) go past the end of the file"},
    {offset_wraps, AG_E_FILE, "tensor some.weight (64 bytes at offset 18446744073709551584) go past the end"},
    {data_short, AG_E_FILE, "tensor some.weight (68 bytes at offset 0) go past the end of the file"},
    {data_overlap, AG_E_FILE, "the data of tensors other.weight and some.weight overlap"},
    {data_same, AG_E_FILE, "weight overlap"},
    {split_second, AG_E_FILE, "is part 2 of 2 (key split.no); open the first part"},
    {split_in_memory, AG_E_FILE, "only found when its name ends in -00001-of-00002.gguf"},
    {split_no_missing, AG_E_FILE, "key split.no is missing"},
    {split_count_0, AG_E_FILE, "key split.count is 0"},
    {split_count_huge, AG_E_FILE, "key split.count is 65535; 1 to 1024"},
};

static void test_bad_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        gb b;
        size_t n;
        ag_gguf *g;
        ag_err err = {0};
        gb_init(&b);
        cases[i].make(&b);
        uint8_t *bytes = gb_build(&b, &n);
        int rc = ag_gguf_open_mem(&g, "bad.gguf", bytes, n, &err);
        if (rc == AG_OK) fail_msg("case %zu was opened; expected: %s", i, cases[i].says);
        if (rc != cases[i].code || err.code != rc || strstr(err.text, cases[i].says) == NULL ||
            strncmp(err.text, "bad.gguf", 8) != 0)
            fail_msg("case %zu: error %d \"%s\"; expected %d \"%s\"", i, rc, err.text, cases[i].code, cases[i].says);
        free(bytes);
        gb_free(&b);
    }
}

static void test_not_gguf(void **state)
{
    (void)state;
    const struct { const char *p; size_t n; const char *says; } files[] = {
        {"", 0, "bad.gguf has 0 bytes, too few"},
        {"GGU", 3, "bad.gguf has 3 bytes, too few"},
        {"GGUF\3", 5, "bad.gguf ends inside its header"},
        {"GGUF\3\0\0\0\0\0\0", 11, "bad.gguf ends inside its header"},
        {"<!DOCTYPE html>", 15, "is not a GGUF file: it begins with the bytes 3c 21 44 4f"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(files); i++) {
        ag_gguf *g;
        ag_err err = {0};
        uint8_t *p = malloc(files[i].n + 1);
        memcpy(p, files[i].p, files[i].n);
        assert_int_equal(ag_gguf_open_mem(&g, "bad.gguf", p, files[i].n, &err), AG_E_FILE);
        if (strstr(err.text, files[i].says) == NULL) fail_msg("\"%s\"; expected \"%s\"", err.text, files[i].says);
        free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bad_files), cmocka_unit_test(test_not_gguf)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
