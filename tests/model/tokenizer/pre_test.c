/* Pre-tokenizers: what they cut, and that they look at each character a bounded number of times. */
#include "check.h"

#include "base/buf.h"
#include "model/tokenizer/pre.h"

typedef struct pieces {
    ag_buf text; /* the pieces with | between */
    size_t bytes, n;
} pieces;

static int add(void *arg, const char *p, size_t n)
{
    pieces *s = arg;
    assert_true(n > 0);
    if (s->n++) ag_buf_addc(&s->text, '|');
    ag_buf_add(&s->text, p, n);
    s->bytes += n;
    return 0;
}

static void check(const char *pre, const char *text, const char *want)
{
    const ag__pre *p = ag__pre_find(ag_str_of(pre));
    pieces s = {0};
    uint64_t steps = 0;
    assert_non_null(p);
    ag_buf_init(&s.text, 1 << 20);
    assert_int_equal(ag__pre_split(p, text, strlen(text), add, &s, &steps), 0);
    ag_buf_zterm(&s.text);
    if (strcmp(s.text.p ? s.text.p : "", want) != 0) fail_msg("%s '%s': '%s', '%s' wanted", pre, text, s.text.p, want);
    assert_int_equal(s.bytes, strlen(text));
    ag_buf_fini(&s.text);
}

static void gpt2(void **state)
{
    (void)state;
    check("gpt-2", "", "");
    check("gpt-2", "Hello world's 12 cats!", "Hello| world|'s| 12| cats|!");
    check("gpt-2", "I'M we'll 'x", "I|'|M| we|'ll| '|x");
    check("gpt-2", "a   b", "a|  | b");
    check("gpt-2", "a\n\nb  ", "a|\n|\n|b|  ");
    check("gpt-2", " \t x", " \t| x");
    check("smollm", "in 2024x", "in| |2|0|2|4|x");
    check("falcon", "a<=1234 12?", "a|<=|123|4| 12|?");
    check("default", "x 1234=y", "x| |123|4|=|y");
}

static void llama3(void **state)
{
    (void)state;
    check("llama-bpe", "I'M 12345 (ok)", "I|'M| |123|45| (|ok|)");
    check("llama-bpe", "x\n \n\n y", "x|\n \n\n| y");
    check("llama-bpe", "!!\r\n\n a", "!!\r\n\n| a");
    check("llama-bpe", "_a-b\tc", "_a|-b|\tc");
    check("llama-bpe", "a'\xc5\xbf" "b", "a|'\xc5\xbf|b"); /* U+017F is an s in any case */
    check("qwen2", "12a", "1|2|a");
    check("qwen2", "e\xcc\x81x", "e|\xcc\x81x");           /* a mark leads a word ... */
    check("qwen35", "e\xcc\x81x", "e\xcc\x81x");           /* ... or is part of it */
    check("seed-coder", "!!\n\nx", "!!|\n\n|x");
    check("glm4", "\xe4\xbd\xa0\xe5\xa5\xbd\xef\xbc\x8c\xe4\xb8\x96",
          "\xe4\xbd\xa0\xe5\xa5\xbd|\xef\xbc\x8c\xe4\xb8\x96");
    check("minicpm5", "\t 1.", "\t |1|.");
}

static void tekken(void **state)
{
    (void)state;
    check("tekken", "HelloWorld ABCdef xYZ", "Hello|World| ABCdef| x|YZ");
    check("tekken", "a/b//\n", "a|/b|//\n");
    check("tekken", "don't 12", "don|'t| |1|2");
    check("gpt-4o", "don't DON'T 1234", "don't| DON'T| |123|4");
    /* Caseless letters are upper and lower: the upper run gives back to its last one. */
    check("tekken", "\xe6\x97\xa5" "AB\xe6\x9c\xac" "CD", "\xe6\x97\xa5" "AB\xe6\x9c\xac|CD");
    check("tekken", "\xcc\x81\xcc\x81!", "\xcc\x81\xcc\x81|!");
    check("tekken", "\xc3\x84\xc3\xa4\xc3\x84", "\xc3\x84\xc3\xa4|\xc3\x84");
}

