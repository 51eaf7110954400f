/* The response cache, as callers see it: what is told from it, what is kept, and who computes when several ask. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/record.h"
#include "gateway/served.h"

#define PATH "/v1/completions"
#define CERTAIN "\"temperature\":0,\"max_tokens\":50"

static int serve_cached(ag_caching_conf cache)
{
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.cache = cache;
    serve(conf, true);
    return 0;
}

static int setup_cached(void **state)
{
    (void)state;
    return serve_cached((ag_caching_conf){.bytes_max = 8u << 20, .ttl_s = 3600, .stale_s = 3600});
}

#define CACHED(f) cmocka_unit_test_setup_teardown(f, setup_cached, teardown)

/* "" where there is no such header. */
static void header_of(const char *reply, const char *name, char out[80])
{
    char line[40];
    snprintf(line, sizeof line, "\r\n%s: ", name);
    const char *at = strcasestr(reply, line), *end = strstr(reply, "\r\n\r\n");
    out[0] = 0;
    if (at == NULL || end == NULL || at > end) return;
    at += strlen(line);
    snprintf(out, 80, "%.*s", (int)strcspn(at, "\r"), at);
}

/* The reply to a POST, after looking at its status and x-cache. */
static char *told(const char *path, const char *headers, const char *body, int status, const char *how)
{
    char got[80], *reply = ask("POST", path, headers, body);
    header_of(reply, "x-cache", got);
    if (status_of(reply) != status || strcmp(got, how) != 0)
        fail_msg("wanted %d and '%s':\n%s\n%s", status, how, body, reply);
    return reply;
}

static void tell(const char *headers, const char *body, int status, const char *how)
{
    free(told(PATH, headers, body, status, how));
}

static char *body_told(const char *path, const char *headers, const char *body, const char *how)
{
    char *reply = told(path, headers, body, 200, how), *text = body_of(reply);
    free(reply);
    return text;
}

static bool has(const char *reply, const char *part) { return strstr(reply, part) != NULL; }

static void a_second_one_is_told_the_same(void **state)
{
    (void)state;
    uint32_t before = fake_engine_made();
    char age[80];
    free(told(PATH, "", "{\"prompt\":\"say:hello\"," CERTAIN "}", 200, "miss"));
    char *reply = told(PATH, "", "{\"prompt\":\"say:hello\"," CERTAIN "}", 200, "hit");
    assert_true(has(reply, "\"text\":\"hello\""));
    assert_true(has(reply, "\"prompt_tokens\":10,\"completion_tokens\":5"));
    header_of(reply, "age", age);
    assert_true(age[0] && strspn(age, "0123456789") == strlen(age) && atoi(age) < 60);
    free(reply);
    reply = told(PATH, "",
                 "{\"prompt\":\"say:hello\",\"stream\":true,\"stream_options\":{\"include_usage\":true}," CERTAIN "}",
                 200, "hit");
    assert_true(has(reply, "\"text\":\"hello\"") && has(reply, "\"completion_tokens\":5") && has(reply, "[DONE]"));
    free(reply);
    assert_int_equal(fake_engine_made() - before, 1);
}

static void a_stream_is_kept_too(void **state)
{
    (void)state;
    static const char *const fields[] = {"", ",\"logprobs\":2", ",\"logprobs\":3,\"echo\":true", ",\"n\":3"};
    for (size_t i = 0; i < AG_ARRAY_LEN(fields); i++) {
        char plain[256], streamed[300];
        snprintf(plain, sizeof plain, "{\"prompt\":\"reuse:2 say:hello\"," CERTAIN "%s}", fields[i]);
        snprintf(streamed, sizeof streamed, "{\"stream\":true,%s", plain + 1);
        free(told(PATH, "", streamed, 200, "miss"));
        char *cached = body_told(PATH, "", plain, "hit");
        char *fresh = body_told(PATH, "Cache-Control: no-cache\r\n", plain, "miss");
        assert_string_equal(strstr(fresh, "\"model\""), strstr(cached, "\"model\"")); /* but for id and time */
        free(cached);
        free(fresh);
    }
}

static void dialects_share(void **state)
{
    (void)state;
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"say:hello\"}]," CERTAIN "}";
    uint32_t before = fake_engine_made();
    free(told("/v1/chat/completions", "", body, 200, "miss"));
    char *reply = told("/v1/messages", "", body, 200, "hit");
    assert_true(has(reply, "\"text\":\"hello\"") && has(reply, "end_turn"));
    free(reply);
    static const char input[] = "{\"input\":\"say:hello\",\"temperature\":0,\"max_output_tokens\":50}";
    reply = told("/v1/responses", "", input, 200, "hit");
    assert_true(has(reply, "hello"));
    free(reply);
    assert_int_equal(fake_engine_made() - before, 1);
}

