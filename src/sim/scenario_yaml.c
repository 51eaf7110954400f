/* scenario_yaml.c - a scenario's file: read event by event along tables of words, each with its range, so that it
 * can be no deeper than they are. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "base/near.h"
#include "sim/scenario.h"

#define WHERE_MAX 120
#define WORDS_MAX 32 /* of one mapping */

typedef struct reader {
    ag_scenario *s;
    const char *path;
    bool files;          /* what it names may be opened */
    yaml_parser_t parser;
    char where[WHERE_MAX]; /* "classes.chat" */
    char group[AG_SCENARIO_CLASSES_MAX][AG_SCENARIO_NAME_MAX + 1]; /* named by classes; "": none */
    size_t group_line[AG_SCENARIO_CLASSES_MAX];
    bool has_step;
    ag_err *err;
} reader;

typedef struct word word;
struct word {
    const char *name;
    int (*read)(reader *r, const word *w, void *out, yaml_event_t *e);
    size_t at;           /* of what it sets */
    double min, max;     /* of a number */
    double unit;         /* what one is stored as */
    const word *inner;   /* the words of a mapping */
    uint32_t n_inner;
    bool needed;
};

static size_t line_of(const yaml_event_t *e) { return e->start_mark.line + 1; }

static int fail(reader *r, size_t line, const char *at, const char *sentence)
{
    return ag_err_set(r->err, AG_E_USAGE, "%s:%zu: %s%s%s%s%s", r->path, line, r->where,
                      r->where[0] && at[0] ? "." : "", at, r->where[0] || at[0] ? ": " : "", sentence);
}

/* *e is valid, and to be deleted, only when this returns 0. */
static int next(reader *r, yaml_event_t *e)
{
    if (yaml_parser_parse(&r->parser, e)) {
        if (e->type != YAML_ALIAS_EVENT) return AG_OK;
        int rc = ag_err_set(r->err, AG_E_USAGE, "%s:%zu: aliases (*name) are not taken here", r->path, line_of(e));
        yaml_event_delete(e);
        return rc;
    }
    if (r->parser.error == YAML_MEMORY_ERROR)
        return ag_err_set(r->err, AG_E_NOMEM, "%s: no memory to read it", r->path);
    return ag_err_set(r->err, AG_E_USAGE, "%s:%zu: not YAML: %s", r->path, r->parser.problem_mark.line + 1,
                      r->parser.problem ? r->parser.problem : "unreadable");
}

static ag_str scalar(const yaml_event_t *e)
{
    if (e->type != YAML_SCALAR_EVENT) return (ag_str){NULL, 0};
    return (ag_str){(const char *)e->data.scalar.value, e->data.scalar.length};
}

/* What a sentence may show of it. */
static void shown(ag_str s, char *out, size_t size)
{
    size_t n = AG_MIN(s.n, size - 1);
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7F ? '?' : s.p[i];
    out[n] = 0;
}

/* --- plain values ------------------------------------------------------------------------------------------------- */

static int number(reader *r, const char *name, const yaml_event_t *e, double min, double max, bool whole, double *out)
{
    ag_str s = scalar(e);
    char text[48] = "", sentence[200], *end = text;
    double v = NAN;
    if (s.p != NULL && s.n > 0 && s.n < sizeof text) {
        memcpy(text, s.p, s.n);
        v = strtod(text, &end);
    }
    if (isfinite(v) && *end == 0 && v >= min && v <= max && (!whole || v == floor(v))) {
        *out = v;
        return AG_OK;
    }
    shown(s, text, s.p != NULL ? sizeof text : 1);
    snprintf(sentence, sizeof sentence, "%s should be a %snumber from %.10g to %.10g", text[0] ? text : "this",
             whole ? "whole " : "", min, max);
    return fail(r, line_of(e), name, sentence);
}

static int read_double(reader *r, const word *w, void *out, yaml_event_t *e)
{
    double v;
    int rc = number(r, w->name, e, w->min, w->max, false, &v);
    if (rc == AG_OK) *(double *)out = v * w->unit;
    return rc;
}

