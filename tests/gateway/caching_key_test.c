/* Two spellings of one request are one key, whatever differs in a way that matters is another: pairs drawn from the
 * rows of fields.def, asked of a real gateway. A field that is new there is taken for one that matters until it is said
 * here. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/served.h"

#define PAIRS 300
#define FIELDS_MAX 64
#define CHAT "{\"messages\":[{\"role\":\"user\",\"content\":\"say:x\"}],\"max_tokens\":9"
#define KEY_HEADER "x-cache-key: "

static uint64_t state = 88172645463325252u;

static uint32_t draw(uint32_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state * 2685821657736338717u) >> 33) % n;
}

typedef enum field_type { A_BOOL, A_U32, A_F32, A_WORD } field_type;

typedef struct field {
    const char *name;
    field_type type;
    double min, max;
} field;

#define C 1
#define H 0
#define T 0
#define D 0
#define M 0
#define N 0
#define E 0
#define R 0
static const field rows[] = {
#define AG_FIELD_BOOL(name, member, kinds, doc) {(kinds) ? #name : "", A_BOOL, 0, 1},
#define AG_FIELD_U32(name, member, min, max, kinds, doc) {(kinds) ? #name : "", A_U32, min, max},
#define AG_FIELD_F32(name, member, min, max, open, kinds, doc) \
    {(kinds) ? #name : "", A_F32, (min) + (open) * 0.01, max},
#define AG_FIELD_OTHER(name, type, kinds, doc) {(kinds) ? #name : "", A_WORD, 0, 0},
#include "gateway/dialects/fields.def"
};

/* What a default is when it is written out, and values of fields whose rows do not tell them. A field with neither is
 * not drawn. matters false: with it or without, the answer is the same one. */
static const struct {
    const char *name;
    bool matters;
    const char *usual; /* NULL: leaving it out cannot be said otherwise */
    const char *values[4];
} known[] = {
    {"model", false, "\"fake\"", {"\"fake\""}},
    {"prompt", true, NULL, {"\"say:a\"", "\"say:b\"", "\"say:c\"", "[\"say:a\",\"say:b\"]"}},
    {"max_tokens", true, NULL, {"9", "10", "11", "12"}},
    {"min_tokens", true, "0", {"1", "2", "3", "4"}},
    {"top_k", true, "0", {"2", "3", "40", "50"}},
    {"seed", true, NULL, {"1", "2", "3", "-4"}},
    {"logit_bias", true, "{}", {"{\"5\":1,\"7\":2}", "{\"5\":1}", "{\"7\":1}", "{\"5\":1.5}"}},
    {"n", true, "1", {"2", "3", "4", "5"}},
    {"stop", true, "[]", {"\"x\"", "[\"x\",\"y\"]", "[\"y\"]", "\"xy\""}},
    {"stop_token_ids", true, "[]", {"[1]", "[2]", "[1,2]", "[3]"}},
    {"logprobs", true, NULL, {"0", "1", "2", "3"}},
    {"echo", false, "false", {"true"}},
    {"stream", false, "false", {"true"}},
    {"parse_special", false, "false", {"true"}}, /* only in how it makes tokens, which tell it themselves */
    {"priority", false, "2", {"1", "2", "3"}},
    {"timeout_ms", false, NULL, {"60000", "70000"}},
    {"user", false, NULL, {"\"me\"", "7"}},
    {"temperature", true, "1", {"0.5", "0.25", "2", "3"}},
    {"best_of", false, NULL, {NULL}},
    {"suffix", false, "\"\"", {"\"\""}},
    {"stream_options", false, NULL, {NULL}},
    {"response_format", true, "{\"type\":\"text\"}", {NULL}},
    {"cache", false, NULL, {NULL}},
    {"ignore_eos", true, "false", {"true"}},
    {"add_special_tokens", true, "true", {"false"}},
};

typedef struct request { char value[AG_ARRAY_LEN(rows)][64]; } request; /* as JSON; "": left out */

static size_t known_of(const char *name)
{
    size_t i = 0;
    while (i < AG_ARRAY_LEN(known) && strcmp(known[i].name, name) != 0) i++;
    return i;
}