static void embeddings_too(void **state)
{
    (void)state;
    static const char body[] = "{\"input\":[\"a\",\"bc\"]}";
    char *one = body_told("/v1/embeddings", "", body, "miss"), *two = body_told("/v1/embeddings", "", body, "hit");
    assert_string_equal(one, two);
    free(one);
    free(two);
    char *cut = told("/v1/embeddings", "", "{\"input\":[\"a\",\"bc\"],\"dimensions\":2}", 200, "hit");
    free(cut);
}

static void callers_decide(void **state)
{
    (void)state;
    static const char plain[] = "{\"prompt\":\"say:x\"," CERTAIN "}";
    tell("", "{\"prompt\":\"say:x\",\"max_tokens\":50}", 200, ""); /* another one each time */
    tell("", "{\"prompt\":\"say:x\",\"max_tokens\":50,\"cache\":{\"mode\":\"use\"}}", 200, "miss");
    tell("", "{\"prompt\":\"say:x\",\"max_tokens\":50,\"cache\":{\"mode\":\"use\"}}", 200, "hit");
    tell("", "{\"prompt\":\"say:x\",\"max_tokens\":50,\"seed\":1}", 200, "miss");
    tell("", "{\"prompt\":\"say:x\",\"max_tokens\":50,\"seed\":1}", 200, "hit");
    tell("", plain, 200, "miss");
    tell("", "{\"prompt\":\"say:x\"," CERTAIN ",\"cache\":{\"mode\":\"off\"}}", 200, "");
    tell("Cache-Control: no-store\r\n", plain, 200, "");
    tell("Cache-Control: no-cache, no-store\r\n", plain, 200, "");
    uint32_t before = fake_engine_made();
    tell("Cache-Control: max-age=0 ,\tNo-Cache\t, x\r\n", plain, 200, "miss");
    tell("", "{\"prompt\":\"say:x\"," CERTAIN ",\"cache\":{\"mode\":\"refresh\"}}", 200, "miss");
    assert_int_equal(fake_engine_made() - before, 2);
    tell("Cache-Control: no-store\r\n", "{\"prompt\":\"say:x\"," CERTAIN ",\"cache\":{\"mode\":\"use\"}}", 200, "hit");
    static const char *const bad[] = {"7",
                                      "{\"mode\":\"often\"}",
                                      "{\"mode\":1}",
                                      "{\"ttl_s\":0}",
                                      "{\"ttl_s\":2592001}",
                                      "{\"ttl_s\":\"1\"}",
                                      "{\"tags\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}",
                                      "{\"tags\":[\"\"]}",
                                      "{\"tags\":[\"a b\"]}",
                                      "{\"tags\":[1]}",
                                      "{\"tags\":\"a\"}",
                                      "{\"policy\":\"lru\"}"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"prompt\":\"say:x\",\"cache\":%s}", bad[i]);
        expect(400, "POST", PATH, "", body, "\"param\":\"cache\"");
    }
}

static void tenants_are_apart(void **state)
{
    (void)state;
    static const char body[] = "{\"prompt\":\"say:x\"," CERTAIN "}";
    tell("x-tenant: a\r\n", body, 200, "miss");
    tell("x-tenant: b\r\n", body, 200, "miss");
    tell("x-tenant: a\r\n", body, 200, "hit");
}

static void what_did_not_end_by_itself_is_not_kept(void **state)
{
    (void)state;
    static const char *const bodies[] = {"{\"prompt\":\"hold\"," CERTAIN ",\"timeout_ms\":300}",      /* cut off */
                                         "{\"prompt\":\"wait say:x\"," CERTAIN ",\"timeout_ms\":30}", /* never begun */
                                         "{\"prompt\":\"fail:3\"," CERTAIN "}", "{\"prompt\":\"full\"," CERTAIN "}",
                                         "{\"prompt\":\"late\"," CERTAIN ",\"timeout_ms\":60000}"};
    static const int statuses[] = {200, 504, 500, 503, 503};
    for (size_t i = 0; i < AG_ARRAY_LEN(bodies); i++)
        for (uint32_t k = 0; k < 2; k++) tell("", bodies[i], statuses[i], "miss");
    int fd = dial();
    send_request(fd, "POST", PATH, "", "{\"prompt\":\"hold\",\"stream\":true," CERTAIN "}");
    read_until(fd, "\"h\"");
    close(fd);
    wait_until_idle();
    tell("", "{\"prompt\":\"hold\"," CERTAIN ",\"timeout_ms\":300}", 200, "miss");
    tell("", "{\"prompt\":\"long:60\"," CERTAIN "}", 200, "miss"); /* whole, as long as was asked for */
    tell("", "{\"prompt\":\"long:60\"," CERTAIN "}", 200, "hit");
}

