/* What a file says of its model is checked before it is used, and every refusal names key or tensor. */
#include "model/arch/arch.h"

#include "base/fault.h"
#include "check.h"
#include "engine/tiny_model.h"


/* The code and sentence that a file gets. */
static int build(const gb *b, ag_err *err)
{
    size_t n;
    uint8_t *bytes = gb_build(b, &n);
    ag_gguf *g = NULL;
    ag_hparams hp;
    ag_graph graph;
    int rc = ag_gguf_open_mem(&g, "t.gguf", bytes, n, err);
    if (rc == AG_OK) rc = ag_hparams_read(&hp, g, err);
    if (rc == AG_OK) {
        ag_graph_init(&graph, g);
        rc = ag_arch_build(&graph, &hp, err);
        ag_graph_fini(&graph);
    }
    ag_gguf_close(g);
    free(bytes);
    return rc;
}

/* Keys of a small model, one of them of the test's choice (`key` without the family). */
static void keys_with(gb *b, const char *family, const char *key, double value)
{
    static const struct { const char *key; double value; bool real; } keys[] = {
        {"block_count", 1, 0}, {"embedding_length", 64, 0}, {"feed_forward_length", 96, 0},
        {"attention.head_count", 4, 0},
        {"attention.head_count_kv", 2, 0}, {"context_length", 512, 0}, {"attention.layer_norm_rms_epsilon", 1e-5, 1},
    };
    char name[128];
    bool known = false;
    gb_str(b, "general.architecture", family);
    for (size_t i = 0; i < AG_ARRAY_LEN(keys); i++) {
        bool mine = key && strcmp(key, keys[i].key) == 0;
        double v = mine ? value : keys[i].value;
        known |= mine;
        if (mine && value == -1) continue; /* left out */
        snprintf(name, sizeof name, "%s.%s", family, keys[i].key);
        if (keys[i].real) gb_f32(b, name, (float)v);
        else gb_u32(b, name, (uint32_t)v);
    }
    if (key && !known) {
        snprintf(name, sizeof name, "%s.%s", family, key);
        if (strstr(key, "freq_base") || strstr(key, "factor")) gb_f32(b, name, (float)value);
        else gb_u32(b, name, (uint32_t)value);
    }
    gb_tensor(b, "token_embd.weight", AG_Q_F32, 2, (uint64_t[]){64, 8}, NULL, 64 * 8 * 4);
}

