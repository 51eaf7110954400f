/* autoglm inspect: what is in a model file. Everything that comes from the file is escaped before it is printed. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "model/gguf/gguf.h"

#define ITEMS_TEXT 8       /* of an array; the count is always told */
#define ITEMS_JSON 64
#define STRING_TEXT 160    /* bytes of a string shown on a line */
#define ITEM_TEXT 40       /* bytes of a string that is an item of an array */
#define STRING_JSON (1u << 20)

/* The fewest digits that come back as the same number. */
static const char *float_text(double v, bool f32, char out[32])
{
    for (int digits = f32 ? 6 : 15; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, v);
        if (f32 ? strtof(out, NULL) == (float)v : strtod(out, NULL) == v) break;
    }
    return out;
}

/* Straight to stdout: a value must not come out wrong because there was no memory to quote it. */
static void print_json_string(ag_str s)
{
    putchar('"');
    for (size_t i = 0, len; i < s.n; i += len) {
        unsigned char c = (unsigned char)s.p[i];
        len = ag_utf8_len(s.p + i, s.n - i);
        if (len == 0) fputs("\xEF\xBF\xBD", stdout), len = 1;
        else if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 0x20 || c == 0x7F) printf("\\u%04x", c);
        else fwrite(s.p + i, 1, len, stdout);
    }
    putchar('"');
}

static void print_string(ag_str s, size_t max, bool json)
{
    if (json) {
        print_json_string((ag_str){s.p, AG_MIN(s.n, STRING_JSON)});
        return;
    }
    char shown[STRING_TEXT + 1];
    printf("\"%s\"", ag_gguf_show(shown, AG_MIN(max, sizeof shown), s));
}

static void print_number(const ag_gguf_value *v, ag_gguf_type t, uint64_t i, bool json)
{
    char text[32];
    if (t == AG_GGUF_F32 || t == AG_GGUF_F64) {
        double d = ag_gguf_float_at(v, i);
        fputs(json && !isfinite(d) ? "null" : float_text(d, t == AG_GGUF_F32, text), stdout);
    } else if (t == AG_GGUF_BOOL) {
        fputs(ag_gguf_int_at(v, i) ? "true" : "false", stdout);
    } else if (t == AG_GGUF_U64) { /* ag_gguf_int_at would cap it */
        uint64_t u;
        memcpy(&u, (const char *)v->data + i * 8, 8);
        printf("%" PRIu64, u);
    } else {
        printf("%" PRId64, ag_gguf_int_at(v, i));
    }
}

/* At most `max` items, separated by commas. */
static void print_items(const ag_gguf_value *v, uint64_t max, bool json)
{
    ag_gguf_type t = v->type == AG_GGUF_ARRAY ? v->item : v->type;
    const void *at = v->data;
    for (uint64_t i = 0; i < v->n && i < max; i++) {
        if (i) fputs(", ", stdout);
        if (t == AG_GGUF_STRING) print_string(ag_gguf_string_next(&at), v->type == t ? STRING_TEXT : ITEM_TEXT, json);
        else print_number(v, t, i, json);
    }
}

typedef struct sum {
    uint64_t tensors, weights, bytes;
} sum;

static uint64_t weights_of(const ag_gguf_tensor *t) { return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]; }

/* Of one type, or of all when r is NULL. */
static sum sum_of(const ag_gguf *g, const ag_quant_row *r)
{
    sum s = {0};
    for (uint32_t i = 0; i < ag_gguf_tensor_count(g); i++) {
        const ag_gguf_tensor *t = ag_gguf_tensor_at(g, i);
        if (r != NULL && t->type != r->type) continue;
        s.tensors++;
        s.weights += weights_of(t);
        s.bytes += t->bytes;
    }
    return s;
}

static void print_size(const char *label, uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t u = 0;
    for (; v >= 1024 && u + 1 < AG_ARRAY_LEN(units); u++) v /= 1024;
    if (u == 0) printf("%-12s%" PRIu64 " bytes\n", label, bytes);
    else printf("%-12s%.1f %s (%" PRIu64 " bytes)\n", label, v, units[u], bytes);
}

