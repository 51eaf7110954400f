#include "gateway/dialects/schema.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>

#include "base/utf8.h"
#include "gateway/dialects/fields.h"
#include "gateway/dialects/pb.h"

/* What protoc made of proto/, taken in by the assembler. */
extern const char ag__schema_set[], ag__schema_set_end[];
__asm__(".pushsection .rodata\n"
        ".global ag__schema_set, ag__schema_set_end\n"
        "ag__schema_set: .incbin \"" AG_SCHEMA_FILE "\"\n"
        "ag__schema_set_end: .byte 0\n"
        ".popsection");

#define FILES_MAX 8
#define MESSAGES_MAX 96
#define FIELDS_MAX 320
#define NAME_BYTES 96
/* Requests' messages do not hold themselves, so this is more than any can be deep. */
#define DEPTH_MAX 16

/* Fields of descriptor.proto. */
enum { SET_FILE = 1, FILE_NAME = 1, FILE_PACKAGE = 2, FILE_MESSAGE = 4, FILE_ENUM = 5, FILE_SERVICE = 6,
       MESSAGE_NAME = 1, MESSAGE_FIELD = 2, MESSAGE_NESTED = 3, MESSAGE_ENUM = 4, MESSAGE_OPTIONS = 7, OPTION_MAP = 7,
       FIELD_NAME = 1, FIELD_NUMBER = 3, FIELD_LABEL = 4, FIELD_KIND = 5, FIELD_TYPE_NAME = 6, LABEL_REPEATED = 3,
       SERVICE_METHOD = 2, ENUM_VALUE = 2 };

typedef enum kind { /* of a field, those that proto/ uses */
    KIND_DOUBLE = 1, KIND_FLOAT = 2, KIND_INT64 = 3, KIND_UINT64 = 4, KIND_INT32 = 5, KIND_BOOL = 8, KIND_STRING = 9,
    KIND_MESSAGE = 11, KIND_BYTES = 12, KIND_UINT32 = 13, KIND_ENUM = 14
} kind;

typedef struct field {
    ag_str name, type; /* type: of a message, its full name */
    uint32_t number;
    kind kind;
    bool repeated;
    const ag_schema_message *message;
} field;

struct ag_schema_message {
    char name[NAME_BYTES];
    bool map;
    const field *fields;
    uint32_t n_fields;
};

static ag_schema_file files[FILES_MAX];
static ag_schema_message messages[MESSAGES_MAX];
static field fields[FIELDS_MAX];
static uint32_t n_files, n_messages, n_fields;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The descriptors are our own. */
static bool next(ag_str *rest, ag_pb_item *out)
{
    int rc = ag_pb_next(rest, out);
    AG_ASSERT(rc >= 0);
    return rc > 0;
}

static void load_field(ag_str bytes)
{
    AG_ASSERT(n_fields < FIELDS_MAX);
    field *f = &fields[n_fields++];
    for (ag_pb_item item; next(&bytes, &item);) {
        switch (item.field) {
        case FIELD_NAME: f->name = item.bytes; break;
        case FIELD_NUMBER: f->number = (uint32_t)item.number; break;
        case FIELD_LABEL: f->repeated = item.number == LABEL_REPEATED; break;
        case FIELD_KIND: f->kind = (kind)item.number; break;
        case FIELD_TYPE_NAME: f->type = (ag_str){item.bytes.p + 1, item.bytes.n - 1}; break; /* it begins with '.' */
        }
    }
}

static bool is_map(ag_str options)
{
    bool map = false;
    for (ag_pb_item item; next(&options, &item);) map = map || (item.field == OPTION_MAP && item.number);
    return map;
}

static void load_message(ag_str scope, ag_str bytes)
{
    AG_ASSERT(n_messages < MESSAGES_MAX);
    ag_schema_message *m = &messages[n_messages++];
    ag_str name = ag_pb_find(bytes, MESSAGE_NAME), rest = bytes;
    int n = snprintf(m->name, sizeof m->name, "%.*s.%.*s", (int)scope.n, scope.p, (int)name.n, name.p);
    AG_ASSERT(n > 0 && (size_t)n < sizeof m->name);
    m->map = is_map(ag_pb_find(bytes, MESSAGE_OPTIONS));
    m->fields = &fields[n_fields];
    for (ag_pb_item item; next(&rest, &item);)
        if (item.field == MESSAGE_FIELD) load_field(item.bytes);
    m->n_fields = (uint32_t)(&fields[n_fields] - m->fields);
    for (ag_pb_item item; next(&bytes, &item);)
        if (item.field == MESSAGE_NESTED) load_message(ag_str_of(m->name), item.bytes);
}