static void test_keys(void **state)
{
    (void)state;
    static const struct { const char *key; double value; int code; const char *says; } bad[] = {
        {"block_count", 0, AG_E_FILE, "t.gguf: the number of layers is 0, should be 1 to 512"},
        {"block_count", 513, AG_E_FILE, "t.gguf: the number of layers is 513, should be 1 to 512"},
        {"embedding_length", 4294967295.0, AG_E_FILE,
         "t.gguf: the embedding length is 4294967295, should be 1 to 131072"},
        {"attention.head_count", 0, AG_E_FILE, "t.gguf: the number of heads is 0, should be 1 to 1024"},
        {"attention.head_count_kv", 3, AG_E_FILE, "t.gguf: 4 heads cannot share 3 KV heads evenly"},
        {"attention.head_count_kv", 0, AG_E_FILE, "t.gguf: the number of KV heads is 0, should be 1 to 4"},
        {"attention.key_length", 1024, AG_E_FILE, "t.gguf: the head length is 1024, should be 1 to 512"},
        {"attention.key_length", 12, AG_E_UNSUPPORTED,
         "t.gguf: heads of 12 and 12 dimensions; only multiples of 8 are supported"},
        {"context_length", 0, AG_E_FILE, "t.gguf: the context length is 0, should be 1 to 16777216"},
        {"rope.dimension_count", 17, AG_E_FILE, "t.gguf: the rotary dimension count is 17, should be 0 to 16"},
        {"rope.dimension_count", 7, AG_E_FILE, "t.gguf: an odd rotary dimension count, 7"},
        {"rope.freq_base", -5, AG_E_FILE, "t.gguf: the RoPE base must be above 0"},
        {"rope.scaling.factor", -2, AG_E_FILE, "t.gguf: the RoPE scaling factor must be above 0"},
        {"rope.scaling.original_context_length", 0, AG_E_FILE,
         "t.gguf: the original context length is 0, should be 1 to 16777216"},
        {"expert_count", 8, AG_E_UNSUPPORTED, "t.gguf: key \"llama.expert_count\" is 8; such models are not supported"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        gb b;
        ag_err err = {0};
        gb_init(&b);
        keys_with(&b, "llama", bad[i].key, bad[i].value);
        assert_int_equal(build(&b, &err), bad[i].code);
        assert_string_equal(err.text, bad[i].says);
        gb_free(&b);
    }
    static const char *const needed[] = {"block_count", "embedding_length", "attention.head_count", "context_length",
                                         "attention.layer_norm_rms_epsilon"};
    for (size_t i = 0; i < AG_ARRAY_LEN(needed); i++) {
        gb b;
        ag_err err = {0};
        gb_init(&b);
        keys_with(&b, "llama", needed[i], -1);
        assert_int_equal(build(&b, &err), AG_E_FILE);
        assert_non_null(strstr(err.text, needed[i]));
        gb_free(&b);
    }
}

static void test_unknown_family(void **state)
{
    (void)state;
    gb b;
    ag_err err = {0};
    gb_init(&b);
    keys_with(&b, "mamba", NULL, 0);
    assert_int_equal(build(&b, &err), AG_E_UNSUPPORTED);
    assert_string_equal(err.text, "t.gguf: model family \"mamba\" is not known; known are llama, qwen2, qwen3, chatglm, glm4, gemma3, phi3");
    gb_free(&b);
}

static void test_unknown_scaling(void **state)
{
    (void)state;
    gb b;
    ag_err err = {0};
    gb_init(&b);
    keys_with(&b, "qwen2", NULL, 0);
    gb_str(&b, "qwen2.rope.scaling.type", "ntk");
    assert_int_equal(build(&b, &err), AG_E_UNSUPPORTED);
    assert_string_equal(err.text,
                        "t.gguf: key \"qwen2.rope.scaling.type\" is \"ntk\"; known are none, linear, yarn, longrope");
    gb_free(&b);
}

static void test_gemma_pattern(void **state)
{
    (void)state;
    static const struct {
        uint8_t pattern[6];
        int code;
    } cases[] = {{{1, 1, 0, 1, 1, 0}, AG_E_FILE /* tensors are missing */}, {{1, 0, 0, 1, 1, 0}, AG_E_UNSUPPORTED}};
    for (size_t i = 0; i < AG_ARRAY_LEN(cases); i++) {
        gb b;
        ag_err err = {0};
        gb_init(&b);
        keys_with(&b, "gemma3", "block_count", 6);
        gb_u32(&b, "gemma3.attention.sliding_window", 16);
        gb_array(&b, "gemma3.attention.sliding_window_pattern", GB_BOOL, 6, cases[i].pattern, 6);
        assert_int_equal(build(&b, &err), cases[i].code);
        gb_free(&b);
    }
}

/* Each family names the first tensor that it misses, layer and all; a wrong shape is told with both shapes. */
static void test_tensors(void **state)
{
    (void)state;
    for (const char *p = ag_family_list(); *p;) {
        char family[32];
        size_t n = strcspn(p, ",");
        snprintf(family, sizeof family, "%.*s", (int)n, p);
        p += n + (p[n] ? 2 : 0);
        gb b;
        ag_err err = {0};
        gb_init(&b);
        keys_with(&b, family, NULL, 0);
        assert_int_equal(build(&b, &err), AG_E_FILE);
        assert_string_equal(err.text, "t.gguf: tensor \"blk.0.attn_norm.weight\" is missing");
        gb_tensor(&b, "blk.0.attn_norm.weight", AG_Q_F32, 1, (uint64_t[]){32}, NULL, 32 * 4);
        err = (ag_err){0};
        assert_int_equal(build(&b, &err), AG_E_FILE);
        assert_string_equal(err.text, "t.gguf: tensor \"blk.0.attn_norm.weight\" is 32 x 1 x 1 x 1, where the model's keys ask for 64 x 1");
        gb_free(&b);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    tiny_model t;
    tiny_model_open(&t, true);
    for (uint32_t n = 1;; n++) {
        ag_graph g;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        ag_graph_init(&g, t.m.gguf);
        int rc = ag_arch_build(&g, &t.m.hp, &err);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(rc, fired ? AG_E_NOMEM : AG_OK);
        ag_graph_fini(&g);
        if (!fired) break;
    }
    tiny_model_close(&t);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys), cmocka_unit_test(test_unknown_family), cmocka_unit_test(test_unknown_scaling),
        cmocka_unit_test(test_gemma_pattern), cmocka_unit_test(test_tensors),        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
