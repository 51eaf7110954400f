/* schema.h - what proto/ says, read from the descriptors that protoc makes of it and that are part of the program: the
 * messages that gRPC's requests are, and what server reflection tells.
 * Owns    : tables, filled at the first use and constant afterwards; JSON that is made belongs to the caller.
 * Threads : any.
 * Limits  : ag_json_limits, of values in a message and bytes of a string; tables hold what proto/ has, which is
 *           asserted.
 * Errors  : to_json: AG_E_PROTOBUF, AG_E_UTF8, AG_E_PARAM (a number that is none), AG_E_JSON (of a field of JSON text),
 *           AG_E_LIMIT, AG_E_NOMEM, with the field's name in err->param. */
#ifndef AG_SCHEMA_H
#define AG_SCHEMA_H

#include <jansson.h>

#include "base/err.h"

typedef struct ag_schema_message ag_schema_message;

const ag_schema_message *ag_schema_find(const char *full_name); /* asserted to be there */

/* A message as the JSON that its fields are in a request over HTTP: by their names; arrays, objects for messages and
 * maps; a field NAME_json as what its text says, under NAME. Fields of bytes are strings of any bytes. What the message
 * does not know is there as "field_N". Absent fields are absent. */
int ag_schema_to_json(const ag_schema_message *m, ag_str bytes, json_t **out, ag_err *err);

/* Server reflection. */
typedef struct ag_schema_file { ag_str name, bytes; } ag_schema_file; /* bytes: a FileDescriptorProto */
uint32_t ag_schema_files(const ag_schema_file **out);
const ag_schema_file *ag_schema_file_named(ag_str name);
const ag_schema_file *ag_schema_file_declaring(ag_str symbol); /* "autoglm.v1.Inference.Chat" */
/* The index-th service's full name, into `name`; false: there are fewer. */
bool ag_schema_service(uint32_t index, char name[128]);

#endif
