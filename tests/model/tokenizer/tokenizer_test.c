/* Encoding and decoding with vocabularies small enough to follow by hand. */
#include "check.h"

#include <stdarg.h>

#include "base/mem.h"
#include "model/tokenizer/vocab.h"
#include "tiny_vocab.h"

static void opened(tiny_opened *o, const tiny *v)
{
    tiny_open(o, v);
    if (o->rc) fail_msg("%s", o->err.text);
}

static int32_t id_of(const ag_tokenizer *t, const char *text)
{
    int32_t id = ag_tokenizer_find(t, ag_str_of(text));
    if (id < 0) fail_msg("no token '%s'", text);
    return id;
}

/* The pieces wanted, by their texts in the vocabulary, end with NULL. */
static void encodes(const ag_tokenizer *t, const char *text, bool add, bool parse, ...)
{
    int32_t *ids;
    uint32_t n, i = 0;
    ag_err err = {0};
    va_list ap;
    if (ag_tokenizer_encode(t, text, strlen(text), add, parse, &ids, &n, &err)) fail_msg("%s", err.text);
    va_start(ap, parse);
    for (const char *want; (want = va_arg(ap, const char *)) != NULL; i++) {
        if (i >= n) fail_msg("'%s': ends before '%s'", text, want);
        if (ids[i] != id_of(t, want)) fail_msg("'%s': id %u is %d, '%s' wanted", text, i, ids[i], want);
    }
    va_end(ap);
    if (i != n) fail_msg("'%s': %u ids, %u wanted", text, n, i);
    ag_mem_free(ids);
}

static void plain_places_begin_no_control_token(void **state)
{
    (void)state;
    static const char text[] = "<|bos|><|bos|><think>";
    tiny v;
    tiny_opened o;
    int32_t *ids;
    uint32_t n;
    tiny_bpe(&v, "gpt-2");
    opened(&o, &v);
    for (size_t i = 0; i < sizeof text - 1; i++)
        assert_int_equal(ag_tokenizer_control_at(o.t, text, i, sizeof text - 1), i == 0 || i == 7);
    assert_false(ag_tokenizer_control_at(o.t, text, 7, 13)); /* cut off */
    assert_int_equal(ag_tokenizer_encode_prompt(o.t, text, sizeof text - 1, (uint32_t[]){3, 7, 14}, 3, &ids, &n, NULL),
                     AG_OK);
    assert_int_equal(n, 9);
    assert_int_equal(ids[0], id_of(o.t, "<|bos|>"));
    assert_int_equal(ids[1], '<');
    assert_int_equal(ids[8], id_of(o.t, "<think>"));
    ag_mem_free(ids);
    tiny_close(&o);
}

static void decodes(const ag_tokenizer *t, const int32_t *ids, uint32_t n, bool special, const char *want,
                    size_t n_want)
{
    ag_buf b;
    ag_buf_init(&b, 1 << 16);
    assert_true(ag_tokenizer_decode(t, ids, n, special, &b));
    assert_int_equal(b.n, n_want);
    if (b.n) assert_memory_equal(b.p, want, n_want);
    ag_buf_fini(&b);
}

static void bpe_merges(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_bpe(&v, "gpt-2");
    opened(&o, &v);
    encodes(o.t, "", true, true, NULL);
    encodes(o.t, "hello world", false, false, "hello", TINY_SPACE "w", "or", "ld", NULL);
    encodes(o.t, "hell", false, false, "hell", NULL);
    encodes(o.t, "aaaaaaa", false, false, "aaaa", "aa", "a", NULL);
    encodes(o.t, "x's", false, false, "x", "'s", NULL);
    encodes(o.t, "\xe6\x97\xa5", false, false, "\xc3\xa6", "\xc4\xb9", "\xc2\xa5", NULL);
    tiny_close(&o);
    tiny_bpe(&v, "smollm"); /* digits alone: "1 2" never meets */
    opened(&o, &v);
    encodes(o.t, "12", false, false, "1", "2", NULL);
    tiny_close(&o);
}

