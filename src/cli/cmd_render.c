/* autoglm render - chat templates over JSON lines: what prompt a conversation becomes. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <time.h>

#include "base/mem.h"
#include "model/gguf/gguf.h"
#include "model/template/template.h"

#define LINE_BYTES_MAX (64u << 20)
#define TEMPLATE_BYTES_MAX (1u << 20)
#define TEMPLATES_KEPT 64

int ag_cmd_render(int argc, char **argv);

static const char help[] =
    "autoglm render - turn conversations into prompts\n"
    "\n"
    "usage: autoglm render (-m MODEL | --template FILE | --template-dir DIR | --inline) [--now TIME] < lines\n"
    "\n"
    "Each line of input is a JSON object; each gives one line of output,\n"
    "{\"prompt\": TEXT} or {\"error\": {\"kind\", \"message\", \"line\", \"column\"}}.\n"
    "\n"
    "  -m, --model MODEL      the template inside a GGUF file, with its bos_token and eos_token\n"
    "      --template FILE    the template in FILE\n"
    "      --template-dir DIR each line names its template in DIR: {\"template\": NAME, ...}\n"
    "      --inline           each line carries its template: {\"template\": TEXT, \"variables\": {...}}\n"
    "      --now TIME         what strftime_now sees, as 2025-07-26T14:05:09; a line's \"now\" comes first\n"
    "  -h, --help             this text\n"
    "\n"
    "A line may hold messages, tools, documents, add_generation_prompt, bos_token, eos_token, now, and extra: an\n"
    "object whose members become variables too. A member that is null is None; one that is missing is undefined.\n"
    "\n"
    "exit: 0; 1 when a line was not a JSON object or a file could not be used, or output failed; 2 for a\n"
    "wrong command line.\n";

typedef struct kept {
    char *name;
    ag_template *t;
    ag_template_error err; /* when t is NULL */
} kept;

typedef struct render {
    const char *dir;
    bool is_inline, fixed_now;
    ag_template *one;
    json_t *bos, *eos;
    int64_t now;
    kept kept[TEMPLATES_KEPT];
    size_t n_kept;
} render;

static int64_t local_now(void)
{
    struct tm tm;
    time_t t = time(NULL);
    return localtime_r(&t, &tm) ? (int64_t)t + tm.tm_gmtoff : (int64_t)t;
}

