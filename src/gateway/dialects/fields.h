/* fields.h - inside the dialects: how a row of fields.def is parsed. See openai.h for the contract. */
#ifndef AG_FIELDS_H
#define AG_FIELDS_H

#include "gateway/dialects/request.h"

/* Parses one field that is there and not null. */
typedef int ag_field_fn(ag_request *r, const json_t *v, ag_err *err);

#define AG_FIELD_BOOL(name, member, kinds, doc)
#define AG_FIELD_U32(name, member, min, max, kinds, doc)
#define AG_FIELD_F32(name, member, min, max, open, kinds, doc)
#define AG_FIELD_OTHER(name, type, kinds, doc) ag_field_fn ag__parse_##name;
#include "gateway/dialects/fields.def"
#undef AG_FIELD_BOOL
#undef AG_FIELD_U32
#undef AG_FIELD_F32
#undef AG_FIELD_OTHER

/* Body to fields, by the rows of the request's kind. What no single field can tell is the dialect's to check. */
int ag__fields_parse(ag_request *r, const char *body, size_t n, ag_err *err);

const char *ag__json_type(const json_t *v); /* "a string", "an array", … for sentences */
/* A whole number (16 and 16.0 alike) between min and max, or the sentence that says what is wrong with `param`. */
int ag__json_integer(const json_t *v, const char *param, int64_t min, int64_t max, int64_t *out, ag_err *err);
int ag__json_number(const json_t *v, const char *param, double min, double max, bool open, double *out, ag_err *err);
int ag__json_bool(const json_t *v, const char *param, bool *out, ag_err *err);
int ag__wrong_type(ag_err *err, const char *param, const char *wanted, const json_t *got);
int ag__no_memory(const ag_request *r, ag_err *err);

/* An array of token ids into the request's arena. `name` is for sentences, `field` for err->param. */
int ag__add_ids(ag_request *r, ag_prompt *to, const json_t *array, const char *field, const char *name, ag_err *err);
/* A variable of the template. */
int ag__set_var(ag_request *r, const char *name, const json_t *v, ag_err *err);
int ag__add_stops(ag_request *r, const json_t *array, const char *field, ag_err *err);
int ag__force_tool(ag_request *r, const json_t *name, ag_err *err); /* one of those that were set */
int ag__set_tools(ag_request *r, const json_t *tools, ag_err *err); /* OpenAI's, an array */
int ag__anthropic_messages(ag_request *r, const json_t *v, ag_err *err); /* an array that is not empty */
int ag__anthropic_tools(ag_request *r, const json_t *v, ag_err *err);    /* an array */
int ag__anthropic_tool_choice(ag_request *r, const json_t *v, ag_err *err);
int ag__responses_input(ag_request *r, const json_t *v, ag_err *err);
int ag__responses_tools(ag_request *r, const json_t *v, ag_err *err); /* an array */
int ag__responses_tool_choice(ag_request *r, const json_t *v, ag_err *err); /* an object */
int ag__responses_metadata(const json_t *v, ag_err *err);
int ag__take_format(ag_request *r, const json_t *v, const char *field, ag_err *err);
/* What tool_choice comes to: with "none" tools are neither told to the template nor called; where any is to be called,
 * there must be one. */
int ag__choose_tools(ag_request *r, ag_err *err);
/* Whether all that is asked for can be had of an answer that is kept to JSON, if it is. */
int ag__check_json(ag_request *r, ag_err *err);
/* The template's add_generation_prompt, unless chat_template_kwargs has set it. */
int ag__set_prompt_end(ag_request *r, ag_err *err);

/* Body to JSON, after looking at UTF-8, depth and number of values. */
int ag__json_load(const char *p, size_t n, json_t **out, ag_err *err);

#endif
