/* queue_check.h - a queue to test, filled and emptied in one line.
 * Owns nothing; one thread; no limits; what goes wrong fails the test. */
#ifndef AG_TESTS_QUEUE_CHECK_H
#define AG_TESTS_QUEUE_CHECK_H

#include "check.h"
#include "queue/queue.h"

static inline ag_queue *open_queue(ag_queue_conf conf)
{
    ag_queue *q = NULL;
    assert_int_equal(ag_queue_open(&q, &conf, NULL), AG_OK);
    return q;
}

static inline ag_queue_conf plain(void)
{
    return (ag_queue_conf){.entries_max = 100000, .tenants_max = 1000, .prompt_weight = 1, .output_weight = 4};
}

static inline ag_tenant *tenant(ag_queue *q, const char *name, double weight)
{
    ag_tenant *t = ag_queue_tenant(q, ag_str_of(name), weight);
    assert_non_null(t);
    return t;
}

static inline ag_qent entry(ag_tenant *t, uint8_t band, uint64_t cost)
{
    return (ag_qent){.tenant = t, .band = band, .cost = cost};
}

static inline void push(ag_queue *q, ag_qent *e, uint64_t now)
{
    ag_qent *out;
    ag_err err = {0};
    if (ag_queue_push(q, e, now, &out, &err) != AG_OK) fail_msg("%s", err.text);
    assert_null(out);
}

static inline ag_qent *pop(ag_queue *q, uint64_t now)
{
    ag_qent *e = ag_queue_head(q, now);
    if (e != NULL) ag_queue_take(q, e, now);
    return e;
}

static inline void empty(ag_queue *q)
{
    ag_queue_verify(q);
    while (pop(q, 0) != NULL) {}
    ag_queue_verify(q);
    ag_queue_close(q);
}

#endif