static int read_u32(reader *r, const word *w, void *out, yaml_event_t *e)
{
    double v;
    int rc = number(r, w->name, e, w->min, w->max, true, &v);
    if (rc == AG_OK) *(uint32_t *)out = (uint32_t)(v * w->unit);
    return rc;
}

static int read_u8(reader *r, const word *w, void *out, yaml_event_t *e)
{
    double v;
    int rc = number(r, w->name, e, w->min, w->max, true, &v);
    if (rc == AG_OK) *(uint8_t *)out = (uint8_t)v;
    return rc;
}

static int read_u64(reader *r, const word *w, void *out, yaml_event_t *e)
{
    double v;
    int rc = number(r, w->name, e, w->min, w->max, false, &v);
    if (rc == AG_OK) *(uint64_t *)out = (uint64_t)(v * w->unit);
    return rc;
}

static bool is_any(ag_str s, const char *a, const char *b, const char *c)
{
    return s.p != NULL && (ag_str_ieq(s, ag_str_of(a)) || ag_str_ieq(s, ag_str_of(b)) || ag_str_ieq(s, ag_str_of(c)));
}

static int read_bool(reader *r, const word *w, void *out, yaml_event_t *e)
{
    bool yes = is_any(scalar(e), "true", "yes", "on");
    if (!yes && !is_any(scalar(e), "false", "no", "off"))
        return fail(r, line_of(e), w->name, "should be true or false");
    *(bool *)out = yes;
    return AG_OK;
}

/* Text of at most `max` bytes with no control characters. */
static int text(reader *r, const char *name, const yaml_event_t *e, size_t max, char *out)
{
    ag_str s = scalar(e);
    bool plain = s.p != NULL && s.n > 0 && s.n <= max;
    for (size_t i = 0; plain && i < s.n; i++) plain = (unsigned char)s.p[i] >= 0x20 && s.p[i] != 0x7F;
    char sentence[80];
    snprintf(sentence, sizeof sentence, "should be a text of 1 to %zu bytes", max);
    if (!plain) return fail(r, line_of(e), name, sentence);
    memcpy(out, s.p, s.n);
    out[s.n] = 0;
    return AG_OK;
}

static int read_title(reader *r, const word *w, void *out, yaml_event_t *e)
{
    return text(r, w->name, e, sizeof r->s->name - 1, out);
}

/* --- mappings ----------------------------------------------------------------------------------------------------- */

static int unknown(reader *r, const word *words, uint32_t n, const yaml_event_t *e)
{
    ag_near near;
    char name[64], sentence[160];
    ag_str s = scalar(e);
    shown(s.p ? s : AG_STR("?"), name, 41);
    ag_near_begin(&near, s);
    for (uint32_t i = 0; i < n; i++) ag_near_try(&near, words[i].name);
    if (near.best) snprintf(sentence, sizeof sentence, "there is no such word here; did you mean %s?", near.best);
    else snprintf(sentence, sizeof sentence, "there is no such word here; docs/sim.md lists what there is");
    return fail(r, line_of(e), name, sentence);
}

static void enter(reader *r, const char *name)
{
    size_t n = strlen(r->where);
    if (name[0]) snprintf(r->where + n, sizeof r->where - n, "%s%s", n ? "." : "", name);
}

static int member(reader *r, const word *w, void *base, size_t line)
{
    (void)line;
    yaml_event_t e;
    int rc = next(r, &e);
    if (rc != AG_OK) return rc;
    rc = w->read(r, w, (char *)base + w->at, &e);
    yaml_event_delete(&e);
    return rc;
}

