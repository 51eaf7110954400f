/* autoglm keys: makes, lists and ends the keys of a server, and sets limits. Questions and answers are the admin API's
 * JSON, whether they go to a file or to a server. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/keys_http.h"
#include "keys/admin.h"

typedef struct keys_job {
    const char *command; /* argv[0] */
    const char *db, *secret, *url;
    const char *tenant, *share, *cache, *name, *roles, *models, *expires;
    uint32_t band;
    float weight;
    uint64_t limits[AG_LIMIT_COUNT]; /* AG_LIMIT_UNSET: not given */
    bool json;
} keys_job;

#define AG_LIMIT_UNSET UINT64_MAX
#define BAND_UNSET UINT32_MAX
#define DAY_S 86400ull

/* "30d", "12h", "90m", or the day until whose begin it is good. */
static int expires_of(const char *text, uint64_t *out, ag_err *err)
{
    static const struct {
        char unit;
        uint64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', DAY_S}};
    char *end;
    unsigned long long n = strtoull(text, &end, 10);
    struct tm tm = {0};
    if (ag_keys_day_ok(text)) {
        strptime(text, "%Y-%m-%d", &tm);
        *out = (uint64_t)timegm(&tm);
        return AG_OK;
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(units); i++)
        if (text[0] >= '0' && text[0] <= '9' && n >= 1 && n <= 100000000 && end[0] == units[i].unit && end[1] == 0) {
            *out = ag_wall_us() / 1000000 + n * units[i].seconds;
            return AG_OK;
        }
    return ag_err_set(err, AG_E_USAGE,
                      "--expires: '%s' is neither a time such as 12h or 30d nor a day such as 2026-12-31", text);
}

static void add_text(ag_buf *b, const char *name, const char *value)
{
    if (value == NULL) return;
    ag_buf_addf(b, "%s\"%s\":", b->n > 1 ? "," : "", name);
    ag_buf_add_json(b, value, strlen(value));
}

/* "a,b" as an array. */
static void add_list(ag_buf *b, const char *name, const char *value)
{
    if (value == NULL) return;
    ag_buf_addf(b, ",\"%s\":[", name);
    ag_str rest = *value ? ag_str_of(value) : (ag_str){0}, one;
    while (ag_str_next(&rest, &one)) {
        ag_buf_add_json(b, one.p, one.n);
        if (rest.p) ag_buf_addc(b, ',');
    }
    ag_buf_addc(b, ']');
}

static uint32_t add_limits(ag_buf *b, const keys_job *j)
{
    uint32_t n = 0;
    ag_buf_addc(b, '{');
    for (uint32_t i = 0; i < AG_LIMIT_COUNT; i++)
        if (j->limits[i] != AG_LIMIT_UNSET)
            ag_buf_addf(b, "%s\"%s\":%llu", n++ ? "," : "", ag_limit_rows[i].name, (unsigned long long)j->limits[i]);
    ag_buf_addc(b, '}');
    return n;
}

/* An option that a verb has no use for was meant for something. */
static int check_options(const keys_job *j, const char *verb, bool create, bool limits, ag_err *err)
{
    const struct {
        const char *name;
        bool given;
    } creates[] = {{"tenant", j->tenant},   {"share", j->share},   {"cache", j->cache},
                   {"name", j->name},       {"roles", j->roles},   {"models", j->models},
                   {"expires", j->expires}, {"weight", j->weight > 0}, {"band", j->band != BAND_UNSET}};
    for (size_t i = 0; i < AG_ARRAY_LEN(creates) && !create; i++)
        if (creates[i].given)
            return ag_err_set(err, AG_E_USAGE, "--%s is for create, not for %s", creates[i].name, verb);
    for (size_t i = 0; i < AG_LIMIT_COUNT && !create && !limits; i++)
        if (j->limits[i] != AG_LIMIT_UNSET)
            return ag_err_set(err, AG_E_USAGE, "--%s is for create and limits, not for %s", ag_limit_rows[i].flag,
                              verb);
    return AG_OK;
}

static int create_body(const keys_job *j, ag_buf *b, ag_err *err)
{
    uint64_t expires = 0;
    if (j->tenant == NULL) return ag_err_set(err, AG_E_USAGE, "--tenant is missing: whose key is it?");
    if (j->expires && expires_of(j->expires, &expires, err) != AG_OK) return err->code;
    ag_buf_addc(b, '{');
    add_text(b, "tenant", j->tenant);
    add_text(b, "share", j->share);
    add_text(b, "cache", j->cache);
    add_text(b, "name", j->name);
    add_list(b, "roles", j->roles);
    add_list(b, "models", j->models);
    ag_buf_addf(b, ",\"most_urgent_band\":%u", j->band == BAND_UNSET ? 0 : j->band);
    if (j->weight > 0) ag_buf_addf(b, ",\"weight\":%g", (double)j->weight);
    if (expires) ag_buf_addf(b, ",\"expires_at\":%llu", (unsigned long long)expires);
    ag_buf_addz(b, ",\"limits\":");
    add_limits(b, j);
    ag_buf_addc(b, '}');
    return b->failed ? ag_err_set(err, AG_E_NOMEM, "no memory for the question") : AG_OK;
}

/* Answers, for people. */

static const char *text_at(const json_t *o, const char *name)
{
    const char *z = json_string_value(json_object_get(o, name));
    return z ? z : "-";
}

static const char *day_at(const json_t *o, const char *name, char day[AG_KEYS_DAY_BYTES + 1])
{
    json_t *v = json_object_get(o, name);
    if (!json_is_integer(v)) return "-";
    ag_keys_day((uint64_t)json_integer_value(v), day);
    return day;
}

static void print_limits(const json_t *limits)
{
    const char *name, *comma = "";
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)limits, name, v)
    {
        printf("%s%s=%lld", comma, name, (long long)json_integer_value(v));
        comma = " ";
    }
    puts(*comma ? "" : "none");
}