static void deepseek(void **state)
{
    (void)state;
    check("deepseek-v3", "$abc 1234 \xe4\xbd\xa0\xe5\xa5\xbd!\nx", "$abc| |123|4| |\xe4\xbd\xa0\xe5\xa5\xbd|!\n|x");
    check("deepseek-v3", "a\x01\x02" "b\x01", "a|\x01|\x02" "b|\x01");
    check("deepseek-llm", "ab cd, 12 \n x  ", "ab| cd|,| |12| |\n| x|  ");
    check("deepseek-coder", "f(x)  12", "f|(|x|)|  |1|2");
    check("poro-chat", "hi there, you", "hi| there|,| you");
    check("viking", "a12", "a|1|2");
}

static void names(void **state)
{
    (void)state;
    size_t n = 0;
    for (const ag__pre *p = ag__pre_next(NULL); p; p = ag__pre_next(p), n++) {
        assert_true(p->n_passes > 0);
        assert_ptr_equal(ag__pre_find(ag_str_of(p->name)), p); /* no name stands twice */
    }
    assert_true(n > 40);
    assert_null(ag__pre_find(AG_STR("")));
    assert_null(ag__pre_find(AG_STR("llama")));
    assert_true(ag__pre_find(AG_STR("llama-bpe"))->whole_first);
    assert_false(ag__pre_find(AG_STR("glm4"))->whole_first);
}

static int count(void *arg, const char *p, size_t n)
{
    (void)p;
    *(size_t *)arg += n;
    return 0;
}

/* Rows that make expressions backtrack, twice as long, take twice the looks. */
static void linear(void **state)
{
    (void)state;
    static const char *const units[] = {"a", " ", "\n", "7", "\xcc\x81", "\xe6\x97\xa5", "A", "'", " \n",
                                        "A\xcc\x81", "'s", ".", "\xf4\x80\x80\x80", "aA", " a", "\t ", "!\n", "\x01"};
    static const char *const ends[] = {"", "x", "\n", "!", "7"};
    enum { N = 600 };
    static char text[2 * N * 4 + 8];
    for (const ag__pre *p = ag__pre_next(NULL); p; p = ag__pre_next(p)) {
        for (size_t u = 0; u < AG_ARRAY_LEN(units); u++) {
            for (size_t e = 0; e < AG_ARRAY_LEN(ends); e++) {
                uint64_t steps[2] = {0, 0};
                for (size_t k = 0; k < 2; k++) {
                    size_t n = 0, seen = 0;
                    for (size_t i = 0; i < N * (k + 1); i++) n += (size_t)sprintf(text + n, "%s", units[u]);
                    n += (size_t)sprintf(text + n, "%s", ends[e]);
                    assert_int_equal(ag__pre_split(p, text, n, count, &seen, &steps[k]), 0);
                    assert_int_equal(seen, n);
                }
                if (steps[1] > 2 * steps[0] + 200) fail_msg("%s row %zu end %zu: %llu looks, then %llu", p->name, u, e,
                                                            (unsigned long long)steps[0], (unsigned long long)steps[1]);
            }
        }
    }
}

static int refuse(void *arg, const char *p, size_t n)
{
    (void)p;
    (void)n;
    return ++*(int *)arg == 3 ? 42 : 0;
}

static void stops(void **state)
{
    (void)state;
    int n = 0;
    uint64_t steps = 0;
    assert_int_equal(ag__pre_split(ag__pre_find(AG_STR("gpt-2")), "a b c d e", 9, refuse, &n, &steps), 42);
    assert_int_equal(n, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2), cmocka_unit_test(llama3), cmocka_unit_test(tekken), cmocka_unit_test(deepseek),
        cmocka_unit_test(names), cmocka_unit_test(linear), cmocka_unit_test(stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