/* The words of a mapping that `e` opened; *seen: which of them were there. */
static int mapping(reader *r, const char *name, const word *words, uint32_t n, void *base, const yaml_event_t *e,
                   uint32_t *seen)
{
    AG_ASSERT(n <= WORDS_MAX);
    if (e->type != YAML_MAPPING_START_EVENT) return fail(r, line_of(e), name, "should hold `word: value` lines");
    char where[WHERE_MAX];
    size_t line = line_of(e);
    memcpy(where, r->where, sizeof where);
    enter(r, name);
    *seen = 0;
    int rc;
    for (bool end = false; !end;) {
        yaml_event_t key;
        rc = next(r, &key);
        if (rc != AG_OK) break;
        end = key.type == YAML_MAPPING_END_EVENT;
        uint32_t i = 0;
        while (i < n && !(scalar(&key).p != NULL && ag_str_eqz(scalar(&key), words[i].name))) i++;
        if (!end && i == n) rc = unknown(r, words, n, &key);
        else if (!end && *seen & 1u << i) rc = fail(r, line_of(&key), words[i].name, "was given before");
        else if (!end) rc = member(r, &words[i], base, line_of(&key));
        if (!end && i < n) *seen |= 1u << i;
        yaml_event_delete(&key);
        if (rc != AG_OK) break;
    }
    for (uint32_t i = 0; rc == AG_OK && i < n; i++)
        if (words[i].needed && !(*seen & 1u << i)) rc = fail(r, line, words[i].name, "is missing");
    memcpy(r->where, where, sizeof where);
    return rc;
}

static int read_mapping(reader *r, const word *w, void *out, yaml_event_t *e)
{
    uint32_t seen;
    return mapping(r, w->name, w->inner, w->n_inner, out, e, &seen);
}

/* A mapping of names to mappings: `each` gets the name and the opening of what it stands for. */
typedef int each_fn(reader *r, const char *name, yaml_event_t *e);
static int named(reader *r, const char *name, const yaml_event_t *e, each_fn *each)
{
    if (e->type != YAML_MAPPING_START_EVENT) return fail(r, line_of(e), name, "should hold `name: {...}` lines");
    char where[WHERE_MAX];
    memcpy(where, r->where, sizeof where);
    enter(r, name);
    int rc;
    for (;;) {
        yaml_event_t key, value;
        char id[AG_SCENARIO_NAME_MAX + 1];
        rc = next(r, &key);
        if (rc != AG_OK) break;
        bool end = key.type == YAML_MAPPING_END_EVENT;
        if (!end) rc = text(r, "a name", &key, AG_SCENARIO_NAME_MAX, id);
        yaml_event_delete(&key);
        if (end || rc != AG_OK) break;
        rc = next(r, &value);
        if (rc != AG_OK) break;
        rc = each(r, id, &value);
        yaml_event_delete(&value);
        if (rc != AG_OK) break;
    }
    memcpy(r->where, where, sizeof where);
    return rc;
}

/* --- lengths and times -------------------------------------------------------------------------------------------- */

typedef struct spread { double mean, spread, from, to, max; } spread;

/* A number, {from, to}, or {mean, spread, max}. The range and the unit are the word's. */
static int read_dist(reader *r, const word *w, void *out, yaml_event_t *e)
{
    ag_dist *d = out;
    if (e->type == YAML_SCALAR_EVENT) {
        double v;
        int rc = number(r, w->name, e, w->min, w->max, false, &v);
        if (rc == AG_OK) *d = (ag_dist){AG_DIST_FIXED, v * w->unit, 0, v * w->unit};
        return rc;
    }
    const word words[] = {
        {.name = "mean", .read = read_double, .at = offsetof(spread, mean), .min = w->min, .max = w->max, .unit = 1},
        {.name = "spread", .read = read_double, .at = offsetof(spread, spread), .min = 0, .max = 4, .unit = 1},
        {.name = "from", .read = read_double, .at = offsetof(spread, from), .min = w->min, .max = w->max, .unit = 1},
        {.name = "to", .read = read_double, .at = offsetof(spread, to), .min = w->min, .max = w->max, .unit = 1},
        {.name = "max", .read = read_double, .at = offsetof(spread, max), .min = w->min, .max = w->max, .unit = 1}};
    spread s = {.spread = 0.7};
    uint32_t seen;
    size_t line = line_of(e);
    int rc = mapping(r, w->name, words, AG_ARRAY_LEN(words), &s, e, &seen);
    if (rc != AG_OK) return rc;
    bool uniform = seen == (4 | 8), lognormal = (seen & (1 | 4 | 8)) == 1;
    if (!uniform && !lognormal)
        return fail(r, line, w->name, "should be a number, {from: A, to: B}, or {mean: M, spread: S, max: X}");
    if (uniform && s.from > s.to) return fail(r, line, w->name, "`from` should not be above `to`");
    if (uniform) *d = (ag_dist){AG_DIST_UNIFORM, s.from * w->unit, s.to * w->unit, s.to * w->unit};
    double max = s.max > 0 ? s.max : fmin(10 * s.mean, w->max);
    if (lognormal) *d = (ag_dist){AG_DIST_LOGNORMAL, s.mean * w->unit, s.spread, max * w->unit};
    return AG_OK;
}

