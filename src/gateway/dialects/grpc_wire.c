#include "gateway/dialects/grpc_wire.h"

#include <ctype.h>
#include <sodium.h>
#include <stdio.h>
#include <zlib.h>

#include "base/mem.h"
#include "gateway/dialects/pb.h"

#define GZIP_WINDOW (15 + 16) /* zlib's word for its largest window, and gzip's header */
#define GZIP_LEVEL 1          /* the fastest: answers are text, and their clients wait */
#define GZIP_MEMORY 8         /* zlib's default */
#define PIECE (64u << 10)
#define NO_MEMORY "The server has no memory left for this request."

static void *z_alloc(void *arg AG_UNUSED, unsigned n, unsigned size) { return ag_mem_array(n, size); }
static void z_free(void *arg AG_UNUSED, void *p) { ag_mem_free(p); }

/* How far a packed message grows is known only while it does, so room is made by and by. */
static int inflate_all(z_stream *z, ag_buf *plain, size_t max, ag_err *err)
{
    int rc = Z_OK;
    while (rc == Z_OK) {
        size_t room = AG_MIN((size_t)PIECE, max + 1 - plain->n);
        if (!ag_buf_room(plain, room)) return ag_err_set(err, AG_E_NOMEM, NO_MEMORY);
        z->next_out = (Bytef *)plain->p + plain->n;
        z->avail_out = (uInt)room;
        rc = inflate(z, Z_NO_FLUSH);
        plain->n += room - z->avail_out;
        if (plain->n > max)
            return ag_err_set(err, AG_E_TOO_LARGE, "The message has more than %zu bytes once it is unpacked.", max);
    }
    if (rc == Z_MEM_ERROR) return ag_err_set(err, AG_E_NOMEM, NO_MEMORY);
    if (rc != Z_STREAM_END || z->avail_in)
        return ag_err_set(err, AG_E_PROTOBUF, "The message is marked as gzip and is none.");
    return AG_OK;
}

static int unpack(ag_str packed, size_t max, ag_buf *plain, ag_err *err)
{
    z_stream z = {.zalloc = z_alloc, .zfree = z_free, .avail_in = (uInt)packed.n};
    z.next_in = (Bytef *)(uintptr_t)packed.p;
    ag_buf_reset(plain);
    if (inflateInit2(&z, GZIP_WINDOW) != Z_OK) return ag_err_set(err, AG_E_NOMEM, NO_MEMORY);
    int rc = inflate_all(&z, plain, max, err);
    inflateEnd(&z);
    return rc;
}

int ag_grpc_next(ag_str *rest, bool gzip, size_t max, ag_buf *plain, ag_str *message, bool *found, ag_err *err)
{
    uint32_t n = ag_grpc_length(rest->p, rest->n);
    *found = false;
    if (rest->n < AG_GRPC_PREFIX) return AG_OK;
    char flag = rest->p[0];
    if (n > max) return ag_err_set(err, AG_E_TOO_LARGE, "The message has %u bytes; at most %zu are taken.", n, max);
    if (flag != 0 && flag != 1)
        return ag_err_set(err, AG_E_PROTOBUF,
                          "The body is not gRPC: a message begins with 0, or 1 where it is compressed.");
    if (flag && !gzip)
        return ag_err_set(err, AG_E_PROTOBUF,
                          "The message is marked as compressed, and no header 'grpc-encoding' says how.");
    if (rest->n - AG_GRPC_PREFIX < n) return AG_OK;
    *found = true;
    *message = (ag_str){rest->p + AG_GRPC_PREFIX, n};
    *rest = (ag_str){message->p + n, rest->n - AG_GRPC_PREFIX - n};
    if (!flag) return AG_OK;
    int rc = unpack(*message, max, plain, err);
    *message = ag_buf_str(plain);
    return rc;
}

int ag_grpc_only(ag_str body, bool gzip, size_t max, ag_buf *plain, ag_str *message, ag_err *err)
{
    bool found;
    if (body.n == 0) return ag_err_set(err, AG_E_PROTOBUF, "The call has no message; this method takes one.");
    int rc = ag_grpc_next(&body, gzip, max, plain, message, &found, err);
    if (rc != AG_OK) return rc;
    if (!found) return ag_err_set(err, AG_E_PROTOBUF, "The call ends in the middle of its message.");
    if (body.n) return ag_err_set(err, AG_E_PROTOBUF, "The call has more than one message; this method takes one.");
    return AG_OK;
}

size_t ag_grpc_begin(ag_buf *out)
{
    size_t at = out->n;
    ag_buf_add(out, "\0\0\0\0", AG_GRPC_PREFIX);
    return at;
}

/* In place, where that makes it shorter. */
static bool pack(ag_buf *out, size_t at)
{
    z_stream z = {.zalloc = z_alloc, .zfree = z_free};
    size_t n = out->n - at;
    unsigned char *packed = NULL;
    bool done = false;
    if (n > UINT32_MAX) return false;
    if (deflateInit2(&z, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, GZIP_MEMORY, Z_DEFAULT_STRATEGY) != Z_OK) return false;
    if ((packed = ag_mem_alloc(n)) != NULL) {
        z.next_in = (Bytef *)out->p + at;
        z.avail_in = (uInt)n;
        z.next_out = packed;
        z.avail_out = (uInt)n;
        done = deflate(&z, Z_FINISH) == Z_STREAM_END;
    }
    if (done) {
        out->n = at + (n - z.avail_out);
        memcpy(out->p + at, packed, n - z.avail_out);
    }
    deflateEnd(&z);
    ag_mem_free(packed);
    return done;
}