/* Of two pairs the lower rank merges first, whichever stands first; the order of the file is the rank. */
static void bpe_ranks(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_bpe(&v, "gpt-2");
    v.n_merges = 0;
    v.merges[v.n_merges++] = "b c";
    v.merges[v.n_merges++] = "a b";
    v.merges[v.n_merges++] = "a bc"; /* makes a token that is not there: left out */
    v.merges[v.n_merges++] = "ab cd";
    v.merges[v.n_merges++] = "c d";
    v.merges[v.n_merges++] = "b c"; /* again: the first counts */
    tiny_token(&v, "bc", AG_TOKEN_NORMAL, 0);
    tiny_token(&v, "ab", AG_TOKEN_NORMAL, 0);
    tiny_token(&v, "cd", AG_TOKEN_NORMAL, 0);
    tiny_token(&v, "abcd", AG_TOKEN_NORMAL, 0);
    opened(&o, &v);
    encodes(o.t, "abcd", false, false, "a", "bc", "d", NULL);
    encodes(o.t, "abd", false, false, "ab", "d", NULL);
    encodes(o.t, "cdcd", false, false, "cd", "cd", NULL);
    tiny_close(&o);
    v.pre = "llama-bpe"; /* a piece that is a token is that token */
    opened(&o, &v);
    encodes(o.t, "abcd", false, false, "abcd", NULL);
    encodes(o.t, "abcde", false, false, "a", "bc", "d", "e", NULL);
    tiny_close(&o);
}

/* Bytes without a token vanish, as they do in every engine that reads such a file. */
static void bpe_without_bytes(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_bpe(&v, "gpt-2");
    snprintf(v.texts['x'], sizeof v.texts[0], "%s", "gone");
    opened(&o, &v);
    encodes(o.t, "xaxa", false, false, "a", "a", NULL);
    tiny_close(&o);
}

static void special_tokens(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_bpe(&v, "gpt-2");
    opened(&o, &v);
    encodes(o.t, "a<|im_end|>", false, true, "a", "<|im_end|>", NULL);
    encodes(o.t, "<think>hello<think>er<thi", false, false, "<think>", "hello", "<think>er", "<", "t", "h", "i", NULL);
    encodes(o.t, "<think>e", false, false, "<think>", "e", NULL); /* the longer one began, the shorter one stands */
    encodes(o.t, "[PAD]", false, true, "[", "P", "A", "D", "]", NULL);
    int32_t *ids;
    uint32_t n;
    static const char control[] = "<|im_end|><|bos|>";
    assert_int_equal(ag_tokenizer_encode(o.t, control, sizeof control - 1, true, false, &ids, &n, NULL), AG_OK);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(ag_tokenizer_kind(o.t, ids[i]), AG_TOKEN_NORMAL);
    ag_mem_free(ids);
    tiny_close(&o);
}

static void begin_and_end(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_bpe(&v, "gpt-2");
    opened(&o, &v);
    assert_false(ag_tokenizer_adds_bos(o.t));
    encodes(o.t, "a", true, false, "a", NULL);
    tiny_close(&o);
    v.add_bos = v.add_eos = 1;
    opened(&o, &v);
    assert_true(ag_tokenizer_adds_bos(o.t));
    assert_int_equal(ag_tokenizer_bos(o.t), v.bos);
    encodes(o.t, "a", true, false, "<|bos|>", "a", "<|im_end|>", NULL);
    encodes(o.t, "", true, false, "<|bos|>", "<|im_end|>", NULL);
    encodes(o.t, "a", false, false, "a", NULL);
    tiny_close(&o);
    tiny_bpe(&v, "llama-bpe"); /* its default */
    opened(&o, &v);
    encodes(o.t, "a", true, false, "<|bos|>", "a", NULL);
    tiny_close(&o);
    v.bos = -1; /* none to add */
    opened(&o, &v);
    assert_int_equal(ag_tokenizer_bos(o.t), -1);
    encodes(o.t, "a", true, false, "a", NULL);
    tiny_close(&o);
}

