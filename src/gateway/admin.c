/* admin.c - /admin/v1: keys, limits and usage, as keys/admin.h answers it. That reads and writes the disk, so a worker
 * does it. */
#include "base/mem.h"
#include "gateway/req.h"

typedef struct ag_admin {
    ag_keys_ask ask;
    char from[16], to[16], key[AG_KEY_ID_MAX + 1], tenant[AG_KEY_NAME_MAX + 1], model[AG_KEYS_MODEL_MAX + 1], format[8];
    ag_buf out;
} ag_admin;

static const struct {
    const char *route, *method;
    ag_keys_verb verb;
} verbs[] = {
    {"admin_keys", "GET", AG_KEYS_LIST},        {"admin_keys", "POST", AG_KEYS_CREATE},
    {"admin_key", "GET", AG_KEYS_GET},          {"admin_key", "POST", AG_KEYS_ROTATE},
    {"admin_key", "DELETE", AG_KEYS_REVOKE},    {"admin_limits", "GET", AG_KEYS_LIMITS_LIST},
    {"admin_limit", "GET", AG_KEYS_LIMITS_GET}, {"admin_limit", "PATCH", AG_KEYS_LIMITS_SET},
    {"admin_usage", "GET", AG_KEYS_USAGE},
};

static ag_keys_verb verb_of(const ag_req *r)
{
    const char *method = strcmp(r->method, "HEAD") == 0 ? "GET" : r->method;
    size_t i = 0;
    while (i < AG_ARRAY_LEN(verbs) && (strcmp(verbs[i].route, r->route->id) || strcmp(verbs[i].method, method))) i++;
    AG_ASSERT(i < AG_ARRAY_LEN(verbs)); /* the routes' methods are these */
    return verbs[i].verb;
}

static int take_pair(ag_admin *a, ag_str name, ag_str value, ag_err *err)
{
    const struct {
        const char *name;
        char *to;
        size_t size;
    } fields[] = {{"from", a->from, sizeof a->from},    {"to", a->to, sizeof a->to},
                  {"key", a->key, sizeof a->key},       {"tenant", a->tenant, sizeof a->tenant},
                  {"model", a->model, sizeof a->model}, {"format", a->format, sizeof a->format}};
    for (size_t i = 0; i < AG_ARRAY_LEN(fields); i++) {
        if (!ag_str_eqz(name, fields[i].name)) continue;
        if (value.n == 0 || !ag__percent_decode(value, fields[i].to, fields[i].size))
            return ag_request_fail(err, AG_E_PARAM, fields[i].name,
                                   "'%s' in the query is not a value that it can have.", fields[i].name);
        return AG_OK;
    }
    return ag_err_set(err, AG_E_PARAM, "The query may say from, to, key, tenant, model and format, not '%.*s'.",
                      (int)AG_MIN(name.n, 40u), name.p);
}

static int take_query(ag_admin *a, ag_str query, ag_err *err)
{
    int rc = AG_OK;
    for (ag_str name, value; rc == AG_OK && ag__query_next(&query, &name, &value);) rc = take_pair(a, name, value, err);
    if (rc == AG_OK && a->format[0] && strcmp(a->format, "json") != 0 && strcmp(a->format, "csv") != 0)
        rc = ag_request_fail(err, AG_E_PARAM, "format", "'format' must be json or csv.");
    return rc;
}

static const char *given(const char *text) { return text[0] ? text : NULL; }

int ag__admin_look(ag_req *r)
{
    ag_admin *a = ag_mem_zalloc(sizeof *a);
    if (a == NULL) return ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this request.");
    r->admin = a;
    ag_buf_init(&a->out, AG_KEYS_ANSWER_BYTES);
    if (r->gw->ring == NULL)
        return ag_err_set(&r->err, AG_E_NOT_FOUND, "This server has no file of keys; start it with --keys-db FILE.");
    a->ask.verb = verb_of(r);
    if (a->ask.verb == AG_KEYS_USAGE) {
        int rc = take_query(a, r->head->query, &r->err);
        if (rc != AG_OK) return rc;
        ag_str accept = ag_http_head_get(r->head, "accept");
        a->ask.csv = strcmp(a->format, "csv") == 0 || (a->format[0] == 0 && ag_str_starts(accept, AG_STR("text/csv")));
        a->ask.filter =
            (ag_usage_filter){given(a->from), given(a->to), given(a->key), given(a->tenant), given(a->model)};
    }
    a->ask.id = r->asked_id;
    return AG_OK;
}

void ag__admin_free(ag_req *r)
{
    if (r->admin) ag_buf_fini(&r->admin->out);
    ag_mem_free(r->admin);
}

static int work_in(void *arg, ag_keys_db *db, ag_err *err)
{
    ag_req *r = arg;
    return ag_keys_admin(db, &r->admin->ask, &r->admin->out, err);
}

static void work(void *arg)
{
    ag_req *r = arg;
    int rc = ag_keyring_job(r->gw->ring, work_in, r, &r->err);
    if (rc != AG_OK) ag_err_set(&r->err, rc, "The keys could not be asked."); /* when nobody said it better */
}

ag_next ag__answer_admin(ag_req *r)
{
    ag_admin *a = r->admin;
    a->ask.body = ag_buf_str(&r->body);
    if (!ag__req_work(r, false, work)) return AG_PARKED;
    if (r->err.code != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    bool changed = a->ask.verb == AG_KEYS_CREATE || a->ask.verb == AG_KEYS_ROTATE || a->ask.verb == AG_KEYS_REVOKE ||
                   a->ask.verb == AG_KEYS_LIMITS_SET;
    ag_http_header store = {AG_STR("cache-control"), AG_STR("no-store")}; /* an answer may hold a key */
    if (changed)
        AG_LOG(r->gw->log, AG_LOG_INFO, NULL, "keys changed", AG_LOG_Z("by", ag__key_name(r)),
               AG_LOG_Z("route", r->route->id), AG_LOG_Z("method", r->method), AG_LOG_Z("request_id", r->id));
    return ag__req_answer(r, 200, a->ask.csv ? "text/csv; charset=utf-8" : "application/json", ag_buf_str(&a->out),
                          &store, 1);
}
