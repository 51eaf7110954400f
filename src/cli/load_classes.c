/* load_classes.c - several loads at once on one server, each in a thread of its own, and their reports side by side. */
#include <pthread.h>
#include <stdio.h>

#include "cli/load.h"

typedef struct run {
    ag_load *load;
    const volatile int *stop;
    pthread_t thread;
    bool started;
    int rc;
    ag_err err;
} run;

static void *run_main(void *arg)
{
    run *r = arg;
    r->rc = ag_load_run(r->load, r->stop, &r->err);
    return NULL;
}

uint32_t ag_load_classes_clients(const ag_load_classes *c)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n; i++) n += c->list[i].spec.clients; /* AG_LOAD_CLIENTS_MAX each, 16 at most */
    return n;
}

int ag_load_run_classes(const ag_load_classes *c, ag_load **loads, volatile int *stop, ag_err *err)
{
    run runs[AG_LOAD_CLASSES_MAX] = {0};
    int rc = AG_OK;
    for (uint32_t i = 0; i < c->n && rc == AG_OK; i++) {
        runs[i].load = loads[i];
        runs[i].stop = stop;
        int why = pthread_create(&runs[i].thread, NULL, run_main, &runs[i]);
        runs[i].started = why == 0;
        if (why != 0) {
            rc = ag_err_set(err, AG_E_IO, "a thread could not be started: %s", strerror(why));
            *stop = 1; /* or the others would run to their end before it is told */
        }
    }
    for (uint32_t i = 0; i < c->n; i++) {
        if (!runs[i].started) continue;
        pthread_join(runs[i].thread, NULL);
        if (rc == AG_OK && runs[i].rc != AG_OK) rc = ag_err_set(err, runs[i].rc, "%s", runs[i].err.text);
    }
    return rc;
}

void ag_load_print_classes(const ag_load_classes *c, ag_load *const *loads)
{
    for (uint32_t i = 0; i < c->n; i++) {
        printf("%sclass %s\n", i ? "\n" : "", c->list[i].name);
        ag_load_print(&c->list[i].spec, ag_load_got(loads[i]));
    }
}

bool ag_load_json_classes(const ag_load_classes *c, ag_load *const *loads, bool buckets, ag_buf *out)
{
    ag_buf_addz(out, "{\"classes\":{");
    for (uint32_t i = 0; i < c->n; i++) {
        ag_buf_addf(out, "%s\"%s\":", i ? "," : "", c->list[i].name);
        ag_load_json(&c->list[i].spec, ag_load_got(loads[i]), buckets, out);
    }
    return ag_buf_addz(out, "}}\n");
}