static void print_key(const json_t *k)
{
    char made[AG_KEYS_DAY_BYTES + 1], ends[AG_KEYS_DAY_BYTES + 1], roles[64] = "";
    size_t i;
    json_t *role;
    json_array_foreach(json_object_get(k, "roles"), i, role)
        snprintf(roles + strlen(roles), sizeof roles - strlen(roles), "%s%s", i ? "," : "", json_string_value(role));
    bool revoked = json_is_integer(json_object_get(k, "revoked_at"));
    printf("%-12s  %-16s  %-16s  %-5s  %-16s  %-15s  %-10s  %-10s  ", text_at(k, "id"), text_at(k, "tenant"),
           text_at(k, "share"), text_at(k, "cache"), text_at(k, "name"), roles, day_at(k, "created_at", made),
           revoked ? "revoked" : day_at(k, "expires_at", ends));
    print_limits(json_object_get(k, "limits"));
}

static void print_answer(const keys_job *j, ag_keys_verb verb, const json_t *o)
{
    size_t i;
    json_t *one, *data = json_object_get(o, "data");
    if (verb == AG_KEYS_CREATE || verb == AG_KEYS_ROTATE) {
        puts(text_at(o, "key"));
        fprintf(stderr, "autoglm %s: the key %s of tenant '%s'; it is shown this once\n", j->command, text_at(o, "id"),
                text_at(o, "tenant"));
    } else if (verb == AG_KEYS_REVOKE) {
        fprintf(stderr, "autoglm %s: the key %s of tenant '%s' is revoked\n", j->command, text_at(o, "id"),
                text_at(o, "tenant"));
    } else if (verb == AG_KEYS_LIST) {
        printf("%-12s  %-16s  %-16s  %-5s  %-16s  %-15s  %-10s  %-10s  %s\n", "id", "tenant", "shares", "cache",
               "name", "roles", "made", "expires", "limits");
        json_array_foreach(data, i, one) print_key(one);
    } else if (verb == AG_KEYS_LIMITS_LIST) {
        json_array_foreach(data, i, one)
        {
            printf("%-32s  ", text_at(one, "subject"));
            print_limits(json_object_get(one, "limits"));
        }
    } else {
        printf("%-32s  ", text_at(o, "subject"));
        print_limits(json_object_get(o, "limits"));
    }
}

static int ask_file(const keys_job *j, const ag_keys_ask *ask, ag_buf *out, ag_err *err)
{
    ag_keys_db *db = NULL;
    int rc = ag_keys_db_open(&db, j->db, j->secret, err);
    if (rc == AG_OK) rc = ag_keys_admin(db, ask, out, err);
    ag_keys_db_close(db);
    return rc;
}

static int answer(const keys_job *j, const ag_keys_ask *ask, ag_err *err)
{
    ag_buf out;
    json_error_t e;
    ag_buf_init(&out, AG_KEYS_ANSWER_BYTES);
    int rc = j->url ? ag_keys_http(j->url, getenv("AUTOGLM_API_KEY"), ask, &out, err) : ask_file(j, ask, &out, err);
    json_t *o = rc == AG_OK ? json_loadb(out.p, out.n, 0, &e) : NULL;
    if (rc == AG_OK && o == NULL) rc = ag_err_set(err, AG_E_JSON, "the answer is not JSON: %s", e.text);
    if (rc == AG_OK && j->json) printf("%.*s\n", (int)out.n, out.p);
    else if (rc == AG_OK) print_answer(j, ask->verb, o);
    json_decref(o);
    ag_buf_fini(&out);
    return rc;
}