static void ends(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_bpe(&v, "gpt-2");
    v.eos = 'e';
    v.eot = 't';
    tiny_token(&v, "<|eot_id|>", AG_TOKEN_NORMAL, 0); /* unmarked, but no word that text would hold */
    tiny_token(&v, "</s>", AG_TOKEN_NORMAL, 0);       /* a word that text may hold */
    tiny_token(&v, "<|end|>", AG_TOKEN_CONTROL, 0);
    opened(&o, &v);
    static const char *const yes[] = {"e", "t", "<|im_end|>", "<|eot_id|>", "<|end|>"};
    static const char *const no[] = {"a", "</s>", "<|bos|>"};
    for (size_t i = 0; i < AG_ARRAY_LEN(yes); i++) assert_true(ag_tokenizer_ends(o.t, id_of(o.t, yes[i])));
    for (size_t i = 0; i < AG_ARRAY_LEN(no); i++) assert_false(ag_tokenizer_ends(o.t, id_of(o.t, no[i])));
    assert_false(ag_tokenizer_ends(o.t, -1));
    assert_false(ag_tokenizer_ends(o.t, INT32_MAX));
    encodes(o.t, "<|eot_id|>", false, true, "<|eot_id|>", NULL);
    tiny_close(&o);
    tiny_token(&v, "<|return|>", AG_TOKEN_CONTROL, 0); /* with these two, <|end|> ends a part only */
    tiny_token(&v, "<|call|>", AG_TOKEN_CONTROL, 0);
    opened(&o, &v);
    assert_false(ag_tokenizer_ends(o.t, id_of(o.t, "<|end|>")));
    assert_true(ag_tokenizer_ends(o.t, id_of(o.t, "<|return|>")));
    tiny_close(&o);
}

static void spm_text(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_spm(&v);
    opened(&o, &v);
    encodes(o.t, "", true, false, "<s>", NULL);
    encodes(o.t, "hello world", true, false, "<s>", TINY_MARK "hello", TINY_MARK "w", "or", "ld", NULL);
    encodes(o.t, "\xc3\xa9\xe6\x97\xa5", false, false, TINY_MARK, "\xc3\xa9", "<0xE6>", "<0x97>", "<0xA5>", NULL);
    encodes(o.t, "a<think>hello<s>hello", false, true, TINY_MARK, "a", "<think>", TINY_MARK "hello", "<s>",
            TINY_MARK "hello", NULL);
    encodes(o.t, "<s>", false, false, TINY_MARK, "<", "s>", NULL); /* never the control token, whatever merges */
    encodes(o.t, "<pad>", false, true, TINY_MARK, "<", "<0x70>", "a", "d", ">", NULL);
    encodes(o.t, "<0x41>", false, false, TINY_MARK, "<", "<0x30>", "<0x78>", "<0x34>", "<0x31>", ">", NULL);
    tiny_close(&o);
    v.space_prefix = 0;
    v.add_bos = 0;
    opened(&o, &v);
    assert_false(ag_tokenizer_strips_space(o.t));
    encodes(o.t, "hello  w", true, false, "hello", TINY_MARK, TINY_MARK "w", NULL);
    tiny_close(&o);
    snprintf(v.texts[3 + 0xe6], sizeof v.texts[0], "%s", "nobyte"); /* without its bytes a character is unknown, once */
    opened(&o, &v);
    encodes(o.t, "\xe6\x97\xa5" "a", false, false, "<unk>", "a", NULL);
    tiny_close(&o);
}

static void spm_scores(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_spm(&v);
    v.space_prefix = 0;
    uint32_t he = tiny_token(&v, "ad", AG_TOKEN_NORMAL, -1), ed = tiny_token(&v, "de", AG_TOKEN_NORMAL, -1);
    opened(&o, &v);
    encodes(o.t, "ade", false, false, "ad", "e", NULL); /* equal scores: the left one */
    tiny_close(&o);
    v.scores[ed] = -0.5f;
    opened(&o, &v);
    encodes(o.t, "ade", false, false, "a", "de", NULL);
    tiny_close(&o);
    v.scores[ed] = 0.0f;
    v.scores[he] = -0.0f; /* zero is zero */
    opened(&o, &v);
    encodes(o.t, "ade", false, false, "ad", "e", NULL);
    tiny_close(&o);
    v.scores[ed] = 3.0f;
    opened(&o, &v);
    encodes(o.t, "ade", false, false, "a", "de", NULL);
    tiny_close(&o);
}

