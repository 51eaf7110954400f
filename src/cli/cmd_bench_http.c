/* autoglm bench http: load on a server, and what its clients see of it. */
#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "cli/load.h"

#define URL_MAX 2048u
#define KEY_MAX 1024u
#define EXTRA_MAX (64u << 10)
#define REPORT_MAX (20u << 20) /* with the histograms of every tenant */

typedef struct options {
    const char *duration, *timeout, *ramp, *max_tokens, *tenants, *classes, *ignore_eos, *extra, *svg;
    float rate, zipf;
    bool json, buckets;
} options;

static volatile int stopped;
static void on_stop(int sig)
{
    (void)sig;
    stopped = 1;
}

static int parse_url(const char *text, bool chat, ag_buf *out, ag_err *err)
{
    size_t n = strlen(text);
    bool http = strncmp(text, "http://", 7) == 0 && n > 7, https = strncmp(text, "https://", 8) == 0 && n > 8;
    if (!http && !https) return ag_err_set(err, AG_E_USAGE, "'%.80s' is no http:// or https:// address", text);
    for (size_t i = 0; i < n; i++)
        if (text[i] <= 0x20 || text[i] >= 0x7F || text[i] == '?' || text[i] == '#')
            return ag_err_set(err, AG_E_USAGE, "'%.80s' should be a server's address such as http://127.0.0.1:8080",
                              text);
    if (n + sizeof "/v1/chat/completions" > URL_MAX)
        return ag_err_set(err, AG_E_USAGE, "the address is over %u bytes", URL_MAX);
    while (text[n - 1] == '/') n--;
    ag_buf_add(out, text, n);
    if (!(n >= 3 && memcmp(text + n - 3, "/v1", 3) == 0)) ag_buf_addz(out, "/v1");
    ag_buf_addz(out, chat ? "/chat/completions" : "/completions");
    return ag_buf_zterm(out) ? AG_OK : ag_err_set(err, AG_E_NOMEM, "no memory for the address");
}

/* A field that is sent anyway would be there twice, and each server takes another one of the two. */
static bool sent_anyway(const char *name, const ag_load_spec *s, const char *classes)
{
    const struct {
        const char *name;
        bool sent;
    } fields[] = {{"model", s->model != NULL},
                  {"messages", s->chat},
                  {"prompt", !s->chat},
                  {"max_tokens", true},
                  {"temperature", true},
                  {"stream", true},
                  {"stream_options", true},
                  {"ignore_eos", s->ignore_eos},
                  {"min_tokens", s->ignore_eos},
                  {"priority", classes && strstr(classes, ":band=")},
                  {"timeout_ms", classes && strstr(classes, ":timeout=")}};
    for (size_t i = 0; i < AG_ARRAY_LEN(fields); i++)
        if (fields[i].sent && strcmp(fields[i].name, name) == 0) return true;
    return false;
}

/* The fields of an object, each with a comma before it. */
static int parse_extra(const char *text, const ag_load_spec *s, const char *classes, ag_buf *out, ag_err *err)
{
    json_error_t why;
    json_t *o = text ? json_loads(text, 0, &why) : NULL;
    int rc = AG_OK;
    if (text && !json_is_object(o))
        rc = ag_err_set(err, AG_E_USAGE, "--extra: should be a JSON object: %s",
                        o ? "it is another kind of value" : why.text);
    const char *name;
    json_t *value;
    json_object_foreach(o, name, value)
        if (rc == AG_OK && sent_anyway(name, s, classes))
            rc = ag_err_set(err, AG_E_USAGE, "--extra: '%s' is sent already; other options say what it is", name);
    char *fields = o && rc == AG_OK ? json_dumps(o, JSON_COMPACT) : NULL;
    if (fields && strlen(fields) > EXTRA_MAX - 2)
        rc = ag_err_set(err, AG_E_USAGE, "--extra: over %u bytes", EXTRA_MAX - 2);
    if (rc == AG_OK && fields && strlen(fields) > 2) {
        ag_buf_addc(out, ',');
        ag_buf_add(out, fields + 1, strlen(fields) - 2);
    }
    if (rc == AG_OK && (!ag_buf_zterm(out) || (o && fields == NULL)))
        rc = ag_err_set(err, AG_E_NOMEM, "no memory for --extra");
    free(fields);
    json_decref(o);
    return rc;
}

