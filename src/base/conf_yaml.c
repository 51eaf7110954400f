#include <errno.h>
#include <yaml.h>

#include "base/conf_priv.h"
#include "base/fault.h"
#include "base/near.h"

/* A settings file is read event by event, by functions one below the other (document, group, setting, list), so it can
 * be no deeper than they are and nothing is built for what will be refused. */
typedef struct reader {
    ag_conf *c;
    const char *path;
    yaml_parser_t parser;
    bool seen[AG_CONF_COUNT]; /* a setting given twice is a mistake, not a choice */
    ag_err *err;
} reader;

static int fail(reader *r, size_t line, const char *what)
{
    return ag_err_set(r->err, AG_E_USAGE, "%s:%zu: %s", r->path, line, what);
}

static size_t line_of(const yaml_event_t *e) { return e->start_mark.line + 1; }

/* *e is valid, and to be deleted, only when this returns 0. */
static int next(reader *r, yaml_event_t *e)
{
    if (yaml_parser_parse(&r->parser, e)) {
        if (e->type != YAML_ALIAS_EVENT) return AG_OK;
        int rc = fail(r, line_of(e), "aliases (*name) are not taken here");
        yaml_event_delete(e);
        return rc;
    }
    if (r->parser.error == YAML_MEMORY_ERROR)
        return ag_err_set(r->err, AG_E_NOMEM, "%s: no memory to read it", r->path);
    char sentence[200];
    snprintf(sentence, sizeof sentence, "not YAML: %s", r->parser.problem ? r->parser.problem : "unreadable");
    return fail(r, r->parser.problem_mark.line + 1, sentence);
}

static ag_str scalar(const yaml_event_t *e)
{
    if (e->type != YAML_SCALAR_EVENT) return (ag_str){NULL, 0};
    return (ag_str){(const char *)e->data.scalar.value, e->data.scalar.length};
}

static int unknown(reader *r, size_t line, ag_str group, ag_str key)
{
    char name[160], sentence[320];
    ag_near near;
    snprintf(name, sizeof name, "%.*s%s%.*s", (int)AG_MIN(group.n, (size_t)60), group.n ? group.p : "",
             key.p ? "." : "", (int)AG_MIN(key.n, (size_t)60), key.n ? key.p : "");
    ag_near_begin(&near, key.p ? key : group);
    for (ag_conf_id i = 0; i < AG_CONF_COUNT; i++) {
        const ag_conf_row *row = ag_conf_row_at(i);
        if (row->from == AG_CONF_ANY && (key.p == NULL || ag_str_eqz(group, row->group)))
            ag_near_try(&near, key.p ? row->flag : row->group);
    }
    if (near.best) snprintf(sentence, sizeof sentence, "%s: no such setting; did you mean %s?", name, near.best);
    else snprintf(sentence, sizeof sentence, "%s: no such setting; docs/settings.md lists what there is", name);
    return fail(r, line, sentence);
}

/* The items of a list, whose opening bracket has been read, as one comma-separated text. */
static int list(reader *r, size_t line, ag_buf *out)
{
    for (;;) {
        yaml_event_t e;
        int rc = next(r, &e);
        if (rc != AG_OK) return rc;
        ag_str s = scalar(&e);
        bool end = e.type == YAML_SEQUENCE_END_EVENT;
        if (!end && s.p == NULL) rc = fail(r, line_of(&e), "the items of a list must be plain values");
        else if (!end && s.n && memchr(s.p, ',', s.n)) rc = fail(r, line_of(&e), "an item of a list may hold no comma");
        if (!end && rc == AG_OK) {
            if (out->n) ag_buf_addc(out, ',');
            ag_buf_add(out, s.p, s.n);
        }
        yaml_event_delete(&e);
        if (rc == AG_OK && out->failed) rc = fail(r, line, "the list is too long");
        if (end || rc != AG_OK) return rc;
    }
}

static int value(reader *r, const ag_conf_row *row, ag_conf_id id)
{
    yaml_event_t e;
    int rc = next(r, &e);
    if (rc != AG_OK) return rc;
    ag_buf items;
    ag_buf_init(&items, AG_MAX(row->max, (uint64_t)64));
    char source[512];
    snprintf(source, sizeof source, "%s:%zu: %s.%s", r->path, line_of(&e), row->group, row->flag);
    if (e.type == YAML_SCALAR_EVENT) {
        rc = ag_conf_set(r->c, id, source, scalar(&e), r->err);
    } else if (e.type == YAML_SEQUENCE_START_EVENT && row->type == AG_CONF_TYPE_list) {
        rc = list(r, line_of(&e), &items);
        if (rc == AG_OK) rc = ag_conf_set(r->c, id, source, ag_buf_str(&items), r->err);
    } else {
        rc = fail(r, line_of(&e), "a single plain value is wanted here");
    }
    ag_buf_fini(&items);
    yaml_event_delete(&e);
    return rc;
}

