#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/near.h"

extern char **environ;

static int number(const ag_opt *o, const char *text, ag_err *err)
{
    char *end;
    uint64_t n = 0; /* a double has not all the digits of one */
    double v;
    bool whole = o->kind != AG_OPT_F32, ok = true;
    errno = 0;
    if (whole) {
        ok = text[0] >= '0' && text[0] <= '9';
        n = strtoull(text, &end, 10);
        ok = ok && errno == 0;
        v = (double)n;
    } else {
        v = strtod(text, &end);
        ok = end != text && isfinite(v);
    }
    if (!ok || *end || v < o->min || v > o->max)
        return ag_err_set(err, AG_E_USAGE, "--%s: '%s' is not a %snumber from %.15g to %.15g%s", o->name, text,
                          whole ? "whole " : "", o->min, o->max, whole ? ", in digits" : "");
    if (o->kind == AG_OPT_U32) *(uint32_t *)o->out = (uint32_t)n;
    else if (o->kind == AG_OPT_F32) *(float *)o->out = (float)v;
    else *(uint64_t *)o->out = n;
    return AG_OK;
}

static const ag_opt *opt_find(const ag_cli *c, const char *word, const char **value)
{
    *value = NULL;
    if (word[0] != '-' || word[1] == 0) return NULL;
    for (uint32_t i = 0; i < c->n_opts; i++) {
        const ag_opt *o = &c->opts[i];
        size_t n = strlen(o->name);
        if (word[1] != '-') {
            if (o->letter && word[1] == o->letter && word[2] == 0) return o;
        } else if (strncmp(word + 2, o->name, n) == 0 && (word[2 + n] == 0 || word[2 + n] == '=')) {
            if (word[2 + n]) *value = word + 2 + n + 1;
            return o;
        }
    }
    return NULL;
}

/* A word that is no setting: an option of the command, or one of its arguments. */
static int word_take(void *arg, int argc, char **argv, int at, ag_err *err)
{
    ag_cli *c = arg;
    const char *word = argv[at], *value;
    bool ended = false;
    for (int i = 0; i < at; i++) ended = ended || strcmp(argv[i], "--") == 0;
    const ag_opt *o = ended ? NULL : opt_find(c, word, &value);
    if (o == NULL) {
        if (!ended && word[0] == '-' && word[1]) {
            ag_near near;
            ag_near_begin(&near, (ag_str){word + 2, word[1] == '-' ? strcspn(word + 2, "=") : 0});
            for (uint32_t i = 0; i < c->n_opts; i++) ag_near_try(&near, c->opts[i].name);
            if (near.best)
                return ag_err_set(err, AG_E_USAGE, "%s: no such option; did you mean --%s?", word, near.best), -1;
            return 0;
        }
        if (c->n_args == c->args_max || c->n_args == AG_CLI_ARGS_MAX)
            return ag_err_set(err, AG_E_USAGE, "'%s' is one argument too many; usage: autoglm %s", word, c->usage), -1;
        c->args[c->n_args++] = word;
        return 1;
    }
    if (o->kind == AG_OPT_FLAG) {
        if (value) return ag_err_set(err, AG_E_USAGE, "--%s takes no value", o->name), -1;
        *(bool *)o->out = true;
        return 1;
    }
    int took = value ? 1 : 2;
    if (value == NULL && at + 1 < argc) value = argv[at + 1];
    if (value == NULL) return ag_err_set(err, AG_E_USAGE, "--%s: a value must follow (%s)", o->name, o->help), -1;
    if (o->kind == AG_OPT_TEXT) *(const char **)o->out = value;
    else if (number(o, value, err) != AG_OK) return -1;
    return took;
}

static void opt_help(const ag_opt *o)
{
    static const char *const words[] = {"", " N", " N", " X", " TEXT"};
    char left[80];
    int n = 0;
    if (o->letter) n = snprintf(left, sizeof left, "-%c, ", o->letter);
    snprintf(left + n, sizeof left - (size_t)n, "--%s%s", o->name, words[o->kind]);
    printf("  %-29s %s\n", left, o->help);
}