/* Several at once. */

static uint64_t coalesced(void) { return ag_metric_get(metrics, AG_M_CACHE_REQUESTS, AG_CACHED_COALESCED); }
static uint64_t missed(void) { return ag_metric_get(metrics, AG_M_CACHE_REQUESTS, AG_CACHED_MISS); }

static int begin(const char *body, uint64_t (*figure)(void))
{
    uint64_t before = figure();
    int fd = dial();
    send_request(fd, "POST", PATH, "", body);
    while (figure() == before) usleep(1000);
    return fd;
}

static void expect_reply(int fd, int status, const char *part)
{
    char *reply = read_all(fd);
    if (status_of(reply) != status || !has(reply, part)) fail_msg("wanted %d and '%s':\n%s", status, part, reply);
    free(reply);
}

static void equal_ones_are_computed_once(void **state)
{
    (void)state;
    enum { N = 100 };
    int fds[N];
    uint32_t before = fake_engine_made();
    for (int i = 0; i < N; i++)
        fds[i] = begin(i % 2 ? "{\"prompt\":\"wait say:hello\"," CERTAIN "}"
                             : "{\"stream\":true,\"prompt\":\"wait say:hello\"," CERTAIN "}",
                       i ? coalesced : missed);
    fake_engine_release();
    for (int i = 0; i < N; i++) expect_reply(fds[i], 200, i % 2 ? "\"text\":\"hello\"" : "[DONE]");
    assert_int_equal(fake_engine_made() - before, 1);
    tell("", "{\"prompt\":\"wait say:hello\"," CERTAIN "}", 200, "hit");
}

static void it_goes_on_while_anyone_listens(void **state)
{
    (void)state;
    static const char body[] = "{\"stream\":true,\"prompt\":\"wait say:hello\"," CERTAIN "}";
    uint64_t ended = fake_engine_cancelled();
    int first = begin(body, missed), second = begin(body, coalesced);
    close(first);
    while (fake_engine_cancelled() == ended) usleep(1000); /* the follower; not what it followed */
    fake_engine_release();
    expect_reply(second, 200, "[DONE]");
    wait_until_idle();
    /* And no longer. */
    static const char other[] = "{\"stream\":true,\"prompt\":\"hold\"," CERTAIN "}";
    first = begin(other, missed);
    second = begin(other, coalesced);
    read_until(first, "\"h\"");
    read_until(second, "\"h\"");
    close(first);
    close(second);
    wait_until_idle();
}

static void each_has_its_own_deadline(void **state)
{
    (void)state;
    int patient = begin("{\"prompt\":\"wait hold\"," CERTAIN "}", missed);
    int hasty = begin("{\"prompt\":\"wait hold\"," CERTAIN ",\"timeout_ms\":500,\"priority\":0}", coalesced);
    fake_spec s = fake_engine_seen();
    assert_int_equal(s.band, 0); /* of the most urgent */
    assert_true(s.deadline_us == 0); /* of the latest */
    expect_reply(hasty, 504, "\"code\"");
    fake_engine_release();
    int brief = begin("{\"prompt\":\"wait hold\"," CERTAIN ",\"timeout_ms\":500}", coalesced);
    expect_reply(brief, 200, "\"text\":\"h\"");
    close(patient);
    wait_until_idle();
    assert_int_equal(ag_metric_get(metrics, AG_M_CACHE_REQUESTS, AG_CACHED_HIT), 0);
}

static void a_failure_is_everybodys(void **state)
{
    (void)state;
    static const char body[] = "{\"prompt\":\"wait fail:3\"," CERTAIN "}";
    int first = begin(body, missed), second = begin(body, coalesced);
    fake_engine_release();
    expect_reply(first, 500, "caught fire");
    expect_reply(second, 500, "caught fire");
    wait_until_idle();
    first = begin(body, missed); /* nobody follows what has failed */
    fake_engine_release();
    expect_reply(first, 500, "caught fire");
}

/* Age. */