/* --- machines ----------------------------------------------------------------------------------------------------- */

/* `rows: {1: 4.1, 64: 14}`: milliseconds of steps of so many rows. */
static int read_knots(reader *r, const word *w, void *out, yaml_event_t *e)
{
    ag_sim_machine *m = out;
    if (e->type != YAML_MAPPING_START_EVENT)
        return fail(r, line_of(e), w->name, "should hold rows and milliseconds, such as {1: 4.1, 64: 14}");
    m->n_knots = 0;
    for (;;) {
        yaml_event_t key, value;
        double rows = 0, ms = 0;
        int rc = next(r, &key);
        if (rc != AG_OK) return rc;
        bool end = key.type == YAML_MAPPING_END_EVENT;
        if (!end) rc = number(r, w->name, &key, 1, 1000000, true, &rows);
        if (!end && rc == AG_OK && m->n_knots == AG_SIM_KNOTS) rc = fail(r, line_of(&key), w->name, "16 are enough");
        if (!end && rc == AG_OK && m->n_knots > 0 && rows <= m->knot[m->n_knots - 1].rows)
            rc = fail(r, line_of(&key), w->name, "rows should ascend");
        yaml_event_delete(&key);
        if (end && m->n_knots == 0) return fail(r, line_of(e), w->name, "is empty");
        if (end || rc != AG_OK) return rc;
        rc = next(r, &value);
        if (rc != AG_OK) return rc;
        rc = number(r, w->name, &value, 0.001, 1000000, false, &ms);
        if (rc == AG_OK && m->n_knots > 0 && ms * 1e3 < m->knot[m->n_knots - 1].us)
            rc = fail(r, line_of(&value), w->name, "more rows should not take less time");
        yaml_event_delete(&value);
        if (rc != AG_OK) return rc;
        m->knot[m->n_knots].rows = (uint32_t)rows;
        m->knot[m->n_knots++].us = ms * 1e3;
    }
}

static int read_step(reader *r, const word *w, void *out, yaml_event_t *e)
{
    static const word words[] = {
        {.name = "rows", .read = read_knots, .needed = true},
        {.name = "key_ns", .read = read_double, .at = offsetof(ag_sim_machine, per_key_us), .max = 1e6, .unit = 1e-3},
        {.name = "read_ns", .read = read_double, .at = offsetof(ag_sim_machine, per_read_us), .max = 1e6, .unit = 1e-3},
        {.name = "logits_us", .read = read_double, .at = offsetof(ag_sim_machine, per_out_us), .max = 1e6, .unit = 1}};
    if (r->has_step) return fail(r, line_of(e), w->name, "step times are given once, by `step` or by `bench`");
    r->has_step = true;
    uint32_t seen;
    return mapping(r, w->name, words, AG_ARRAY_LEN(words), out, e, &seen);
}

static int read_bench(reader *r, const word *w, void *out, yaml_event_t *e)
{
    char name[256], path[1200];
    int rc = text(r, w->name, e, sizeof name - 1, name);
    if (rc != AG_OK) return rc;
    if (r->has_step) return fail(r, line_of(e), w->name, "step times are given once, by `step` or by `bench`");
    if (!r->files) return fail(r, line_of(e), w->name, "files cannot be named here");
    r->has_step = true;
    const char *slash = strrchr(r->path, '/');
    int dir = slash == NULL || name[0] == '/' ? 0 : (int)AG_MIN(slash + 1 - r->path, 900);
    snprintf(path, sizeof path, "%.*s%s", dir, r->path, name);
    ag_sim_machine m;
    rc = ag_scenario_bench(&m, path, r->err);
    m.noise = ((ag_sim_machine *)out)->noise;
    if (rc == AG_OK) *(ag_sim_machine *)out = m;
    return rc;
}

