#include "keys/admin.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/near.h"

/* Answers. */

static void add_text(ag_buf *out, const char *name, const char *z)
{
    ag_buf_addf(out, "\"%s\":", name);
    ag_buf_add_json(out, z, strlen(z));
}

/* Empty: null. */
static void add_word(ag_buf *out, const char *name, const char *z)
{
    ag_buf_addc(out, ',');
    if (z[0]) add_text(out, name, z);
    else ag_buf_addf(out, "\"%s\":null", name);
}

static void add_time(ag_buf *out, const char *name, uint64_t s)
{
    if (s) ag_buf_addf(out, ",\"%s\":%llu", name, (unsigned long long)s);
    else ag_buf_addf(out, ",\"%s\":null", name);
}

static void add_limits(ag_buf *out, const ag_limits *l)
{
    const char *comma = "";
    ag_buf_addc(out, '{');
    for (uint32_t i = 0; i < AG_LIMIT_COUNT; i++) {
        if (*ag_limit_at(l, i) == 0) continue;
        ag_buf_addf(out, "%s\"%s\":%llu", comma, ag_limit_rows[i].name, (unsigned long long)*ag_limit_at(l, i));
        comma = ",";
    }
    ag_buf_addc(out, '}');
}

static void add_models(ag_buf *out, const char *models)
{
    if (models[0] == 0) {
        ag_buf_addz(out, ",\"models\":null");
        return;
    }
    ag_buf_addz(out, ",\"models\":[");
    for (ag_str list = ag_str_of(models), one; ag_str_next(&list, &one);) {
        ag_buf_add_json(out, one.p, one.n);
        if (list.p) ag_buf_addc(out, ',');
    }
    ag_buf_addc(out, ']');
}

static void add_key(ag_buf *out, const ag_key *k, const char *text)
{
    bool both = k->roles == (AG_ROLE_INFERENCE | AG_ROLE_ADMIN);
    ag_buf_addc(out, '{');
    add_text(out, "id", k->id);
    ag_buf_addz(out, ",\"object\":\"key\",");
    if (text) {
        add_text(out, "key", text);
        ag_buf_addc(out, ',');
    }
    add_text(out, "name", k->name);
    ag_buf_addc(out, ',');
    add_text(out, "tenant", k->tenant);
    add_word(out, "share", k->share);
    add_word(out, "cache", k->cache);
    ag_buf_addf(out, ",\"roles\":[%s%s%s]", k->roles & AG_ROLE_INFERENCE ? "\"inference\"" : "", both ? "," : "",
                k->roles & AG_ROLE_ADMIN ? "\"admin\"" : "");
    add_models(out, k->models);
    ag_buf_addf(out, ",\"most_urgent_band\":%u", k->band_min);
    if (k->weight > 0) ag_buf_addf(out, ",\"weight\":%g", k->weight);
    else ag_buf_addz(out, ",\"weight\":null");
    add_time(out, "created_at", k->created_s);
    add_time(out, "rotated_at", k->rotated_s);
    add_time(out, "expires_at", k->expires_s);
    add_time(out, "revoked_at", k->revoked_s);
    ag_buf_addz(out, ",\"limits\":");
    add_limits(out, &k->limits);
    ag_buf_addc(out, '}');
}

typedef struct lister {
    ag_buf *out;
    const char *comma;
    bool csv;
} lister;

static bool list_key(void *arg, const ag_key *k)
{
    lister *l = arg;
    ag_buf_addz(l->out, l->comma);
    l->comma = ",";
    add_key(l->out, k, NULL);
    return !l->out->failed;
}

static void add_subject(ag_buf *out, const char *subject, const ag_limits *limits)
{
    ag_buf_addc(out, '{');
    add_text(out, "subject", subject);
    ag_buf_addz(out, ",\"limits\":");
    add_limits(out, limits);
    ag_buf_addc(out, '}');
}

