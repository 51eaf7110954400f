#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fault.h"
#include "observe/metrics.h"

static char *text_of(ag_metrics *m)
{
    ag_buf b;
    ag_buf_init(&b, 1 << 20);
    assert_true(ag_metrics_write(m, &b));
    char *z = strndup(b.p, b.n);
    ag_buf_fini(&b);
    return z;
}

static void has(ag_metrics *m, const char *line)
{
    char *z = text_of(m);
    if (strstr(z, line) == NULL) fail_msg("no '%s' in:\n%s", line, z);
    free(z);
}

static void every_row_is_described_once(void **state)
{
    (void)state;
    ag_metrics *m;
    assert_int_equal(ag_metrics_open(&m, "1.2.3", "avx2"), AG_OK);
    ag_metrics_model_set(m, "tiny");
    char *z = text_of(m);
    char line[256];
#define AG_METRIC(kind, id, name, alias, labels, buckets, help)                                     \
    snprintf(line, sizeof line, "# TYPE %s ", name);                                                \
    assert_non_null(strstr(z, line));                                                               \
    assert_null(strstr(strstr(z, line) + 1, line));                                                 \
    if (alias) {                                                                                    \
        snprintf(line, sizeof line, "# HELP %s %s\n", (const char *)(alias) ? (const char *)(alias) : "", help); \
        assert_non_null(strstr(z, line));                                                           \
    }
#include "observe/metrics.def"
#undef AG_METRIC
    free(z);
    has(m, "autoglm_build_info{version=\"1.2.3\",isa=\"avx2\"} 1\n");
    has(m, "\nautoglm_generations_running{model=\"tiny\"} 0\n");
    has(m, "\nvllm:num_requests_running{model_name=\"tiny\"} 0\n");
    ag_metrics_close(m);
}

static void counters_and_gauges_show_their_labels(void **state)
{
    (void)state;
    static const char *const routes[] = {"completions", "chat"}, *const reasons[] = {"parse"};
    ag_metrics *m;
    assert_int_equal(ag_metrics_open(&m, "1", ""), AG_OK);
    ag_metrics_values(m, AG_LABELS_ROUTE_STATUS, routes, 2);
    ag_metrics_values(m, AG_LABELS_REASON, reasons, 1);
    ag_metric_add(m, AG_M_REQUESTS, ag_metric_route_status(1, 200), 2);
    ag_metric_add(m, AG_M_REQUESTS, ag_metric_route_status(1, 200), 1);
    ag_metric_add(m, AG_M_REQUESTS, ag_metric_route_status(0, 777), 1);
    ag_metric_add(m, AG_M_ERRORS, AG_E_QUEUE_FULL, 5);
    ag_metric_set(m, AG_M_REFUSED, 0, 12);
    ag_metric_set(m, AG_M_KV_USAGE, 0, 0.25);
    ag_metric_set(m, AG_M_BUSY, 0, 1250000);
    ag_metric_add(m, AG_M_FINISHED, AG_FINISH_LENGTH, 4);
    has(m, "\nautoglm_http_requests_total{route=\"chat\",status=\"200\"} 3\n");
    has(m, "\nautoglm_http_requests_total{route=\"completions\",status=\"0\"} 1\n");
    has(m, "\nautoglm_errors_total{code=\"queue_full\"} 5\n");
    has(m, "\nautoglm_connections_refused_total{reason=\"parse\"} 12\n");
    has(m, "\nvllm:kv_cache_usage_perc{model_name=\"\"} 0.25\n");
    has(m, "\nautoglm_compute_busy_seconds_total{model=\"\"} 1.25\n");
    has(m, "\nvllm:request_success_total{model_name=\"\",finished_reason=\"length\"} 4\n");
    assert_int_equal(ag_metric_get(m, AG_M_ERRORS, AG_E_QUEUE_FULL), 5);
    ag_metrics_close(m);
}

static void every_status_has_a_series(void **state)
{
    (void)state;
    static const int others[] = {200, 204, 304};
    for (uint32_t i = 0; i < AG_ARRAY_LEN(others); i++)
        assert_int_not_equal(ag_metric_route_status(0, others[i]), ag_metric_route_status(0, 0));
    for (int code = AG_OK + 1; code < AG_E_COUNT; code++)
        assert_int_not_equal(ag_metric_route_status(0, ag_err_find(code)->http), ag_metric_route_status(0, 0));
}

static void histograms_are_cumulative_and_in_seconds(void **state)
{
    (void)state;
    ag_metrics *m;
    assert_int_equal(ag_metrics_open(&m, "1", ""), AG_OK);
    ag_metrics_model_set(m, "x");
    ag_metric_observe_us(m, AG_M_TTFT, 0, 1000);      /* on a bound: inside it */
    ag_metric_observe_us(m, AG_M_TTFT, 0, 1001);
    ag_metric_observe_us(m, AG_M_TTFT, 0, 900000000); /* above the last */
    ag_metric_observe_n(m, AG_M_PROMPT_SIZE, 0, 7, 3);
    has(m, "\nautoglm_ttft_seconds_bucket{model=\"x\",le=\"0.001\"} 1\n");
    has(m, "\nautoglm_ttft_seconds_bucket{model=\"x\",le=\"0.0025\"} 2\n");
    has(m, "\nautoglm_ttft_seconds_bucket{model=\"x\",le=\"160\"} 2\n");
    has(m, "\nautoglm_ttft_seconds_bucket{model=\"x\",le=\"+Inf\"} 3\n");
    has(m, "\nautoglm_ttft_seconds_sum{model=\"x\"} 900.002001\n");
    has(m, "\nautoglm_ttft_seconds_count{model=\"x\"} 3\n");
    has(m, "\nvllm:time_to_first_token_seconds_count{model_name=\"x\"} 3\n");
    has(m, "\nautoglm_request_prompt_tokens_bucket{model=\"x\",le=\"10\"} 3\n");
    has(m, "\nautoglm_request_prompt_tokens_sum{model=\"x\"} 21\n");
    ag_metrics_close(m);
}

