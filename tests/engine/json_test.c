#include "engine/json.h"

#include <jansson.h>

#include "base/fault.h"
#include "base/mem.h"
#include "check.h"
#include "model/tokenizer/tiny_vocab.h"

/* ---- the automaton ---- */

static bool takes(const char *text, size_t n, ag_json *j)
{
    ag_json_init(j);
    for (size_t i = 0; i < n; i++)
        if (!ag_json_take(j, (unsigned char)text[i])) return false;
    return true;
}

static bool is_object(const char *text, size_t n)
{
    json_t *j = json_loadb(text, n, 0, NULL);
    bool object = json_is_object(j);
    json_decref(j);
    return object;
}

static const char *const good[] = {
    "{}", " \n\t\r{ }", "{\"\":0}", "{\"a\":[]}", "{\"a\":[1,2.5,-0,0.1e5,1E-7,3e+2,-12]}",
    "{ \"a\" : { \"b\" : [ { } , [ ] ] } }",
    "{\"a\":true,\"b\":false,\"c\":null}", "{\"k\\\"\\\\\\/\\b\\f\\n\\r\\t\":\"\\u0041\\uD7ff\\ue000\\u00e9\\ufFfF\"}",
    "{\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\":\"\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF\xE0\xA0\x80\xC2\x80\"}",
    "{\"n\":-0.0 ,\"m\":10 }", "{\"a\":[0\n]}", "{\"a\":\"\x7F\"}",
    "{\"a\":-123456789012345678.123456789012345678e-99}", "{\"\\u0001\":\"\\u1000\"}",
};

static const char *const bad[] = {
    "[", "1", "\"", "x", "{,", "{a", "{1", "{\"a\"}", "{\"a\",", "{\"a\":}", "{\"a\":,", "{\"a\":1,}", "{\"a\":1 1",
    "{\"a\":01",
    "{\"a\":-}", "{\"a\":-a", "{\"a\":1.}", "{\"a\":.5", "{\"a\":1e}", "{\"a\":1e+}", "{\"a\":+1", "{\"a\":1.5.",
    "{\"a\":1e5.",
    "{\"a\":[1,]", "{\"a\":[,", "{\"a\":[1}", "{\"a\":{]", "{\"a\":tru ", "{\"a\":nul}", "{\"a\":truee", "{\"a\":True",
    "{\"\n", "{\"\x01", "{\"\\x", "{\"\\u12g", "{\"\\ud800", "{\"\\uDC", "{\"\x80", "{\"\xC0\x80", "{\"\xC1",
    "{\"\xE0\x80", "{\"\xED\xA0",
    "{\"\xF0\x80", "{\"\xF4\x90", "{\"\xF5", "{\"\xE2\x82\"", "{}}", "{} ", "{}{", "{\"a\":1234567890123456789",
    "{\"a\":0.1234567890123456789", "{\"a\":1e100",
    "{\"\\u0000",
};

static void objects_are_told_from_others(void **state)
{
    (void)state;
    ag_json j;
    for (size_t i = 0; i < AG_ARRAY_LEN(good); i++) {
        assert_true(is_object(good[i], strlen(good[i])));
        if (!takes(good[i], strlen(good[i]), &j) || !ag_json_done(&j)) fail_msg("%s is refused", good[i]);
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++)
        if (takes(bad[i], strlen(bad[i]), &j)) fail_msg("%s is taken", bad[i]);
}

/* Bytes that each bring the end nearer by one, until it is there. */
static size_t close_it(ag_json j, char *out)
{
    static const char closers[] = "}]\":01nrualse{\x80\xA0\x90";
    size_t n = 0;
    while (!ag_json_done(&j)) {
        uint32_t cost = ag_json_cost(&j);
        ag_json next = j;
        size_t i = 0;
        for (; i < sizeof closers - 1; i++, next = j)
            if (ag_json_take(&next, (unsigned char)closers[i]) && ag_json_cost(&next) == cost - 1) break;
        if (i == sizeof closers - 1) fail_msg("no way to close from state %d, cost %u", j.at, cost);
        out[n++] = closers[i];
        j = next;
    }
    return n;
}

static void whatever_is_open_closes_at_its_cost(void **state)
{
    (void)state;
    ag_json j;
    for (size_t i = 0; i < AG_ARRAY_LEN(good); i++)
        for (size_t n = 0; n <= strlen(good[i]); n++) {
            char text[512];
            memcpy(text, good[i], n);
            assert_true(takes(text, n, &j));
            uint32_t cost = ag_json_cost(&j);
            size_t more = close_it(j, text + n);
            assert_int_equal(more, cost);
            if (!is_object(text, n + more)) fail_msg("%.*s", (int)(n + more), text);
        }
}

