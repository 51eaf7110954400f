/* pb.h - protobuf's wire format: fields one by one out of bytes, and into a buffer.
 * Owns    : nothing; items point into the bytes that they were read from.
 * Threads : any.
 * Limits  : none of its own; it allocates nothing but in the buffer that it is given.
 * Errors  : ag_pb_next tells what is no field; a buffer's ceiling shows in its `failed`.
 * Why not nanopb: a request's fields are checked by name, by the rows of fields.def (schema.h), and generated structs
 * have no names, and bounds in place of ours. */
#ifndef AG_PB_H
#define AG_PB_H

#include "base/buf.h"

typedef enum ag_pb_wire { AG_PB_VARINT = 0, AG_PB_64 = 1, AG_PB_BYTES = 2, AG_PB_32 = 5 } ag_pb_wire;

typedef struct ag_pb_item {
    uint32_t field;
    ag_pb_wire wire;
    uint64_t number; /* a varint, or the bits of a fixed one */
    ag_str bytes;
} ag_pb_item;

/* The field that *rest begins with, which is moved on: 1; 0: there is no more; -1: it is none. */
int ag_pb_next(ag_str *rest, ag_pb_item *out);
/* The number that *rest begins with, of a packed array; false: it is none. */
bool ag_pb_varint(ag_str *rest, uint64_t *out);
/* The last field of this number whose value is bytes; p NULL: none, or the message is malformed. */
ag_str ag_pb_find(ag_str message, uint32_t field);

/* Zero, and text without bytes, are what a field has that is not there, and are left out. */
void ag_pb_put(ag_buf *out, uint32_t field, uint64_t number);
void ag_pb_put_text(ag_buf *out, uint32_t field, ag_str s); /* as a string: what is not UTF-8 becomes U+FFFD */
void ag_pb_put_bytes(ag_buf *out, uint32_t field, ag_str s); /* these, always: */
void ag_pb_put_string(ag_buf *out, uint32_t field, ag_str s); /* a string that may be empty */
void ag_pb_put_float(ag_buf *out, uint32_t field, float x);
void ag_pb_put_varint(ag_buf *out, uint64_t number); /* bare, for a packed array */
/* What was added since `at` becomes this field's bytes. */
void ag_pb_wrap(ag_buf *out, size_t at, uint32_t field);

#endif