static int help(const ag_cli *c)
{
    printf("usage: autoglm %s\n\n%s\n", c->usage, c->about);
    printf("\noptions:\n");
    for (uint32_t i = 0; i < c->n_opts; i++) opt_help(&c->opts[i]);
    printf("  %-29s %s\n", "--help", "this page");
    if (c->groups) {
        ag_buf b;
        ag_buf_init(&b, 1 << 20);
        if (ag_conf_help(c->groups, &b))
            printf("\nsettings (also AUTOGLM_NAME in the environment):\n%.*s", (int)b.n, b.p);
        ag_buf_fini(&b);
    }
    return 0;
}

bool ag_cli_parse(ag_cli *c, int argc, char **argv, int *status)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            *status = help(c);
            return false;
        }
    ag_err err = {0};
    ag_conf_input in = {.argc = argc - 1, .argv = argv + 1, .env = environ, .groups = c->groups ? c->groups : "",
                        .other = word_take, .other_arg = c};
    int rc = ag_conf_load(&c->conf, &in, &err);
    if (rc == AG_OK && c->n_args < c->args_min)
        rc = ag_err_set(&err, AG_E_USAGE, "an argument is missing; usage: autoglm %s", c->usage);
    if (rc != AG_OK) *status = ag_cli_fail(argv[0], &err);
    return rc == AG_OK;
}

void ag_cli_fini(ag_cli *c) { ag_conf_fini(&c->conf); }

int ag_cli_fail(const char *command, const ag_err *err)
{
    fflush(stdout);
    fprintf(stderr, "autoglm %s: %s\n", command, err->text);
    return err->code == AG_E_USAGE ? 2 : 1;
}

int ag_cli_read(const char *path, ag_buf *out, ag_err *err)
{
    bool std = path == NULL || strcmp(path, "-") == 0;
    const char *name = std ? "stdin" : path;
    FILE *f = std ? stdin : fopen(path, "rbe");
    if (f == NULL) return ag_err_set(err, AG_E_IO, "%s: cannot be opened: %s", name, strerror(errno));
    for (size_t got = 1; got;) {
        size_t want = AG_MIN((size_t)65536, out->max - out->n);
        if (want == 0 || !ag_buf_room(out, want)) break;
        got = fread(out->p + out->n, 1, want, f);
        out->n += got;
    }
    int rc = AG_OK;
    if (ferror(f)) rc = ag_err_set(err, AG_E_IO, "%s: cannot be read: %s", name, strerror(errno));
    else if (out->failed) rc = ag_err_set(err, AG_E_NOMEM, "%s: no memory to read it", name);
    else if (out->n == out->max && fgetc(f) != EOF)
        rc = ag_err_set(err, AG_E_LIMIT, "%s: over %zu bytes", name, out->max);
    if (!std) fclose(f);
    return rc;
}

void ag_progress_begin(ag_progress *p, const char *what, uint64_t total, bool bytes)
{
    *p = (ag_progress){
        .what = what, .total = total, .bytes = bytes, .tty = isatty(STDERR_FILENO), .began_us = ag_now_us()};
}

void ag_progress_show(ag_progress *p, uint64_t done)
{
    uint64_t now = ag_now_us();
    if (!p->tty || (p->shown_us && now - p->shown_us < 100000)) return;
    p->shown_us = now;
    char bar[31] = "", far[64];
    if (p->total) {
        unsigned fill = (unsigned)(AG_MIN(done, p->total) * 30.0 / (double)p->total);
        memset(bar, '#', fill);
        memset(bar + fill, '.', 30 - fill);
        bar[30] = 0;
    }
    double s = (double)(now - p->began_us) / 1e6, mib = 1 << 20;
    if (!p->bytes)
        snprintf(far, sizeof far, p->total ? "%llu/%llu" : "%llu", (unsigned long long)done,
                 (unsigned long long)p->total);
    else if (p->total) snprintf(far, sizeof far, "%.1f/%.1f MiB", (double)done / mib, (double)p->total / mib);
    else snprintf(far, sizeof far, "%.1f MiB", (double)done / mib);
    fprintf(stderr, "\r\x1b[K%s %s%s%s", p->what, bar, *bar ? " " : "", far);
    if (p->bytes && s > 0.5) fprintf(stderr, "  %.1f MiB/s", (double)(done - p->first) / mib / s);
    fflush(stderr);
}

void ag_progress_end(ag_progress *p)
{
    if (p->tty && p->shown_us) fprintf(stderr, "\r\x1b[K");
}
