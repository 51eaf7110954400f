/* autoglm cache: looks into a running server's response cache, forgets what it holds, warms it up; by its admin API. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/admin_http.h"
#include "cli/cli.h"

#define ANSWER_BYTES_MAX (64u << 10)
#define LOOK_MS 200 /* while a warm-up is under way */

typedef struct cache_job {
    const char *url, *key, *tenant, *share, *model, *tag;
    bool all, json, no_wait;
} cache_job;

static int ask_server(const cache_job *j, const ag_admin_ask *ask, ag_buf *out, json_t **answer, ag_err *err)
{
    json_error_t e;
    ag_buf_reset(out);
    int rc = ag_admin_http(j->url, j->key, ask, out, err);
    *answer = rc == AG_OK ? json_loadb(out->p, out->n, 0, &e) : NULL;
    if (rc == AG_OK && !json_is_object(*answer)) rc = ag_err_set(err, AG_E_JSON, "the answer is no JSON object");
    if (rc != AG_OK) json_decref(*answer);
    return rc;
}

static void print_answer(const cache_job *j, const ag_buf *out, json_t *answer)
{
    const char *name;
    json_t *v;
    if (j->json) {
        printf("%.*s\n", (int)out->n, out->p);
        return;
    }
    json_object_foreach(answer, name, v)
    {
        if (json_is_integer(v)) printf("%-10s %lld\n", name, (long long)json_integer_value(v));
        else if (json_is_string(v) && strcmp(name, "object") != 0) printf("%-10s %s\n", name, json_string_value(v));
        else if (json_is_boolean(v)) printf("%-10s %s\n", name, json_is_true(v) ? "yes" : "no");
    }
}

static int ask_once(const cache_job *j, const ag_admin_ask *ask, ag_err *err)
{
    ag_buf out;
    json_t *answer;
    ag_buf_init(&out, ANSWER_BYTES_MAX);
    int rc = ask_server(j, ask, &out, &answer, err);
    if (rc == AG_OK) {
        print_answer(j, &out, answer);
        json_decref(answer);
    }
    ag_buf_fini(&out);
    return rc;
}

static uint64_t number_of(json_t *o, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(o, name));
}

/* Begins one, and looks how far it is until it is over. */
static int warm(const cache_job *j, ag_err *err)
{
    ag_buf out;
    json_t *answer;
    ag_progress bar;
    bool bar_on = false;
    ag_buf_init(&out, ANSWER_BYTES_MAX);
    int rc = ask_server(j, &(ag_admin_ask){.method = "POST", .path = "cache/warm"}, &out, &answer, err);
    while (rc == AG_OK && !j->no_wait && json_is_true(json_object_get(answer, "running"))) {
        if (!bar_on && number_of(answer, "wanted")) {
            ag_progress_begin(&bar, "warming up", number_of(answer, "wanted"), false);
            bar_on = true;
        }
        if (bar_on) ag_progress_show(&bar, number_of(answer, "done"));
        json_decref(answer);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000l}, NULL);
        rc = ask_server(j, &(ag_admin_ask){.method = "GET", .path = "cache/warm"}, &out, &answer, err);
    }
    if (bar_on) ag_progress_end(&bar);
    if (rc == AG_OK) {
        print_answer(j, &out, answer);
        json_decref(answer);
    }
    ag_buf_fini(&out);
    return rc;
}

/* What is to be forgotten, as the query says it: one of these. */
static int purge(const cache_job *j, const char *key, ag_err *err)
{
    const struct { const char *path, *value; } ways[] = {
        {"cache/", key}, {"cache?tenant=", j->tenant}, {"cache?share=", j->share}, {"cache?model=", j->model},
        {"cache?tag=", j->tag}, {"cache?all=", j->all ? "1" : NULL}};
    ag_admin_ask ask = {.method = "DELETE"};
    uint32_t n = 0;
    for (size_t i = 0; i < AG_ARRAY_LEN(ways); i++) {
        if (ways[i].value == NULL) continue;
        ask.path = ways[i].path;
        ask.id = ways[i].value;
        n++;
    }
    if (n != 1)
        return ag_err_set(err, AG_E_USAGE,
                          "what is to be forgotten? Say one: a KEY (an answer's x-cache-key), --tenant, --share, "
                          "--model, --tag or --all");
    return ask_once(j, &ask, err);
}

static int run(const cache_job *j, const char *verb, const char *arg, ag_err *err)
{
    bool get = strcmp(verb, "get") == 0, forget = strcmp(verb, "purge") == 0, stats = strcmp(verb, "stats") == 0;
    if (!get && !forget && !stats && strcmp(verb, "warm") != 0)
        return ag_err_set(err, AG_E_USAGE, "'%s' is none of stats, get, purge and warm", verb);
    if (j->url == NULL) return ag_err_set(err, AG_E_USAGE, "--url URL is missing: the server's address");
    if (arg && !get && !forget) return ag_err_set(err, AG_E_USAGE, "'%s' is one argument too many", arg);
    if (get && arg == NULL)
        return ag_err_set(err, AG_E_USAGE, "which one? An answer's header x-cache-key tells its key");
    if (forget) return purge(j, arg, err);
    if (stats) return ask_once(j, &(ag_admin_ask){.method = "GET", .path = "cache"}, err);
    return get ? ask_once(j, &(ag_admin_ask){.method = "GET", .path = "cache/", .id = arg}, err) : warm(j, err);
}

int ag_cmd_cache(int argc, char **argv)
{
    cache_job j = {.key = getenv("AUTOGLM_API_KEY")};
    const ag_opt opts[] = {
        {"url", 0, AG_OPT_TEXT, &j.url, 0, 0, "the server's address; AUTOGLM_API_KEY is an admin's key"},
        {"tenant", 0, AG_OPT_TEXT, &j.tenant, 0, 0, "purge: all answers of this tenant"},
        {"share", 0, AG_OPT_TEXT, &j.share, 0, 0, "purge: of this group of keys"},
        {"model", 0, AG_OPT_TEXT, &j.model, 0, 0, "purge: of this model"},
        {"tag", 0, AG_OPT_TEXT, &j.tag, 0, 0, "purge: with this tag"},
        {"all", 0, AG_OPT_FLAG, &j.all, 0, 0, "purge: all there are"},
        {"no-wait", 0, AG_OPT_FLAG, &j.no_wait, 0, 0, "warm: begin it, and leave"},
        {"json", 0, AG_OPT_FLAG, &j.json, 0, 0, "the answer as JSON, as the admin API gives it"},
    };
    ag_cli cli = {
        .usage = "cache stats|get KEY|purge [KEY]|warm --url URL [OPTIONS]",
        .about = "Looks into the response cache of a running server, forgets answers that it holds, or asks again what its\n"
                 "access log (--history full) says is asked for most, and waits until that is over.",
        .opts = opts,
        .n_opts = AG_ARRAY_LEN(opts),
        .args_min = 1,
        .args_max = 2};
    int status;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        int rc = run(&j, cli.args[0], cli.n_args > 1 ? cli.args[1] : NULL, &err);
        status = rc == AG_OK ? 0 : ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    return status;
}
