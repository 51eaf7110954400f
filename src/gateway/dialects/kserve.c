#include "gateway/dialects/kserve.h"

#include <stdio.h>

#include "base/utf8.h"
#include "gateway/dialects/fields.h"
#include "gateway/dialects/grpc.h"
#include "gateway/dialects/grpc_wire.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/pb.h"

/* The numbers of ModelInferResponse in proto/grpc_predict_v2.proto. */
enum { INFER_MODEL = 1, INFER_VERSION = 2, INFER_ID = 3, INFER_OUTPUTS = 5, INFER_RAW = 6,
       TENSOR_NAME = 1, TENSOR_TYPE = 2, TENSOR_SHAPE = 3, TENSOR_CONTENTS = 5, CONTENTS_BYTES = 8 };

#define TYPE "BYTES" /* of a tensor of texts */
#define RAW_LENGTH 4 /* bytes ahead of a text in raw contents, its length, the lowest first */

/* Requests. */

static ag_str bytes_of(const json_t *string) { return (ag_str){json_string_value(string), json_string_length(string)}; }

/* A text that may be left out, or empty, which is the same. */
static int text_of(ag_request *r, const json_t *v, const char *field, ag_str *out, ag_err *err)
{
    *out = (ag_str){0};
    if (v == NULL || json_is_null(v)) return AG_OK;
    if (!json_is_string(v)) return ag__wrong_type(err, field, "a string", v);
    if (json_string_length(v) == 0) return AG_OK;
    *out = (ag_str){ag_arena_strndup(&r->mem, json_string_value(v), json_string_length(v)), json_string_length(v)};
    return out->p ? AG_OK : ag__no_memory(r, err);
}

static int add_text(ag_request *r, json_t *texts, ag_str s, ag_err *err)
{
    if (json_array_size(texts) == AG_REQUEST_PROMPTS_MAX)
        return ag_request_fail(err, AG_E_PARAM, AG_KSERVE_INPUT, "'" AG_KSERVE_INPUT "' has more than %d texts.",
                               AG_REQUEST_PROMPTS_MAX);
    if (ag_utf8_check(s.p, s.n) != SIZE_MAX)
        return ag_request_fail(err, AG_E_UTF8, AG_KSERVE_INPUT, "Text %zu of '" AG_KSERVE_INPUT "' is not UTF-8.",
                               json_array_size(texts));
    return json_array_append_new(texts, json_stringn_nocheck(s.n ? s.p : "", s.n)) == 0 ? AG_OK : ag__no_memory(r, err);
}

/* Texts in an array, or in arrays in it, as a tensor's rows may be written. */
static int add_data(ag_request *r, json_t *texts, const json_t *data, ag_err *err)
{
    int rc = AG_OK;
    if (json_is_string(data)) return add_text(r, texts, bytes_of(data), err);
    if (!json_is_array(data)) return ag__wrong_type(err, AG_KSERVE_INPUT, "an array of strings", data);
    for (size_t i = 0; i < json_array_size(data) && rc == AG_OK; i++)
        rc = add_data(r, texts, json_array_get(data, i), err);
    return rc;
}

