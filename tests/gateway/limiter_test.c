/* Limits that a Redis judges, which this test plays: requests that wait for it, leave while they wait, are not
 * answered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "gateway/req.h"
#include "gateway/served.h"
#include "keys/store.h"

#define PATH "/v1/completions"
#define SAY "{\"prompt\":\"say:hi\",\"max_tokens\":9}" /* 7 tokens, and 2 of the answer */
#define LINES_MAX 64

static ag_keys_db *db;
static char headers[200];

/* Redis. */

static int listener, lines[LINES_MAX];
static pthread_t acceptor, readers[LINES_MAX];
static _Atomic uint32_t n_lines, n_beats, n_asked;
static const char *_Atomic enter_answer, *_Atomic prompt_answer; /* NULL: none is given */
static _Atomic long long charged, flying; /* the tokens of all charges; in flight by the last */

/* One command: its words behind the script, with blanks between. false: the line has ended. */
static bool next_command(FILE *f, char *out, size_t size)
{
    unsigned n = 0, len = 0;
    out[0] = 0;
    if (fscanf(f, "*%u\r\n", &n) != 1) return false;
    for (unsigned i = 0; i < n; i++) {
        char *word = NULL;
        if (fscanf(f, "$%u\r\n", &len) != 1 || (word = calloc(1, len + 3)) == NULL ||
            fread(word, 1, len + 2, f) != len + 2)
            return free(word), false;
        word[len] = 0;
        if (i != 1 && strlen(out) + len + 2 < size) strcat(strcat(out, word), " ");
        free(word);
    }
    return true;
}

/* Of the one with such limits. Tokens last: who finds them all knows what is in flight. */
static void note_charge(const char *text)
{
    static const char limits[] = " 0 0 5 100 3 0 ";
    long long tokens = 0, now = 0;
    const char *at = strstr(text, limits);
    if (at == NULL || sscanf(at + strlen(limits), "%lld %lld", &tokens, &now) != 2) return;
    flying = now;
    charged += tokens;
}

static void *reader_main(void *arg)
{
    int fd = *(int *)arg;
    FILE *f = fdopen(fd, "r+");
    char text[4096];
    while (next_command(f, text, sizeof text)) {
        const char *answer = ":2\r\n";
        if (strstr(text, " beat ")) n_beats++;
        else if (strstr(text, " charge ")) note_charge(text);
        else answer = strstr(text, " enter ") ? atomic_load(&enter_answer) : atomic_load(&prompt_answer), n_asked++;
        if (answer) (void)!write(fd, answer, strlen(answer));
    }
    fclose(f);
    return NULL;
}

static void *acceptor_main(void *arg)
{
    (void)arg;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) return NULL;
        uint32_t i = n_lines++;
        assert_true(i < LINES_MAX);
        lines[i] = fd;
        pthread_create(&readers[i], NULL, reader_main, &lines[i]);
    }
}

static uint16_t redis_open(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    n_lines = n_beats = n_asked = 0;
    charged = flying = 0;
    enter_answer = prompt_answer = NULL;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 8), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &size), 0);
    pthread_create(&acceptor, NULL, acceptor_main, NULL);
    return ntohs(a.sin_port);
}

static void redis_close(void)
{
    shutdown(listener, SHUT_RDWR);
    pthread_join(acceptor, NULL);
    close(listener);
    for (uint32_t i = 0; i < n_lines; i++) pthread_join(readers[i], NULL); /* the gateway has closed its ends */
}

#define UNTIL(e)                                                                                                       \
    while (!(e)) usleep(1000)

static uint32_t timeout_ms = 20000;

static int setup_shared(void **state)
{
    char url[64];
    store_setup(state);
    db = store_open();
    ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
    conf.keys_db = store_path;
    snprintf(url, sizeof url, "redis://127.0.0.1:%u", redis_open());
    conf.redis = url;
    conf.redis_timeout_ms = timeout_ms;
    serve(conf, true);
    UNTIL(n_beats >= 4 && ag_metric_get(metrics, AG_M_GATEWAYS, 0) == 2); /* both loops are there, and have counted */
    return 0;
}

static int setup_hasty(void **state)
{
    timeout_ms = 30;
    int rc = setup_shared(state);
    timeout_ms = 20000;
    return rc;
}