static int setup_stale(void **state)
{
    (void)state;
    return serve_cached((ag_caching_conf){.bytes_max = 8u << 20, .ttl_s = 1, .stale_s = 3600});
}

static void stale_ones_are_renewed(void **state)
{
    (void)state;
    static const char body[] = "{\"prompt\":\"say:hello\"," CERTAIN "}";
    uint32_t before = fake_engine_made();
    tell("", body, 200, "miss");
    for (;;) { /* until a second has passed */
        char got[80], *reply = ask("POST", PATH, "", body);
        header_of(reply, "x-cache", got);
        assert_true(has(reply, "\"text\":\"hello\""));
        free(reply);
        if (strcmp(got, "stale") == 0) break;
        assert_string_equal(got, "hit");
        usleep(10000);
    }
    while (fake_engine_made() - before < 2) usleep(1000);
    uint64_t hits = ag_metric_get(metrics, AG_M_CACHE_REQUESTS, AG_CACHED_HIT);
    while (ag_metric_get(metrics, AG_M_CACHE_REQUESTS, AG_CACHED_HIT) == hits) free(ask("POST", PATH, "", body));
}

/* Administrators. */

static json_t *admin(const char *method, const char *path, int status)
{
    char *reply = ask(method, path, "", NULL), *text = body_of(reply);
    if (status_of(reply) != status) fail_msg("%s %s wanted %d: %s", method, path, status, reply);
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    free(text);
    free(reply);
    return j;
}

static int64_t number_of(const char *method, const char *path, const char *name)
{
    json_t *j = admin(method, path, 200);
    int64_t n = json_integer_value(json_object_get(j, name));
    json_decref(j);
    return n;
}

/* What weights have computed that were found damaged since is neither told nor kept. */
static void damage_is_not_told(void **state)
{
    (void)state;
    static const char body[] = "{\"prompt\":\"say:hello\"," CERTAIN "}";
    static const char slow[] = "{\"prompt\":\"wait say:hello\"," CERTAIN "}";
    tell("", body, 200, "miss");
    tell("", body, 200, "hit");
    fake_engine_damage();
    tell("", body, 200, "miss");
    tell("", body, 200, "hit");
    int64_t kept = number_of("GET", "/admin/v1/cache", "puts");
    int first = begin(slow, missed);
    fake_engine_damage();
    fake_engine_release();
    expect_reply(first, 200, "hello");
    assert_int_equal(number_of("GET", "/admin/v1/cache", "puts"), kept);
}

static void who_is_refused_leaves_the_renewal_to_others(void **state)
{
    (void)state;
    static const char body[] = "{\"prompt\":\"say:hello\"," CERTAIN "}";
    char key[80], path[120], head[256];
    uint32_t before = fake_engine_made();
    char *reply = told(PATH, "", body, 200, "miss");
    header_of(reply, "x-cache-key", key);
    free(reply);
    snprintf(path, sizeof path, "/admin/v1/cache/%s", key);
    while (number_of("GET", path, "age_s") < 1) usleep(10000);
    snprintf(head, sizeof head,
             "POST " PATH " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
             "x-request-timeout-ms: 1\r\nContent-Length: %zu\r\n\r\n", sizeof body - 1);
    wait_until_idle();
    int fd = dial();
    send_text(fd, head);
    while (ag_gateway_requests(gw) == 0) usleep(1000); /* its time runs from here on */
    usleep(2000); /* and is over */
    send_text(fd, body);
    reply = read_all(fd);
    assert_int_equal(status_of(reply), 504);
    free(reply);
    tell("", body, 200, "stale");
    assert_int_equal(fake_engine_made() - before, 2);
}