static int add_raw(ag_request *r, json_t *texts, const json_t *raw, ag_err *err)
{
    if (json_array_size(raw) != 1)
        return ag_request_fail(err, AG_E_PARAM, "raw_input_contents",
                               "'raw_input_contents' must have one entry, as 'inputs'.");
    ag_str rest = bytes_of(json_array_get(raw, 0));
    int rc = AG_OK;
    while (rest.n && rc == AG_OK) {
        const unsigned char *p = (const unsigned char *)rest.p;
        size_t n = rest.n < RAW_LENGTH ? 0 : (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
        if (rest.n < RAW_LENGTH || n > rest.n - RAW_LENGTH)
            return ag_request_fail(err, AG_E_PARAM, "raw_input_contents",
                                   "'raw_input_contents' must be texts, each behind its length in 4 bytes; the last "
                                   "is cut off.");
        rc = add_text(r, texts, (ag_str){rest.p + RAW_LENGTH, n}, err);
        rest = (ag_str){rest.p + RAW_LENGTH + n, rest.n - RAW_LENGTH - n};
    }
    return rc;
}

static int check_shape(const json_t *shape, size_t n, ag_err *err)
{
    uint64_t all = 1;
    bool ok = json_array_size(shape) > 0;
    for (size_t i = 0; ok && i < json_array_size(shape); i++) {
        const json_t *v = json_array_get(shape, i);
        ok = json_is_integer(v) && json_integer_value(v) >= 0 && ag_mul_ok(all, (uint64_t)json_integer_value(v), &all);
    }
    if (ok && all == n && n) return AG_OK;
    return ag_request_fail(err, AG_E_PARAM, "shape",
                           "'shape' must be an array that fits the %zu texts of '" AG_KSERVE_INPUT "', of which there "
                           "must be one at least.", n);
}

static int take_input(ag_request *r, const json_t *inputs, const json_t *raw, json_t *texts, ag_err *err)
{
    const json_t *in = json_array_get(inputs, 0);
    const json_t *type = json_object_get(in, "datatype"), *name = json_object_get(in, "name");
    if (json_array_size(inputs) != 1 || !json_is_object(in))
        return ag_request_fail(err, AG_E_PARAM, "inputs",
                               "'inputs' must be an array with one tensor, '" AG_KSERVE_INPUT "'.");
    if (!json_is_string(name) || strcmp(json_string_value(name), AG_KSERVE_INPUT) != 0)
        return ag_request_fail(err, AG_E_PARAM, "inputs", "The input's 'name' must be \"" AG_KSERVE_INPUT "\".");
    if (!json_is_string(type) || strcmp(json_string_value(type), TYPE) != 0)
        return ag_request_fail(err, AG_E_PARAM, "inputs",
                               "The 'datatype' of '" AG_KSERVE_INPUT "' must be \"" TYPE "\".");
    const json_t *contents = json_object_get(in, "contents"), *data = json_object_get(in, "data");
    if (contents) data = json_object_get(contents, "bytes_contents");
    if (data && !json_is_array(data)) return ag__wrong_type(err, AG_KSERVE_INPUT, "an array of strings", data);
    int rc = raw ? add_raw(r, texts, raw, err) : data ? add_data(r, texts, data, err) : AG_OK;
    return rc == AG_OK ? check_shape(json_object_get(in, "shape"), json_array_size(texts), err) : rc;
}

static int check_outputs(const json_t *outputs, ag_err *err)
{
    if (outputs && !json_is_null(outputs) && !json_is_array(outputs))
        return ag__wrong_type(err, "outputs", "an array", outputs);
    for (size_t i = 0; i < json_array_size(outputs); i++) {
        const json_t *name = json_object_get(json_array_get(outputs, i), "name");
        if (!json_is_string(name) || strcmp(json_string_value(name), AG_KSERVE_OUTPUT) != 0)
            return ag_request_fail(err, AG_E_PARAM, "outputs", "The only output is '" AG_KSERVE_OUTPUT "'.");
    }
    return AG_OK;
}

/* Over gRPC a value lies in an object that says its type. */
static int take_parameters(ag_request *r, json_t *parameters, bool typed, json_t *to, ag_err *err)
{
    const char *name;
    json_t *v;
    if (parameters == NULL || json_is_null(parameters)) return AG_OK;
    if (!json_is_object(parameters)) return ag__wrong_type(err, "parameters", "an object", parameters);
    json_object_foreach(parameters, name, v) {
        if (typed) v = json_object_iter_value(json_object_iter(v));
        if (v == NULL || strcmp(name, "prompt") == 0 || strcmp(name, "model") == 0 || strcmp(name, "stream") == 0)
            return ag_request_fail(err, AG_E_PARAM, "parameters",
                                   "'parameters' cannot set '%.40s'; they are fields of /v1/completions, with a value, "
                                   "but for 'prompt', 'model' and 'stream'.", name);
        if (json_object_set(to, name, v) != 0) return ag__no_memory(r, err);
    }
    return AG_OK;
}

static int check_version(ag_request *r, const json_t *version, ag_err *err)
{
    ag_str v;
    int rc = text_of(r, version, "model_version", &v, err);
    if (rc != AG_OK || v.n == 0 || ag_str_eqz(v, AG_KSERVE_VERSION)) return rc;
    return ag_request_fail(err, AG_E_MODEL_NOT_FOUND, "model_version",
                           "There is no version '%.40s' of this model; '" AG_KSERVE_VERSION "' is the only one.", v.p);
}

/* What was asked, in either form, becomes the body of a completion. */
static int take(ag_request *r, json_t *asked, bool typed, ag_err *err)
{
    const json_t *raw = json_object_get(asked, "raw_input_contents");
    json_t *texts = json_array();
    r->kind = AG_REQUEST_COMPLETION;
    r->wire.raw = raw != NULL;
    r->root = json_object();
    int rc = texts && r->root ? AG_OK : ag__no_memory(r, err);
    if (rc == AG_OK && typed) rc = text_of(r, json_object_get(asked, "model_name"), "model_name", &r->model, err);
    if (rc == AG_OK && typed) rc = check_version(r, json_object_get(asked, "model_version"), err);
    if (rc == AG_OK) rc = text_of(r, json_object_get(asked, "id"), "id", &r->wire.id, err);
    if (rc == AG_OK) rc = take_parameters(r, json_object_get(asked, "parameters"), typed, r->root, err);
    if (rc == AG_OK) rc = check_outputs(json_object_get(asked, "outputs"), err);
    if (rc == AG_OK) rc = take_input(r, json_object_get(asked, "inputs"), raw, texts, err);
    if (rc == AG_OK && json_object_set(r->root, "prompt", texts) != 0) rc = ag__no_memory(r, err);
    json_decref(texts);
    if (rc == AG_OK) rc = ag__fields_take(r, err);
    return rc == AG_OK ? ag__openai_check(r, err) : rc;
}

static int parse(ag_request *r, const char *body, size_t n, ag_err *err)
{
    json_t *asked = NULL;
    int rc = ag__json_load(body, n, &asked, err);
    if (rc == AG_OK && !json_is_object(asked))
        rc = ag_err_set(err, AG_E_JSON, "The body must be a JSON object, not %s.", ag__json_type(asked));
    if (rc == AG_OK) rc = take(r, asked, false, err);
    json_decref(asked);
    return rc;
}

static int parse_grpc(ag_request *r, const char *body, size_t n, ag_err *err)
{
    json_t *asked = NULL;
    int rc = ag_grpc_to_json(r, "inference.ModelInferRequest", body, n, &asked, err);
    if (rc == AG_OK) rc = take(r, asked, true, err);
    json_decref(asked);
    return rc;
}

/* Answers, whole: the only thing in their buffer. */

static void begin(ag_buf *out, const ag_reply *r)
{
    ag_buf_addz(out, "{\"model_name\":");
    ag_buf_add_json(out, r->model.p, r->model.n);
    ag_buf_addz(out, ",\"model_version\":\"" AG_KSERVE_VERSION "\"");
    if (r->wire.id.p) {
        ag_buf_addz(out, ",\"id\":");
        ag_buf_add_json(out, r->wire.id.p, r->wire.id.n);
    }
    ag_buf_addf(out,
                ",\"outputs\":[{\"name\":\"" AG_KSERVE_OUTPUT "\",\"datatype\":\"" TYPE "\",\"shape\":[%u],"
                "\"data\":[",
                r->n_choices);
}

/* A completion's parts are one text, and its echo. */
static void choice(ag_buf *out, const ag_reply *r AG_UNUSED, uint32_t index, const ag_part *parts, uint32_t n,
                   ag_reply_logprobs *lp AG_UNUSED, const ag_reply_end *end AG_UNUSED)
{
    ag_buf all;
    ag_buf_init(&all, out->max);
    for (uint32_t i = 0; i < n; i++) ag_buf_add(&all, parts[i].text.p, parts[i].text.n);
    if (index) ag_buf_addc(out, ',');
    ag_buf_add_json(out, all.p, all.n);
    out->failed = out->failed || all.failed;
    ag_buf_fini(&all);
}

static void end_all(ag_buf *out, const ag_reply *r AG_UNUSED, const ag_usage *usage AG_UNUSED)
{
    ag_buf_addz(out, "]}]}");
}

static void begin_grpc(ag_buf *out, const ag_reply *r AG_UNUSED) { ag_grpc_begin(out); }

static void choice_grpc(ag_buf *out, const ag_reply *r, uint32_t index AG_UNUSED, const ag_part *parts, uint32_t n,
                        ag_reply_logprobs *lp AG_UNUSED, const ag_reply_end *end AG_UNUSED)
{
    size_t at = out->n, bytes = 0;
    for (uint32_t i = 0; i < n; i++) bytes += parts[i].text.n;
    for (int i = 0; r->wire.raw && i < RAW_LENGTH; i++) ag_buf_addc(out, (char)(bytes >> (8 * i)));
    for (uint32_t i = 0; i < n; i++) ag_buf_add(out, parts[i].text.p, parts[i].text.n);
    if (!r->wire.raw) ag_pb_wrap(out, at, CONTENTS_BYTES);
}

/* The texts stand there already: they become a tensor's contents, and what goes with it follows. */
static void end_grpc(ag_buf *out, const ag_reply *r, const ag_usage *usage AG_UNUSED)
{
    size_t at = AG_GRPC_PREFIX;
    ag_pb_wrap(out, at, r->wire.raw ? INFER_RAW : TENSOR_CONTENTS);
    if (r->wire.raw) at = out->n;
    ag_pb_put_text(out, TENSOR_NAME, AG_STR(AG_KSERVE_OUTPUT));
    ag_pb_put_text(out, TENSOR_TYPE, AG_STR(TYPE));
    size_t shape = out->n;
    ag_pb_put_varint(out, r->n_choices);
    ag_pb_wrap(out, shape, TENSOR_SHAPE);
    ag_pb_wrap(out, at, INFER_OUTPUTS);
    ag_pb_put_text(out, INFER_MODEL, r->model);
    ag_pb_put_text(out, INFER_VERSION, AG_STR(AG_KSERVE_VERSION));
    ag_pb_put_text(out, INFER_ID, r->wire.id);
    ag_grpc_end(out, 0, r->wire.gzip);
}

static void error(ag_buf *out, const ag_err *err, ag_str request_id AG_UNUSED)
{
    ag_buf_addz(out, "{\"error\":");
    ag_buf_add_json(out, err->text, strlen(err->text));
    ag_buf_addc(out, '}');
}

static void nothing(ag_buf *out AG_UNUSED, const ag_err *err AG_UNUSED, ag_str request_id AG_UNUSED) {}

/* Neither answers in a stream. */
const ag_dialect ag_kserve = {.reply_id = "infer-", .call_id = "call_", .rates = AG_RATES, .type = AG_TYPE_JSON,
                              .parse = parse, .begin = begin, .choice = choice, .end = end_all, .error = error};
const ag_dialect ag_kserve_grpc = {.reply_id = "infer-", .call_id = "call_", .rates = AG_RATES, .type = AG_TYPE_GRPC,
                                   .grpc = true, .parse = parse_grpc, .begin = begin_grpc, .choice = choice_grpc,
                                   .end = end_grpc, .error = nothing};