static int read_choose(reader *r, const word *w, void *out, yaml_event_t *e)
{
    static const char *const names[] = {"least", "two", "turns"};
    for (unsigned i = 0; i < AG_ARRAY_LEN(names); i++) {
        if (scalar(e).p == NULL || !ag_str_eqz(scalar(e), names[i])) continue;
        *(ag_choose *)out = (ag_choose)i;
        return AG_OK;
    }
    return fail(r, line_of(e), w->name, "should be least (requests there), two (the lesser of two at random) or turns");
}

#define AT(field) .at = offsetof(ag_scenario, field)
static const word queue_words[] = {
    {.name = "requests", .read = read_u32, AT(sched.queue.entries_max), .min = 1, .max = 10000000, .unit = 1},
    {.name = "tokens", .read = read_u64, AT(sched.queue.tokens_max), .max = 1e15, .unit = 1},
    {.name = "age_seconds", .read = read_u64, AT(sched.queue.age_us), .max = 1e6, .unit = 1e6},
    {.name = "prompt_weight", .read = read_u32, AT(sched.queue.prompt_weight), .max = 1000, .unit = 1},
    {.name = "output_weight", .read = read_u32, AT(sched.queue.output_weight), .max = 1000, .unit = 1}};
static const word machine_words[] = {
    {.name = "count", .read = read_u32, AT(machines), .min = 1, .max = AG_SCENARIO_MACHINES_MAX, .unit = 1},
    {.name = "choose", .read = read_choose, AT(choose)},
    {.name = "step", .read = read_step, AT(machine)},
    {.name = "bench", .read = read_bench, AT(machine)},
    {.name = "noise", .read = read_double, AT(machine.noise), .max = 10, .unit = 1},
    {.name = "pages", .read = read_u32, AT(sched.pages), .min = 1, .max = 4000000, .unit = 1},
    {.name = "page_tokens", .read = read_u32, AT(sched.page_tokens), .min = 1, .max = 4096, .unit = 1},
    {.name = "running", .read = read_u32, AT(sched.running_max), .min = 1, .max = 4096, .unit = 1},
    {.name = "rows", .read = read_u32, AT(sched.rows_max), .min = 1, .max = 65536, .unit = 1},
    {.name = "reuse", .read = read_bool, AT(sched.reuse)},
    {.name = "refuse_late", .read = read_bool, AT(sched.refuse_late)},
    {.name = "step_ratio", .read = read_double, AT(sched.step_ratio), .min = 1, .max = 1000, .unit = 1},
    {.name = "gap_ms", .read = read_u32, AT(sched.gap_us), .min = 1, .max = 60000, .unit = 1000},
    {.name = "short_ms", .read = read_u32, AT(sched.short_us), .max = 60000, .unit = 1000},
    {.name = "rows_min", .read = read_u32, AT(sched.rows_min), .min = 1, .max = 65536, .unit = 1},
    {.name = "queue", .read = read_mapping, .inner = queue_words, .n_inner = AG_ARRAY_LEN(queue_words)}};
#undef AT

static int read_machines(reader *r, const word *w, void *out, yaml_event_t *e)
{
    uint32_t seen;
    size_t line = line_of(e);
    int rc = mapping(r, w->name, machine_words, AG_ARRAY_LEN(machine_words), out, e, &seen);
    if (rc == AG_OK && !r->has_step) rc = fail(r, line, w->name, "step times are missing: `step` or `bench`");
    return rc;
}

/* --- tenants and classes ------------------------------------------------------------------------------------------ */

#define GROUP(field) .at = offsetof(ag_scenario_group, field)
#define CLASS(field) .at = offsetof(ag_scenario_class, field)

