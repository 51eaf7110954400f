/* autoglm compile: what the passes make of a model. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/direct.h"

#define REPORT_MAX (64u << 20)

static const char *domain_name(ag_domain d)
{
    static const char *const names[] = {[AG_DOMAIN_ROWS] = "rows",
                                        [AG_DOMAIN_TILES] = "tiles",
                                        [AG_DOMAIN_HEADS] = "heads",
                                        [AG_DOMAIN_ATTN] = "attention"};
    return names[d];
}

static void print_layouts(const ag_direct *d, bool json)
{
    bool first = true;
    for (const ag_quant_row *q = NULL; (q = ag_quant_next(q));) {
        uint64_t n = 0, bytes = 0;
        for (uint32_t i = 0; i < d->lm->plan.n_packs; i++) {
            const ag_weight *w = &d->lm->plan.packs[i];
            if (w->t->type != q->type) continue;
            ag_pack p;
            ag_pack_shape(&p, q->type, w->rows, w->k);
            bytes += (uint64_t)p.tiles * p.tile_bytes;
            n++;
        }
        if (n == 0) continue;
        if (json)
            printf("%s{\"type\":\"%s\",\"matrices\":%" PRIu64 ",\"bytes\":%" PRIu64 "}", first ? "" : ",", q->name, n,
                   bytes);
        else
            printf("  %-8s %4" PRIu64 " matrices, %" PRIu64 " bytes repacked in tiles of %d rows\n", q->name, n, bytes,
                   AG_CPU_TILE);
        first = false;
    }
}

/* A stored image that was asked for is there by now, or its note has said why not. */
static int check_image(const ag_direct *d, const ag_conf *conf, ag_err *err)
{
    ag_weights_info info;
    d->lm->ops->weights(d->lm->backend, &info);
    if (strcmp(conf->weights_image, "on") != 0 || info.from_image || info.written) return AG_OK;
    return ag_err_set(err, AG_E_IO, "the repacked weights were not stored");
}

static void print_summary(const ag_direct *d, bool json)
{
    const ag_plan *p = &d->lm->plan;
    const char *isa = d->lm->ops->isa(d->lm->backend);
    if (json) {
        printf("{\"operations\":%u,\"stages\":%u,\"activation_bytes\":%" PRIu64 ",\"rows\":%u,\"weight_bytes\":%" PRIu64
               ",\"isa\":\"%s\",\"layouts\":[",
               p->graph->n_nodes, p->n_stages, p->arena_bytes, p->rows_max, d->lm->ops->weight_bytes(d->lm->backend),
               isa);
        print_layouts(d, true);
        puts("]}");
        return;
    }
    uint32_t by[4] = {0};
    for (uint32_t i = 0; i < p->n_stages; i++) by[p->stages[i].domain]++;
    printf("%u operations in %u stages, %u barriers a token", p->graph->n_nodes, p->n_stages, ag_plan_barriers(p));
    for (int i = 0; i < 4; i++) printf("%s%u by %s", i ? ", " : ": ", by[i], domain_name((ag_domain)i));
    printf("\n%" PRIu64 " bytes of activations for steps of %u rows; weights for %s:\n", p->arena_bytes, p->rows_max,
           isa);
    print_layouts(d, false);
}

int ag_cmd_compile(int argc, char **argv)
{
    bool explain = false, json = false, passes = false;
    const ag_opt opts[] = {
        {"explain", 0, AG_OPT_FLAG, &explain, 0, 0, "print the graph before the first and after each pass"},
        {"passes", 0, AG_OPT_FLAG, &passes, 0, 0, "list the passes, and which may be left out by --no-pass"},
        {"json", 0, AG_OPT_FLAG, &json, 0, 0, "the figures as one JSON object"},
    };
    ag_cli cli = {.usage = "compile MODEL [--explain]", .about = "Shows what the passes make of a model: operations, barriers, memory, layouts. With --weights-image on, stores the\n"
                           "repacked weights beside it for the server to start from.",
                  .opts = opts, .n_opts = AG_ARRAY_LEN(opts), .groups = "engine", .args_max = 1};
    int status = 0;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        ag_buf report;
        ag_direct d = {0};
        ag_buf_init(&report, REPORT_MAX);
        if (passes) {
            for (const ag_pass_row *r = NULL; (r = ag_pass_next(r));)
                printf("%-14s %s%s\n", r->name, r->what, r->needed ? " (needed)" : "");
        } else if (cli.n_args == 0) {
            ag_err_set(&err, AG_E_USAGE, "a model is needed: autoglm compile MODEL");
        } else if (ag_direct_open(&d, cli.args[0], &cli.conf, 1, 64, 64, explain ? &report : NULL, &err) == AG_OK) {
            if (explain && report.failed)
                ag_err_set(&err, AG_E_LIMIT, "the explanation is longer than %u bytes", REPORT_MAX);
            if (explain) fwrite(report.p, 1, report.n, stdout);
            if (explain) putchar('\n');
            print_summary(&d, json);
            if (err.code == AG_OK) check_image(&d, &cli.conf, &err);
        }
        if (d.model) ag_direct_close(&d);
        ag_buf_fini(&report);
        if (err.code) status = ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    return status;
}