static bool matters(size_t row)
{
    size_t k = known_of(rows[row].name);
    return k == AG_ARRAY_LEN(known) || known[k].matters;
}

/* false: there is none to draw. */
static bool draw_value(size_t row, char out[64])
{
    size_t k = known_of(rows[row].name), n = 0;
    if (k < AG_ARRAY_LEN(known)) {
        while (n < 4 && known[k].values[n]) n++;
        if (n) snprintf(out, 64, "%s", known[k].values[draw((uint32_t)n)]);
        return n > 0;
    }
    if (rows[row].type == A_WORD) fail_msg("what are values of '%s'?", rows[row].name);
    if (rows[row].type == A_BOOL) snprintf(out, 64, "%s", draw(2) ? "true" : "false");
    double step = (rows[row].max - rows[row].min) / 64;
    if (rows[row].type == A_U32) snprintf(out, 64, "%.0f", rows[row].min + draw(8));
    if (rows[row].type == A_F32) snprintf(out, 64, "%.6g", rows[row].min + step * (1 + draw(62)));
    return true;
}

static bool is_set(const request *q, const char *name)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++)
        if (strcmp(rows[i].name, name) == 0 && q->value[i][0]) return true;
    return false;
}

static request draw_request(void)
{
    request q = {0};
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        const char *name = rows[i].name;
        bool always = strcmp(name, "prompt") == 0 || strcmp(name, "max_tokens") == 0;
        if (name[0] == 0 || is_set(&q, name) || strcmp(name, "cache") == 0) continue;
        if (always || draw(3) == 0) draw_value(i, q.value[i]);
    }
    return q;
}

static void add(ag_buf *b, const char *name, const char *value)
{
    static const char *const blanks[] = {"", " ", "\n\t", "  "};
    const char *ahead = blanks[draw(4)], *behind = blanks[draw(4)], *then = blanks[draw(4)];
    ag_buf_addf(b, "%s%s\"%s\"%s:%s%s", b->n > 1 ? "," : "", ahead, name, behind, then, value);
}

/* In some order, with some blanks, some of the defaults written out, and some of what does not matter as it comes. */
static void spell(const request *q, ag_buf *b)
{
    size_t order[AG_ARRAY_LEN(rows)];
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        size_t at = draw((uint32_t)i + 1);
        order[i] = order[at];
        order[at] = i;
    }
    ag_buf_addc(b, '{');
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++) {
        size_t row = order[i], k = known_of(rows[row].name);
        char value[64];
        if (rows[row].name[0] == 0) continue;
        if (q->value[row][0] && strcmp(rows[row].name, "echo") != 0 && !matters(row)) {
            if (draw(2) && draw_value(row, value)) add(b, rows[row].name, value);
        } else if (q->value[row][0]) {
            add(b, rows[row].name, q->value[row]);
        } else if (k < AG_ARRAY_LEN(known) && known[k].usual && draw(2)) {
            add(b, rows[row].name, draw(4) ? known[k].usual : "null");
        }
    }
    add(b, "cache", draw(2) ? "{\"mode\":\"use\"}" : "{\"tags\":[\"a\"],\"ttl_s\":5,\"mode\":\"use\"}");
    ag_buf_addc(b, '}');
}

static void key_of(const request *q, char out[65])
{
    ag_buf b;
    ag_buf_init(&b, 65536);
    spell(q, &b);
    ag_buf_zterm(&b);
    char *reply = ask("POST", "/v1/completions", "", b.p), *at = strcasestr(reply, KEY_HEADER);
    if (status_of(reply) != 200 || at == NULL) fail_msg("%s\n%s", b.p, reply);
    snprintf(out, 65, "%s", at + strlen(KEY_HEADER));
    free(reply);
    ag_buf_fini(&b);
}

static int setup_cached(void **unused)
{
    (void)unused;
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.cache.bytes_max = 8u << 20;
    serve(conf, true);
    return 0;
}

