#include "base/conf.h"

#include <ctype.h>
#include <sodium.h>
#include <stdlib.h>

#include "base/conf_priv.h"
#include "base/mem.h"
#include "base/near.h"
#include "base/utf8.h"


static const ag_conf_row rows[AG_CONF_COUNT] = {
#define AG_CONF(t, field, flag_, group_, def_, min_, max_, unit_, reload_, from_, help_)                               \
    [AG_CONF_##field] = {AG_CONF_TYPE_##t,  offsetof(ag_conf, field), flag_, group_, def_, min_, max_, unit_,          \
                         AG_CONF_##reload_, AG_CONF_##from_,          help_},
#include "base/conf.def"
#undef AG_CONF
};

const ag_conf_row *ag_conf_row_at(ag_conf_id id)
{
    AG_ASSERT(id < AG_CONF_COUNT);
    return &rows[id];
}

static void *field_of(const ag_conf *c, const ag_conf_row *r) { return (char *)c + r->offset; }
static bool is_text(const ag_conf_row *r) { return r->type >= AG_CONF_TYPE_text; }

static uint64_t number_of(const ag_conf *c, const ag_conf_row *r)
{
    void *p = field_of(c, r);
    switch (r->type) {
    case AG_CONF_TYPE_flag: return *(ag_conf_flag *)p;
    case AG_CONF_TYPE_u64:
    case AG_CONF_TYPE_size: return *(uint64_t *)p;
    default: return *(uint32_t *)p;
    }
}

static void number_put(ag_conf *c, const ag_conf_row *r, uint64_t v)
{
    void *p = field_of(c, r);
    switch (r->type) {
    case AG_CONF_TYPE_flag: *(ag_conf_flag *)p = v != 0; break;
    case AG_CONF_TYPE_u64:
    case AG_CONF_TYPE_size: *(uint64_t *)p = v; break;
    default: *(uint32_t *)p = (uint32_t)v; break;
    }
}

static void text_free(const ag_conf_row *r, char *text)
{
    if (text && r->from == AG_CONF_ENV) sodium_memzero(text, strlen(text));
    ag_mem_free(text);
}

void ag_conf_fini(ag_conf *c)
{
    for (size_t i = 0; i < AG_CONF_COUNT; i++)
        if (is_text(&rows[i])) text_free(&rows[i], *(char **)field_of(c, &rows[i]));
    *c = (ag_conf){0};
}

int ag_conf_init(ag_conf *c, ag_err *err)
{
    *c = (ag_conf){0};
    int rc = AG_OK;
    for (size_t i = 0; i < AG_CONF_COUNT && rc == AG_OK; i++)
        rc = ag_conf_set(c, (ag_conf_id)i, "default", ag_str_of(rows[i].def), err);
    return rc;
}

/* " a , b,," becomes "a,b", in place. */
static size_t list_tidy(char *s)
{
    size_t n = 0;
    for (char *at = s; *at;) {
        size_t len = strcspn(at, ","), from = 0, to = len;
        while (from < to && isspace((unsigned char)at[from])) from++;
        while (to > from && isspace((unsigned char)at[to - 1])) to--;
        bool last = at[len] == 0;
        if (to > from) {
            if (n) s[n++] = ',';
            memmove(s + n, at + from, to - from);
            n += to - from;
        }
        at += len + !last;
    }
    s[n] = 0;
    return n;
}

static bool is_choice(const char *choices, ag_str value)
{
    for (const char *at = choices; *at;) {
        size_t n = strcspn(at, "|");
        if (ag_str_eq(value, (ag_str){at, n})) return true;
        at += n + (at[n] == '|');
    }
    return false;
}

static int text_set(ag_conf *c, const ag_conf_row *r, const char *source, ag_str value, ag_err *err)
{
    bool any_bytes = strcmp(r->unit, "path") == 0; /* a file's name need not be UTF-8 */
    bool ok = value.n <= (r->type == AG_CONF_TYPE_choice ? 64 : r->max) &&
              (value.n == 0 || memchr(value.p, 0, value.n) == NULL) &&
              (any_bytes || ag_utf8_check(value.p, value.n) == SIZE_MAX);
    char *text = ok ? ag_mem_strndup(value.p, value.n) : NULL;
    if (ok && text == NULL) return ag_err_set(err, AG_E_NOMEM, "%s: no memory for the setting", source);
    if (ok && r->type == AG_CONF_TYPE_list) value.n = list_tidy(text);
    ok = ok && (r->type == AG_CONF_TYPE_choice ? is_choice(r->unit, value) : value.n >= r->min);
    if (ok) {
        char **field = field_of(c, r);
        text_free(r, *field);
        *field = text;
        return AG_OK;
    }
    text_free(r, text);
    if (r->from == AG_CONF_ENV)
        return ag_err_set(err, AG_E_USAGE, "%s: a secret has at most %llu bytes of UTF-8", source,
                          (unsigned long long)r->max);
    if (r->type == AG_CONF_TYPE_choice)
        return ag_err_set(err, AG_E_USAGE, "%s: '%.*s' is not one of %s", source, (int)AG_MIN(value.n, (size_t)80),
                          value.p, r->unit);
    return ag_err_set(err, AG_E_USAGE, "%s: the value must be %llu to %llu bytes of UTF-8", source,
                      (unsigned long long)r->min, (unsigned long long)r->max);
}

int ag_conf_set(ag_conf *c, ag_conf_id id, const char *source, ag_str value, ag_err *err)
{
    const ag_conf_row *r = ag_conf_row_at(id);
    if (is_text(r)) return text_set(c, r, source, value, err);
    uint64_t v;
    int rc = ag__conf_number(r, source, value, &v, err);
    if (rc == AG_OK) number_put(c, r, v);
    return rc;
}

bool ag_conf_get(const ag_conf *c, ag_conf_id id, ag_buf *out)
{
    const ag_conf_row *r = ag_conf_row_at(id);
    if (!is_text(r)) return ag__conf_number_text(r->type, number_of(c, r), out);
    const char *text = *(char **)field_of(c, r);
    return ag_buf_addz(out, r->from == AG_CONF_ENV && *text ? "(set)" : text);
}

bool ag__conf_in_groups(const ag_conf_row *r, const char *groups)
{
    if (groups == NULL) return true;
    size_t n = strlen(r->group);
    for (const char *at = groups; *at;) {
        size_t len = strcspn(at, ",");
        if (len == n && memcmp(at, r->group, n) == 0) return true;
        at += len + (at[len] == ',');
    }
    return false;
}

bool ag__conf_env_name(const ag_conf_row *r, ag_buf *out)
{
    ag_buf_addz(out, "AUTOGLM_");
    for (const char *p = r->flag; *p; p++) ag_buf_addc(out, *p == '-' ? '_' : (char)toupper((unsigned char)*p));
    return ag_buf_zterm(out);
}

/* The environment given, not the process's: tests bring their own. NULL: not set, or empty. */
static const char *env_get(char **env, const ag_conf_row *r, char name[64])
{
    ag_buf b;
    ag_buf_init(&b, 64);
    bool ok = ag__conf_env_name(r, &b);
    if (ok) memcpy(name, b.p, b.n + 1);
    size_t n = b.n;
    ag_buf_fini(&b);
    if (!ok) return NULL;
    for (char **e = env; e && *e; e++)
        if (strncmp(*e, name, n) == 0 && (*e)[n] == '=' && (*e)[n + 1]) return *e + n + 1;
    return NULL;
}

static int env_load(ag_conf *c, const ag_conf_input *in, ag_err *err)
{
    int rc = AG_OK;
    for (size_t i = 0; i < AG_CONF_COUNT && rc == AG_OK; i++) {
        char name[64];
        const char *value = ag__conf_in_groups(&rows[i], in->groups) ? env_get(in->env, &rows[i], name) : NULL;
        if (value) rc = ag_conf_set(c, (ag_conf_id)i, name, ag_str_of(value), err);
    }
    return rc;
}

static int flag_unknown(const char *word, const char *groups, ag_err *err)
{
    ag_str name = {word, 0};
    if (strncmp(word, "--", 2) == 0) name = (ag_str){word + 2, strcspn(word + 2, "=")};
    for (size_t i = 0; i < AG_CONF_COUNT; i++)
        if (rows[i].from == AG_CONF_ENV && ag_str_eqz(name, rows[i].flag)) {
            char variable[64];
            env_get(NULL, &rows[i], variable);
            return ag_err_set(err, AG_E_USAGE,
                              "--%s: a secret is given by the variable %s, where no process list shows it",
                              rows[i].flag, variable);
        }
    ag_near near;
    ag_near_begin(&near, name);
    for (size_t i = 0; i < AG_CONF_COUNT; i++)
        if (ag__conf_in_groups(&rows[i], groups) && rows[i].from != AG_CONF_ENV) ag_near_try(&near, rows[i].flag);
    if (near.best) return ag_err_set(err, AG_E_USAGE, "%s: no such flag; did you mean --%s?", word, near.best);
    return ag_err_set(err, AG_E_USAGE, "%s: no such %s; --help lists what there is", word,
                      word[0] == '-' ? "flag" : "argument here");
}

/* The row of "--flag", "--flag=value" or "-m"; *value is set when it is in the same word. */
static const ag_conf_row *flag_find(const char *word, const char *groups, const char **value)
{
    *value = NULL;
    if (strcmp(word, "-m") == 0) word = "--model";
    if (strncmp(word, "--", 2) != 0) return NULL;
    size_t n = strcspn(word + 2, "=");
    for (size_t i = 0; i < AG_CONF_COUNT; i++) {
        const ag_conf_row *r = &rows[i];
        if (r->from == AG_CONF_ENV || !ag__conf_in_groups(r, groups)) continue;
        if (strlen(r->flag) != n || memcmp(r->flag, word + 2, n) != 0) continue;
        if (word[2 + n]) *value = word + 2 + n + 1;
        return r;
    }
    return NULL;
}

static int flag_set(ag_conf *c, const ag_conf_row *r, const char *value, bool again, ag_err *err)
{
    char source[72];
    snprintf(source, sizeof source, "--%s", r->flag);
    ag_conf_id id = (ag_conf_id)(r - rows);
    if (r->type != AG_CONF_TYPE_list || !again) return ag_conf_set(c, id, source, ag_str_of(value), err);
    ag_buf joined;
    ag_buf_init(&joined, r->max + 1);
    const char *before = *(char **)field_of(c, r);
    int rc;
    if (strlen(before) + 1 + strlen(value) > r->max)
        rc = ag_err_set(err, AG_E_USAGE, "%s: the values together are over %llu bytes", source,
                        (unsigned long long)r->max);
    else if (!ag_buf_addf(&joined, "%s,%s", before, value))
        rc = ag_err_set(err, AG_E_NOMEM, "%s: no memory for its values", source);
    else
        rc = ag_conf_set(c, id, source, ag_buf_str(&joined), err);
    ag_buf_fini(&joined);
    return rc;
}

/* Walks the command line. With `config` only the name of the settings file is taken out of it, and nothing is an error
 * yet. */
static int flags_walk(ag_conf *c, const ag_conf_input *in, const char **config, ag_err *err)
{
    bool seen[AG_CONF_COUNT] = {0};
    bool ended = false;
    for (int i = 0; i < in->argc;) {
        const char *word = in->argv[i], *value;
        const ag_conf_row *r = ended ? NULL : flag_find(word, in->groups, &value);
        if (r) {
            int took = 1;
            if (value == NULL && r->type == AG_CONF_TYPE_flag) value = "yes";
            if (value == NULL && i + 1 < in->argc) value = in->argv[i + took++];
            if (config && value && r == &rows[AG_CONF_config]) *config = value;
            if (!config && value == NULL)
                return ag_err_set(err, AG_E_USAGE, "--%s: a value must follow (%s)", r->flag, r->help);
            int rc = config ? AG_OK : flag_set(c, r, value, seen[r - rows], err);
            if (rc != AG_OK) return rc;
            seen[r - rows] = true;
            i += took;
        } else if (!ended && strcmp(word, "--") == 0) {
            ended = true;
            i++;
        } else {
            int took = in->other && !config ? in->other(in->other_arg, in->argc, in->argv, i, err) : 0;
            if (took < 0) return err && err->code ? err->code : AG_E_USAGE;
            if (took == 0 && !config) return flag_unknown(word, in->groups, err);
            i += AG_MAX(took, 1);
        }
    }
    return AG_OK;
}

int ag_conf_load(ag_conf *c, const ag_conf_input *in, ag_err *err)
{
    char name[64];
    int rc = ag_conf_init(c, err);
    bool may = ag__conf_in_groups(&rows[AG_CONF_config], in->groups);
    const char *config = may ? env_get(in->env, &rows[AG_CONF_config], name) : NULL;
    if (rc == AG_OK) rc = flags_walk(c, in, &config, err);
    if (rc == AG_OK && config && *config) rc = ag__conf_file(c, config, err);
    if (rc == AG_OK) rc = env_load(c, in, err);
    if (rc == AG_OK) rc = flags_walk(c, in, NULL, err);
    return rc;
}

int ag_conf_diff(const ag_conf *now, const ag_conf *next, uint32_t *changed, ag_err *err)
{
    char names[300];
    size_t used = 0;
    uint32_t differ = 0;
    for (size_t i = 0; i < AG_CONF_COUNT; i++) {
        const ag_conf_row *r = &rows[i];
        bool same = is_text(r) ? strcmp(*(char **)field_of(now, r), *(char **)field_of(next, r)) == 0
                               : number_of(now, r) == number_of(next, r);
        if (same) continue;
        differ++;
        if (r->reload == AG_CONF_LIVE || used >= sizeof names) continue;
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s.%s", used ? ", " : "", r->group, r->flag);
    }
    if (used) return ag_err_set(err, AG_E_USAGE, "a restart is needed to change %s; nothing was changed", names);
    *changed = differ;
    return AG_OK;
}
