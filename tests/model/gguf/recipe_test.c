/* Which tensors a recipe takes, and the type that each gets. */
#include "check.h"
#include "lib/gguf_build.h"

#include "model/gguf/recipe.h"

static ag_gguf *g;
static uint8_t *bytes;

static void add(gb *b, const char *name, uint32_t n_dims, uint64_t rows)
{
    gb_tensor(b, name, 0, n_dims, (uint64_t[]){32, rows}, NULL, 32 * 4 * (n_dims > 1 ? rows : 1));
}

static void open_model(uint32_t layers, bool output)
{
    gb b;
    size_t n;
    char name[64];
    gb_init(&b);
    add(&b, "token_embd.weight", 2, 4);
    if (output) add(&b, "output.weight", 2, 4);
    add(&b, "output_norm.weight", 1, 1);
    for (uint32_t i = 0; i < layers; i++) {
        static const char *const parts[] = {"attn_q", "attn_v", "attn_qkv", "ffn_down", "ffn_down_exps",
                                            "ffn_gate_inp", "attn_norm"};
        for (size_t k = 0; k < AG_ARRAY_LEN(parts); k++) {
            snprintf(name, sizeof name, "blk.%u.%s.weight", i, parts[k]);
            add(&b, name, 2, 3);
        }
    }
    add(&b, "blk.0.attn_q.bias", 1, 1);
    add(&b, "odd", 2, 2);
    add(&b, "blk.x.ffn_down.weight", 2, 2);
    bytes = gb_build(&b, &n);
    gb_free(&b);
    ag_err err = {0};
    assert_int_equal(ag_gguf_open_mem(&g, "test", bytes, n, &err), AG_OK);
}

static void close_model(void)
{
    ag_gguf_close(g);
    free(bytes);
}

static ag_quant_type type_of(const char *recipe, const char *tensor, bool pure)
{
    const ag_recipe *r = ag_recipe_find(ag_str_of(recipe));
    const ag_gguf_tensor *t = ag_gguf_tensor_find(g, tensor);
    assert_non_null(r);
    assert_non_null(t);
    assert_true(ag_recipe_takes(t));
    return ag_recipe_type(r, g, ag_recipe_count_layers(g), t, pure);
}

static void test_costs(void **state)
{
    (void)state;
    open_model(1, true);
    assert_int_equal(ag_recipe_cost(ag_gguf_tensor_find(g, "token_embd.weight")), AG_COST_BY_SQUARE);
    assert_int_equal(ag_recipe_cost(ag_gguf_tensor_find(g, "output.weight")), AG_COST_BY_SQUARE);
    assert_int_equal(ag_recipe_cost(ag_gguf_tensor_find(g, "blk.0.attn_q.weight")), AG_COST_BY_SIZE);
    close_model();
}

static void test_taken(void **state)
{
    (void)state;
    static const char *const left[] = {"output_norm.weight", "blk.1.attn_norm.weight", "blk.1.ffn_gate_inp.weight",
                                       "blk.0.attn_q.bias", "odd"};
    open_model(2, true);
    for (size_t i = 0; i < AG_ARRAY_LEN(left); i++) assert_false(ag_recipe_takes(ag_gguf_tensor_find(g, left[i])));
    assert_true(ag_recipe_takes(ag_gguf_tensor_find(g, "blk.1.ffn_down_exps.weight")));
    close_model();
}

static void test_layers(void **state)
{
    (void)state;
    char name[64];
    static const char *const parts[] = {"attn_v", "ffn_down", "ffn_down_exps"};
    static const bool spread[16] = {1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 1}; /* of 16: two, every third, two */
    open_model(16, true);
    for (uint32_t i = 0; i < 16; i++)
        for (size_t k = 0; k < AG_ARRAY_LEN(parts); k++) {
            snprintf(name, sizeof name, "blk.%u.%s.weight", i, parts[k]);
            assert_int_equal(type_of("Q4_K_M", name, false), spread[i] ? AG_Q_Q6_K : AG_Q_Q4_K);
            assert_int_equal(type_of("Q5_K_M", name, false), spread[i] ? AG_Q_Q6_K : AG_Q_Q5_K);
            assert_int_equal(type_of("Q4_K_S", name, false), i < 2 ? AG_Q_Q5_K : AG_Q_Q4_K);
            assert_int_equal(type_of("Q5_K_S", name, false), AG_Q_Q5_K);
            assert_int_equal(type_of("Q4_0", name, false), AG_Q_Q4_0);
            assert_int_equal(type_of("Q4_K_M", name, true), AG_Q_Q4_K);
        }
    assert_int_equal(type_of("Q4_K_M", "blk.0.attn_q.weight", false), AG_Q_Q4_K);
    assert_int_equal(type_of("Q4_K_M", "blk.3.attn_qkv.weight", false), AG_Q_Q5_K);
    assert_int_equal(type_of("Q5_K_M", "blk.3.attn_qkv.weight", false), AG_Q_Q6_K);
    assert_int_equal(type_of("Q4_K_S", "blk.3.attn_qkv.weight", false), AG_Q_Q4_K);
    assert_int_equal(type_of("Q4_K_M", "blk.x.ffn_down.weight", false), AG_Q_Q4_K);
    close_model();
}

static void test_output(void **state)
{
    (void)state;
    open_model(1, true);
    assert_int_equal(type_of("Q4_0", "output.weight", false), AG_Q_Q6_K);
    assert_int_equal(type_of("Q4_0", "token_embd.weight", false), AG_Q_Q4_0);
    assert_int_equal(type_of("Q8_0", "output.weight", false), AG_Q_Q8_0);
    assert_int_equal(type_of("q4_k", "output.weight", true), AG_Q_Q4_K);
    close_model();
    open_model(1, false);
    assert_int_equal(type_of("Q4_0", "token_embd.weight", false), AG_Q_Q6_K);
    assert_int_equal(type_of("F16", "token_embd.weight", false), AG_Q_F16);
    close_model();
}

static void test_names_and_fits(void **state)
{
    (void)state;
    uint32_t n = 0;
    for (const ag_recipe *r = ag_recipe_next(NULL); r != NULL; r = ag_recipe_next(r), n++)
        assert_ptr_equal(ag_recipe_find(ag_str_of(r->name)), r);
    assert_int_equal(n, 15);
    assert_null(ag_recipe_find(AG_STR("Q2_K")));
    assert_null(ag_recipe_find(AG_STR("")));
    assert_int_equal(ag_recipe_find(AG_STR("q4_k_m"))->file_type, 15);
    assert_int_equal(ag_recipe_fit(AG_Q_Q4_K, 512), AG_Q_Q4_K);
    assert_int_equal(ag_recipe_fit(AG_Q_Q4_K, 576), AG_Q_Q5_0);
    assert_int_equal(ag_recipe_fit(AG_Q_Q5_K, 576), AG_Q_Q5_1);
    assert_int_equal(ag_recipe_fit(AG_Q_Q6_K, 576), AG_Q_Q8_0);
    assert_int_equal(ag_recipe_fit(AG_Q_Q4_K, 100), AG_Q_F16);
    assert_int_equal(ag_recipe_fit(AG_Q_Q8_0, 1), AG_Q_F16);
    assert_int_equal(ag_recipe_fit(AG_Q_F32, 1), AG_Q_F32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken), cmocka_unit_test(test_costs), cmocka_unit_test(test_layers),
        cmocka_unit_test(test_output),
        cmocka_unit_test(test_names_and_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
