#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "gateway/keyed.h"
#include "keys/meters.h"

static char text[AG_KEY_TEXT_BYTES + 1], headers[200];

/* A key with limits, known to the gateway; what was set before it is known too. */
static void make(ag_limits l)
{
    ag_key k = {.limits = l};
    store_key(db, "gold", &k, text);
    snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", text);
    for (int status = 0; status != 200;) {
        char *reply = ask("GET", "/v1/models", headers, NULL);
        status = status_of(reply);
        free(reply);
    }
}

static void limit(const char *subject, ag_limits l)
{
    assert_int_equal(ag_keys_db_limits_set(db, subject, &l, NULL), AG_OK);
}

/* Half a minute from the first request on, of which some seconds may have passed. */
static void expect_wait(const char *path, const char *body)
{
    char *reply = ask("POST", path, headers, body);
    const char *at = strcasestr(reply, "retry-after: ");
    int s = at ? atoi(at + strlen("retry-after: ")) : -1;
    if (status_of(reply) != 429 || s < 20 || s > 30) fail_msg("%s: %s", path, reply);
    free(reply);
}

static void requests_are_limited_and_told_as_openai_does(void **state)
{
    (void)state;
    make((ag_limits){.requests_per_minute = 2});
    char *reply = ask("POST", PATH, headers, SAY);
    assert_int_equal(status_of(reply), 200);
    assert_non_null(strcasestr(reply, "x-ratelimit-limit-requests: 2\r\n"));
    assert_non_null(strcasestr(reply, "x-ratelimit-remaining-requests: 1\r\n"));
    assert_non_null(strcasestr(reply, "x-ratelimit-reset-requests: 30s\r\n"));
    assert_null(strcasestr(reply, "x-ratelimit-limit-tokens"));
    free(reply);
    expect(200, "POST", PATH, headers, SAY, "x-ratelimit-remaining-requests: 0");
    expect_wait(PATH, SAY);
    expect(429, "POST", PATH, headers, SAY, "The limit of this key (requests a minute: 2) is reached; try again in ");
    expect(429, "POST", PATH, headers, SAY, "rate_limit_exceeded");
    expect(429, "POST", PATH, headers, SAY, "x-ratelimit-remaining-requests: 0\r\n");
    expect(200, "GET", "/v1/models", headers, NULL, "\"fake\""); /* looking is free */
    assert_int_equal(ag_metric_get(metrics, AG_M_LIMITED, AG_METER_KEY * AG_LIMIT_COUNT + AG_LIMIT_requests_per_minute),
                     4);
}

static void tokens_are_limited(void **state)
{
    (void)state;
    make((ag_limits){.tokens_per_minute = 20});
    expect(200, "POST", PATH, headers, SAY, "x-ratelimit-remaining-tokens: 13\r\n");
    wait_until_idle();
    expect(200, "POST", PATH, headers, SAY, "x-ratelimit-remaining-tokens: 4\r\n");
    wait_until_idle();
    expect(429, "POST", PATH, headers, SAY, "this key (tokens a minute: 20)");
    expect(429, "POST", PATH, headers, SAY, "retry-after: ");
    expect(400, "POST", PATH, headers, "{\"prompt\":\"say:a prompt of many letters\",\"max_tokens\":1}",
           "more than this key may send at all");
}

static void what_was_refused_by_the_queue_costs_no_tokens(void **state)
{
    (void)state;
    make((ag_limits){.tokens_per_minute = 10});
    expect(503, "POST", PATH, headers, "{\"prompt\":\"full\",\"max_tokens\":1}", "queue_full");
    expect(200, "POST", PATH, headers, SAY, "x-ratelimit-remaining-tokens: 3\r\n");
}

