/* load_parse.c - what `autoglm bench http` is told: times, lengths, tenants, classes of requests. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "cli/load.h"

#define DAY_US 86400000000ull
#define WORD "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

int ag_load_parse_time(const char *flag, const char *text, uint64_t min_us, uint64_t *out, ag_err *err)
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

int ag_load_parse_max_tokens(const char *flag, const char *text, ag_load_spec *s, ag_err *err)
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
                          "--%s: '%.40s' is neither a number from 1 to 1000000 nor a range such as 16-128", flag, text);
    s->max_tokens_low = (uint32_t)low;
    s->max_tokens_high = (uint32_t)high;
    return AG_OK;
}

int ag_load_parse_tenants(const char *text, ag_load_spec *s, ag_err *err)
{
    for (const char *p = text; *p;) {
        size_t whole = strcspn(p, ","), n = strcspn(p, ":,"), word = strspn(p, WORD);
        char *end = NULL;
        double weight = 1;
        if (n < whole) weight = strtod(p + n + 1, &end);
        if (n == 0 || n > AG_LOAD_NAME_MAX || word < n || (end && end != p + whole) || !(weight > 0) || weight > 1e6)
            return ag_err_set(err, AG_E_USAGE,
                              "--tenants: at '%.40s': it is name:weight,..., a name has letters, digits, '.', '_', '-'",
                              p);
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

/* Classes. */

static int parse_number(const char *key, const char *text, double min, double max, bool whole, double *out, ag_err *err)
{
    char *end;
    double v = strtod(text, &end);
    bool ok = end != text && *end == 0 && v >= min && v <= max && (!whole || v == (double)(uint64_t)v);
    *out = v;
    return ok ? AG_OK
              : ag_err_set(err, AG_E_USAGE, "--classes: %s=%.40s: it is a%s number from %.6g to %.6g", key, text,
                           whole ? " whole" : "", min, max);
}

static int parse_pair(ag_load_class *c, const char *key, const char *text, ag_err *err)
{
    ag_load_spec *s = &c->spec;
    double v = 0;
    uint64_t us = 0;
    int rc = AG_OK;
    char flag[48];
    snprintf(flag, sizeof flag, "classes: %.20s", key);
    if (strcmp(key, "band") == 0) {
        if ((rc = parse_number(key, text, 0, 3, true, &v, err)) == AG_OK)
            ag_buf_addf(&c->extra, ",\"priority\":%.0f", v);
    } else if (strcmp(key, "timeout") == 0) {
        if ((rc = ag_load_parse_time(flag, text, 1000, &us, err)) == AG_OK)
            ag_buf_addf(&c->extra, ",\"timeout_ms\":%llu", (unsigned long long)(us / 1000));
    } else if (strcmp(key, "clients") == 0) {
        rc = parse_number(key, text, 1, AG_LOAD_CLIENTS_MAX, true, &v, err);
        s->clients = (uint32_t)v;
    } else if (strcmp(key, "rate") == 0) {
        rc = parse_number(key, text, 1e-6, 1e6, false, &s->rate, err);
        s->even = false;
    } else if (strcmp(key, "every") == 0) {
        rc = ag_load_parse_time(flag, text, 1000, &us, err);
        if (rc == AG_OK) s->rate = 1e6 / (double)us;
        s->even = true;
    } else if (strcmp(key, "requests") == 0) {
        rc = parse_number(key, text, 1, 1e12, true, &v, err);
        s->requests = (uint64_t)v;
    } else if (strcmp(key, "start") == 0) {
        rc = ag_load_parse_time(flag, text, 0, &s->start_us, err);
    } else if (strcmp(key, "tenant") == 0) {
        s->n_tenants = 0;
        rc = ag_load_parse_tenants(text, s, err);
    } else if (strcmp(key, "prompt") == 0) {
        rc = parse_number(key, text, 1, AG_LOAD_PROMPT_MAX, true, &v, err);
        s->prompt_words = (uint32_t)v;
    } else if (strcmp(key, "shared") == 0) {
        rc = parse_number(key, text, 0, AG_LOAD_PROMPT_MAX, true, &v, err);
        s->shared_words = (uint32_t)v;
    } else if (strcmp(key, "max-tokens") == 0) {
        rc = ag_load_parse_max_tokens(flag, text, s, err);
    } else {
        rc = ag_err_set(err, AG_E_USAGE,
                        "--classes: '%.40s' is none of band, timeout, clients, rate, every, requests, start, tenant, "
                        "prompt, shared, max-tokens",
                        key);
    }
    return rc;
}

/* Says when its requests arrive. */
static bool paces(const char *key) { return strcmp(key, "rate") == 0 || strcmp(key, "every") == 0; }

#define KEYS_MAX 16 /* more than there are */