static void nesting_and_blanks_are_bounded(void **state)
{
    (void)state;
    ag_json j;
    char text[300] = "{\"a\":";
    for (uint32_t i = 0; i < AG_JSON_NEST_MAX - 1; i++) strcat(text, "[");
    assert_true(takes(text, strlen(text), &j));
    assert_int_equal(ag_json_cost(&j), AG_JSON_NEST_MAX);
    assert_false(ag_json_take(&j, '['));
    assert_true(takes(text, strlen(text), &j) && ag_json_take(&j, ']') && ag_json_take(&j, ',') &&
                ag_json_take(&j, '{'));
    assert_false(ag_json_take(&j, '{'));
    strcpy(text, "{");
    for (uint32_t i = 0; i < AG_JSON_BLANKS_MAX; i++) strcat(text, "\n");
    assert_true(takes(text, strlen(text), &j));
    ag_json blank = j;
    assert_false(ag_json_take(&blank, ' '));
    assert_true(ag_json_take(&j, '"') && ag_json_take(&j, '"') && ag_json_take(&j, ' '));
}

/* ---- the vocabulary ---- */

/* What ag_json_allow says, token by token. */
static void check_allowed(const ag_json_vocab *v, const ag_tokenizer *t, const ag_json *j, uint32_t left,
                          uint64_t *bits, uint32_t size)
{
    memset(bits, 0xA5, (size + 63) / 64 * 8);
    ag_json_allow(v, j, left, bits, size);
    uint32_t some = 0;
    for (uint32_t id = 0; id < size; id++) {
        ag_str s = id < ag_tokenizer_size(t) ? ag_tokenizer_piece(t, (int32_t)id, false) : (ag_str){0};
        ag_json after = *j;
        bool may = s.n > 0 && s.n <= AG_JSON_TOKEN_MAX;
        for (size_t i = 0; i < s.n && may; i++) may = ag_json_take(&after, (unsigned char)s.p[i]);
        may = may && ag_json_cost(&after) < left;
        if (may != (bits[id / 64] >> id % 64 & 1))
            fail_msg("token %u '%.*s' in state %d, %u left", id, (int)s.n, s.p, j->at, left);
        some += may;
    }
    assert_true(some > 0 || ag_json_cost(j) > left);
}

