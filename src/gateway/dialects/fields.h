/* fields.h - inside the dialects: how a row of fields.def is parsed. See openai.h for the contract. */
#ifndef AG_FIELDS_H
#define AG_FIELDS_H

#include "gateway/dialects/request.h"

/* Parses one field that is there and not null. */
typedef int ag_field_fn(ag_request *r, const json_t *v, ag_err *err);

#define AG_FIELD_BOOL(name, member, dialects, doc)
#define AG_FIELD_U32(name, member, min, max, dialects, doc)
#define AG_FIELD_F32(name, member, min, max, open, dialects, doc)
#define AG_FIELD_OTHER(name, type, dialects, doc) ag_field_fn ag__parse_##name;
#include "gateway/dialects/fields.def"
#undef AG_FIELD_BOOL
#undef AG_FIELD_U32
#undef AG_FIELD_F32
#undef AG_FIELD_OTHER

const char *ag__json_type(const json_t *v); /* "a string", "an array", … for sentences */
/* A whole number (16 and 16.0 alike) between min and max, or the sentence that says what is wrong with `param`. */
int ag__json_integer(const json_t *v, const char *param, int64_t min, int64_t max, int64_t *out, ag_err *err);
int ag__json_number(const json_t *v, const char *param, double min, double max, bool open, double *out, ag_err *err);
int ag__json_bool(const json_t *v, const char *param, bool *out, ag_err *err);
int ag__wrong_type(ag_err *err, const char *param, const char *wanted, const json_t *got);
int ag__no_memory(const ag_request *r, ag_err *err);

/* Body to JSON, after looking at UTF-8, depth and number of values. */
int ag__json_load(const char *p, size_t n, json_t **out, ag_err *err);

#endif
