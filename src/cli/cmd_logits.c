/* autoglm logits: what a model gives for a list of tokens, for comparing engines. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/direct.h"

#define TOKENS_MAX (1u << 20)
#define TOP 10u

typedef struct sink {
    FILE *raw;        /* NULL: the top ten as JSON */
    const int32_t *tokens;
    bool io_failed;
} sink;

static int show_row(void *arg, uint32_t pos, const float *x, uint32_t vocab)
{
    sink *s = arg;
    if (s->raw) {
        s->io_failed = fwrite(x, sizeof *x, vocab, s->raw) != vocab;
        return s->io_failed ? AG_E_IO : AG_OK;
    }
    uint32_t top[TOP], n = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        if (n == TOP && !(x[i] > x[top[TOP - 1]])) continue;
        uint32_t at = n < TOP ? n++ : TOP - 1;
        for (; at > 0 && x[i] > x[top[at - 1]]; at--) top[at] = top[at - 1];
        top[at] = i;
    }
    printf("{\"position\":%u,\"token\":%d,\"top\":[", pos, s->tokens[pos]);
    for (uint32_t i = 0; i < n; i++) {
        printf("%s{\"id\":%u,\"logit\":", i ? "," : "", top[i]);
        if (isfinite(x[top[i]])) printf("%.9g}", (double)x[top[i]]);
        else printf("null}");
    }
    puts("]}");
    return AG_OK;
}

static int parse_tokens(const char *text, int32_t **out, uint32_t *n, ag_err *err)
{
    size_t count = 1;
    for (const char *p = text; *p; p++) count += *p == ',';
    if (count > TOKENS_MAX) return ag_err_set(err, AG_E_USAGE, "%zu tokens; at most %u are taken", count, TOKENS_MAX);
    int32_t *ids = ag_mem_array(count, sizeof *ids);
    if (ids == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the tokens");
    const char *p = text;
    for (*n = 0; *n < count; p++) {
        char *end;
        errno = 0;
        long id = strtol(p, &end, 10);
        if (end == p || errno || id < 0 || id > INT32_MAX || (*end && *end != ',')) {
            ag_mem_free(ids);
            return ag_err_set(err, AG_E_USAGE,
                              "--tokens should be ids with commas between, such as 1,2,3; it is not at \"%.20s\"", p);
        }
        ids[(*n)++] = (int32_t)id;
        p = end;
    }
    *out = ids;
    return AG_OK;
}

static int run(const ag_conf *conf, const char *tokens, const char *raw, uint32_t chunk, ag_err *err)
{
    int32_t *ids = NULL;
    uint32_t n = 0;
    ag_direct d = {0};
    sink s = {0};
    int rc = conf->model[0] ? AG_OK : ag_err_set(err, AG_E_USAGE, "a model is needed: -m MODEL");
    if (rc == AG_OK) rc = parse_tokens(tokens, &ids, &n, err);
    if (rc == AG_OK) rc = ag_direct_open(&d, conf->model, conf, 1, n, AG_MIN(n, 64u), NULL, err);
    for (uint32_t i = 0; rc == AG_OK && i < n; i++)
        if ((uint32_t)ids[i] >= d.model->hp.vocab)
            rc = ag_err_set(err, AG_E_USAGE, "token %d is not in the vocabulary of %u", ids[i], d.model->hp.vocab);
    if (rc == AG_OK && n > d.model->hp.ctx_train)
        rc = ag_err_set(err, AG_E_CTX_LENGTH, "%u tokens do not fit the model's context of %u", n,
                        d.model->hp.ctx_train);
    s.tokens = ids;
    if (rc == AG_OK && raw && (s.raw = fopen(raw, "we")) == NULL)
        rc = ag_err_set(err, AG_E_IO, "%s: %s", raw, strerror(errno));
    if (rc == AG_OK) rc = ag_direct_feed(&d, ids, n, AG_MIN(AG_MIN(chunk, n), 64u), 0, show_row, &s);
    if (s.raw && (fclose(s.raw) != 0 || s.io_failed)) rc = ag_err_set(err, AG_E_IO, "%s: writing failed", raw);
    if (d.model) ag_direct_close(&d);
    ag_mem_free(ids);
    return rc;
}

int ag_cmd_logits(int argc, char **argv)
{
    const char *tokens = NULL, *raw = NULL;
    uint32_t chunk = 64;
    const ag_opt opts[] = {
        {"tokens", 't', AG_OPT_TEXT, &tokens, 0, 0, "ids with commas between: 1,2,3"},
        {"raw", 0, AG_OPT_TEXT, &raw, 0, 0, "write all logits to this file: float32, a row per position"},
        {"chunk", 0, AG_OPT_U32, &chunk, 1, 64,
         "positions computed in one step; the result does not depend on it [64]"},
    };
    ag_cli cli = {.usage = "logits -m MODEL --tokens IDS [--raw FILE]",
                  .about = "Computes the logits at each position: the top ten as one JSON object a line, or all of them to a file.",
                  .opts = opts, .n_opts = AG_ARRAY_LEN(opts), .groups = "model,engine"};
    int status = 0;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        if (tokens == NULL) ag_err_set(&err, AG_E_USAGE, "--tokens is needed: ids with commas between");
        else run(&cli.conf, tokens, raw, chunk, &err);
        if (err.code) status = ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    return status;
}