static int check(const options *o, ag_load_spec *s, ag_err *err)
{
    int rc = ag_load_parse_max_tokens("max-tokens", o->max_tokens, s, err);
    if (rc == AG_OK && o->duration) rc = ag_load_parse_time("duration", o->duration, 1000, &s->duration_us, err);
    if (rc == AG_OK) rc = ag_load_parse_time("timeout", o->timeout, 1000, &s->timeout_us, err);
    if (rc == AG_OK) rc = ag_load_parse_time("ramp", o->ramp, 0, &s->ramp_us, err);
    if (rc == AG_OK && o->tenants) rc = ag_load_parse_tenants(o->tenants, s, err);
    if (rc != AG_OK) return rc;
    s->rate = (double)o->rate;
    s->zipf = (double)o->zipf;
    s->ignore_eos = strcmp(o->ignore_eos, "on") == 0;
    if (!s->ignore_eos && strcmp(o->ignore_eos, "off") != 0)
        return ag_err_set(err, AG_E_USAGE, "--ignore-eos: '%.40s' is neither on nor off", o->ignore_eos);
    if (o->classes && o->svg) return ag_err_set(err, AG_E_USAGE, "--svg: there is no plot of --classes");
    if (s->clients == 0) s->clients = s->rate > 0 ? 512 : 1;
    if (o->classes == NULL && s->requests == 0 && s->duration_us == 0) s->duration_us = AG_LOAD_DURATION_US;
    if ((rc = ag_load_check(s, err)) != AG_OK) return rc;
    if (s->model && ag_utf8_check(s->model, strlen(s->model)) != SIZE_MAX)
        return ag_err_set(err, AG_E_USAGE, "--model: the name is not UTF-8");
    bool plain = s->key == NULL || strlen(s->key) <= KEY_MAX;
    for (const char *p = s->key; plain && p && *p; p++) plain = *p > 0x20 && *p < 0x7F;
    if (!plain) return ag_err_set(err, AG_E_USAGE, "--key: should be at most %u printable bytes", KEY_MAX);
    return AG_OK;
}