static int read_group(reader *r, const char *name, yaml_event_t *e)
{
    static const word words[] = {
        {.name = "count", .read = read_u32, GROUP(count), .min = 1, .max = 100000, .unit = 1},
        {.name = "weight", .read = read_double, GROUP(weight), .min = AG_TENANT_WEIGHT_MIN, .max = AG_TENANT_WEIGHT_MAX,
         .unit = 1}};
    ag_scenario *s = r->s;
    for (uint32_t i = 0; i < s->n_groups; i++)
        if (strcmp(s->groups[i].name, name) == 0) return fail(r, line_of(e), name, "was given before");
    if (s->n_groups == AG_SCENARIO_GROUPS_MAX) return fail(r, line_of(e), name, "16 kinds of tenants are enough");
    ag_scenario_group *g = &s->groups[s->n_groups++];
    *g = (ag_scenario_group){.count = 1, .weight = 1};
    memcpy(g->name, name, strlen(name) + 1);
    uint32_t seen;
    return mapping(r, name, words, AG_ARRAY_LEN(words), g, e, &seen);
}

static int read_groups(reader *r, const word *w, void *out, yaml_event_t *e)
{
    (void)out;
    return named(r, w->name, e, read_group);
}

/* Resolved when all tenants are known. */
static int read_whose(reader *r, const word *w, void *out, yaml_event_t *e)
{
    uint32_t i = (uint32_t)((ag_scenario_class *)out - r->s->classes);
    r->group_line[i] = line_of(e);
    return text(r, w->name, e, AG_SCENARIO_NAME_MAX, r->group[i]);
}

static int read_arrive(reader *r, const word *w, void *out, yaml_event_t *e)
{
    static const word words[] = {
        {.name = "rate", .read = read_double, CLASS(rate), .min = 1e-6, .max = 1e7, .unit = 1},
        {.name = "burst", .read = read_u32, CLASS(count), .min = 1, .max = 1e6, .unit = 1},
        {.name = "every", .read = read_u64, CLASS(every_us), .min = 1e-3, .max = 1e6, .unit = 1e6},
        {.name = "callers", .read = read_u32, CLASS(count), .min = 1, .max = 1e5, .unit = 1},
        {.name = "pause", .read = read_u64, CLASS(pause_us), .max = 1e6, .unit = 1e6}};
    ag_scenario_class *c = out;
    uint32_t seen;
    size_t line = line_of(e);
    int rc = mapping(r, w->name, words, AG_ARRAY_LEN(words), c, e, &seen);
    if (rc != AG_OK) return rc;
    if (seen == 1) c->arrive = AG_ARRIVE_RATE;
    else if (seen == (2 | 4)) c->arrive = AG_ARRIVE_BURST;
    else if ((seen & ~16u) == 8) c->arrive = AG_ARRIVE_CALLERS;
    else rc = fail(r, line, w->name, "should be {rate: N}, {burst: N, every: SECONDS} or {callers: N, pause: SECONDS}");
    return rc;
}

static int read_prefix(reader *r, const word *w, void *out, yaml_event_t *e)
{
    static const word words[] = {
        {.name = "tokens", .read = read_u32, CLASS(prefix_tokens), .min = 1, .max = 1e6, .unit = 1,
         .needed = true},
        {.name = "of", .read = read_u32, CLASS(prefixes), .min = 1, .max = 1e9, .unit = 1}};
    ((ag_scenario_class *)out)->prefixes = 1;
    uint32_t seen;
    return mapping(r, w->name, words, AG_ARRAY_LEN(words), out, e, &seen);
}

static int read_cancel(reader *r, const word *w, void *out, yaml_event_t *e)
{
    static const word words[] = {
        {.name = "share", .read = read_double, CLASS(cancel_share), .max = 1, .unit = 1, .needed = true},
        {.name = "after_ms", .read = read_dist, CLASS(cancel_after), .max = 1e8, .unit = 1e3, .needed = true}};
    uint32_t seen;
    return mapping(r, w->name, words, AG_ARRAY_LEN(words), out, e, &seen);
}