void ag_grpc_end(ag_buf *out, size_t at, bool gzip)
{
    if (out->failed) return;
    size_t n = out->n - at - AG_GRPC_PREFIX;
    bool packed = gzip && n >= AG_GRPC_GZIP_FROM && pack(out, at + AG_GRPC_PREFIX);
    n = out->n - at - AG_GRPC_PREFIX;
    char *p = out->p + at;
    p[0] = packed;
    for (int i = 0; i < 4; i++) p[1 + i] = (char)(n >> (24 - 8 * i));
}

bool ag_grpc_timeout(ag_str value, uint32_t max, uint32_t *ms)
{
    static const struct { char unit; uint64_t us; } units[] = {
        {'H', 3600000000}, {'M', 60000000}, {'S', 1000000}, {'m', 1000}, {'u', 1}};
    uint64_t x = 0, us = 0;
    if (value.n < 2 || value.n > 9) return false;
    for (size_t i = 0; i + 1 < value.n; i++) {
        if (value.p[i] < '0' || value.p[i] > '9') return false;
        x = x * 10 + (uint64_t)(value.p[i] - '0');
    }
    char unit = value.p[value.n - 1];
    bool known = unit == 'n';
    if (known) us = (x + 999) / 1000;
    for (size_t i = 0; i < AG_ARRAY_LEN(units) && !known; i++)
        if ((known = units[i].unit == unit)) us = x * units[i].us; /* eight digits of hours fit */
    if (!known) return false;
    *ms = (uint32_t)AG_MIN(AG_MAX((us + 999) / 1000, 1u), (uint64_t)max);
    return true;
}

/* Statuses. */

static void add_percent(ag_buf *out, const char *z)
{
    for (; *z; z++) {
        if (*z >= ' ' && *z <= '~' && *z != '%') ag_buf_addc(out, *z);
        else ag_buf_addf(out, "%%%02X", (unsigned char)*z);
    }
}

static void put_pair(ag_buf *out, const char *key, ag_str value)
{
    size_t at = out->n;
    if (value.n == 0) return;
    ag_pb_put_text(out, 1, ag_str_of(key));
    ag_pb_put_text(out, 2, value);
    ag_pb_wrap(out, at, 3); /* ErrorInfo.metadata */
}

/* What was added since `at` becomes a detail of this type. */
static void wrap_detail(ag_buf *out, size_t at, const char *type)
{
    ag_pb_wrap(out, at, 2); /* Any.value */
    ag_pb_put_text(out, 1, ag_str_of(type));
    ag_pb_wrap(out, at, 3); /* Status.details */
}

static void put_info(ag_buf *out, const ag_err *err, const ag_err_row *row, ag_str request_id)
{
    char reason[64];
    size_t at = out->n, n = 0;
    for (; row->code[n] && n < sizeof reason; n++) reason[n] = (char)toupper((unsigned char)row->code[n]);
    ag_pb_put_text(out, 1, (ag_str){reason, n});
    ag_pb_put_text(out, 2, AG_STR("autoglm"));
    put_pair(out, "type", ag_str_of(row->type));
    put_pair(out, "param", ag_str_of(err->param));
    put_pair(out, "request_id", request_id);
    wrap_detail(out, at, "type.googleapis.com/google.rpc.ErrorInfo");
}

static void put_retry(ag_buf *out, uint32_t seconds)
{
    size_t at = out->n;
    ag_pb_put(out, 1, seconds); /* Duration.seconds */
    ag_pb_wrap(out, at, 1);     /* RetryInfo.retry_delay */
    wrap_detail(out, at, "type.googleapis.com/google.rpc.RetryInfo");
}

static void add_base64(ag_buf *out, ag_str bytes)
{
    const int variant = sodium_base64_VARIANT_ORIGINAL_NO_PADDING;
    size_t size = sodium_base64_encoded_len(bytes.n, variant); /* with a NUL */
    if (!ag_buf_room(out, size)) return;
    sodium_bin2base64(out->p + out->n, size, (const unsigned char *)bytes.p, bytes.n, variant);
    out->n += size - 1;
}

void ag_grpc_status_make(ag_grpc_status *s, const ag_err *err, ag_str request_id, uint32_t retry_s)
{
    const ag_err_row *row = ag_err_find(err->code);
    ag_buf bytes;
    ag_buf_init(&bytes, AG_GRPC_DETAILS_MAX);
    ag_buf_init(&s->message, 4 * sizeof err->text);
    ag_buf_init(&s->details, 2 * AG_GRPC_DETAILS_MAX);
    snprintf(s->code, sizeof s->code, "%d", (int)row->grpc);
    add_percent(&s->message, err->text);
    ag_pb_put(&bytes, 1, row->grpc);
    ag_pb_put_text(&bytes, 2, ag_str_of(err->text));
    put_info(&bytes, err, row, request_id);
    if (retry_s) put_retry(&bytes, retry_s);
    if (bytes.failed) s->details.failed = true;
    else add_base64(&s->details, ag_buf_str(&bytes));
    ag_buf_fini(&bytes);
}

void ag_grpc_status_fini(ag_grpc_status *s)
{
    ag_buf_fini(&s->message);
    ag_buf_fini(&s->details);
}