static bool list_limits(void *arg, const char *subject, const ag_limits *limits)
{
    lister *l = arg;
    ag_buf_addz(l->out, l->comma);
    l->comma = ",";
    add_subject(l->out, subject, limits);
    return !l->out->failed;
}

/* RFC 4180; what a spreadsheet would take for a formula gets a quote in front. */
static void add_csv(ag_buf *out, const char *z)
{
    ag_buf_addc(out, '"');
    if (*z && strchr("=+-@\t\r", *z)) ag_buf_addc(out, '\'');
    for (; *z; z++) {
        if (*z == '"') ag_buf_addc(out, '"');
        ag_buf_addc(out, *z);
    }
    ag_buf_addz(out, "\",");
}

static bool list_usage(void *arg, const ag_usage_row *r)
{
    lister *l = arg;
    unsigned long long requests = r->requests, prompt = r->prompt_tokens, output = r->output_tokens;
    if (l->csv) {
        ag_buf_addf(l->out, "%s,", r->day);
        add_csv(l->out, r->key);
        add_csv(l->out, r->tenant);
        add_csv(l->out, r->model);
        ag_buf_addf(l->out, "%llu,%llu,%llu\r\n", requests, prompt, output);
        return !l->out->failed;
    }
    ag_buf_addz(l->out, l->comma);
    l->comma = ",";
    ag_buf_addc(l->out, '{');
    add_text(l->out, "day", r->day);
    ag_buf_addc(l->out, ',');
    add_text(l->out, "key", r->key);
    ag_buf_addc(l->out, ',');
    add_text(l->out, "tenant", r->tenant);
    ag_buf_addc(l->out, ',');
    add_text(l->out, "model", r->model);
    ag_buf_addf(l->out, ",\"requests\":%llu,\"prompt_tokens\":%llu,\"output_tokens\":%llu}", requests, prompt, output);
    return !l->out->failed;
}

/* Questions. */

static int wrong(ag_err *err, const char *field, const char *fmt, ...) AG_PRINTF(3, 4);
static int wrong(ag_err *err, const char *field, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (err && err->code == AG_OK) snprintf(err->param, sizeof err->param, "%s", field);
    return ag_err_set(err, AG_E_PARAM, "'%s' %s", field, text);
}

/* A whole number, 16 and 16.0 alike. */
static int take_u64(json_t *v, const char *field, uint64_t max, uint64_t *out, ag_err *err)
{
    if (v == NULL || json_is_null(v)) return AG_OK;
    double d = json_number_value(v);
    if (!json_is_number(v) || !(d >= 0 && d <= (double)max) || d != floor(d))
        return wrong(err, field, "must be a whole number from 0 to %llu.", (unsigned long long)max);
    *out = json_is_integer(v) ? (uint64_t)json_integer_value(v) : (uint64_t)d;
    return AG_OK;
}

static int take_text(json_t *v, const char *field, char *to, size_t size, bool (*ok)(ag_str), const char *form,
                     ag_err *err)
{
    if (v == NULL || json_is_null(v)) return AG_OK;
    size_t n = json_string_length(v); /* 0: no string */
    if (!json_is_string(v) || n >= size || memchr(json_string_value(v), 0, n) ||
        (n && !ok((ag_str){json_string_value(v), n})))
        return wrong(err, field, "must be %s.", form);
    memcpy(to, json_string_value(v), n);
    to[n] = 0;
    return AG_OK;
}

/* Nothing that a terminal would obey: neither the control characters of ASCII nor U+0080 to U+009F. */
static bool title_ok(ag_str s)
{
    bool ok = true;
    for (size_t i = 0; ok && i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i], next = i + 1 < s.n ? (unsigned char)s.p[i + 1] : 0;
        ok = c >= ' ' && c != 0x7F && !(c == 0xC2 && next < 0xA0);
    }
    return ok;
}