static void print_types(const ag_gguf *g)
{
    if (ag_gguf_tensor_count(g) == 0) return;
    printf("\n%-8s %8s %16s %16s\n", "type", "tensors", "parameters", "bytes");
    for (const ag_quant_row *r = ag_quant_next(NULL); r != NULL; r = ag_quant_next(r)) {
        sum s = sum_of(g, r);
        if (s.tensors)
            printf("%-8s %8" PRIu64 " %16" PRIu64 " %16" PRIu64 "\n", r->name, s.tensors, s.weights, s.bytes);
    }
}

static void print_keys(const ag_gguf *g)
{
    char shown[STRING_TEXT];
    size_t width = 3;
    for (uint32_t i = 0; i < ag_gguf_value_count(g); i++)
        width = AG_MAX(width, AG_MIN(ag_gguf_value_at(g, i)->key.n, 48));
    if (ag_gguf_value_count(g)) printf("\n%-*s  %-14s value\n", (int)width, "key", "type");
    for (uint32_t i = 0; i < ag_gguf_value_count(g); i++) {
        const ag_gguf_value *v = ag_gguf_value_at(g, i);
        char type[48];
        if (v->type == AG_GGUF_ARRAY)
            snprintf(type, sizeof type, "%s[%" PRIu64 "]", ag_gguf_type_name(v->item), v->n);
        else
            snprintf(type, sizeof type, "%s", ag_gguf_type_name(v->type));
        printf("%-*s  %-14s ", (int)width, ag_gguf_show(shown, sizeof shown, v->key), type);
        print_items(v, ITEMS_TEXT, false);
        puts(v->n > ITEMS_TEXT ? ", ..." : "");
    }
}

static void print_tensors(const ag_gguf *g)
{
    char shown[STRING_TEXT];
    size_t width = 6;
    for (uint32_t i = 0; i < ag_gguf_tensor_count(g); i++)
        width = AG_MAX(width, AG_MIN(ag_gguf_tensor_at(g, i)->name.n, 48));
    printf("\n%-*s  %-6s %14s  dimensions\n", (int)width, "tensor", "type", "bytes");
    for (uint32_t i = 0; i < ag_gguf_tensor_count(g); i++) {
        const ag_gguf_tensor *t = ag_gguf_tensor_at(g, i);
        printf("%-*s  %-6s %14" PRIu64 "  ", (int)width, ag_gguf_show(shown, sizeof shown, t->name),
               ag_quant_find((uint32_t)t->type)->name, t->bytes);
        for (uint32_t d = 0; d < t->n_dims; d++) printf("%s%" PRIu64, d ? " x " : "", t->dim[d]);
        putchar('\n');
    }
}

static void print_text(const ag_gguf *g, bool tensors, ag_str family)
{
    char shown[STRING_TEXT];
    sum all = sum_of(g, NULL);
    printf("%-12s%s\n", "file", ag_gguf_path(g));
    if (ag_gguf_part_count(g) > 1) printf("%-12s%" PRIu32 "\n", "parts", ag_gguf_part_count(g));
    printf("%-12sGGUF version %" PRIu32 "\n", "format", ag_gguf_version(g));
    print_size("size", ag_gguf_file_bytes(g));
    printf("%-12s%s\n", "family", family.n ? ag_gguf_show(shown, sizeof shown, family) : "not said");
    printf("%-12s%" PRIu64 "\n", "parameters", all.weights);
    printf("%-12s%" PRIu32 "\n", "keys", ag_gguf_value_count(g));
    if (all.tensors) printf("%-12s%" PRIu64 "\n", "tensors", all.tensors);
    else printf("%-12snone: a vocabulary only\n", "tensors");
    print_types(g);
    print_keys(g);
    if (tensors) print_tensors(g);
}

static void print_json_keys(const ag_gguf *g)
{
    fputs(",\n \"keys\": [", stdout);
    for (uint32_t i = 0; i < ag_gguf_value_count(g); i++) {
        const ag_gguf_value *v = ag_gguf_value_at(g, i);
        fputs(i ? ",\n  {\"key\": " : "\n  {\"key\": ", stdout);
        print_string(v->key, 0, true);
        printf(", \"type\": \"%s\", ", ag_gguf_type_name(v->type));
        if (v->type == AG_GGUF_ARRAY) {
            printf("\"item\": \"%s\", \"count\": %" PRIu64 ", \"first\": [", ag_gguf_type_name(v->item), v->n);
            print_items(v, ITEMS_JSON, true);
            fputs("]}", stdout);
        } else {
            fputs("\"value\": ", stdout);
            print_items(v, 1, true);
            putchar('}');
        }
    }
    putchar(']');
}