static const word class_words[] = {
    {.name = "tenants", .read = read_whose},
    {.name = "band", .read = read_u8, CLASS(band), .max = AG_BANDS - 1},
    {.name = "timeout_ms", .read = read_u64, CLASS(timeout_us), .max = 1e8, .unit = 1e3},
    {.name = "arrive", .read = read_arrive, .needed = true},
    {.name = "from", .read = read_u64, CLASS(from_us), .max = 1e6, .unit = 1e6},
    {.name = "until", .read = read_u64, CLASS(until_us), .max = 1e6, .unit = 1e6},
    {.name = "prompt", .read = read_dist, CLASS(prompt), .min = 1, .max = 1e6, .unit = 1, .needed = true},
    {.name = "answer", .read = read_dist, CLASS(answer), .min = 1, .max = 1e6, .unit = 1, .needed = true},
    {.name = "max_tokens", .read = read_u32, CLASS(max_tokens), .min = 1, .max = 1e6, .unit = 1},
    {.name = "prefix", .read = read_prefix},
    {.name = "cancel", .read = read_cancel}};

static int read_class(reader *r, const char *name, yaml_event_t *e)
{
    ag_scenario *s = r->s;
    for (uint32_t i = 0; i < s->n_classes; i++)
        if (strcmp(s->classes[i].name, name) == 0) return fail(r, line_of(e), name, "was given before");
    if (s->n_classes == AG_SCENARIO_CLASSES_MAX) return fail(r, line_of(e), name, "16 classes are enough");
    ag_scenario_class *c = &s->classes[s->n_classes++];
    *c = (ag_scenario_class){.band = AG_BAND_DEFAULT, .until_us = UINT64_MAX};
    memcpy(c->name, name, strlen(name) + 1);
    uint32_t seen;
    size_t line = line_of(e);
    int rc = mapping(r, name, class_words, AG_ARRAY_LEN(class_words), c, e, &seen);
    if (rc == AG_OK && c->from_us >= c->until_us) rc = fail(r, line, name, "`from` should be before `until`");
    return rc;
}

static int read_classes(reader *r, const word *w, void *out, yaml_event_t *e)
{
    (void)out;
    return named(r, w->name, e, read_class);
}

/* --- the whole ---------------------------------------------------------------------------------------------------- */

#define AT(field) .at = offsetof(ag_scenario, field)
static const word top_words[] = {
    {.name = "name", .read = read_title, AT(name)},
    {.name = "seconds", .read = read_u64, AT(seconds_us), .min = 0.001, .max = 1e6, .unit = 1e6, .needed = true},
    {.name = "warmup", .read = read_u64, AT(warmup_us), .max = 1e6, .unit = 1e6},
    {.name = "drain", .read = read_u64, AT(drain_us), .max = 1e6, .unit = 1e6},
    {.name = "seed", .read = read_u64, AT(seed), .max = 9e15, .unit = 1},
    {.name = "machines", .read = read_machines, .needed = true},
    {.name = "tenants", .read = read_groups},
    {.name = "classes", .read = read_classes, .needed = true}};
#undef AT

static int resolve(reader *r, uint32_t class)
{
    ag_scenario *s = r->s;
    ag_near near;
    const char *name = r->group[class];
    if (name[0] == 0 && s->n_groups == 1) return AG_OK;
    ag_near_begin(&near, ag_str_of(name));
    for (uint32_t i = 0; i < s->n_groups; i++) {
        if (strcmp(s->groups[i].name, name) == 0) {
            s->classes[class].group = i;
            return AG_OK;
        }
        ag_near_try(&near, s->groups[i].name);
    }
    if (name[0] == 0)
        return ag_err_set(r->err, AG_E_USAGE, "%s: classes.%s.tenants: is missing: there are several kinds of tenants",
                          r->path, s->classes[class].name);
    return ag_err_set(r->err, AG_E_USAGE, "%s:%zu: classes.%s.tenants: there are no tenants named %s%s%s%s", r->path,
                      r->group_line[class], s->classes[class].name, name, near.best ? "; did you mean " : "",
                      near.best ? near.best : "", near.best ? "?" : "");
}