static bool parse_now(const char *text, int64_t *out)
{
    struct tm tm = {0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (end == NULL) {
        tm = (struct tm){0};
        end = strptime(text, "%Y-%m-%d", &tm);
    }
    if (end && *end == '.') end += 1 + strspn(end + 1, "0123456789");
    if (end == NULL || (*end && strcmp(end, "Z") != 0)) return false;
    *out = (int64_t)timegm(&tm);
    return true;
}

static int read_file(const char *path, ag_buf *out, ag_err *err)
{
    FILE *f = fopen(path, "rbe");
    if (f == NULL) return ag_err_set(err, AG_E_IO, "cannot open template %s: %s", path, strerror(errno));
    int rc = AG_OK;
    size_t n;
    do {
        if (!ag_buf_room(out, 65536)) {
            rc = ag_err_set(err, AG_E_TOO_LARGE, "template %s is larger than %u bytes", path, TEMPLATE_BYTES_MAX);
            break;
        }
        n = fread(out->p + out->n, 1, 65536, f);
        out->n += n;
    } while (n > 0);
    if (rc == AG_OK && ferror(f)) rc = ag_err_set(err, AG_E_IO, "cannot read template %s: %s", path, strerror(errno));
    fclose(f);
    return rc;
}

static int parse_file(const char *path, ag_template **out, ag_template_error *e, ag_err *err)
{
    ag_buf text;
    ag_buf_init(&text, TEMPLATE_BYTES_MAX + 65536);
    int rc = read_file(path, &text, err);
    if (rc == AG_OK && ag_template_parse(out, text.p ? text.p : "", text.n, e) != AG_OK) {
        rc = ag_err_set(err, AG_E_TEMPLATE, "template %s, line %u, column %u: %s", path, e->line, e->column,
                        e->message);
    }
    ag_buf_fini(&text);
    return rc;
}

/* The text of token `id`, which the key `name` holds; *out stays NULL when the file does not say. */
static int token_text(const ag_gguf *g, const char *name, json_t **out, ag_err *err)
{
    uint32_t id = UINT32_MAX;
    int rc = ag_gguf_u32(g, name, false, &id, err);
    const ag_gguf_value *tokens = ag_gguf_value_find(g, "tokenizer.ggml.tokens");
    if (rc != AG_OK || id == UINT32_MAX || tokens == NULL) return rc;
    if (tokens->type != AG_GGUF_ARRAY || tokens->item != AG_GGUF_STRING || id >= tokens->n) {
        return ag_err_set(err, AG_E_FILE, "%s: %s is %u, and tokenizer.ggml.tokens has no such text", ag_gguf_path(g),
                          name, id);
    }
    const void *at = tokens->data;
    ag_str s = ag_gguf_string_next(&at);
    for (uint32_t i = 0; i < id; i++) s = ag_gguf_string_next(&at);
    *out = json_stringn(s.p, s.n);
    return *out ? AG_OK : ag_err_set(err, AG_E_FILE, "%s: the text of token %u is not UTF-8", ag_gguf_path(g), id);
}

static int open_model(render *r, const char *path, ag_err *err)
{
    ag_gguf *g;
    ag_template_error e;
    int rc = ag_gguf_open(&g, path, err);
    if (rc != AG_OK) return rc;
    ag_str text;
    rc = ag_gguf_string(g, "tokenizer.chat_template", true, &text, err);
    if (rc == AG_OK) rc = token_text(g, "tokenizer.ggml.bos_token_id", &r->bos, err);
    if (rc == AG_OK) rc = token_text(g, "tokenizer.ggml.eos_token_id", &r->eos, err);
    if (rc == AG_OK && ag_template_parse(&r->one, text.p, text.n, &e) != AG_OK) {
        rc = ag_err_set(err, AG_E_TEMPLATE, "%s: tokenizer.chat_template, line %u, column %u: %s", path, e.line,
                        e.column,
                        e.message);
    }
    ag_gguf_close(g);
    return rc;
}

static void error_set(ag_template_error *e, const char *what, const char *name)
{
    e->kind = 0; /* "input" */
    e->line = e->column = 0;
    snprintf(e->message, sizeof e->message, what, name);
}

/* The template that a line of --template-dir names, from those kept or from its file; NULL with *e set. */
static ag_template *named(render *r, const char *name, ag_template_error *e)
{
    if (*name == 0 || strchr(name, '/') || strstr(name, "..")) {
        error_set(e, "template name '%.200s': a file of the directory is wanted, without '/' and '..'", name);
        return NULL;
    }
    for (size_t i = 0; i < r->n_kept; i++) {
        if (strcmp(r->kept[i].name, name) != 0) continue;
        *e = r->kept[i].err;
        return r->kept[i].t;
    }
    char path[4096];
    ag_err err;
    ag_err_clear(&err);
    if ((size_t)snprintf(path, sizeof path, "%s/%s", r->dir, name) >= sizeof path) {
        error_set(e, "template name '%.200s' is too long", name);
        return NULL;
    }
    kept k = {.name = ag_mem_strndup(name, strlen(name))};
    int rc = k.name ? parse_file(path, &k.t, &k.err, &err) : ag_err_set(&err, AG_E_NOMEM, "no memory");
    if (rc != AG_OK && rc != AG_E_TEMPLATE) error_set(&k.err, "%.400s", err.text);
    *e = k.err;
    if (k.name == NULL) return NULL;
    if (r->n_kept == TEMPLATES_KEPT) { /* the oldest makes room */
        ag_mem_free(r->kept[0].name);
        ag_template_free(r->kept[0].t);
        memmove(r->kept, r->kept + 1, (TEMPLATES_KEPT - 1) * sizeof *r->kept);
        r->n_kept--;
    }
    r->kept[r->n_kept++] = k;
    return k.t;
}

static json_t *variables(const render *r, json_t *line)
{
    static const char *const names[] = {"messages", "tools", "documents", "add_generation_prompt", "bos_token",
        "eos_token"};
    json_t *vars = json_object(), *v;
    if (vars && r->bos) json_object_set(vars, "bos_token", r->bos);
    if (vars && r->eos) json_object_set(vars, "eos_token", r->eos);
    for (size_t i = 0; vars && i < AG_ARRAY_LEN(names); i++) {
        if ((v = json_object_get(line, names[i]))) json_object_set(vars, names[i], v);
    }
    v = json_object_get(line, "extra");
    if (vars && json_is_object(v)) json_object_update(vars, v);
    return vars;
}

/* One line's prompt into `out`. 0, or *e says why not. */
static int render_line(render *r, json_t *line, ag_buf *out, ag_template_error *e)
{
    ag_template *own = NULL, *t = r->one;
    const char *name = json_string_value(json_object_get(line, "template"));
    const char *now_text = json_string_value(json_object_get(line, "now"));
    int64_t now = r->fixed_now ? r->now : local_now();
    if (now_text && !parse_now(now_text, &now)) {
        error_set(e, "now '%.100s': a time as 2025-07-26T14:05:09 is wanted", now_text);
        return AG_E_PARAM;
    }
    if (t == NULL && name == NULL) {
        error_set(e, "the line has no member \"template\"%s", "");
        return AG_E_PARAM_MISSING;
    }
    if (r->is_inline) {
        int rc = ag_template_parse(&own, name, json_string_length(json_object_get(line, "template")), e);
        if (rc != AG_OK) return rc;
        t = own;
    } else if (t == NULL && (t = named(r, name, e)) == NULL) {
        return AG_E_TEMPLATE;
    }
    json_t *vars = r->is_inline ? json_incref(json_object_get(line, "variables")) : variables(r, line);
    if (vars == NULL && r->is_inline) vars = json_object();
    int rc = AG_E_PARAM;
    if (!json_is_object(vars)) error_set(e, "the line's variables are not an object%s", "");
    else rc = ag_template_render(t, vars, now, &AG_TEMPLATE_LIMITS_DEFAULT, out, e);
    json_decref(vars);
    ag_template_free(own);
    return rc;
}

static bool write_error(const ag_template_error *e, ag_buf *line)
{
    ag_buf_addf(line, "{\"error\": {\"kind\": \"%s\", \"message\": ",
                e->kind ? ag_template_kind_name(e->kind) : "input");
    ag_buf_add_json(line, e->message, strlen(e->message));
    return ag_buf_addf(line, ", \"line\": %u, \"column\": %u}}\n", e->line, e->column);
}

/* False: the line was not a JSON object, or nothing could be written. */
static bool do_line(render *r, const char *text, size_t n, ag_buf *prompt, ag_buf *line)
{
    json_error_t je;
    ag_template_error e = {0};
    json_t *in = json_loadb(text, n, JSON_ALLOW_NUL, &je);
    bool good = json_is_object(in);
    ag_buf_reset(prompt);
    ag_buf_reset(line);
    if (in == NULL) error_set(&e, "not JSON: %.300s", je.text);
    else if (!good) error_set(&e, "a JSON object is wanted%s", "");
    if (good && render_line(r, in, prompt, &e) == AG_OK) {
        ag_buf_addz(line, "{\"prompt\": ");
        ag_buf_add_json(line, prompt->p ? prompt->p : "", prompt->n);
        ag_buf_addz(line, "}\n");
    } else {
        write_error(&e, line);
    }
    json_decref(in);
    return !line->failed && fwrite(line->p, 1, line->n, stdout) == line->n && good;
}

/* False: there is none. Of one that does not fit (text->failed) the rest is read too, up to where the next one begins. */
static bool next_line(ag_buf *text)
{
    int ch;
    ag_buf_reset(text);
    while ((ch = getc_unlocked(stdin)) != EOF && ch != '\n') ag_buf_addc(text, (char)ch);
    bool any = ch != EOF || text->n || text->failed;
    while (text->n && text->p[text->n - 1] == '\r') text->n--;
    return any;
}

static void too_long(ag_buf *line)
{
    ag_template_error e = {0};
    char most[16];
    snprintf(most, sizeof most, "%u", LINE_BYTES_MAX);
    error_set(&e, "the line is over %s bytes, or there is no memory for it", most);
    ag_buf_reset(line);
    write_error(&e, line);
    fwrite(line->p, 1, line->n, stdout);
}

static int do_input(render *r)
{
    ag_buf prompt, line, text;
    int status = 0;
    ag_buf_init(&text, LINE_BYTES_MAX);
    ag_buf_init(&prompt, AG_TEMPLATE_LIMITS_DEFAULT.output_bytes + 1);
    ag_buf_init(&line, LINE_BYTES_MAX * 4);
    while (next_line(&text)) {
        if (text.failed) too_long(&line), status = 1;
        else if (text.n > 0 && !do_line(r, text.p, text.n, &prompt, &line)) status = 1;
    }
    if (ferror(stdin) || fflush(stdout) != 0) {
        fprintf(stderr, "autoglm render: %s\n", strerror(errno));
        status = 1;
    }
    ag_buf_fini(&text);
    ag_buf_fini(&prompt);
    ag_buf_fini(&line);
    return status;
}

int ag_cmd_render(int argc, char **argv)
{
    static const struct option options[] = {
        {"model", required_argument, NULL, 'm'},        {"template", required_argument, NULL, 't'},
        {"template-dir", required_argument, NULL, 'd'}, {"inline", no_argument, NULL, 'i'},
        {"now", required_argument, NULL, 'n'},          {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    render r = {0};
    const char *model = NULL, *file = NULL;
    ag_template_error e;
    ag_err err;
    int opt, status, rc = AG_OK;
    ag_err_clear(&err);
    optind = 0;
    while ((opt = getopt_long(argc, argv, "m:h", options, NULL)) != -1) {
        switch (opt) {
        case 'm': model = optarg; break;
        case 't': file = optarg; break;
        case 'd': r.dir = optarg; break;
        case 'i': r.is_inline = true; break;
        case 'n':
            r.fixed_now = parse_now(optarg, &r.now);
            if (!r.fixed_now) {
                rc = ag_err_set(&err, AG_E_USAGE, "--now %s: a time as 2025-07-26T14:05:09 is wanted", optarg);
            }
            break;
        case 'h':
            fputs(help, stdout);
            return 0;
        default:
            fputs("see: autoglm render --help\n", stderr);
            return 2;
        }
    }
    int ways = (model != NULL) + (file != NULL) + (r.dir != NULL) + r.is_inline;
    if (rc == AG_OK && (ways != 1 || optind < argc)) {
        rc = ag_err_set(&err, AG_E_USAGE,
                        "give one of -m MODEL, --template FILE, --template-dir DIR, --inline, and nothing else");
    }
    if (rc == AG_OK && model) rc = open_model(&r, model, &err);
    if (rc == AG_OK && file) rc = parse_file(file, &r.one, &e, &err);
    if (rc == AG_OK) {
        status = do_input(&r);
    } else {
        status = rc == AG_E_USAGE ? 2 : 1;
        fprintf(stderr, "autoglm render: %s\n", err.text);
    }
    for (size_t i = 0; i < r.n_kept; i++) {
        ag_mem_free(r.kept[i].name);
        ag_template_free(r.kept[i].t);
    }
    ag_template_free(r.one);
    json_decref(r.bos);
    json_decref(r.eos);
    return status;
}