/* An array of strings, into one of them with commas. */
static int take_list(json_t *v, const char *field, char *to, size_t size, ag_err *err)
{
    size_t n = 0, at;
    json_t *one;
    to[0] = 0;
    if (v == NULL || json_is_null(v)) return AG_OK;
    if (!json_is_array(v)) return wrong(err, field, "must be an array of strings.");
    json_array_foreach(v, at, one)
    {
        size_t len = json_string_length(one);
        if (len == 0 || n + len + 2 > size || memchr(json_string_value(one), 0, len) ||
            memchr(json_string_value(one), ',', len))
            return wrong(err, field, "must be an array of strings without commas, together under %zu bytes.", size);
        if (n) to[n++] = ',';
        memcpy(to + n, json_string_value(one), len);
        to[n += len] = 0;
    }
    return AG_OK;
}

static int take_limits(json_t *o, ag_limits *l, ag_err *err)
{
    const char *name;
    json_t *v;
    int rc = AG_OK;
    if (o == NULL || json_is_null(o)) return AG_OK;
    if (!json_is_object(o)) return wrong(err, "limits", "must be an object of limits and numbers.");
    json_object_foreach(o, name, v)
    {
        uint32_t i = 0;
        while (i < AG_LIMIT_COUNT && strcmp(name, ag_limit_rows[i].name) != 0) i++;
        if (i == AG_LIMIT_COUNT) {
            ag_near near;
            ag_near_begin(&near, ag_str_of(name));
            for (i = 0; i < AG_LIMIT_COUNT; i++) ag_near_try(&near, ag_limit_rows[i].name);
            return wrong(err, "limits", "has no '%.60s'%s%s%s.", name, near.best ? "; did you mean '" : "",
                         near.best ? near.best : "", near.best ? "'?" : "");
        }
        *ag_limit_at(l, i) = 0;
        if ((rc = take_u64(v, name, ag_limit_rows[i].max, ag_limit_at(l, i), err)) != AG_OK) break;
    }
    return rc;
}

static const char *const create_fields[] = {"tenant", "name",   "roles",  "models", "most_urgent_band",
                                            "weight", "limits", "share",  "cache",  "expires_at"};
static const char name_form[] = "1 to 64 printable ASCII letters without blanks and commas";

static int check_fields(json_t *o, ag_err *err)
{
    const char *name;
    json_t *v;
    json_object_foreach(o, name, v)
    {
        ag_near near;
        bool known = false;
        ag_near_begin(&near, ag_str_of(name));
        for (uint32_t i = 0; i < AG_ARRAY_LEN(create_fields); i++) {
            known = known || strcmp(name, create_fields[i]) == 0;
            ag_near_try(&near, create_fields[i]);
        }
        if (!known)
            return ag_err_set(err, AG_E_PARAM, "A key has no field '%.60s'%s%s%s.", name,
                              near.best ? "; did you mean '" : "", near.best ? near.best : "", near.best ? "'?" : "");
    }
    return AG_OK;
}

static int take_weight(json_t *v, double *out, ag_err *err)
{
    if (v == NULL || json_is_null(v)) return AG_OK;
    double w = json_number_value(v);
    if (!json_is_number(v) || !(w >= AG_KEY_WEIGHT_MIN && w <= AG_KEY_WEIGHT_MAX))
        return wrong(err, "weight", "must be a number from %g to %g.", AG_KEY_WEIGHT_MIN, AG_KEY_WEIGHT_MAX);
    *out = w;
    return AG_OK;
}