static int run(keys_job *j, const char *verb, const char *arg, ag_err *err)
{
    ag_buf body;
    char subject[AG_KEYS_MODEL_MAX + 16];
    ag_keys_ask ask = {.id = arg};
    ag_buf_init(&body, AG_KEYS_ASK_BYTES);
    int rc = AG_OK;
    bool create = strcmp(verb, "create") == 0, list = strcmp(verb, "list") == 0, rotate = strcmp(verb, "rotate") == 0,
         revoke = strcmp(verb, "revoke") == 0, limits = strcmp(verb, "limits") == 0;
    if (!create && !list && !rotate && !revoke && !limits)
        rc = ag_err_set(err, AG_E_USAGE, "'%s' is none of create, list, rotate, revoke and limits", verb);
    else if ((create || list) && arg) rc = ag_err_set(err, AG_E_USAGE, "'%s' is one argument too many", arg);
    else if ((rotate || revoke) && arg == NULL) rc = ag_err_set(err, AG_E_USAGE, "which key? list shows their ids");
    else if (j->db == NULL && j->url == NULL)
        rc = ag_err_set(err, AG_E_USAGE, "--db FILE or --url URL is missing: the server's --keys-db, or its address");
    if (rc == AG_OK) rc = check_options(j, verb, create, limits, err);
    if (rc == AG_OK && create) rc = create_body(j, &body, err);
    if (rc == AG_OK && limits) {
        bool set = add_limits(&body, j) > 0;
        snprintf(subject, sizeof subject, "%s%s", arg && strchr(arg, ':') == NULL ? "key:" : "", arg ? arg : "");
        ask.id = subject;
        if (set && arg == NULL)
            rc = ag_err_set(err, AG_E_USAGE, "whose limits? name a key's id, tenant:NAME or the like");
        ask.verb = set ? AG_KEYS_LIMITS_SET : arg ? AG_KEYS_LIMITS_GET : AG_KEYS_LIMITS_LIST;
    }
    if (!limits) ask.verb = create ? AG_KEYS_CREATE : list ? AG_KEYS_LIST : rotate ? AG_KEYS_ROTATE : AG_KEYS_REVOKE;
    ask.body = ag_buf_str(&body);
    if (rc == AG_OK) rc = answer(j, &ask, err);
    ag_buf_fini(&body);
    return rc;
}

int ag_cmd_keys(int argc, char **argv)
{
    keys_job j = {.command = argv[0], .db = getenv("AUTOGLM_KEYS_DB"), .secret = getenv("AUTOGLM_KEYS_SECRET"),
                  .band = BAND_UNSET};
    for (uint32_t i = 0; i < AG_LIMIT_COUNT; i++) j.limits[i] = AG_LIMIT_UNSET;
    ag_opt opts[13 + AG_LIMIT_COUNT] = {
        {"db", 0, AG_OPT_TEXT, &j.db, 0, 0, "the file of keys, the server's --keys-db (also AUTOGLM_KEYS_DB)"},
        {"url", 0, AG_OPT_TEXT, &j.url, 0, 0,
         "a running server's address in its place; AUTOGLM_API_KEY is an admin's key"},
        {"keys-secret", 0, AG_OPT_TEXT, &j.secret, 0, 0,
         "the secret that they are hashed under; FILE.secret where not said"},
        {"json", 0, AG_OPT_FLAG, &j.json, 0, 0, "the answer as JSON, as the admin API gives it"},
        {"tenant", 0, AG_OPT_TEXT, &j.tenant, 0, 0, "create: whose key it is"},
        {"share", 0, AG_OPT_TEXT, &j.share, 0, 0,
         "create: a group whose tenants find each other's prompts in the caches; none where not said"},
        {"cache", 0, AG_OPT_TEXT, &j.cache, 0, 0,
         "create: use or off: whether its answers are cached where a request says nothing; as each is where not said"},
        {"name", 0, AG_OPT_TEXT, &j.name, 0, 0, "create: what people call it"},
        {"roles", 0, AG_OPT_TEXT, &j.roles, 0, 0, "create: inference (the default), admin, or both with a comma"},
        {"models", 0, AG_OPT_TEXT, &j.models, 0, 0, "create: the models it may use, with commas; all where not said"},
        {"band", 0, AG_OPT_U32, &j.band, 0, AG_KEY_BANDS - 1, "create: the most urgent priority it may ask for; 0"},
        {"weight", 0, AG_OPT_F32, &j.weight, AG_KEY_WEIGHT_MIN, AG_KEY_WEIGHT_MAX,
         "create: its tenant's share of the engine"},
        {"expires", 0, AG_OPT_TEXT, &j.expires, 0, 0,
         "create: 12h, 30d or a day such as 2026-12-31; never where not said"},
    };
    uint32_t n = 13;
    for (uint32_t i = 0; i < AG_LIMIT_COUNT; i++)
        opts[n++] = (ag_opt){ag_limit_rows[i].flag, 0, AG_OPT_U64, &j.limits[i], 0, (double)ag_limit_rows[i].max,
                             ag_limit_rows[i].what};
    ag_cli cli = {
        .usage = "keys create|list|rotate|revoke|limits [ID] --db FILE|--url URL [OPTIONS]",
        .about =
            "Makes, lists and ends the keys that a server with --keys-db FILE lets in. create and rotate print the "
            "key,\n"
            "which is kept as a hash only and never shown again; a server knows of a change within a second.\n"
            "limits shows all limits, or those of a key's ID, tenant:NAME, model:NAME, tenant:*, model:* or address:*\n"
            "(* is each that has none of its own), and sets those that are given, 0 for none.",
        .opts = opts,
        .n_opts = n,
        .args_min = 1,
        .args_max = 2};
    int status;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        status =
            run(&j, cli.args[0], cli.n_args > 1 ? cli.args[1] : NULL, &err) == AG_OK ? 0 : ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    return status;
}
