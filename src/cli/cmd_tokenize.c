/* autoglm tokenize, detokenize: text to ids and back, once or a JSON object a line. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "model/tokenizer/tokenizer.h"

#define LINE_MAX_BYTES (6ull * AG_TOKENIZER_TEXT_MAX + 4096) /* JSON may write a byte in six */
#define OUT_MAX_BYTES (1ull << 32)
#define REPLACEMENT "\xef\xbf\xbd"

typedef struct job {
    const char *command; /* "tokenize" or "detokenize" */
    const char *help;
    const char *model;
    bool json, jsonl, special, no_bos;
    int (*line)(struct job *j, json_t *o, ag_buf *out, ag_err *err); /* one line of --jsonl into its answer */
    char **args;
    int n_args;
    ag_gguf *g;
    ag_tokenizer *t;
} job;

static const char help_tokenize[] =
    "Usage: autoglm tokenize -m MODEL [--special] [--no-bos] [--json | --jsonl] [TEXT]\n"
    "\n"
    "Prints the token ids of TEXT, or of all of stdin (its last line end too) where no TEXT is given.\n"
    "\n"
    "  -m, --model MODEL  a GGUF file\n"
    "  --special          control tokens written out in the text (<|im_end|>) become those tokens\n"
    "  --no-bos           add no token in front or behind, also where the vocabulary asks for it\n"
    "  --json             one JSON object: {\"ids\": [...], \"pieces\": [...]}\n"
    "  --jsonl            stdin holds one object a line: {\"text\", \"add_special\", \"parse_special\"} (both default to\n"
    "                     what the flags say); the answer is {\"ids\"}, or {\"error\": {\"message\"}} for a bad line\n"
    "  -h, --help         this text\n"
    "\n"
    "Exit: 0 done, 1 a failure (with --jsonl: on any line), 2 wrong usage.\n";

static const char help_detokenize[] =
    "Usage: autoglm detokenize -m MODEL [--json | --jsonl] [ID ...]\n"
    "\n"
    "Prints the text of the ids, special tokens written out. Ids may be parted by spaces or commas; where none is given\n"
    "they are read from stdin.\n"
    "\n"
    "  -m, --model MODEL  a GGUF file\n"
    "  --json             one JSON object: {\"text\"}; bytes that are not UTF-8 become U+FFFD\n"
    "  --jsonl            stdin holds one object {\"ids\": [...]} a line; the answer is {\"text\"}, or\n"
    "                     {\"error\": {\"message\"}} for a bad line; \"add_special\": true leaves out the token that\n"
    "                     tokenize put in front\n"
    "  -h, --help         this text\n"
    "\n"
    "Exit: 0 done, 1 a failure (with --jsonl: on any line), 2 wrong usage.\n";

/* ---- one text, one list of ids ---- */

static int put(ag_err *err, bool ok)
{
    return ok ? AG_OK : ag_err_set(err, AG_E_NOMEM, "no memory for the answer");
}

/* A JSON string; what is no UTF-8 becomes one U+FFFD for each row of bytes that could have begun a character. */
static bool add_json(ag_buf *out, const char *s, size_t n)
{
    if (ag_utf8_check(s, n) == SIZE_MAX) return ag_buf_add_json(out, s, n);
    ag_buf whole;
    ag_buf_init(&whole, 3 * n);
    for (size_t i = 0; i < n;) {
        size_t len = ag_utf8_len(s + i, n - i);
        if (len) {
            ag_buf_add(&whole, s + i, len);
        } else {
            for (len = AG_MIN((size_t)3, n - i); len > 1 && ag_utf8_tail(s + i, len) != len;) len--;
            ag_buf_addz(&whole, REPLACEMENT);
        }
        i += len;
    }
    bool ok = !whole.failed && ag_buf_add_json(out, whole.p, whole.n);
    ag_buf_fini(&whole);
    return ok;
}

