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
#define DAY_US 86400000000ull
#define DURATION_DEFAULT_US 10000000u

typedef struct options {
    const char *duration, *timeout, *ramp, *max_tokens, *tenants, *ignore_eos, *extra, *svg;
    float rate;
    bool json, buckets;
} options;

static volatile int stopped;
static void on_stop(int sig)
{
    (void)sig;
    stopped = 1;
}

static int parse_time(const char *flag, const char *text, uint64_t min_us, uint64_t *out, ag_err *err)
{
    static const struct unit {
        const char *name;
        double us;
    } units[] = {{"ms", 1e3}, {"s", 1e6}, {"m", 6e7}, {"h", 3.6e9}};
    char *end;
    double v = strtod(text, &end);
    for (size_t i = 0; end != text && i < AG_ARRAY_LEN(units); i++) {
        if (strcmp(end, units[i].name) != 0 || !(v >= 0) || v * units[i].us > (double)DAY_US ||
            v * units[i].us < (double)min_us)
            continue;
        *out = (uint64_t)(v * units[i].us);
        return AG_OK;
    }
    return ag_err_set(err, AG_E_USAGE, "--%s: '%.40s' is not a duration such as 30s or 500ms, of at most a day", flag,
                      text);
}

static int parse_max_tokens(const char *text, ag_load_spec *s, ag_err *err)
{
    char *end;
    unsigned long low = strtoul(text, &end, 10), high = low;
    if (end != text && *end == '-') {
        const char *second = end + 1;
        high = strtoul(second, &end, 10);
        if (end == second || *second == '-') high = 0;
    }
    if (end == text || *end || low < 1 || high < low || high > 1000000)
        return ag_err_set(err, AG_E_USAGE,
                          "--max-tokens: '%.40s' is neither a number from 1 to 1000000 nor a range such as 16-128",
                          text);
    s->max_tokens_low = (uint32_t)low;
    s->max_tokens_high = (uint32_t)high;
    return AG_OK;
}