static void load_file(ag_str bytes)
{
    AG_ASSERT(n_files < FILES_MAX);
    files[n_files++] = (ag_schema_file){ag_pb_find(bytes, FILE_NAME), bytes};
    ag_str package = ag_pb_find(bytes, FILE_PACKAGE);
    for (ag_pb_item item; next(&bytes, &item);)
        if (item.field == FILE_MESSAGE) load_message(package, item.bytes);
}

static const ag_schema_message *find(ag_str name)
{
    uint32_t i = 0;
    while (i < n_messages && !ag_str_eqz(name, messages[i].name)) i++;
    AG_ASSERT(i < n_messages);
    return &messages[i];
}

static void load(void)
{
    ag_str set = {ag__schema_set, (size_t)(ag__schema_set_end - ag__schema_set)};
    for (ag_pb_item item; next(&set, &item);)
        if (item.field == SET_FILE) load_file(item.bytes);
    for (uint32_t i = 0; i < n_fields; i++)
        if (fields[i].kind == KIND_MESSAGE) fields[i].message = find(fields[i].type);
}

const ag_schema_message *ag_schema_find(const char *full_name)
{
    pthread_once(&once, load);
    return find(ag_str_of(full_name));
}

/* Messages as JSON. */

typedef struct reader {
    uint32_t items;
    ag_err *err;
} reader;

static int no_memory(reader *x)
{
    return ag_err_set(x->err, AG_E_NOMEM, "The server has no memory left for this request.");
}

static int malformed(reader *x, const char *name)
{
    return ag_request_fail(x->err, AG_E_PROTOBUF, name, "'%s' does not have the type that its message gives it.", name);
}

static int read_message(reader *x, const ag_schema_message *m, ag_str bytes, json_t *to, int depth);

static json_t *integer(kind k, uint64_t bits)
{
    switch (k) {
    case KIND_BOOL: return json_boolean(bits != 0);
    case KIND_INT32:
    case KIND_ENUM: return json_integer((int32_t)bits);
    case KIND_UINT32: return json_integer((uint32_t)bits);
    case KIND_UINT64: return json_integer((json_int_t)AG_MIN(bits, (uint64_t)INT64_MAX));
    default: return json_integer((json_int_t)bits);
    }
}

static double real(kind k, uint64_t bits)
{
    uint32_t low = (uint32_t)bits;
    float f;
    double d;
    memcpy(&f, &low, sizeof f);
    memcpy(&d, &bits, sizeof d);
    return k == KIND_FLOAT ? (double)f : d;
}

static ag_pb_wire wire_of(kind k)
{
    switch (k) {
    case KIND_DOUBLE: return AG_PB_64;
    case KIND_FLOAT: return AG_PB_32;
    case KIND_STRING:
    case KIND_BYTES:
    case KIND_MESSAGE: return AG_PB_BYTES;
    default: return AG_PB_VARINT;
    }
}

static int read_text(reader *x, const field *f, const char *name, ag_str s, json_t **out)
{
    if (f->kind == KIND_STRING && ag_utf8_check(s.p, s.n) != SIZE_MAX)
        return ag_request_fail(x->err, AG_E_UTF8, name, "'%s' is not UTF-8.", name);
    if (s.n > ag__json_limits()->string_bytes)
        return ag_request_fail(x->err, AG_E_LIMIT, name, "'%s' is longer than %llu bytes.", name,
                               (unsigned long long)ag__json_limits()->string_bytes);
    *out = json_stringn_nocheck(s.n ? s.p : "", s.n);
    return *out ? AG_OK : no_memory(x);
}

static int read_value(reader *x, const field *f, const char *name, const ag_pb_item *item, int depth, json_t **out)
{
    if (item->wire != wire_of(f->kind)) return malformed(x, name);
    switch (f->kind) {
    case KIND_STRING:
    case KIND_BYTES: return read_text(x, f, name, item->bytes, out);
    case KIND_MESSAGE:
        if ((*out = json_object()) == NULL) return no_memory(x);
        return read_message(x, f->message, item->bytes, *out, depth + 1);
    case KIND_FLOAT:
    case KIND_DOUBLE:
        if (!isfinite(real(f->kind, item->number)))
            return ag_request_fail(x->err, AG_E_PARAM, name, "'%s' must be a number.", name);
        *out = json_real(real(f->kind, item->number));
        break;
    default: *out = integer(f->kind, item->number); break;
    }
    return *out ? AG_OK : no_memory(x);
}