static void label_values_are_escaped(void **state)
{
    (void)state;
    ag_metrics *m;
    assert_int_equal(ag_metrics_open(&m, "1", ""), AG_OK);
    ag_metrics_model_set(m, "a\"b\\c\nd");
    has(m, "\nautoglm_steps_total{model=\"a\\\"b\\\\c\\nd\"} 0\n");
    ag_metrics_model_set(m, "\xE6\xA8\xA1\xFF" "a\xE6\xA8"); /* the last one cut */
    has(m, "\nautoglm_steps_total{model=\"\xE6\xA8\xA1\xEF\xBF\xBD" "a\xEF\xBF\xBD\xEF\xBF\xBD\"} 0\n");
    ag_metrics_close(m);
}

/* As many tenants as like: only the first few have a label each. */
static void tenants_have_a_bounded_number_of_labels(void **state)
{
    (void)state;
    ag_metrics *m;
    assert_int_equal(ag_metrics_open(&m, "1", ""), AG_OK);
    char name[16];
    for (uint32_t turn = 0; turn < 2; turn++)
        for (uint32_t i = 0; i < AG_METRICS_TENANTS + 9; i++) {
            snprintf(name, sizeof name, "t\"%u", i);
            uint32_t label = ag_metrics_tenant(m, name);
            assert_int_equal(label, i < AG_METRICS_TENANTS ? i : AG_METRICS_TENANTS);
            ag_metric_observe_us(m, AG_M_TENANT_WAIT, label, 1);
            if (turn == 0 && i == 0) {
                char *z = text_of(m);
                assert_null(strstr(z, "(others)"));
                assert_null(strstr(z, "tenant=\"\""));
                free(z);
            }
        }
    has(m, "\nautoglm_tenant_wait_seconds_count{tenant=\"t\\\"0\"} 2\n");
    has(m, "\nautoglm_tenant_wait_seconds_count{tenant=\"t\\\"31\"} 2\n");
    has(m, "\nautoglm_tenant_wait_seconds_count{tenant=\"(others)\"} 18\n");
    has(m, "\nautoglm_evicted_total{reason=\"displaced\"} 0\n");
    has(m, "\nautoglm_set_back_total{reason=\"urgent\"} 0\n");
    has(m, "\nautoglm_queue_depth{band=\"3\"} 0\n");
    assert_int_equal(ag_metrics_tenant(NULL, "x"), 0);
    ag_metrics_close(m);
}

static void no_metrics_is_fine(void **state)
{
    (void)state;
    ag_metric_add(NULL, AG_M_STEPS, 0, 1);
    ag_metric_set(NULL, AG_M_READY, 0, 1);
    ag_metric_observe_us(NULL, AG_M_STEP, 0, 1);
    ag_metrics_model_set(NULL, "x");
    ag_metrics_close(NULL);
}

static void *adder(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        ag_metric_add(arg, AG_M_STEPS, 0, 1);
        ag_metric_observe_us(arg, AG_M_GAP, 0, (uint64_t)i);
    }
    return NULL;
}

static void threads_lose_nothing(void **state)
{
    (void)state;
    ag_metrics *m;
    pthread_t t[4];
    assert_int_equal(ag_metrics_open(&m, "1", ""), AG_OK);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, adder, m), 0);
    for (int i = 0; i < 50; i++) free(text_of(m));
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    assert_int_equal(ag_metric_get(m, AG_M_STEPS, 0), 80000);
    assert_int_equal(ag_metric_get(m, AG_M_GAP, 0), 80000);
    ag_metrics_close(m);
}

static void running_out_of_room_or_memory_is_said(void **state)
{
    (void)state;
    ag_metrics *m;
    assert_int_equal(ag_metrics_open(&m, "1", ""), AG_OK);
    ag_buf b;
    ag_buf_init(&b, 1000);
    assert_false(ag_metrics_write(m, &b));
    ag_buf_fini(&b);
#ifdef AG_FAULTS
    for (uint32_t n = 1;; n++) {
        ag_buf_init(&b, 1 << 20);
        ag_fault_arm(AG_FAULT_ALLOC, n);
        ag_metrics *again = NULL;
        int rc = ag_metrics_open(&again, "1", "");
        bool ok = rc == AG_OK && ag_metrics_write(again, &b);
        bool fired = ag_fault_disarm(AG_FAULT_ALLOC);
        assert_int_equal(ok, !fired);
        ag_metrics_close(again);
        ag_buf_fini(&b);
        if (!fired) break;
    }
#endif
    ag_metrics_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_described_once),   cmocka_unit_test(counters_and_gauges_show_their_labels),
        cmocka_unit_test(histograms_are_cumulative_and_in_seconds), cmocka_unit_test(label_values_are_escaped),
        cmocka_unit_test(every_status_has_a_series),
        cmocka_unit_test(no_metrics_is_fine),            cmocka_unit_test(threads_lose_nothing),
        cmocka_unit_test(running_out_of_room_or_memory_is_said),
        cmocka_unit_test(tenants_have_a_bounded_number_of_labels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