static int setting(reader *r, ag_str group, const yaml_event_t *key_event)
{
    ag_str key = scalar(key_event);
    size_t line = line_of(key_event);
    if (key.p == NULL) return fail(r, line, "a setting's name must be a plain word");
    ag_conf_id id = 0;
    while (id < AG_CONF_COUNT &&
           !(ag_str_eqz(group, ag_conf_row_at(id)->group) && ag_str_eqz(key, ag_conf_row_at(id)->flag)))
        id++;
    if (id == AG_CONF_COUNT) return unknown(r, line, group, key);
    const ag_conf_row *row = ag_conf_row_at(id);
    if (row->from == AG_CONF_ENV) return fail(r, line, "a secret belongs into the environment, not into a file");
    if (row->from == AG_CONF_CLI) return fail(r, line, "a settings file cannot name another one");
    if (r->seen[id]) return fail(r, line, "this setting was given before");
    r->seen[id] = true;
    return value(r, row, id);
}

/* Calls `each` for every key of a mapping that has been opened. */
static int members(reader *r, ag_str outer, int (*each)(reader *, ag_str, const yaml_event_t *))
{
    for (;;) {
        yaml_event_t key;
        int rc = next(r, &key);
        if (rc != AG_OK) return rc;
        bool end = key.type == YAML_MAPPING_END_EVENT;
        if (!end) rc = each(r, outer, &key);
        yaml_event_delete(&key);
        if (end || rc != AG_OK) return rc;
    }
}

static int group(reader *r, ag_str none, const yaml_event_t *key_event)
{
    ag_str name = scalar(key_event);
    bool known = false;
    for (ag_conf_id i = 0; i < AG_CONF_COUNT; i++)
        known = known || (name.p && ag_str_eqz(name, ag_conf_row_at(i)->group));
    if (!known) return unknown(r, line_of(key_event), name, none);
    yaml_event_t e;
    int rc = next(r, &e);
    if (rc != AG_OK) return rc;
    if (e.type == YAML_MAPPING_START_EVENT) rc = members(r, name, setting);
    else if (e.type != YAML_SCALAR_EVENT || e.data.scalar.length)
        rc = fail(r, line_of(&e), "a group holds `key: value` lines");
    yaml_event_delete(&e);
    return rc;
}

static int document(reader *r)
{
    for (unsigned documents = 0;;) {
        yaml_event_t e;
        int rc = next(r, &e);
        if (rc != AG_OK) return rc;
        yaml_event_type_t type = e.type;
        size_t line = line_of(&e);
        bool nothing = type == YAML_SCALAR_EVENT && e.data.scalar.length == 0;
        yaml_event_delete(&e);
        if (type == YAML_STREAM_END_EVENT) return AG_OK;
        if (type == YAML_DOCUMENT_START_EVENT && ++documents > 1) rc = fail(r, line, "one document is enough");
        else if (type == YAML_MAPPING_START_EVENT) rc = members(r, (ag_str){NULL, 0}, group);
        else if ((type == YAML_SCALAR_EVENT && !nothing) || type == YAML_SEQUENCE_START_EVENT)
            rc = fail(r, line, "a settings file holds groups such as `server:` with keys in them");
        if (rc != AG_OK) return rc;
    }
}

static int parse(ag_conf *c, const char *path, const char *text, size_t n, ag_err *err)
{
    reader r = {.c = c, .path = path, .err = err};
    if (!yaml_parser_initialize(&r.parser)) return ag_err_set(err, AG_E_NOMEM, "%s: no memory to read it", path);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n);
    int rc = document(&r);
    yaml_parser_delete(&r.parser);
    return rc;
}

int ag__conf_file(ag_conf *c, const char *path, ag_err *err)
{
    int rc;
    FILE *f = ag_fault_hit(AG_FAULT_OPEN) ? NULL : fopen(path, "rbe");
    if (f == NULL) return ag_err_set(err, AG_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    ag_buf text;
    ag_buf_init(&text, AG_CONF_FILE_MAX + 4096);
    for (size_t got = 1; got && text.n <= AG_CONF_FILE_MAX && ag_buf_room(&text, 4096);) {
        got = fread(text.p + text.n, 1, 4096, f);
        text.n += got;
    }
    if (ferror(f) || ag_fault_hit(AG_FAULT_READ))
        rc = ag_err_set(err, AG_E_IO, "%s: cannot be read: %s", path, strerror(errno));
    else if (text.failed) rc = ag_err_set(err, AG_E_NOMEM, "%s: no memory to read it", path);
    else if (text.n > AG_CONF_FILE_MAX)
        rc = ag_err_set(err, AG_E_USAGE, "%s: over %u bytes; a settings file is smaller", path, AG_CONF_FILE_MAX);
    else rc = parse(c, path, text.p, text.n, err);
    ag_buf_fini(&text);
    fclose(f);
    return rc;
}