static int take_key(json_t *o, ag_key *k, ag_err *err)
{
    char roles[AG_KEY_NAME_MAX + 1];
    uint64_t band = 0, now = ag_wall_us() / 1000000;
    int rc = check_fields(o, err);
    if (rc == AG_OK)
        rc = take_text(json_object_get(o, "tenant"), "tenant", k->tenant, sizeof k->tenant, ag_key_name_ok,
                       name_form, err);
    if (rc == AG_OK && k->tenant[0] == 0) {
        snprintf(err->param, sizeof err->param, "tenant");
        rc = ag_err_set(err, AG_E_PARAM_MISSING, "'tenant' is missing: whose key is it?");
    }
    if (rc == AG_OK)
        rc = take_text(json_object_get(o, "share"), "share", k->share, sizeof k->share, ag_key_name_ok, name_form, err);
    if (rc == AG_OK)
        rc = take_text(json_object_get(o, "cache"), "cache", k->cache, sizeof k->cache, ag_key_cache_ok,
                       "'use' or 'off'; 'refresh' is for one request at a time", err);
    if (rc == AG_OK)
        rc = take_text(json_object_get(o, "name"), "name", k->name, sizeof k->name, title_ok,
                       "at most 64 bytes without control characters", err);
    if (rc == AG_OK) rc = take_list(json_object_get(o, "roles"), "roles", roles, sizeof roles, err);
    if (rc == AG_OK) k->roles = roles[0] ? ag_key_roles_of(ag_str_of(roles)) : AG_ROLE_INFERENCE;
    if (rc == AG_OK && k->roles == 0) rc = wrong(err, "roles", "may hold 'inference' and 'admin', each once.");
    if (rc == AG_OK) rc = take_list(json_object_get(o, "models"), "models", k->models, sizeof k->models, err);
    if (rc == AG_OK && !ag_key_models_ok(ag_str_of(k->models)))
        rc = wrong(err, "models", "must be at most %d names of models of 1 to %d bytes.", AG_KEY_MODELS,
                   AG_KEY_MODEL_MAX);
    if (rc == AG_OK)
        rc = take_u64(json_object_get(o, "most_urgent_band"), "most_urgent_band", AG_KEY_BANDS - 1, &band, err);
    if (rc == AG_OK) rc = take_weight(json_object_get(o, "weight"), &k->weight, err);
    if (rc == AG_OK) rc = take_u64(json_object_get(o, "expires_at"), "expires_at", 253402300799ull, &k->expires_s, err);
    if (rc == AG_OK && k->expires_s && k->expires_s <= now)
        rc = wrong(err, "expires_at", "is %llu, in seconds since 1970, which is past.",
                   (unsigned long long)k->expires_s);
    if (rc == AG_OK) rc = take_limits(json_object_get(o, "limits"), &k->limits, err);
    k->band_min = (uint32_t)band;
    return rc;
}

static int create(ag_keys_db *db, json_t *o, ag_buf *out, ag_err *err)
{
    ag_key k = {0};
    char text[AG_KEY_TEXT_BYTES + 1];
    int rc = take_key(o, &k, err);
    if (rc == AG_OK) rc = ag_keys_db_create(db, &k, text, err);
    if (rc == AG_OK) add_key(out, &k, text);
    return rc;
}

static int set_limits(ag_keys_db *db, const char *subject, json_t *o, ag_buf *out, ag_err *err)
{
    ag_limits l;
    int rc = ag_keys_db_limits_get(db, subject, &l, err);
    if (rc == AG_OK) rc = take_limits(o, &l, err);
    if (rc == AG_OK) rc = ag_keys_db_limits_set(db, subject, &l, err);
    if (rc == AG_OK) add_subject(out, subject, &l);
    return rc;
}

static int show(ag_keys_db *db, const char *id, const char *text, ag_buf *out, ag_err *err)
{
    ag_key k;
    int rc = ag_keys_db_get(db, id, &k, err);
    if (rc == AG_OK) add_key(out, &k, text);
    return rc;
}

static int list_all(ag_keys_db *db, const ag_keys_ask *ask, ag_buf *out, ag_err *err)
{
    lister l = {.out = out, .comma = "", .csv = ask->csv};
    if (!l.csv) ag_buf_addz(out, "{\"object\":\"list\",\"data\":[");
    else ag_buf_addz(out, "day,key,tenant,model,requests,prompt_tokens,output_tokens\r\n");
    int rc = ask->verb == AG_KEYS_LIST          ? ag_keys_db_list(db, list_key, &l, err)
             : ask->verb == AG_KEYS_LIMITS_LIST ? ag_keys_db_limits_list(db, list_limits, &l, err)
                                                : ag_keys_db_usage_list(db, &ask->filter, list_usage, &l, err);
    if (!l.csv) ag_buf_addz(out, "]}");
    return rc;
}

