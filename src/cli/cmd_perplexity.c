/* autoglm perplexity: how well a model predicts a text. */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/perplexity.h"

static int run(const ag_conf *conf, const char *file, uint32_t ctx, bool json, ag_err *err)
{
    ag_buf text;
    ag_perplexity p;
    ag_buf_init(&text, AG_PERPLEXITY_TEXT_MAX);
    int rc = conf->model[0] ? AG_OK : ag_err_set(err, AG_E_USAGE, "a model is needed: -m MODEL");
    if (rc == AG_OK) rc = ag_cli_read(file, &text, err);
    if (rc == AG_OK) rc = ag_perplexity_of(&p, conf->model, conf, ag_buf_str(&text), ctx, err);
    if (rc == AG_OK && json)
        printf("{\"perplexity\":%.6f,\"error\":%.6f,\"tokens\":%llu}\n", p.value, p.error,
               (unsigned long long)p.tokens);
    else if (rc == AG_OK)
        printf("perplexity %.4f +/- %.4f over %llu tokens\n", p.value, p.error, (unsigned long long)p.tokens);
    ag_buf_fini(&text);
    return rc;
}

int ag_cmd_perplexity(int argc, char **argv)
{
    const char *file = NULL;
    uint32_t ctx = 512;
    bool json = false;
    const ag_opt opts[] = {
        {"file", 'f', AG_OPT_TEXT, &file, 0, 0, "the text; - for stdin"},
        {"window", 'c', AG_OPT_U32, &ctx, 8, 1048576, "tokens of a window [512]"},
        {"json", 0, AG_OPT_FLAG, &json, 0, 0, "one JSON object"},
    };
    ag_cli cli = {.usage = "perplexity -m MODEL -f TEXT [-c 512]",
                  .about = "Measures how well a model predicts a text: value and error estimate.",
                  .opts = opts, .n_opts = AG_ARRAY_LEN(opts), .groups = "model,engine"};
    int status = 0;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        if (file == NULL) ag_err_set(&err, AG_E_USAGE, "a text is needed: -f FILE");
        else run(&cli.conf, file, ctx, json, &err);
        if (err.code) status = ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    return status;
}