/* "name:key=value:key=value", cut up in place. */
static int parse_class(ag_load_class *c, const ag_load_spec *base, char *text, ag_err *err)
{
    char *save = NULL, *word = strtok_r(text, ":", &save);
    const char *keys[KEYS_MAX];
    uint32_t n_keys = 0;
    size_t n = word ? strlen(word) : 0;
    if (n == 0 || n > AG_LOAD_NAME_MAX || strspn(word, WORD) != n)
        return ag_err_set(err, AG_E_USAGE,
                          "--classes: '%.40s' is no name: it is name:key=value:...,..., a name has letters, digits, "
                          "'.', '_', '-'",
                          word ? word : "");
    memcpy(c->name, word, n + 1);
    c->spec = *base;
    c->spec.clients = 0;
    ag_buf_addz(&c->extra, base->extra);
    int rc = AG_OK;
    while (rc == AG_OK && (word = strtok_r(NULL, ":", &save)) != NULL) {
        char *value = strchr(word, '=');
        if (value == NULL) return ag_err_set(err, AG_E_USAGE, "--classes: '%.40s' is not key=value", word);
        *value++ = 0;
        for (uint32_t i = 0; i < n_keys && rc == AG_OK; i++)
            if (strcmp(keys[i], word) == 0)
                rc = ag_err_set(err, AG_E_USAGE, "--classes: '%s' has %.40s twice", c->name, word);
            else if (paces(keys[i]) && paces(word))
                rc = ag_err_set(err, AG_E_USAGE, "--classes: '%s' has both rate and every: one says it", c->name);
        if (rc == AG_OK) rc = parse_pair(c, word, value, err);
        if (rc == AG_OK) AG_ASSERT(n_keys < KEYS_MAX), keys[n_keys++] = word;
    }
    if (c->spec.requests == 0 && c->spec.duration_us == 0) c->spec.duration_us = AG_LOAD_DURATION_US;
    if (c->spec.clients == 0) c->spec.clients = c->spec.rate > 0 ? 512 : AG_MAX(base->clients, 1u);
    if (rc == AG_OK && c->spec.duration_us && c->spec.start_us >= c->spec.duration_us)
        rc = ag_err_set(err, AG_E_USAGE, "--classes: '%s' starts when all is over: start should be under %.6g s",
                        c->name, (double)c->spec.duration_us / 1e6);
    if (rc == AG_OK && !ag_buf_zterm(&c->extra)) rc = ag_err_set(err, AG_E_NOMEM, "no memory for --classes");
    c->spec.extra = c->extra.p;
    c->spec.name = c->name;
    return rc;
}

int ag_load_parse_classes(const char *text, const ag_load_spec *base, ag_load_classes *out, ag_err *err)
{
    char copy[AG_LOAD_CLASSES_TEXT_MAX + 1], *save = NULL;
    if (strlen(text) > AG_LOAD_CLASSES_TEXT_MAX)
        return ag_err_set(err, AG_E_USAGE, "--classes: over %d bytes", AG_LOAD_CLASSES_TEXT_MAX);
    memcpy(copy, text, strlen(text) + 1);
    int rc = AG_OK;
    for (char *one = strtok_r(copy, ",", &save); one && rc == AG_OK; one = strtok_r(NULL, ",", &save)) {
        if (out->n == AG_LOAD_CLASSES_MAX)
            return ag_err_set(err, AG_E_USAGE, "--classes: over %d of them", AG_LOAD_CLASSES_MAX);
        ag_load_class *c = &out->list[out->n++];
        ag_buf_init(&c->extra, strlen(base->extra) + 128);
        rc = parse_class(c, base, one, err);
        for (uint32_t i = 0; rc == AG_OK && i + 1 < out->n; i++)
            if (strcmp(out->list[i].name, c->name) == 0)
                rc = ag_err_set(err, AG_E_USAGE, "--classes: '%s' is there twice", c->name);
        c->spec.seed = base->seed + (uint64_t)(out->n - 1) * 1000003u; /* no class has the prompts of another */
        if (rc == AG_OK) rc = ag_load_check(&c->spec, err);
    }
    if (rc == AG_OK && out->n == 0) rc = ag_err_set(err, AG_E_USAGE, "--classes: it names none");
    uint64_t words = 0;
    for (uint32_t i = 0; i < out->n; i++) words += (uint64_t)out->list[i].spec.clients * out->list[i].spec.prompt_words;
    if (rc == AG_OK && words > AG_LOAD_WORDS_MAX)
        rc = ag_err_set(err, AG_E_USAGE, "--classes: the prompts of all clients have over %u words at once",
                        AG_LOAD_WORDS_MAX);
    return rc;
}

void ag_load_classes_fini(ag_load_classes *c)
{
    for (uint32_t i = 0; i < c->n; i++) ag_buf_fini(&c->list[i].extra);
    c->n = 0;
}

int ag_load_check(const ag_load_spec *s, ag_err *err)
{
    if (s->shared_words > s->prompt_words)
        return ag_err_set(err, AG_E_USAGE, "--shared-prefix %u: the prompt has only %u words", s->shared_words,
                          s->prompt_words);
    if ((uint64_t)s->clients * s->prompt_words > AG_LOAD_WORDS_MAX)
        return ag_err_set(err, AG_E_USAGE, "%u clients with prompts of %u words: that is over %u words at once",
                          s->clients, s->prompt_words, AG_LOAD_WORDS_MAX);
    return AG_OK;
}