static int load(const ag_keys_ask *ask, json_t **o, ag_err *err)
{
    json_error_t e;
    if (ask->body.n > AG_KEYS_ASK_BYTES)
        return ag_err_set(err, AG_E_TOO_LARGE, "The body is larger than %u bytes.", AG_KEYS_ASK_BYTES);
    *o = ask->body.n ? json_loadb(ask->body.p, ask->body.n, JSON_REJECT_DUPLICATES, &e) : json_object();
    if (*o == NULL && ask->body.n == 0) return ag_err_set(err, AG_E_NOMEM, "There is no memory left for this.");
    if (*o == NULL) return ag_err_set(err, AG_E_JSON, "The body is not JSON: %s (byte %d).", e.text, e.position);
    if (json_is_object(*o)) return AG_OK;
    json_decref(*o);
    *o = NULL;
    return ag_err_set(err, AG_E_JSON, "The body must be a JSON object.");
}

static int bad_subject(const char *subject, ag_err *err)
{
    return ag_err_set(err, AG_E_PARAM,
                      "'%.140s' has no limits: name key:ID, tenant:NAME, model:NAME, tenant:*, model:* or address:*.",
                      subject);
}

static int check_days(const ag_usage_filter *f, ag_err *err)
{
    if (f->from && !ag_keys_day_ok(f->from)) return wrong(err, "from", "must be a day such as 2026-11-29.");
    if (f->to && !ag_keys_day_ok(f->to)) return wrong(err, "to", "must be a day such as 2026-11-29.");
    return AG_OK;
}

int ag_keys_admin(ag_keys_db *db, const ag_keys_ask *ask, ag_buf *out, ag_err *err)
{
    json_t *o = NULL;
    ag_limits l;
    char text[AG_KEY_TEXT_BYTES + 1];
    int rc = load(ask, &o, err);
    bool limits = ask->verb == AG_KEYS_LIMITS_GET || ask->verb == AG_KEYS_LIMITS_SET;
    if (rc == AG_OK && limits && !ag_keys_subject_ok(ag_str_of(ask->id))) rc = bad_subject(ask->id, err);
    if (rc == AG_OK && ask->verb != AG_KEYS_CREATE && ask->verb != AG_KEYS_LIMITS_SET && json_object_size(o))
        rc = ag_err_set(err, AG_E_PARAM, "Nothing is asked in the body here; leave it out.");
    if (rc == AG_OK && ask->verb == AG_KEYS_USAGE) rc = check_days(&ask->filter, err);
    if (rc != AG_OK) goto out;
    switch (ask->verb) {
    case AG_KEYS_CREATE: rc = create(db, o, out, err); break;
    case AG_KEYS_GET: rc = show(db, ask->id, NULL, out, err); break;
    case AG_KEYS_ROTATE:
        rc = ag_keys_db_rotate(db, ask->id, text, err);
        if (rc == AG_OK) rc = show(db, ask->id, text, out, err);
        break;
    case AG_KEYS_REVOKE:
        rc = ag_keys_db_revoke(db, ask->id, err);
        if (rc == AG_OK) rc = show(db, ask->id, NULL, out, err);
        break;
    case AG_KEYS_LIMITS_GET:
        rc = ag_keys_db_limits_get(db, ask->id, &l, err);
        if (rc == AG_OK) add_subject(out, ask->id, &l);
        break;
    case AG_KEYS_LIMITS_SET: rc = set_limits(db, ask->id, o, out, err); break;
    case AG_KEYS_LIST:
    case AG_KEYS_LIMITS_LIST:
    case AG_KEYS_USAGE: rc = list_all(db, ask, out, err); break;
    }
    if (rc == AG_OK && out->failed) rc = ag_err_set(err, AG_E_NOMEM, "The answer is larger than there is memory for.");
out:
    json_decref(o);
    return rc;
}