static void what_is_made_counts_while_it_is_made(void **state)
{
    (void)state;
    make((ag_limits){.tokens_per_minute = 20});
    int fd = dial();
    send_request(fd, "POST", PATH, headers, "{\"prompt\":\"hold\",\"max_tokens\":50,\"stream\":true}");
    read_until(fd, "\"h\"");
    expect(200, "POST", PATH, headers, SAY, "x-ratelimit-remaining-tokens: 7\r\n"); /* 5 and 1 of it, 7 of this */
    close(fd);
    wait_until_idle();
}

static void requests_in_flight_are_limited(void **state)
{
    (void)state;
    make((ag_limits){.concurrent = 1});
    int fd = dial();
    send_request(fd, "POST", PATH, headers, "{\"prompt\":\"hold\",\"max_tokens\":50,\"stream\":true}");
    read_until(fd, "\"h\"");
    expect(429, "POST", PATH, headers, SAY, "this key (requests in flight: 1) is reached; one of them");
    expect(429, "POST", PATH, headers, SAY, "retry-after: 1\r\n");
    close(fd);
    wait_until_idle();
    expect(200, "POST", PATH, headers, SAY, "\"hi\"");
    wait_until_idle();
    expect(400, "POST", PATH, headers, "{\"prompt\":7}", "prompt"); /* and what fails lets go too */
    expect(400, "POST", PATH, headers, "{\"prompt\":7}", "prompt");
}

static void tenants_models_and_addresses_have_limits_too(void **state)
{
    (void)state;
    limit("tenant:gold", (ag_limits){.requests_per_minute = 3});
    make((ag_limits){.requests_per_minute = 100});
    for (int i = 0; i < 3; i++) expect(200, "POST", PATH, headers, SAY, "\"hi\"");
    make((ag_limits){0}); /* another key of the tenant */
    expect(429, "POST", PATH, headers, SAY, "the tenant 'gold' (requests a minute: 3)");
    limit("tenant:gold", (ag_limits){0});
    limit("tenant:*", (ag_limits){.requests_per_minute = 1000});
    limit("model:fake", (ag_limits){.requests_per_minute = 1});
    make((ag_limits){0});
    expect(200, "POST", PATH, headers, SAY, "\"hi\"");
    expect(429, "POST", PATH, headers, SAY, "the model 'fake' (requests a minute: 1)");
    limit("model:fake", (ag_limits){0});
    limit("address:*", (ag_limits){.requests_per_minute = 1});
    make((ag_limits){0});
    expect(200, "POST", PATH, headers, SAY, "\"hi\"");
    expect(429, "POST", PATH, headers, SAY, "your address (requests a minute: 1)");
}

static void embeddings_count_their_prompts(void **state)
{
    (void)state;
    make((ag_limits){.tokens_per_minute = 20});
    expect(200, "POST", "/v1/embeddings", headers, "{\"input\":[\"abc\",\"de\"]}",
           "x-ratelimit-remaining-tokens: 13\r\n");
    expect(503, "POST", "/v1/embeddings", headers, "{\"input\":\"full\"}", "queue_full"); /* which costs nothing */
    expect(200, "POST", PATH, headers, SAY, "x-ratelimit-remaining-tokens: 6\r\n");
    expect(429, "POST", "/v1/embeddings", headers, "{\"input\":\"a long text\"}", "this key (tokens a minute: 20)");
    expect(400, "POST", "/v1/embeddings", headers, "{\"input\":[\"more than twenty\",\"of them\"]}",
           "more than this key may send");
}