/* What no single word can tell. */
static int check(reader *r)
{
    ag_scenario *s = r->s;
    double requests = 0;
    if (s->n_groups == 0) s->groups[s->n_groups++] = (ag_scenario_group){.name = "everyone", .count = 1, .weight = 1};
    if (s->n_classes == 0) return ag_err_set(r->err, AG_E_USAGE, "%s: classes: nobody asks for anything", r->path);
    for (uint32_t i = 0; i < s->n_classes; i++) {
        ag_scenario_class *c = &s->classes[i];
        int rc = resolve(r, i);
        if (rc != AG_OK) return rc;
        c->until_us = AG_MIN(c->until_us, s->seconds_us);
        double seconds = c->until_us > c->from_us ? (double)(c->until_us - c->from_us) * 1e-6 : 0;
        if (c->arrive == AG_ARRIVE_RATE) requests += seconds * c->rate;
        if (c->arrive == AG_ARRIVE_BURST) requests += (floor(seconds * 1e6 / (double)c->every_us) + 1) * c->count;
    }
    if (requests > AG_SCENARIO_REQUESTS_MAX)
        return ag_err_set(r->err, AG_E_USAGE, "%s: classes ask for %.3g requests in all; %.3g are enough", r->path,
                          requests, AG_SCENARIO_REQUESTS_MAX);
    if (s->warmup_us >= s->seconds_us)
        return ag_err_set(r->err, AG_E_USAGE, "%s: warmup: should be shorter than `seconds`", r->path);
    s->sched.rows_max = AG_MAX(s->sched.rows_max, s->sched.running_max);
    s->sched.out_max = s->sched.running_max;
    return ag_scenario_machines(s, s->machines, r->err);
}

static int document(reader *r)
{
    bool any = false;
    for (unsigned documents = 0;;) {
        yaml_event_t e;
        int rc = next(r, &e);
        if (rc != AG_OK) return rc;
        uint32_t seen;
        yaml_event_type_t type = e.type;
        if (type == YAML_DOCUMENT_START_EVENT && ++documents > 1)
            rc = ag_err_set(r->err, AG_E_USAGE, "%s:%zu: one document is enough", r->path, line_of(&e));
        else if (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT || type == YAML_MAPPING_START_EVENT)
            rc = mapping(r, "", top_words, AG_ARRAY_LEN(top_words), r->s, &e, &seen);
        any |= type == YAML_MAPPING_START_EVENT;
        yaml_event_delete(&e);
        if (rc != AG_OK) return rc;
        if (type == YAML_STREAM_END_EVENT)
            return any ? AG_OK : ag_err_set(r->err, AG_E_USAGE, "%s: is empty; docs/sim.md tells what to say", r->path);
    }
}

static const ag_scenario defaults = {.drain_us = 60000000,
                                     .seed = 1,
                                     .machines = 1,
                                     .sched = {.queue = {.entries_max = 1024,
                                                         .tenants_max = 16384,
                                                         .prompt_weight = 1,
                                                         .output_weight = 4,
                                                         .age_us = 30000000},
                                               .pages = 2048,
                                               .page_tokens = 64,
                                               .running_max = 64,
                                               .rows_max = 512,
                                               .step_ratio = 1.3,
                                               .gap_us = 50000,
                                               .short_us = 200000,
                                               .rows_min = 1,
                                               .reuse = true,
                                               .refuse_late = true}};

int ag_scenario_parse(ag_scenario *out, const char *path, ag_str text_of, ag_err *err)
{
    *out = defaults;
    reader r = {.s = out, .path = path != NULL ? path : "scenario", .files = path != NULL, .err = err};
    if (!yaml_parser_initialize(&r.parser)) return ag_err_set(err, AG_E_NOMEM, "%s: no memory to read it", r.path);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text_of.p, text_of.n);
    int rc = document(&r);
    yaml_parser_delete(&r.parser);
    return rc == AG_OK ? check(&r) : rc;
}