/* Phi-3 drops the spaces behind its special tokens, by its name. */
static void strips(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_spm(&v);
    tiny_token(&v, "<|end|>", AG_TOKEN_CONTROL, 0);
    opened(&o, &v);
    encodes(o.t, "<|end|> \nhello", false, true, "<|end|>", TINY_MARK TINY_MARK, "<0x0A>", "hello", NULL);
    tiny_close(&o);
    v.name = "My PHI-3 mini";
    opened(&o, &v);
    encodes(o.t, "<|end|> \nhello", false, true, "<|end|>", TINY_MARK "hello", NULL);
    encodes(o.t, "<s> hello<|end|> ", false, true, "<s>", TINY_MARK, TINY_MARK "hello", "<|end|>", NULL);
    tiny_close(&o);
}

static void pieces(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_bpe(&v, "gpt-2");
    uint32_t raw = tiny_token(&v, "\xe6\x97\xa5", AG_TOKEN_NORMAL, 0); /* not in the alphabet: stands for itself */
    uint32_t byte = tiny_token(&v, "<0x9F>", AG_TOKEN_BYTE, 0), odd = tiny_token(&v, "<0x9G>", AG_TOKEN_BYTE, 0);
    opened(&o, &v);
    for (int32_t b = 0; b < 256; b++) {
        ag_str s = ag_tokenizer_piece(o.t, b, false);
        assert_int_equal(s.n, 1);
        assert_int_equal((uint8_t)s.p[0], b);
    }
    assert_true(ag_str_eqz(ag_tokenizer_piece(o.t, id_of(o.t, TINY_SPACE "w"), false), " w"));
    assert_true(ag_str_eqz(ag_tokenizer_piece(o.t, (int32_t)raw, false), "\xe6\x97\xa5"));
    assert_true(ag_str_eqz(ag_tokenizer_piece(o.t, (int32_t)byte, false), "\x9f"));
    assert_true(ag_str_eqz(ag_tokenizer_piece(o.t, (int32_t)odd, false), "<0x9G>"));
    assert_true(ag_str_eqz(ag_tokenizer_piece(o.t, id_of(o.t, "<|im_end|>"), true), "<|im_end|>"));
    assert_int_equal(ag_tokenizer_piece(o.t, id_of(o.t, "<|im_end|>"), false).n, 0);
    assert_int_equal(ag_tokenizer_piece(o.t, id_of(o.t, "[PAD]"), false).n, 0);
    assert_true(ag_str_eqz(ag_tokenizer_piece(o.t, id_of(o.t, "<think>"), false), "<think>"));
    assert_int_equal(ag_tokenizer_piece(o.t, -1, true).n, 0);
    assert_int_equal(ag_tokenizer_piece(o.t, (int32_t)v.n, true).n, 0);
    assert_int_equal(ag_tokenizer_size(o.t), v.n);
    assert_int_equal(ag_tokenizer_kind(o.t, -1), AG_TOKEN_UNUSED);
    assert_int_equal(ag_tokenizer_find(o.t, AG_STR("no such token")), -1);
    assert_int_equal(ag_tokenizer_find(o.t, (ag_str){NULL, 0}), -1);
    tiny_close(&o);
}

static void decode(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_spm(&v);
    uint32_t user = tiny_token(&v, " user", AG_TOKEN_USER, 0);
    opened(&o, &v);
    int32_t hello = id_of(o.t, TINY_MARK "hello"), w = id_of(o.t, TINY_MARK "w"), bos = 1;
    decodes(o.t, (int32_t[]){hello, w}, 2, true, "hello w", 7);
    decodes(o.t, (int32_t[]){bos, hello}, 2, true, "<s> hello", 9); /* where text did not begin, nothing is taken off */
    decodes(o.t, (int32_t[]){bos, hello}, 2, false, " hello", 6);
    decodes(o.t, (int32_t[]){(int32_t)user, w}, 2, true, " user w", 7);
    decodes(o.t, (int32_t[]){3, 3 + 0xff, 999}, 3, true, "\0\xff", 2);
    decodes(o.t, NULL, 0, true, "", 0);
    ag_buf small;
    ag_buf_init(&small, 3);
    assert_false(ag_tokenizer_decode(o.t, (int32_t[]){hello}, 1, true, &small));
    ag_buf_fini(&small);
    tiny_close(&o);
    v.space_prefix = 0;
    opened(&o, &v);
    decodes(o.t, (int32_t[]){hello}, 1, true, " hello", 6);
    tiny_close(&o);
}