static int teardown_shared(void **state)
{
    teardown(state);
    redis_close();
    ag_keys_db_close(db);
    return store_teardown(state);
}

static void make(ag_limits l)
{
    char text[AG_KEY_TEXT_BYTES + 1];
    ag_key k = {.limits = l};
    store_key(db, "gold", &k, text);
    snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", text);
    for (int status = 0; status != 200;) {
        char *reply = ask("GET", "/v1/models", headers, NULL);
        status = status_of(reply);
        free(reply);
    }
}

/* rc, whose, which limit, wait, never; limit, left and reset of requests; of tokens; used of the month */
#define ANSWER(a, b, c, d, e, f, g, h, i, j, k, l)                                                                     \
    "*12\r\n:" #a "\r\n:" #b "\r\n:" #c "\r\n:" #d "\r\n:" #e "\r\n:" #f "\r\n:" #g "\r\n:" #h "\r\n:" #i "\r\n:" #j   \
    "\r\n:" #k "\r\n:" #l "\r\n"

static void what_redis_says_is_told(void **state)
{
    (void)state;
    make((ag_limits){.requests_per_minute = 5, .tokens_per_minute = 100, .concurrent = 3});
    enter_answer = ANSWER(0, 0, 0, 0, 0, 5, 4, 12000000, 100, 77, 1500, 0);
    prompt_answer = ANSWER(0, 0, 0, 0, 0, 5, 4, 12000000, 100, 70, 2500, 0);
    char *reply = ask("POST", PATH, headers, SAY);
    assert_int_equal(status_of(reply), 200);
    assert_non_null(strcasestr(reply, "x-ratelimit-remaining-requests: 4\r\n"));
    assert_non_null(strcasestr(reply, "x-ratelimit-remaining-tokens: 70\r\n"));
    free(reply);
    /* The answer's two tokens, and that it has left. */
    UNTIL(charged == 2 && flying == 0);
    enter_answer = ANSWER(1, 0, 2, 2500000, 0, 5, 0, 60000000, 100, 70, 2500, 0);
    expect(429, "POST", PATH, headers, SAY, "this key (requests a minute: 5) is reached; try again in 2.500 s.");
    expect(429, "POST", PATH, headers, SAY, "retry-after: 3\r\n");
    enter_answer = ANSWER(0, 0, 0, 0, 0, 5, 4, 12000000, 100, 77, 1500, 0);
    prompt_answer = ANSWER(1, 0, 3, 0, 1, 5, 4, 12000000, 100, 70, 2500, 0);
    expect(400, "POST", PATH, headers, SAY, "more than this key may send at all");
    prompt_answer = ANSWER(2, 0, 5, 0, 0, 5, 4, 12000000, 100, 70, 2500, 0);
    expect(429, "POST", PATH, headers, SAY, "insufficient_quota");
    assert_int_equal(ag_metric_get(metrics, AG_M_LIMITS_ALONE, 0), 0);
}

static void who_has_no_limits_is_not_asked_about(void **state)
{
    (void)state;
    make((ag_limits){0});
    expect(200, "POST", PATH, headers, SAY, "\"hi\"");
    assert_int_equal(n_asked, 0);
}

static void who_leaves_while_asked_about_is_let_go(void **state)
{
    (void)state;
    make((ag_limits){.concurrent = 1, .tokens_per_minute = 100});
    UNTIL(ag_http_server_connections(gw->http) == 0); /* so that the two come to two loops */
    int fd = dial();
    send_request(fd, "POST", PATH, headers, SAY);
    UNTIL(n_asked == 1);
    close(fd); /* nobody answers: the end does, or the timeout */
    enter_answer = ANSWER(0, 0, 0, 0, 0, 0, 0, 0, 100, 77, 1500, 0);
    fd = dial();
    send_request(fd, "POST", PATH, headers, SAY);
    UNTIL(n_asked == 3); /* its prompt is not answered either */
    close(fd);
}