static void administrators_see_and_forget(void **state)
{
    (void)state;
    char key[80], path[120];
    static const char tagged[] =
        "{\"prompt\":\"say:a\"," CERTAIN ",\"cache\":{\"tags\":[\"blue\",\"green\"],\"ttl_s\":100}}";
    char *reply = told(PATH, "x-tenant: a\r\n", tagged, 200, "miss");
    header_of(reply, "x-cache-key", key);
    free(reply);
    tell("x-tenant: b\r\n", "{\"prompt\":\"say:b\"," CERTAIN "}", 200, "miss");
    tell("x-tenant: c\r\n", "{\"prompt\":\"say:c\"," CERTAIN ",\"cache\":{\"tags\":[\"blue\"]}}", 200, "miss");
    assert_int_equal(number_of("GET", "/admin/v1/cache", "entries"), 3);
    snprintf(path, sizeof path, "/admin/v1/cache/%s", key);
    int64_t fresh = number_of("GET", path, "fresh_s");
    assert_true(fresh > 80 && fresh <= 100);
    assert_int_equal(number_of("DELETE", path, "purged"), 1);
    json_decref(admin("DELETE", path, 404));
    json_decref(admin("GET", path, 404));
    json_decref(admin("GET", "/admin/v1/cache/0123", 400));
    tell("x-tenant: a\r\n", tagged, 200, "miss");
    assert_int_equal(number_of("DELETE", "/admin/v1/cache?tenant=a", "purged"), 1);
    tell("x-tenant: a\r\n", tagged, 200, "miss");
    assert_int_equal(number_of("DELETE", "/admin/v1/cache?tag=green", "purged"), 1);
    assert_int_equal(number_of("DELETE", "/admin/v1/cache?tag=blue", "purged"), 1);
    assert_int_equal(number_of("DELETE", "/admin/v1/cache?model=other", "purged"), 0);
    assert_int_equal(number_of("DELETE", "/admin/v1/cache?model=fake", "purged"), 1);
    tell("", "{\"prompt\":\"say:b\"," CERTAIN "}", 200, "miss");
    assert_int_equal(number_of("DELETE", "/admin/v1/cache?all=1", "purged"), 1);
    static const char *const bad[] = {"", "?colour=blue", "?tag=", "?tag=%00", "?all=0", "?tag=a&tenant=b"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) {
        snprintf(path, sizeof path, "/admin/v1/cache%s", bad[i]);
        json_decref(admin("DELETE", path, 400));
    }
}

static void without_a_cache_there_is_none(void **state)
{
    (void)state;
    tell("", "{\"prompt\":\"say:x\"," CERTAIN "}", 200, "");
    json_decref(admin("GET", "/admin/v1/cache", 404));
}

/* Records. */

static ag_gen *replay(const char *text, int32_t top)
{
    ag_gen *g;
    ag_gen_replay_spec spec = {.n_tokens = (uint32_t)strlen(text), .n_prompt = 2, .top_logprobs = top};
    assert_int_equal(ag_gen_replay_begin(&g, engine, &spec), AG_OK);
    for (uint32_t i = 0; text[i]; i++) {
        ag_gen_token t = {.id = text[i], .logprob = -0.5f, .text_safe = i + 1};
        assert_int_equal(ag_gen_replay_token(g, &t), AG_OK);
    }
    for (uint32_t i = 0; i < 2; i++) ag_gen_replay_prompt(g, i, &(ag_gen_token){.id = 'p', .logprob = -0.75f});
    ag_gen_replay_end(g, AG_GEN_STOPPED, strlen(text), 3);
    return g;
}

static void damaged_records_are_none(void **state)
{
    (void)state;
    static const int32_t ids[] = {'p', 'q'};
    const ag_record_prompt prompt = {ids, 2};
    const ag_record_form form = {.n = 2, .per_prompt = 2, .prompts = &prompt, .top_logprobs = 2};
    ag_gen *gens[2] = {replay("hello", 2), replay("", 2)}, *back[2];
    ag_cache_value *v;
    ag_gen_token t[8];
    assert_int_equal(ag_record_make(&v, engine, &form, gens), AG_OK);
    ag_str bytes = {(const char *)ag_cache_value_bytes(v), ag_cache_value_size(v)};
    assert_int_equal(ag_record_read(back, engine, &form, bytes), AG_OK);
    assert_int_equal(ag_gen_read(back[0], 0, t, 8, NULL), 5);
    assert_int_equal(t[4].id, 'o');
    assert_int_equal(t[4].text_safe, 5);
    assert_int_equal(ag_gen_prompt(back[0])[1].id, 'q');
    assert_int_equal(ag_gen_reused(back[0]), 3);
    for (int i = 0; i < 2; i++) ag_gen_put(back[i]);
    uint8_t *copy = malloc(bytes.n + 1);
    for (size_t n = 0; n <= bytes.n + 1; n++) { /* cut short, or with something behind it: exactly the size, for ASan */
        uint8_t *part = malloc(AG_MAX(n, 1u));
        memcpy(part, bytes.p, AG_MIN(n, bytes.n));
        if (n > bytes.n) part[bytes.n] = 0;
        if (n != bytes.n) assert_int_equal(ag_record_read(back, engine, &form, (ag_str){(char *)part, n}), AG_E_FILE);
        free(part);
    }
    for (size_t bit = 0; bit < bytes.n * 8; bit++) { /* an answer of another form, or none; never more than there is */
        memcpy(copy, bytes.p, bytes.n);
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (ag_record_read(back, engine, &form, (ag_str){(char *)copy, bytes.n}) != AG_OK) continue;
        for (int i = 0; i < 2; i++) ag_gen_put(back[i]);
    }
    free(copy);
    ag_cache_value_drop(v);
    for (int i = 0; i < 2; i++) ag_gen_put(gens[i]);
}