/* A value that says something else than q has. */
static bool change(request *q, size_t row)
{
    request before = *q;
    size_t k = known_of(rows[row].name);
    const char *usual = k < AG_ARRAY_LEN(known) ? known[k].usual : NULL;
    for (uint32_t tries = 0; tries < 20; tries++) {
        if (!draw_value(row, q->value[row])) return false;
        bool same = strcmp(q->value[row], before.value[row][0] ? before.value[row] : usual ? usual : "") == 0;
        bool plain = rows[row].type == A_BOOL && !before.value[row][0] && strcmp(q->value[row], "false") == 0;
        /* A number that is its default: 0 or 1, which the draw of numbers does not give but for whole ones. */
        if (!same && !plain && strcmp(q->value[row], "0") != 0 && strcmp(q->value[row], "1") != 0) return true;
        if (!same && (strcmp(rows[row].name, "seed") == 0 || strcmp(rows[row].name, "logprobs") == 0)) return true;
    }
    return false;
}

static void spellings_are_one_and_differences_are_two(void **unused)
{
    (void)unused;
    uint32_t changed[AG_ARRAY_LEN(rows)] = {0};
    for (uint32_t i = 0; i < PAIRS; i++) {
        request q = draw_request();
        char one[65], two[65], other[65];
        key_of(&q, one);
        key_of(&q, two);
        assert_string_equal(one, two);
        size_t row = draw(AG_ARRAY_LEN(rows));
        request different = q;
        if (rows[row].name[0] == 0 || !matters(row) || !change(&different, row)) continue;
        key_of(&different, other);
        if (strcmp(one, other) == 0)
            fail_msg("'%s' %s, %s: the same key", rows[row].name, q.value[row], different.value[row]);
        changed[row]++;
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(rows); i++)
        if (rows[i].name[0] && matters(i) && known_of(rows[i].name) == AG_ARRAY_LEN(known)) assert_true(changed[i] > 0);
}

static void get_key(const char *path, const char *headers, const char *body, char out[65])
{
    char *reply = ask("POST", path, headers, body), *at = strcasestr(reply, KEY_HEADER);
    if (at == NULL) fail_msg("%s\n%s", body, reply);
    snprintf(out, 65, "%s", at + strlen(KEY_HEADER));
    free(reply);
}

static void who_asks_and_where(void **unused)
{
    (void)unused;
    char a[65], b[65];
    static const char body[] = CHAT ",\"temperature\":0}";
    get_key("/v1/chat/completions", "", body, a);
    get_key("/v1/messages", "", body, b);
    assert_string_equal(a, b);
    get_key("/v1/chat/completions", "x-tenant: other\r\n", body, b);
    assert_string_not_equal(a, b);
    /* Greedy is greedy. */
    get_key("/v1/chat/completions", "", CHAT ",\"top_k\":1,\"seed\":5,\"temperature\":2,\"top_p\":0.5}", b);
    assert_string_equal(a, b);
    /* Members of an object have no order, elements of an array have. */
    get_key("/v1/completions", "", "{\"prompt\":\"say:x\",\"temperature\":0,\"logit_bias\":{\"7\":1,\"5\":2}}", a);
    get_key("/v1/completions", "", "{\"prompt\":\"say:x\",\"temperature\":0,\"logit_bias\":{\"5\":2,\"7\":1}}", b);
    assert_string_equal(a, b);
}

static void another_version_is_another_key(void **unused)
{
    char a[65], b[65];
    static const char body[] = "{\"prompt\":\"say:x\",\"temperature\":0}";
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.cache = (ag_caching_conf){.bytes_max = 1u << 20, .ttl_s = 60, .secret = "between us"};
    for (uint64_t version = 1; version <= 3; version++) {
        fake_engine_identify(version == 3 ? 1 : version);
        serve(conf, true);
        get_key("/v1/completions", "", body, b);
        if (version == 1) memcpy(a, b, sizeof a);
        else if (version == 2) assert_string_not_equal(a, b);
        else assert_string_equal(a, b); /* servers with one secret agree */
        teardown(unused);
    }
    fake_engine_identify(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(spellings_are_one_and_differences_are_two, setup_cached, teardown),
        cmocka_unit_test_setup_teardown(who_asks_and_where, setup_cached, teardown),
        cmocka_unit_test(another_version_is_another_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