/* {"key", "value"} into the object that the map is; absent ones are zero. */
static int add_entry(reader *x, json_t *map, json_t *entry)
{
    char number[24] = "0";
    const json_t *key = json_object_get(entry, "key");
    json_t *value = json_object_get(entry, "value");
    if (json_is_integer(key)) snprintf(number, sizeof number, "%lld", (long long)json_integer_value(key));
    const char *name = json_is_string(key) ? json_string_value(key) : number;
    if (strlen(name) != (json_is_string(key) ? json_string_length(key) : strlen(number)))
        return ag_err_set(x->err, AG_E_PARAM, "A key of a map holds a NUL.");
    int rc = value ? json_object_set(map, name, value) : json_object_set_new(map, name, json_integer(0));
    return rc == 0 ? AG_OK : no_memory(x);
}

/* What `to` has under this name, made when it is not there; NULL: no memory. */
static json_t *member(json_t *to, const char *name, bool object)
{
    json_t *v = json_object_get(to, name);
    if (v == NULL && json_object_set_new(to, name, object ? json_object() : json_array()) != 0) return NULL;
    return json_object_get(to, name);
}

static int count(reader *x)
{
    if (++x->items <= ag__json_limits()->items) return AG_OK;
    return ag_err_set(x->err, AG_E_LIMIT, "The message holds more than %u values.", ag__json_limits()->items);
}

static int add_repeated(reader *x, const field *f, const char *name, json_t *to, json_t *v)
{
    bool map = f->message && f->message->map;
    json_t *all = member(to, name, map);
    if (all == NULL) return no_memory(x);
    if (map) return add_entry(x, all, v);
    return json_array_append(all, v) == 0 ? AG_OK : no_memory(x);
}

static int read_packed(reader *x, const field *f, const char *name, ag_str bytes, json_t *to)
{
    ag_pb_item item = {.wire = AG_PB_VARINT};
    if (wire_of(f->kind) != AG_PB_VARINT) return malformed(x, name); /* proto/ has no array of fractions to read */
    while (bytes.n) {
        json_t *v = NULL;
        if (!ag_pb_varint(&bytes, &item.number)) return malformed(x, name);
        int rc = count(x);
        if (rc == AG_OK) rc = read_value(x, f, name, &item, 0, &v);
        if (rc == AG_OK) rc = add_repeated(x, f, name, to, v);
        json_decref(v);
        if (rc != AG_OK) return rc;
    }
    return AG_OK;
}

/* JSON in a string, under the name without "_json". */
static int read_json(reader *x, const char *name, json_t *text, json_t *to)
{
    ag_err e = {0};
    char plain[NAME_BYTES];
    json_t *v = NULL;
    snprintf(plain, sizeof plain, "%.*s", (int)(strlen(name) - strlen("_json")), name);
    int rc = ag__json_load(json_string_value(text), json_string_length(text), &v, &e);
    if (rc == AG_E_NOMEM) return no_memory(x);
    if (rc != AG_OK) return ag_request_fail(x->err, rc, name, "'%s' must be JSON. %s", name, e.text);
    return json_object_set_new(to, plain, v) == 0 ? AG_OK : no_memory(x);
}

static bool is_json(const field *f)
{
    return f->kind == KIND_STRING && f->name.n > 5 && memcmp(f->name.p + f->name.n - 5, "_json", 5) == 0;
}

static int read_field(reader *x, const field *f, const ag_pb_item *item, json_t *to, int depth)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%.*s", (int)f->name.n, f->name.p);
    if (f->repeated && item->wire == AG_PB_BYTES && wire_of(f->kind) != AG_PB_BYTES)
        return read_packed(x, f, name, item->bytes, to);
    json_t *v = NULL;
    int rc = read_value(x, f, name, item, depth, &v);
    if (rc == AG_OK && f->repeated) rc = add_repeated(x, f, name, to, v);
    else if (rc == AG_OK && is_json(f)) rc = read_json(x, name, v, to);
    else if (rc == AG_OK && json_object_set(to, name, v) != 0) rc = no_memory(x);
    json_decref(v);
    return rc;
}

static const field *find_field(const ag_schema_message *m, uint32_t number)
{
    for (uint32_t i = 0; i < m->n_fields; i++)
        if (m->fields[i].number == number) return &m->fields[i];
    return NULL;
}