static int put_ids(job *j, ag_str text, bool add, bool parse, bool pieces, ag_buf *out, ag_err *err)
{
    int32_t *ids;
    uint32_t n;
    int rc = ag_tokenizer_encode(j->t, text.p, text.n, add, parse, &ids, &n, err);
    if (rc) return rc;
    bool json = j->json || j->jsonl;
    if (json) ag_buf_addz(out, "{\"ids\": [");
    for (uint32_t i = 0; i < n; i++) ag_buf_addf(out, "%s%" PRId32, i == 0 ? "" : json ? ", " : " ", ids[i]);
    if (json) ag_buf_addz(out, "]");
    if (pieces) {
        ag_buf_addz(out, ", \"pieces\": [");
        for (uint32_t i = 0; i < n; i++) {
            ag_str s = ag_tokenizer_piece(j->t, ids[i], true);
            if (i) ag_buf_addz(out, ", ");
            if (!add_json(out, s.p, s.n)) break;
        }
        ag_buf_addz(out, "]");
    }
    ag_mem_free(ids);
    return put(err, ag_buf_addz(out, json ? "}\n" : "\n") && !out->failed);
}

static int put_text(job *j, const int32_t *ids, uint32_t n, ag_buf *out, ag_err *err)
{
    ag_buf text;
    ag_buf_init(&text, OUT_MAX_BYTES);
    bool ok = ag_tokenizer_decode(j->t, ids, n, true, &text);
    if (ok && (j->json || j->jsonl)) {
        ag_buf_addz(out, "{\"text\": ");
        ok = add_json(out, text.p, text.n) && ag_buf_addz(out, "}\n");
    } else if (ok) {
        ok = ag_buf_add(out, text.p, text.n) && ag_buf_addz(out, "\n");
    }
    ag_buf_fini(&text);
    return put(err, ok && !out->failed);
}

static int check_id(const job *j, int64_t id, ag_err *err)
{
    if (id >= 0 && id < ag_tokenizer_size(j->t)) return AG_OK;
    return ag_err_set(err, AG_E_PARAM, "id %" PRId64 " is not in the vocabulary of %u tokens", id,
                      ag_tokenizer_size(j->t));
}

/* ---- JSON lines ---- */

static int get_bool(json_t *o, const char *key, bool *out, ag_err *err)
{
    json_t *v = json_object_get(o, key);
    if (v == NULL) return AG_OK;
    if (!json_is_boolean(v)) return ag_err_set(err, AG_E_PARAM, "\"%s\" must be true or false", key);
    *out = json_is_true(v);
    return AG_OK;
}

static int line_tokenize(job *j, json_t *o, ag_buf *out, ag_err *err)
{
    json_t *text = json_object_get(o, "text");
    bool add = !j->no_bos, parse = j->special;
    if (!json_is_string(text)) return ag_err_set(err, AG_E_PARAM, "\"text\" must be there and a string");
    int rc = get_bool(o, "add_special", &add, err);
    if (rc == AG_OK) rc = get_bool(o, "parse_special", &parse, err);
    if (rc) return rc;
    return put_ids(j, (ag_str){json_string_value(text), json_string_length(text)}, add, parse, false, out, err);
}

static int line_detokenize(job *j, json_t *o, ag_buf *out, ag_err *err)
{
    json_t *list = json_object_get(o, "ids");
    if (!json_is_array(list)) return ag_err_set(err, AG_E_PARAM, "\"ids\" must be there and an array of integers");
    uint32_t n = (uint32_t)json_array_size(list), from = 0;
    int32_t *ids = ag_mem_array(n, sizeof *ids);
    bool added = false;
    int rc = put(err, ids != NULL);
    if (rc == AG_OK) rc = get_bool(o, "add_special", &added, err);
    for (uint32_t i = 0; i < n && rc == AG_OK; i++) {
        json_t *v = json_array_get(list, i);
        if (!json_is_integer(v)) rc = ag_err_set(err, AG_E_PARAM, "\"ids\" holds something that is not an integer");
        else rc = check_id(j, json_integer_value(v), err);
        if (rc == AG_OK) ids[i] = (int32_t)json_integer_value(v);
    }
    if (rc == AG_OK && added && n && ag_tokenizer_adds_bos(j->t) && ids[0] == ag_tokenizer_bos(j->t)) from = 1;
    if (rc == AG_OK) rc = put_text(j, ids + from, n - from, out, err);
    ag_mem_free(ids);
    return rc;
}