/* Memory. */

/* A reply's texts one after the other: where a stream is cut is up to how fast who is. */
AG_UNUSED static void texts_of(const char *reply, char out[200])
{
    static const char name[] = "\"text\":\"";
    size_t n = 0;
    for (const char *at = reply; (at = strstr(at, name)) != NULL;) {
        at += sizeof name - 1;
        size_t more = strcspn(at, "\"");
        assert_true(n + more < 200);
        memcpy(out + n, at, more);
        n += more;
    }
    out[n] = 0;
}

static void want_of_memory_is_no_wrong_answer(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    static const char *const bodies[] = {"{\"prompt\":\"say:abc\"," CERTAIN ",\"logprobs\":2,\"echo\":true,\"n\":2}",
                                         "{\"prompt\":\"say:abc\"," CERTAIN ",\"stream\":true}"};
    for (size_t i = 0; i < 2 * AG_ARRAY_LEN(bodies); i++) {
        bool fired = true;
        if (i % 2) free(ask("POST", PATH, "", bodies[i / 2])); /* then hits, else misses */
        for (uint32_t n = 1; fired; n++) {
            if (i % 2 == 0) json_decref(admin("DELETE", "/admin/v1/cache?all=1", 200));
            char request[512], texts[200];
            int fd = dial();
            snprintf(request, sizeof request,
                     "POST " PATH " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(bodies[i / 2]), bodies[i / 2]);
            ag_fault_arm(AG_FAULT_ALLOC, n);
            send_text(fd, request);
            char *reply = read_all(fd);
            wait_until_idle();
            fired = ag_fault_disarm(AG_FAULT_ALLOC);
            int status = status_of(reply);
            if (!(status == 200 || (fired && (status == 503 || status == 0)))) fail_msg("n=%u: %s", n, reply);
            bool whole = has(reply, i / 2 ? "[DONE]" : "\"usage\""); /* else it was broken off */
            texts_of(reply, texts);
            if (status == 200 && whole && !has(texts, "abc") && !has(reply, "memory")) fail_msg("n=%u: %s", n, reply);
            free(reply);
        }
    }
#endif
}

static int setup_paced(void **state)
{
    (void)state;
    return serve_cached((ag_caching_conf){.bytes_max = 8u << 20, .ttl_s = 3600, .pace = 200});
}

static void streams_may_be_told_at_a_pace(void **state)
{
    (void)state;
    static const char body[] = "{\"prompt\":\"long:21\",\"stream\":true," CERTAIN "}";
    tell("", body, 200, "miss");
    uint64_t from = ag_now_us();
    char *text = body_told(PATH, "", body, "hit");
    assert_true(ag_now_us() - from >= 100000); /* 20 tokens after the first at 200 a second */
    uint32_t n = 0;
    for (const char *at = text; (at = strstr(at, "\"text\":\"x")); at++)
        for (const char *x = at + 8; *x == 'x'; x++) n++;
    assert_int_equal(n, 21);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CACHED(a_second_one_is_told_the_same),
        CACHED(a_stream_is_kept_too),
        CACHED(dialects_share),
        CACHED(embeddings_too),
        CACHED(callers_decide),
        CACHED(tenants_are_apart),
        CACHED(what_did_not_end_by_itself_is_not_kept),
        CACHED(equal_ones_are_computed_once),
        CACHED(it_goes_on_while_anyone_listens),
        CACHED(each_has_its_own_deadline),
        CACHED(a_failure_is_everybodys),
        cmocka_unit_test_setup_teardown(stale_ones_are_renewed, setup_stale, teardown),
        CACHED(damage_is_not_told),
        cmocka_unit_test_setup_teardown(who_is_refused_leaves_the_renewal_to_others, setup_stale, teardown),
        CACHED(administrators_see_and_forget),
        SERVED(without_a_cache_there_is_none),
        CACHED(damaged_records_are_none),
        CACHED(want_of_memory_is_no_wrong_answer),
        cmocka_unit_test_setup_teardown(streams_may_be_told_at_a_pace, setup_paced, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
