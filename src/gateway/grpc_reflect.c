/* grpc_reflect.c - gRPC's server reflection, v1 and v1alpha, which differ in their name: what proto/ says, to clients
 * that ask for it. Messages are answered as they come, in a call that stays open. */
#include "gateway/dialects/grpc_wire.h"
#include "gateway/dialects/pb.h"
#include "gateway/dialects/schema.h"
#include "gateway/grpc.h"

/* With more than this unsent nothing more is answered. */
#define UNSENT_MAX ((size_t)32 << 10)

/* The numbers of proto/grpc/reflection/v1/reflection.proto. */
enum { ASK_HOST = 1, ASK_FILE = 3, ASK_SYMBOL = 4, ASK_EXTENSION = 5, ASK_EXTENSIONS_OF = 6, ASK_SERVICES = 7,
       REPLY_HOST = 1, REPLY_ASKED = 2, REPLY_FILES = 4, REPLY_SERVICES = 6, REPLY_ERROR = 7,
       FILES_FILE = 1, SERVICES_SERVICE = 1, SERVICE_NAME = 1, ERROR_CODE = 1, ERROR_MESSAGE = 2 };

static void put_error(ag_buf *out, ag_grpc_code code, const char *message)
{
    size_t at = out->n;
    ag_pb_put(out, ERROR_CODE, code);
    ag_pb_put_text(out, ERROR_MESSAGE, ag_str_of(message));
    ag_pb_wrap(out, at, REPLY_ERROR);
}

static void put_file(ag_buf *out, const ag_schema_file *f)
{
    size_t at = out->n;
    if (f == NULL) {
        put_error(out, AG_GRPC_NOT_FOUND, "There is no such file or symbol here.");
        return;
    }
    ag_pb_put_bytes(out, FILES_FILE, f->bytes);
    ag_pb_wrap(out, at, REPLY_FILES);
}

static void put_services(ag_buf *out)
{
    char name[128];
    size_t all = out->n;
    for (uint32_t i = 0; ag_schema_service(i, name); i++) {
        size_t at = out->n;
        ag_pb_put_text(out, SERVICE_NAME, ag_str_of(name));
        ag_pb_wrap(out, at, SERVICES_SERVICE);
    }
    ag_pb_wrap(out, all, REPLY_SERVICES);
}

/* The last question of a message is the one that counts. */
static void put_reply(ag_buf *out, ag_str asked)
{
    ag_pb_item item, question = {0};
    for (ag_str rest = asked; ag_pb_next(&rest, &item) > 0;)
        if (item.field >= ASK_FILE && item.field <= ASK_SERVICES && item.wire == AG_PB_BYTES) question = item;
    ag_pb_put_text(out, REPLY_HOST, ag_pb_find(asked, ASK_HOST));
    ag_pb_put_bytes(out, REPLY_ASKED, asked);
    switch (question.field) {
    case ASK_FILE: put_file(out, ag_schema_file_named(question.bytes)); break;
    case ASK_SYMBOL: put_file(out, ag_schema_file_declaring(question.bytes)); break;
    case ASK_SERVICES: put_services(out); break;
    case ASK_EXTENSION:
    case ASK_EXTENSIONS_OF: put_error(out, AG_GRPC_NOT_FOUND, "Nothing has extensions here."); break;
    default: put_error(out, AG_GRPC_INVALID_ARGUMENT, "The message asks for nothing that reflection knows."); break;
    }
}

/* Answers the message that the body begins with; false: it is not whole yet, or err says what is wrong with it. */
static bool answer_next(ag_req *r)
{
    ag_str rest = ag_buf_str(&r->body), asked;
    bool found = false;
    ag_buf plain;
    ag_buf_init(&plain, r->request.wire.message_max + 1);
    int rc = ag_grpc_next(&rest, r->request.wire.gzip, r->request.wire.message_max, &plain, &asked, &found, &r->err);
    if (rc == AG_OK && found) {
        size_t at = ag_grpc_begin(&r->out);
        put_reply(&r->out, asked);
        ag_grpc_end(&r->out, at, r->request.wire.gzip);
        if (r->out.failed) ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this answer.");
        ag_buf_consume(&r->body, r->body.n - rest.n);
    }
    ag_buf_fini(&plain);
    return found && r->err.code == AG_OK;
}

static void on_writable(void *user, ag_http_stream *s AG_UNUSED) { ag__req_run(user); }

static bool flush(ag_req *r)
{
    if (r->out.n && (ag_http_pending(r->s) > UNSENT_MAX || !ag_http_write(r->s, r->out.p, r->out.n))) {
        ag_http_on_writable(r->s, on_writable);
        return false;
    }
    ag_buf_reset(&r->out);
    return true;
}

ag_next ag__grpc_reflect(ag_req *r)
{
    if (!r->streaming) {
        ag_http_read_on(r->s);
        ag__grpc_open(r);
    }
    if (r->body.failed) ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this request.");
    else if (r->body_long) ag_err_set(&r->err, AG_E_TOO_LARGE, "More was asked than %zu bytes, before it was answered.",
                                      AG_GRPC_ASKED_MAX);
    bool taken;
    while ((taken = flush(r)) && r->err.code == AG_OK && answer_next(r)) {}
    if (r->err.code == AG_OK && taken && r->body_ended) {
        if (r->body.n) ag_err_set(&r->err, AG_E_PROTOBUF, "The call ends in the middle of a message.");
        return ag__grpc_close(r);
    }
    return r->err.code == AG_OK ? ag__grpc_stay(r) : ag__grpc_close(r);
}