static int line_answer(job *j, ag_str line, ag_buf *out, ag_err *err)
{
    json_error_t e;
    json_t *o = json_loadb(line.p, line.n, JSON_ALLOW_NUL | JSON_DECODE_ANY, &e);
    int rc;
    if (o == NULL) rc = ag_err_set(err, AG_E_JSON, "not JSON: %s (byte %d)", e.text, e.position);
    else if (!json_is_object(o)) rc = ag_err_set(err, AG_E_JSON, "the line must be a JSON object");
    else rc = j->line(j, o, out, err);
    json_decref(o);
    return rc;
}

/* The next line without its end; false: there is none. A line over the ceiling is read to its end and `failed`. */
static bool read_line(FILE *f, ag_buf *line)
{
    int c;
    bool any = false;
    ag_buf_reset(line);
    while ((c = getc_unlocked(f)) != EOF) {
        any = true;
        if (c == '\n') break;
        ag_buf_addc(line, (char)c);
    }
    return any;
}

static bool is_blank(const ag_buf *line)
{
    for (size_t i = 0; i < line->n; i++)
        if (line->p[i] != ' ' && line->p[i] != '\t' && line->p[i] != '\r') return false;
    return !line->failed;
}

/* Each answer leaves at once, so that a program may ask and wait line by line. */
static int run_lines(job *j)
{
    ag_buf line, out;
    ag_buf_init(&line, LINE_MAX_BYTES);
    ag_buf_init(&out, OUT_MAX_BYTES);
    int status = 0;
    while (read_line(stdin, &line)) {
        if (is_blank(&line)) continue;
        ag_err err = {0};
        ag_buf_reset(&out);
        int rc = line.failed ? ag_err_set(&err, AG_E_LIMIT, "the line is too long: over %llu bytes", LINE_MAX_BYTES)
                             : line_answer(j, ag_buf_str(&line), &out, &err);
        if (rc) {
            ag_buf_reset(&out);
            ag_buf_addz(&out, "{\"error\": {\"message\": ");
            ag_buf_add_json(&out, err.text, strlen(err.text));
            ag_buf_addz(&out, "}}\n");
            status = 1;
        }
        fwrite(out.p, 1, out.n, stdout);
        if (fflush(stdout) != 0) break; /* main says so */
    }
    if (ferror(stdin)) {
        fprintf(stderr, "autoglm %s: stdin: cannot be read: %s\n", j->command, strerror(errno));
        status = 1;
    }
    ag_buf_fini(&line);
    ag_buf_fini(&out);
    return status;
}

/* ---- once ---- */

static int once_tokenize(job *j, ag_buf *out, ag_err *err)
{
    ag_buf in;
    ag_buf_init(&in, AG_TOKENIZER_TEXT_MAX);
    int rc = AG_OK;
    if (j->n_args == 0) rc = ag_cli_read(NULL, &in, err);
    ag_str text = j->n_args ? ag_str_of(j->args[0]) : ag_buf_str(&in);
    if (rc == AG_OK) rc = put_ids(j, text, !j->no_bos, j->special, j->json, out, err);
    ag_buf_fini(&in);
    return rc;
}

typedef struct id_list {
    int32_t *p;
    uint32_t n, cap;
} id_list;

static int add_ids(job *j, id_list *l, const char *z, ag_err *err)
{
    for (z += strspn(z, " ,\t\r\n"); *z; z += strspn(z, " ,\t\r\n")) {
        char *end;
        errno = 0;
        long long id = strtoll(z, &end, 10);
        if (end == z || errno || (*end && strchr(" ,\t\r\n", *end) == NULL))
            return ag_err_set(err, AG_E_USAGE, "'%.*s' is not a token id",
                              (int)AG_MIN(strcspn(z, " ,\t\r\n"), (size_t)40), z);
        int rc = check_id(j, id, err);
        if (rc) return rc;
        if (l->n == l->cap) {
            int32_t *p = ag_mem_resize(l->p, l->cap * 2 + 64, sizeof *p);
            if (p == NULL) return put(err, false);
            l->p = p;
            l->cap = l->cap * 2 + 64;
        }
        l->p[l->n++] = (int32_t)id;
        z = end;
    }
    return AG_OK;
}