static void bad_input(void **state)
{
    (void)state;
    tiny v;
    tiny_opened o;
    tiny_bpe(&v, "gpt-2");
    opened(&o, &v);
    static const char *const bad[] = {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80", "ok\xf5\x80\x80\x80"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        int32_t *ids = (int32_t *)&v;
        uint32_t n = 9;
        ag_err err = {0};
        assert_int_equal(ag_tokenizer_encode(o.t, bad[i], strlen(bad[i]), true, true, &ids, &n, &err), AG_E_UTF8);
        assert_null(ids);
        assert_int_equal(n, 0);
    }
    int32_t *ids;
    uint32_t n;
    ag_err err = {0};
    assert_int_equal(ag_tokenizer_encode(o.t, "x", (size_t)AG_TOKENIZER_TEXT_MAX + 1, true, true, &ids, &n, &err),
                     AG_E_LIMIT);
    assert_int_equal(ag_tokenizer_encode(o.t, "a\0b", 3, false, false, &ids, &n, NULL), AG_OK);
    assert_int_equal(n, 3);
    assert_int_equal(ids[1], 0);
    ag_mem_free(ids);
    assert_int_equal(ag_tokenizer_encode(o.t, NULL, 0, false, false, &ids, &n, NULL), AG_OK);
    assert_null(ids);
    tiny_close(&o);
}

/* What a text of n bytes costs, for texts that merge much, little and not at all: twice the text, little more than
 * twice the work. n log n gives a factor of 2.2 here, n^2 one of 4. */
static void cost(void **state)
{
    (void)state;
    static const char *const units[] = {"a", " ", "hello", "\n", "<think", "<", "\xc3\xa9", "aa ", "<s", "<think>e"};
    enum { N = 8000 };
    char *text = calloc(2 * N + 1, 8);
    for (int m = 0; m < 3; m++) {
        tiny v;
        tiny_opened o;
        if (m == 0) tiny_bpe(&v, "llama-bpe");
        else if (m == 1) tiny_bpe(&v, "tekken");
        else tiny_spm(&v);
        opened(&o, &v);
        for (size_t u = 0; u < AG_ARRAY_LEN(units); u++) {
            uint64_t steps[2];
            for (uint32_t k = 0; k < 2; k++) {
                size_t n = 0;
                for (uint32_t i = 0; i < N * (k + 1); i++) n += (size_t)sprintf(text + n, "%s", units[u]);
                int32_t *ids;
                uint32_t n_ids;
                assert_int_equal(ag__encode(o.t, text, n, true, true, &ids, &n_ids, &steps[k], NULL), AG_OK);
                ag_mem_free(ids);
            }
            if (steps[1] * 10 > steps[0] * 24)
                fail_msg("vocabulary %d, '%s': %llu steps, then %llu", m, units[u], (unsigned long long)steps[0],
                         (unsigned long long)steps[1]);
        }
        tiny_close(&o);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_places_begin_no_control_token),
        cmocka_unit_test(bpe_merges), cmocka_unit_test(bpe_ranks), cmocka_unit_test(bpe_without_bytes),
        cmocka_unit_test(special_tokens), cmocka_unit_test(begin_and_end), cmocka_unit_test(ends),
        cmocka_unit_test(spm_text), cmocka_unit_test(spm_scores), cmocka_unit_test(strips), cmocka_unit_test(pieces),
        cmocka_unit_test(decode), cmocka_unit_test(bad_input), cmocka_unit_test(cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