static uint64_t seed = 1;
static uint32_t chance(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static int32_t pick(const uint64_t *bits, uint32_t size)
{
    uint32_t n = 0, at;
    for (uint32_t i = 0; i < (size + 63) / 64; i++) n += (uint32_t)__builtin_popcountll(bits[i]);
    assert_true(n > 0);
    at = chance(n);
    for (uint32_t id = 0;; id++)
        if ((bits[id / 64] >> id % 64 & 1) && at-- == 0) return (int32_t)id;
}

/* Answers of random tokens: whatever is taken of those allowed, and however short it must be, a whole object comes of
 * it. */
static void wander(const ag_json_vocab *v, const ag_tokenizer *t, uint32_t answers)
{
    uint32_t size = ag_tokenizer_size(t);
    uint64_t *bits = malloc((size + 63) / 64 * 8);
    for (uint32_t k = 0; k < answers; k++) {
        uint32_t left = 2 + chance(60), structure = chance(3);
        ag_buf text;
        ag_json j;
        ag_buf_init(&text, 1 << 20);
        ag_json_init(&j);
        for (; !ag_json_done(&j); left--) {
            assert_true(left > 0);
            if (chance(20) == 0) check_allowed(v, t, &j, left, bits, size);
            ag_json_allow(v, &j, left, bits, size);
            int32_t id = pick(bits, size);
            /* a string is all too easily begun and never left */
            for (uint32_t tries = 0; structure && tries < 30; tries++) {
                ag_str s = ag_tokenizer_piece(t, id, false);
                if (memchr(s.p, '"', s.n) || memchr(s.p, '{', s.n) || memchr(s.p, '[', s.n)) break;
                id = pick(bits, size);
            }
            ag_str s = ag_tokenizer_piece(t, id, false);
            for (size_t i = 0; i < s.n; i++) assert_true(ag_json_take(&j, (unsigned char)s.p[i]));
            ag_buf_add(&text, s.p, s.n);
        }
        if (!is_object(text.p, text.n)) fail_msg("%.*s", (int)text.n, text.p);
        ag_buf_fini(&text);
    }
    free(bits);
}

static void tokens_are_allowed_as_their_bytes_are(void **state)
{
    (void)state;
    static uint64_t bits[1 << 14];
    for (int kind = 0; kind < 2; kind++) {
        tiny tv;
        tiny_opened o;
        ag_json_vocab *v = NULL;
        if (kind) tiny_spm(&tv);
        else tiny_bpe(&tv, "gpt-2");
        tiny_open(&o, &tv);
        assert_int_equal(ag_json_vocab_open(&v, o.t, NULL), AG_OK);
        for (size_t i = 0; i < AG_ARRAY_LEN(good); i++)
            for (size_t n = 0; n < strlen(good[i]); n++) {
                ag_json j;
                assert_true(takes(good[i], n, &j));
                uint32_t cost = ag_json_cost(&j);
                for (uint32_t left = cost ? cost - 1 : 0; left < cost + 4; left++)
                    check_allowed(v, o.t, &j, left, bits, ag_tokenizer_size(o.t) + 70);
            }
        wander(v, o.t, 2000);
        ag_json_vocab_close(v);
        tiny_close(&o);
    }
}

static void texts_may_stand_ahead_of_it(void **state)
{
    (void)state;
    static const char heads[] = "add\", \"a\": \0get_weather\", \"a\": \0get\", \"a\": \0";
    static const char *const whole[] = {"add\", \"a\": {}", "get\", \"a\":  {\"k\":[1]}",
                                        "get_weather\", \"a\": {\"k\":0}"};
    static const char *const wrong[] = {
        "{", " add", "ad ", "addd", "add\",  ", "get-", "gett", "sub", "add\", \"a\": 1", "add\", \"a\": add"};
    static uint64_t bits[1 << 14];
    tiny tv;
    tiny_opened o;
    ag_json_vocab *v = NULL;
    tiny_bpe(&tv, "gpt-2");
    tiny_open(&o, &tv);
    assert_int_equal(ag_json_vocab_open(&v, o.t, NULL), AG_OK);
    ag_json j;
    for (size_t i = 0; i < AG_ARRAY_LEN(whole); i++) {
        ag_json_init_behind(&j, heads);
        assert_int_equal(ag_json_cost(&j), strlen("add\", \"a\": {}"));
        for (const char *z = whole[i]; *z; z++) {
            uint32_t cost = ag_json_cost(&j);
            assert_true(cost > 0 && cost <= strlen(z) && !ag_json_done(&j));
            for (uint32_t left = cost - 1; left < cost + 3; left++)
                check_allowed(v, o.t, &j, left, bits, ag_tokenizer_size(o.t));
            assert_true(ag_json_take(&j, (unsigned char)*z));
        }
        assert_true(ag_json_done(&j));
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(wrong); i++) {
        bool fits = true;
        ag_json_init_behind(&j, heads);
        for (const char *z = wrong[i]; *z && fits; z++) fits = ag_json_take(&j, (unsigned char)*z);
        if (fits) fail_msg("%s", wrong[i]);
    }
    ag_json_init_behind(&j, heads);
    assert_false(ag_json_take(&j, 0));
    ag_json_vocab_close(v);
    tiny_close(&o);
}

static void large_vocabularies_do_the_same(void **state)
{
    (void)state;
    static const char *const names[] = {"glm4", "qwen2", "llama-spm", "gpt-2"};
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++) {
        char path[1024];
        ag_gguf *g;
        ag_tokenizer *t;
        ag_json_vocab *v;
        snprintf(path, sizeof path, "%s/vocab/ggml-vocab-%s.gguf", check_data_dir(), names[i]);
        if (ag_gguf_open(&g, path, NULL) != AG_OK) {
            check_skipped(1, "no vocabularies of published models");
            continue;
        }
        assert_int_equal(ag_tokenizer_open(&t, g, NULL), AG_OK);
        assert_int_equal(ag_json_vocab_open(&v, t, NULL), AG_OK);
        wander(v, t, 40);
        ag_json_vocab_close(v);
        ag_tokenizer_close(t);
        ag_gguf_close(g);
    }
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    tiny tv;
    tiny_opened o;
    tiny_bpe(&tv, "gpt-2");
    tiny_open(&o, &tv);
    int rc = AG_E_NOMEM;
    for (uint32_t n = 1; rc == AG_E_NOMEM; n++) {
        ag_json_vocab *v = NULL;
        ag_err err = {0};
        ag_fault_arm(AG_FAULT_ALLOC, n);
        rc = ag_json_vocab_open(&v, o.t, &err);
        ag_fault_disarm(AG_FAULT_ALLOC);
        if (rc == AG_OK) ag_json_vocab_close(v);
        else assert_true(err.text[0] != 0);
    }
    assert_int_equal(rc, AG_OK);
    tiny_close(&o);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_are_told_from_others),          cmocka_unit_test(whatever_is_open_closes_at_its_cost),
        cmocka_unit_test(nesting_and_blanks_are_bounded), cmocka_unit_test(tokens_are_allowed_as_their_bytes_are),
        cmocka_unit_test(texts_may_stand_ahead_of_it),
        cmocka_unit_test(large_vocabularies_do_the_same),        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