/* Names go into a header, so they are plain words; "a:3,b" gives b the weight 1. */
static int parse_tenants(const char *text, ag_load_spec *s, ag_err *err)
{
    for (const char *p = text; *p;) {
        size_t whole = strcspn(p, ","), n = strcspn(p, ":,"),
               word = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
        char *end = NULL;
        double weight = 1;
        if (n < whole) weight = strtod(p + n + 1, &end);
        if (n == 0 || n > AG_LOAD_NAME_MAX || word < n || (end && end != p + whole) || !(weight > 0) || weight > 1e6)
            return ag_err_set(err, AG_E_USAGE,
                              "--tenants: at '%.40s': it is name:weight,..., a name has letters, digits, '.', '_', '-'", p);
        if (s->n_tenants == AG_LOAD_TENANTS_MAX)
            return ag_err_set(err, AG_E_USAGE, "--tenants: over %u of them", AG_LOAD_TENANTS_MAX);
        ag_load_tenant *t = &s->tenants[s->n_tenants++];
        memcpy(t->name, p, n);
        t->weight = weight;
        p += whole;
        if (*p == ',' && *++p == 0) return ag_err_set(err, AG_E_USAGE, "--tenants: nothing follows the last comma");
    }
    return AG_OK;
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

/* The fields of an object, each with a comma before it. */
static int parse_extra(const char *text, ag_buf *out, ag_err *err)
{
    json_error_t why;
    json_t *o = text ? json_loads(text, 0, &why) : NULL;
    int rc = AG_OK;
    if (text && !json_is_object(o))
        rc = ag_err_set(err, AG_E_USAGE, "--extra: should be a JSON object: %s",
                        o ? "it is another kind of value" : why.text);
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
    int rc = parse_max_tokens(o->max_tokens, s, err);
    if (rc == AG_OK && o->duration) rc = parse_time("duration", o->duration, 1000, &s->duration_us, err);
    if (rc == AG_OK) rc = parse_time("timeout", o->timeout, 1000, &s->timeout_us, err);
    if (rc == AG_OK) rc = parse_time("ramp", o->ramp, 0, &s->ramp_us, err);
    if (rc == AG_OK && o->tenants) rc = parse_tenants(o->tenants, s, err);
    if (rc != AG_OK) return rc;
    s->rate = (double)o->rate;
    s->ignore_eos = strcmp(o->ignore_eos, "on") == 0;
    if (!s->ignore_eos && strcmp(o->ignore_eos, "off") != 0)
        return ag_err_set(err, AG_E_USAGE, "--ignore-eos: '%.40s' is neither on nor off", o->ignore_eos);
    if (s->clients == 0) s->clients = s->rate > 0 ? 512 : 1;
    if (s->requests == 0 && s->duration_us == 0) s->duration_us = DURATION_DEFAULT_US;
    if (s->shared_words > s->prompt_words)
        return ag_err_set(err, AG_E_USAGE, "--shared-prefix %u: the prompt has only %u words", s->shared_words,
                          s->prompt_words);
    if ((uint64_t)s->clients * s->prompt_words > AG_LOAD_WORDS_MAX)
        return ag_err_set(err, AG_E_USAGE, "%u clients with prompts of %u words: that is over %u words at once",
                          s->clients, s->prompt_words, AG_LOAD_WORDS_MAX);
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

static int run(const options *o, ag_load_spec *s, ag_err *err)
{
    ag_load *l = NULL;
    FILE *svg = NULL;
    if (o->svg && (svg = fopen(o->svg, "we")) == NULL)
        return ag_err_set(err, AG_E_IO, "%s: cannot be written: %s", o->svg, strerror(errno));
    int rc = ag_load_create(&l, s, err);
    if (rc == AG_OK) {
        struct sigaction mine = {.sa_handler = on_stop}, ints, terms;
        sigaction(SIGINT, &mine, &ints);
        sigaction(SIGTERM, &mine, &terms);
        rc = ag_load_run(l, &stopped, err);
        sigaction(SIGINT, &ints, NULL);
        sigaction(SIGTERM, &terms, NULL);
        if (rc == AG_OK) rc = report(o, s, ag_load_got(l), svg, err);
    }
    ag_load_free(l);
    if (svg && fclose(svg) != 0 && rc == AG_OK)
        rc = ag_err_set(err, AG_E_IO, "%s: cannot be written: %s", o->svg, strerror(errno));
    return rc;
}

int ag_cmd_bench_http(int argc, char **argv)
{
    options o = {.timeout = "120s", .ramp = "0s", .max_tokens = "128", .ignore_eos = "on"};
    ag_load_spec s = {.seed = 1, .prompt_words = 64, .key = getenv("AUTOGLM_API_KEY")};
    const ag_opt opts[] = {
        {"clients", 'c', AG_OPT_U32, &s.clients, 1, AG_LOAD_CLIENTS_MAX,
         "each asks again when it has its answer [1]; with --rate: most at once [512]"},
        {"rate", 0, AG_OPT_F32, &o.rate, 0, 1e6, "requests a second, arriving at random whether answers come or not"},
        {"requests", 'n', AG_OPT_U64, &s.requests, 1, 1e12, "end after so many"},
        {"duration", 0, AG_OPT_TEXT, &o.duration, 0, 0, "end after this time [10s, without --requests]"},
        {"ramp", 0, AG_OPT_TEXT, &o.ramp, 0, 0, "spread the start of the load over this time [0s]"},
        {"timeout", 0, AG_OPT_TEXT, &o.timeout, 0, 0, "a request that takes longer has failed [120s]"},
        {"chat", 0, AG_OPT_FLAG, &s.chat, 0, 0, "/v1/chat/completions in place of /v1/completions"},
        {"prompt-tokens", 'p', AG_OPT_U32, &s.prompt_words, 1, AG_LOAD_PROMPT_MAX,
         "words of a prompt, most of them one token [64]"},
        {"shared-prefix", 0, AG_OPT_U32, &s.shared_words, 0, AG_LOAD_PROMPT_MAX,
         "so many of them begin every prompt [0]"},
        {"max-tokens", 0, AG_OPT_TEXT, &o.max_tokens, 0, 0, "length of an answer, or a range: 16-128 [128]"},
        {"ignore-eos", 0, AG_OPT_TEXT, &o.ignore_eos, 0, 0, "on: answers are exactly as long as asked for; off [on]"},
        {"temperature", 0, AG_OPT_F32, &s.temperature, 0, 10, "of sampling [0]"},
        {"tenants", 0, AG_OPT_TEXT, &o.tenants, 0, 0, "name:weight,... that share the requests (header x-tenant)"},
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
        if (rc == AG_OK) rc = parse_extra(o.extra, &extra, &err);
        s.url = url.p;
        s.extra = extra.p;
        if (rc == AG_OK && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
            rc = ag_err_set(&err, AG_E_NOMEM, "no memory");
        if (rc == AG_OK) {
            rc = run(&o, &s, &err);
            curl_global_cleanup();
        }
        if (rc != AG_OK) status = ag_cli_fail(argv[0], &err);
        ag_buf_fini(&extra);
        ag_buf_fini(&url);
    }
    ag_cli_fini(&cli);
    return status;
}