static void print_json_tensors(const ag_gguf *g)
{
    fputs(",\n \"tensors\": [", stdout);
    for (uint32_t i = 0; i < ag_gguf_tensor_count(g); i++) {
        const ag_gguf_tensor *t = ag_gguf_tensor_at(g, i);
        fputs(i ? ",\n  {\"name\": " : "\n  {\"name\": ", stdout);
        print_string(t->name, 0, true);
        printf(", \"type\": \"%s\", \"dimensions\": [", ag_quant_find((uint32_t)t->type)->name);
        for (uint32_t d = 0; d < t->n_dims; d++) printf("%s%" PRIu64, d ? ", " : "", t->dim[d]);
        printf("], \"bytes\": %" PRIu64 "}", t->bytes);
    }
    putchar(']');
}

static void print_json(const ag_gguf *g, bool tensors, ag_str family)
{
    sum all = sum_of(g, NULL);
    const char *separator = "";
    fputs("{\"path\": ", stdout);
    print_string(ag_str_of(ag_gguf_path(g)), 0, true);
    printf(",\n \"version\": %" PRIu32 ", \"parts\": %" PRIu32 ", \"bytes\": %" PRIu64 ",\n \"family\": ",
           ag_gguf_version(g), ag_gguf_part_count(g), ag_gguf_file_bytes(g));
    if (family.n) print_string(family, 0, true);
    else fputs("null", stdout);
    printf(", \"parameters\": %" PRIu64 ", \"tensor_count\": %" PRIu64 ",\n \"types\": [", all.weights, all.tensors);
    for (const ag_quant_row *r = ag_quant_next(NULL); r != NULL; r = ag_quant_next(r)) {
        sum s = sum_of(g, r);
        if (s.tensors == 0) continue;
        printf("%s{\"type\": \"%s\", \"tensors\": %" PRIu64 ", \"parameters\": %" PRIu64 ", \"bytes\": %" PRIu64 "}",
               separator, r->name, s.tensors, s.weights, s.bytes);
        separator = ",\n  ";
    }
    putchar(']');
    print_json_keys(g);
    if (tensors) print_json_tensors(g);
    puts("}");
}

int ag_cmd_inspect(int argc, char **argv)
{
    bool json = false, tensors = false;
    int status;
    const ag_opt opts[] = {
        {.name = "json", .kind = AG_OPT_FLAG, .out = &json, .help = "one JSON object instead of tables"},
        {.name = "tensors", .kind = AG_OPT_FLAG, .out = &tensors,
         .help = "each tensor too: name, type, dimensions (the row first), bytes"},
    };
    ag_cli cli = {
        .usage = "inspect MODEL [--json] [--tensors]",
        .about = "Checks a GGUF file and prints what it holds: version, parts, size, family, parameters, tensors by\n"
                 "type, and every key with its value. Long strings and arrays are shortened. Of a split file, give\n"
                 "the first part. Exit status: 0 the file is sound, 1 it is not or cannot be read, 2 wrong usage.",
        .opts = opts, .n_opts = AG_ARRAY_LEN(opts), .args_min = 1, .args_max = 1,
    };
    ag_gguf *g;
    ag_err err = {0};
    ag_str family = {0};
    if (!ag_cli_parse(&cli, argc, argv, &status)) goto out;
    if (ag_gguf_open(&g, cli.args[0], &err) != AG_OK) {
        status = ag_cli_fail(argv[0], &err);
        goto out;
    }
    if (ag_gguf_string(g, "general.architecture", false, &family, &err) != AG_OK)
        ag_cli_fail(argv[0], &err); /* a note: the rest can be shown */
    if (json) print_json(g, tensors, family);
    else print_text(g, tensors, family);
    ag_gguf_close(g);
    status = 0;
out:
    ag_cli_fini(&cli);
    return status;
}