static int write_svg(const char *path, FILE *f, const ag_load_spec *s, const ag_load_result *r, ag_err *err)
{
    ag_buf b;
    ag_buf_init(&b, REPORT_MAX);
    int rc = ag_load_svg(s, r, &b) ? AG_OK : ag_err_set(err, AG_E_NOMEM, "no memory for the plot");
    if (rc == AG_OK && (fwrite(b.p, 1, b.n, f) != b.n || fflush(f) != 0))
        rc = ag_err_set(err, AG_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    ag_buf_fini(&b);
    return rc;
}

static int report(const options *o, const ag_load_spec *s, const ag_load_result *r, FILE *svg, ag_err *err)
{
    int rc = AG_OK;
    if (o->json) {
        ag_buf b;
        ag_buf_init(&b, REPORT_MAX);
        if (ag_load_json(s, r, o->buckets, &b)) fwrite(b.p, 1, b.n, stdout);
        else rc = ag_err_set(err, AG_E_NOMEM, "no memory for the report");
        ag_buf_fini(&b);
    } else {
        ag_load_print(s, r);
    }
    if (svg && rc == AG_OK) rc = write_svg(o->svg, svg, s, r, err);
    if (rc == AG_OK && r->all.ok == 0 && !r->interrupted)
        rc = r->all.failed ? ag_err_set(err, AG_E_IO, "no request succeeded; the last: %s", r->last_error)
                           : ag_err_set(err, AG_E_IO, "no answer was complete within the time given");
    return rc;
}

typedef struct handlers {
    struct sigaction ints, terms;
} handlers;

static void catch_signals(handlers *before)
{
    struct sigaction mine = {.sa_handler = on_stop};
    sigaction(SIGINT, &mine, &before->ints);
    sigaction(SIGTERM, &mine, &before->terms);
}

static void restore_signals(const handlers *before)
{
    sigaction(SIGINT, &before->ints, NULL);
    sigaction(SIGTERM, &before->terms, NULL);
}

static int run(const options *o, ag_load_spec *s, ag_err *err)
{
    ag_load *l = NULL;
    FILE *svg = NULL;
    if (o->svg && (svg = fopen(o->svg, "we")) == NULL)
        return ag_err_set(err, AG_E_IO, "%s: cannot be written: %s", o->svg, strerror(errno));
    int rc = ag_load_descriptors(s->clients, err);
    if (rc == AG_OK) rc = ag_load_create(&l, s, err);
    if (rc == AG_OK) {
        handlers before;
        catch_signals(&before);
        rc = ag_load_run(l, &stopped, err);
        restore_signals(&before);
        if (rc == AG_OK) rc = report(o, s, ag_load_got(l), svg, err);
    }
    ag_load_free(l);
    if (svg && fclose(svg) != 0 && rc == AG_OK)
        rc = ag_err_set(err, AG_E_IO, "%s: cannot be written: %s", o->svg, strerror(errno));
    return rc;
}

static int report_classes(const options *o, const ag_load_classes *c, ag_load *const *loads, ag_err *err)
{
    int rc = AG_OK;
    if (o->json) {
        ag_buf b;
        ag_buf_init(&b, REPORT_MAX);
        if (ag_load_json_classes(c, loads, o->buckets, &b)) fwrite(b.p, 1, b.n, stdout);
        else rc = ag_err_set(err, AG_E_NOMEM, "no memory for the report");
        ag_buf_fini(&b);
    } else {
        ag_load_print_classes(c, loads);
    }
    bool any = stopped != 0;
    for (uint32_t i = 0; i < c->n; i++) any = any || ag_load_got(loads[i])->all.ok;
    if (rc == AG_OK && !any) rc = ag_err_set(err, AG_E_IO, "no request of any class succeeded");
    return rc;
}

static int run_classes(const options *o, const ag_load_spec *base, ag_err *err)
{
    ag_load *loads[AG_LOAD_CLASSES_MAX] = {0};
    ag_load_classes *c = ag_mem_zalloc(sizeof *c);
    if (c == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory");
    int rc = ag_load_parse_classes(o->classes, base, c, err);
    if (rc == AG_OK) rc = ag_load_descriptors(ag_load_classes_clients(c), err);
    for (uint32_t i = 0; i < c->n && rc == AG_OK; i++) rc = ag_load_create(&loads[i], &c->list[i].spec, err);
    if (rc == AG_OK) {
        handlers before;
        catch_signals(&before);
        rc = ag_load_run_classes(c, loads, &stopped, err);
        restore_signals(&before);
        if (rc == AG_OK) rc = report_classes(o, c, loads, err);
    }
    for (uint32_t i = 0; i < c->n; i++) ag_load_free(loads[i]);
    ag_load_classes_fini(c);
    ag_mem_free(c);
    return rc;
}

int ag_cmd_bench_http(int argc, char **argv)
{
    options o = {.timeout = "120s", .ramp = "0s", .max_tokens = "128", .ignore_eos = "on", .zipf = 1};
    ag_load_spec s = {.seed = 1, .prompt_words = 64, .key = getenv("AUTOGLM_API_KEY")};
    const ag_opt opts[] = {
        {"clients", 'c', AG_OPT_U32, &s.clients, 1, AG_LOAD_CLIENTS_MAX,
         "each asks again when it has its answer [1]; with --rate: most at once [512]"},
        {"rate", 0, AG_OPT_F32, &o.rate, 0, 1e6, "requests a second, arriving at random whether answers come or not"},
        {"requests", 'n', AG_OPT_U64, &s.requests, 1, 1e12, "end after so many"},
        {"first", 0, AG_OPT_U64, &s.first, 0, 1e12,
         "number of the first: with the same seed, to go on where another run has ended [0]"},
        {"duration", 0, AG_OPT_TEXT, &o.duration, 0, 0, "end after this time [10s, without --requests]"},
        {"ramp", 0, AG_OPT_TEXT, &o.ramp, 0, 0, "spread the start of the load over this time [0s]"},
        {"timeout", 0, AG_OPT_TEXT, &o.timeout, 0, 0, "a request that takes longer has failed [120s]"},
        {"chat", 0, AG_OPT_FLAG, &s.chat, 0, 0, "/v1/chat/completions in place of /v1/completions"},
        {"prompt-tokens", 'p', AG_OPT_U32, &s.prompt_words, 1, AG_LOAD_PROMPT_MAX,
         "words of a prompt, most of them one token [64]"},
        {"shared-prefix", 0, AG_OPT_U32, &s.shared_words, 0, AG_LOAD_PROMPT_MAX,
         "so many of them begin every prompt, with --chat as the system's message [0]"},
        {"prefixes", 0, AG_OPT_U32, &s.prefixes, 1, AG_LOAD_POOL_MAX,
         "so many such beginnings, which prompts share among them [1]"},
        {"pool", 0, AG_OPT_U32, &s.pool, 1, AG_LOAD_POOL_MAX,
         "so many different requests, asked again and again [each its own]"},
        {"zipf", 0, AG_OPT_F32, &o.zipf, 0, 10,
         "with --pool: the k-th is asked for as often as k^-X says; 0: all alike [1]"},
        {"max-tokens", 0, AG_OPT_TEXT, &o.max_tokens, 0, 0, "length of an answer, or a range: 16-128 [128]"},
        {"ignore-eos", 0, AG_OPT_TEXT, &o.ignore_eos, 0, 0, "on: answers are exactly as long as asked for; off [on]"},
        {"temperature", 0, AG_OPT_F32, &s.temperature, 0, 10, "of sampling [0]"},
        {"tenants", 0, AG_OPT_TEXT, &o.tenants, 0, 0, "name:weight,... that share the requests (header x-tenant)"},
        {"classes", 0, AG_OPT_TEXT, &o.classes, 0, 0,
         "loads at the same time, reported one by one: urgent:band=0:rate=1,batch:band=3:clients=64; keys: band, "
         "timeout, clients, rate, every (2s: a request each two seconds), requests, start (after the others), tenant, "
         "prompt, shared, max-tokens; the rest as given here"},
        {"key", 0, AG_OPT_TEXT, &s.key, 0, 0, "bearer token (also AUTOGLM_API_KEY)"},
        {"model", 'm', AG_OPT_TEXT, &s.model, 0, 0, "name of the model in the requests"},
        {"extra", 0, AG_OPT_TEXT, &o.extra, 0, 0, "JSON object with more fields of the requests"},
        {"seed", 0, AG_OPT_U64, &s.seed, 0, 1e18, "of prompts, lengths, tenants and arrivals [1]"},
        {"json", 0, AG_OPT_FLAG, &o.json, 0, 0, "one JSON object"},
        {"buckets", 0, AG_OPT_FLAG, &o.buckets, 0, 0, "with --json: the histograms too, to add up several runs"},
        {"svg", 0, AG_OPT_TEXT, &o.svg, 0, 0, "file for a plot of first tokens and gaps"},
    };
    ag_cli cli = {.usage = "bench http URL [OPTIONS]",
                  .about = "Sends streamed requests to an OpenAI-compatible server and reports what its clients see:\n"
                           "rates, the time to the first token, gaps between tokens, whole answers, failures.\n"
                           "Ctrl-C ends it and reports so far.",
                  .opts = opts, .n_opts = AG_ARRAY_LEN(opts), .args_min = 1, .args_max = 1};
    static char name[] = "bench http"; /* as messages are to have it */
    argv[0] = name;
    int status = 0;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        ag_buf url, extra;
        ag_buf_init(&url, URL_MAX);
        ag_buf_init(&extra, EXTRA_MAX);
        int rc = check(&o, &s, &err);
        if (rc == AG_OK) rc = parse_url(cli.args[0], s.chat, &url, &err);
        if (rc == AG_OK) rc = parse_extra(o.extra, &s, o.classes, &extra, &err);
        s.url = url.p;
        s.extra = extra.p;
        if (rc == AG_OK && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
            rc = ag_err_set(&err, AG_E_NOMEM, "no memory");
        if (rc == AG_OK) {
            rc = o.classes ? run_classes(&o, &s, &err) : run(&o, &s, &err);
            curl_global_cleanup();
        }
        if (rc != AG_OK) status = ag_cli_fail(argv[0], &err);
        ag_buf_fini(&extra);
        ag_buf_fini(&url);
    }
    ag_cli_fini(&cli);
    return status;
}