static int once_detokenize(job *j, ag_buf *out, ag_err *err)
{
    ag_buf in;
    id_list ids = {0};
    ag_buf_init(&in, 16ull * AG_TOKENIZER_TEXT_MAX);
    int rc = AG_OK;
    if (j->n_args == 0) {
        rc = ag_cli_read(NULL, &in, err);
        if (rc == AG_OK) rc = put(err, ag_buf_zterm(&in));
        if (rc == AG_OK) rc = add_ids(j, &ids, in.p, err);
    }
    for (int i = 0; i < j->n_args && rc == AG_OK; i++) rc = add_ids(j, &ids, j->args[i], err);
    if (rc == AG_OK) rc = put_text(j, ids.p, ids.n, out, err);
    ag_mem_free(ids.p);
    ag_buf_fini(&in);
    return rc;
}

/* ---- the commands ---- */

static int usage(const job *j, const char *sentence, const char *what)
{
    fprintf(stderr, "autoglm %s: %s%s\nTry 'autoglm %s --help'.\n", j->command, sentence, what, j->command);
    return 2;
}

/* -1: go on. */
static int parse(job *j, int argc, char **argv, bool text)
{
    enum { JSON = 256, JSONL, SPECIAL, NO_BOS }; /* beyond any letter, so that optopt tells both forms apart */
    static const struct option longs[] = {
        {"model", required_argument, NULL, 'm'}, {"help", no_argument, NULL, 'h'}, {"json", no_argument, NULL, JSON},
        {"jsonl", no_argument, NULL, JSONL}, {"special", no_argument, NULL, SPECIAL},
        {"no-bos", no_argument, NULL, NO_BOS}, {0},
    };
    opterr = 0;
    optind = 0; /* begins anew, also where main has parsed before */
    for (int c; (c = getopt_long(argc, argv, ":m:h", longs, NULL)) != -1;) {
        char letter[3] = {'-', (char)optopt, 0};
        if ((c == SPECIAL || c == NO_BOS) && !text) return usage(j, "there is no such option: ", argv[optind - 1]);
        switch (c) {
        case 'm': j->model = optarg; break;
        case 'h': return fputs(j->help, stdout) < 0;
        case JSON: j->json = true; break;
        case JSONL: j->jsonl = true; break;
        case SPECIAL: j->special = true; break;
        case NO_BOS: j->no_bos = true; break;
        case ':': return usage(j, "a value must follow ", argv[optind - 1]);
        default: return usage(j, "there is no such option: ", optopt > 0 && optopt < JSON ? letter : argv[optind - 1]);
        }
    }
    j->args = argv + optind;
    j->n_args = argc - optind;
    if (j->model == NULL) return usage(j, "-m MODEL is missing: the path of a GGUF file", "");
    if (j->jsonl && j->json) return usage(j, "--json and --jsonl exclude each other", "");
    if (j->jsonl && j->n_args) return usage(j, "--jsonl reads stdin; this argument is too many: ", j->args[0]);
    if (text && j->n_args > 1) return usage(j, "quote TEXT with spaces; this argument is too many: ", j->args[1]);
    return -1;
}

static int run(job *j, int (*once)(job *, ag_buf *, ag_err *))
{
    ag_err err = {0};
    ag_buf out;
    ag_buf_init(&out, OUT_MAX_BYTES);
    int status = 0, rc = ag_gguf_open(&j->g, j->model, &err);
    if (rc == AG_OK) rc = ag_tokenizer_open(&j->t, j->g, &err);
    if (rc == AG_OK && j->jsonl) status = run_lines(j);
    else if (rc == AG_OK) rc = once(j, &out, &err);
    if (rc) status = ag_cli_fail(j->command, &err);
    else if (out.n) fwrite(out.p, 1, out.n, stdout);
    ag_buf_fini(&out);
    ag_tokenizer_close(j->t);
    ag_gguf_close(j->g);
    return status;
}

int ag_cmd_tokenize(int argc, char **argv)
{
    job j = {.command = "tokenize", .help = help_tokenize, .line = line_tokenize};
    int status = parse(&j, argc, argv, true);
    return status >= 0 ? status : run(&j, once_tokenize);
}

int ag_cmd_detokenize(int argc, char **argv)
{
    job j = {.command = "detokenize", .help = help_detokenize, .line = line_detokenize};
    int status = parse(&j, argc, argv, false);
    return status >= 0 ? status : run(&j, once_detokenize);
}