/* Alone it has half of each limit, as two were counted; and asks again for the next request. */
static void without_an_answer_the_share_counts(void **state)
{
    (void)state;
    static const char *const nonsense[] = {NULL,
                                           "*1\r\n:0\r\n",
                                           "+OK\r\n",
                                           "$-1\r\n",
                                           "-WRONGTYPE of another kind\r\n",
                                           ANSWER(9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
                                           ANSWER(1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
                                           ANSWER(1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0),
                                           ANSWER(0, 0, 0, 0, 0, -5, 0, 0, 0, 0, 0, 0)};
    for (size_t i = 0; i < AG_ARRAY_LEN(nonsense); i++) {
        make((ag_limits){.requests_per_minute = 4, .tokens_per_minute = 24});
        enter_answer = nonsense[i];
        expect(200, "POST", PATH, headers, SAY, "x-ratelimit-limit-requests: 4\r\n");
        wait_until_idle();
        /* More than half of the tokens, and not more than all. */
        expect(400, "POST", PATH, headers, "{\"prompt\":\"say:a prompt of many letters\",\"max_tokens\":1}",
               "more than this key may send at all (tokens a minute: 24)");
        expect(429, "POST", PATH, headers, SAY, "this key (requests a minute: 4)");
        assert_true(ag_metric_get(metrics, AG_M_LIMITS_ALONE, 0) >= 3 * (i + 1));
    }
}

static void a_long_prompt_is_not_refused_for_being_more_than_a_share(void **state)
{
    (void)state;
    make((ag_limits){.tokens_per_minute = 10});
    enter_answer = "+nonsense\r\n";
    expect(200, "POST", PATH, headers, SAY, "\"hi\""); /* 7 of 5 */
    wait_until_idle();
    expect(429, "POST", PATH, headers, SAY, "(tokens a minute: 10)");
}

/* Of what was left of it when Redis last said what all had used. */
static void half_of_a_budget_is_left_without_an_answer(void **state)
{
    (void)state;
    make((ag_limits){.tokens_per_month = 100});
    enter_answer = ANSWER(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60);
    prompt_answer = ANSWER(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 67);
    expect(200, "POST", PATH, headers, SAY, "\"hi\""); /* 69 of 100 */
    wait_until_idle();
    enter_answer = "+nonsense\r\n";
    expect(200, "POST", PATH, headers, SAY, "\"hi\""); /* 78 of 60 and 20 */
    wait_until_idle();
    expect(429, "POST", PATH, headers, SAY, "insufficient_quota");
    enter_answer = ANSWER(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 78);
    prompt_answer = ANSWER(2, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 78);
    expect(429, "POST", PATH, headers, SAY, "insufficient_quota"); /* by Redis's word; it has also said what is used */
    enter_answer = "+nonsense\r\n";
    expect(200, "POST", PATH, headers, SAY, "\"hi\""); /* 87 of 78 and 11 */
    wait_until_idle();
    expect(429, "POST", PATH, headers, SAY, "insufficient_quota");
}

static void no_memory(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    store_setup(state);
    bool fired = true;
    for (uint32_t n = 1; fired; n++) {
        ag_gateway_conf conf = AG_GATEWAY_CONF_DEFAULT;
        ag_gateway *g = NULL;
        ag_err err = {0};
        conf.port = 0;
        conf.loops = 2;
        conf.keys_db = store_path;
        conf.redis = "unix:///nowhere";
        ag_fault_arm(AG_FAULT_ALLOC, n);
        int rc = ag_gateway_open(&g, &conf, NULL, NULL, &err);
        fired = ag_fault_disarm(AG_FAULT_ALLOC);
        if (rc == AG_OK) ag_gateway_close(g);
        else assert_true(fired && err.text[0]);
    }
    store_teardown(state);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_redis_says_is_told, setup_shared, teardown_shared),
        cmocka_unit_test_setup_teardown(who_has_no_limits_is_not_asked_about, setup_shared, teardown_shared),
        cmocka_unit_test_setup_teardown(who_leaves_while_asked_about_is_let_go, setup_shared, teardown_shared),
        cmocka_unit_test_setup_teardown(without_an_answer_the_share_counts, setup_hasty, teardown_shared),
        cmocka_unit_test_setup_teardown(half_of_a_budget_is_left_without_an_answer, setup_shared, teardown_shared),
        cmocka_unit_test_setup_teardown(a_long_prompt_is_not_refused_for_being_more_than_a_share, setup_shared,
                                        teardown_shared),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