/* The headers of its own dialect, where the moment is told in place of the wait. */
static void anthropics_clients_are_told_as_anthropic_does(void **state)
{
    (void)state;
    static const char *const ask_for = "{\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"say:hi\"}]}";
    make((ag_limits){.requests_per_minute = 2, .tokens_per_minute = 1000});
    time_t before = time(NULL);
    char *reply = ask("POST", "/v1/messages", headers, ask_for);
    assert_int_equal(status_of(reply), 200);
    assert_non_null(strcasestr(reply, "anthropic-ratelimit-requests-limit: 2\r\n"));
    assert_non_null(strcasestr(reply, "anthropic-ratelimit-requests-remaining: 1\r\n"));
    assert_non_null(strcasestr(reply, "anthropic-ratelimit-tokens-limit: 1000\r\n"));
    assert_null(strcasestr(reply, "x-ratelimit-"));
    struct tm tm = {0};
    const char *at = strcasestr(reply, "anthropic-ratelimit-requests-reset: ");
    assert_non_null(at);
    const char *end = strptime(strchr(at, ':') + 2, "%Y-%m-%dT%H:%M:%SZ", &tm);
    assert_true(end && *end == '\r');
    time_t whole = timegm(&tm);
    assert_true(whole >= before + 30 && whole <= time(NULL) + 31);
    free(reply);
    expect(200, "POST", "/v1/messages", headers, ask_for, "anthropic-ratelimit-requests-remaining: 0\r\n");
    expect(429, "POST", "/v1/messages", headers, ask_for, "anthropic-ratelimit-requests-remaining: 0\r\n");
    expect_wait("/v1/messages", ask_for);
}

static int setup_aliases(void **state)
{
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.aliases = "best,cheap,plain";
    open_keys(state);
    return serve_keys(conf);
}

/* Under whichever name it is asked for, and whichever has the limit; of several limits the tightest counts. */
static void limits_of_an_alias_are_its_models(void **state)
{
    (void)state;
    limit("model:*", (ag_limits){.requests_per_minute = 1});
    limit("model:best", (ag_limits){.requests_per_minute = 3, .tokens_per_minute = 5000});
    limit("model:cheap", (ag_limits){.requests_per_minute = 50, .concurrent = 9});
    make((ag_limits){0});
    char *reply = ask("POST", PATH, headers, SAY);
    assert_non_null(strcasestr(reply, "x-ratelimit-limit-requests: 3\r\n"));
    assert_non_null(strcasestr(reply, "x-ratelimit-limit-tokens: 5000\r\n"));
    free(reply);
    expect(200, "POST", PATH, headers, "{\"prompt\":\"say:hi\",\"model\":\"cheap\"}",
           "x-ratelimit-remaining-requests: 1\r\n");
    expect(200, "POST", PATH, headers, "{\"prompt\":\"say:hi\",\"model\":\"best\"}",
           "x-ratelimit-remaining-requests: 0\r\n");
    expect(429, "POST", PATH, headers, SAY, "the model 'fake' (requests a minute: 3)");
    limit("model:fake", (ag_limits){.requests_per_minute = 2}); /* its own counts beside theirs */
    make((ag_limits){0});
    expect(429, "POST", PATH, headers, SAY, "the model 'fake' (requests a minute: 2)");
}

static void a_budget_ends(void **state)
{
    (void)state;
    make((ag_limits){.tokens_per_month = 10});
    expect(200, "POST", PATH, headers, SAY, "\"hi\"");
    wait_until_idle();
    expect(429, "POST", PATH, headers, SAY, "insufficient_quota");
    char *reply = ask("POST", PATH, headers, SAY);
    assert_null(strcasestr(reply, "retry-after"));
    assert_non_null(strstr(reply, "The budget of this key (tokens a month: 10) is used up with this prompt"));
    free(reply);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KEYED(requests_are_limited_and_told_as_openai_does),
        KEYED(tokens_are_limited),
        KEYED(what_was_refused_by_the_queue_costs_no_tokens),
        KEYED(what_is_made_counts_while_it_is_made),
        KEYED(requests_in_flight_are_limited),
        KEYED(tenants_models_and_addresses_have_limits_too),
        KEYED(embeddings_count_their_prompts),
        KEYED(anthropics_clients_are_told_as_anthropic_does),
        cmocka_unit_test_setup_teardown(limits_of_an_alias_are_its_models, setup_aliases, teardown_keys),
        KEYED(a_budget_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