static int read_message(reader *x, const ag_schema_message *m, ag_str bytes, json_t *to, int depth)
{
    ag_pb_item item;
    int rc, found;
    if (depth > DEPTH_MAX)
        return ag_err_set(x->err, AG_E_LIMIT, "The message is nested deeper than %d levels.", DEPTH_MAX);
    while ((found = ag_pb_next(&bytes, &item)) > 0) {
        const field *f = find_field(m, item.field);
        char unknown[24];
        if ((rc = count(x)) != AG_OK) return rc;
        snprintf(unknown, sizeof unknown, "field_%u", item.field);
        if (f) rc = read_field(x, f, &item, to, depth);
        else if (depth == 0 && json_object_set_new(to, unknown, json_true()) != 0) rc = no_memory(x);
        if (rc != AG_OK) return rc;
    }
    if (found == 0) return AG_OK;
    return ag_err_set(x->err, AG_E_PROTOBUF, "The message is no valid %s: %zu bytes before its end.", m->name, bytes.n);
}

int ag_schema_to_json(const ag_schema_message *m, ag_str bytes, json_t **out, ag_err *err)
{
    reader x = {.err = err};
    json_t *object = json_object();
    if (object == NULL) return no_memory(&x);
    int rc = read_message(&x, m, bytes, object, 0);
    if (rc == AG_OK) *out = object;
    else json_decref(object);
    return rc;
}

/* Reflection. */

uint32_t ag_schema_files(const ag_schema_file **out)
{
    pthread_once(&once, load);
    *out = files;
    return n_files;
}

const ag_schema_file *ag_schema_file_named(ag_str name)
{
    pthread_once(&once, load);
    for (uint32_t i = 0; i < n_files; i++)
        if (ag_str_eq(name, files[i].name)) return &files[i];
    return NULL;
}

/* Which fields of a descriptor declare names, and of what kind they are. */
typedef enum scope { SCOPE_FILE, SCOPE_MESSAGE, SCOPE_ENUM, SCOPE_SERVICE, SCOPE_LEAF } scope;
static const struct { scope in; uint32_t field; scope is; } declares[] = {
    {SCOPE_FILE, FILE_MESSAGE, SCOPE_MESSAGE},   {SCOPE_FILE, FILE_ENUM, SCOPE_ENUM},
    {SCOPE_FILE, FILE_SERVICE, SCOPE_SERVICE},   {SCOPE_MESSAGE, MESSAGE_FIELD, SCOPE_LEAF},
    {SCOPE_MESSAGE, MESSAGE_NESTED, SCOPE_MESSAGE}, {SCOPE_MESSAGE, MESSAGE_ENUM, SCOPE_ENUM},
    {SCOPE_SERVICE, SERVICE_METHOD, SCOPE_LEAF}, {SCOPE_ENUM, ENUM_VALUE, SCOPE_LEAF},
};

/* Whether what is left of `symbol` is declared below. */
static bool is_declared(ag_str descriptor, scope in, ag_str symbol)
{
    for (ag_pb_item item; next(&descriptor, &item);) {
        scope is = SCOPE_FILE;
        for (size_t i = 0; i < AG_ARRAY_LEN(declares); i++)
            if (declares[i].in == in && declares[i].field == item.field) is = declares[i].is;
        if (is == SCOPE_FILE) continue;
        ag_str name = ag_pb_find(item.bytes, MESSAGE_NAME); /* all have theirs in field 1 */
        if (ag_str_eq(symbol, name)) return true;
        if (is == SCOPE_LEAF || !ag_str_starts(symbol, name) || symbol.p[name.n] != '.') continue;
        if (is_declared(item.bytes, is, (ag_str){symbol.p + name.n + 1, symbol.n - name.n - 1})) return true;
    }
    return false;
}

const ag_schema_file *ag_schema_file_declaring(ag_str symbol)
{
    pthread_once(&once, load);
    for (uint32_t i = 0; i < n_files; i++) {
        ag_str package = ag_pb_find(files[i].bytes, FILE_PACKAGE);
        if (!ag_str_starts(symbol, package) || symbol.n <= package.n || symbol.p[package.n] != '.') continue;
        ag_str rest = {symbol.p + package.n + 1, symbol.n - package.n - 1};
        if (is_declared(files[i].bytes, SCOPE_FILE, rest)) return &files[i];
    }
    return NULL;
}

bool ag_schema_service(uint32_t index, char name[128])
{
    pthread_once(&once, load);
    for (uint32_t i = 0; i < n_files; i++) {
        ag_str rest = files[i].bytes, package = ag_pb_find(rest, FILE_PACKAGE);
        for (ag_pb_item item; next(&rest, &item);) {
            if (item.field != FILE_SERVICE || index-- != 0) continue;
            ag_str own = ag_pb_find(item.bytes, MESSAGE_NAME);
            snprintf(name, 128, "%.*s.%.*s", (int)package.n, package.p, (int)own.n, own.p);
            return true;
        }
    }
    return false;
}
