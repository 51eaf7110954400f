#include "net/answer.h"

#include "net/head.h"

/* Of a refusal. */
#define BODY_MAX 16384
#define HEADERS_MAX 32768

bool ag__may_send(const ag_http_header *h)
{
    static const char *const ours[] = {"content-length", "transfer-encoding", "connection", "date",
                                       "keep-alive", "proxy-connection", "upgrade"};
    if (!ag__is_token(h->name) || !ag__is_field_value(h->value)) return false;
    for (size_t i = 0; i < AG_ARRAY_LEN(ours); i++)
        if (ag_str_ieq(h->name, ag_str_of(ours[i]))) return false;
    return true;
}

void ag__refusal_make(ag_http_refusal *f, ag_http_loop *l)
{
    const ag_http_handler *h = &l->server->handler;
    const ag_err_row *row = ag_err_find(f->err);
    f->status = row->http;
    ag_buf_init(&f->body, BODY_MAX);
    ag_arena_init(&f->mem, HEADERS_MAX);
    if (row->retry == AG_RETRY_AFTER) ag_http_refusal_add(f, AG_STR("Retry-After"), AG_STR("1"));
    if (h->on_bad) h->on_bad(h->arg, f);
    if (f->body.failed) ag_buf_reset(&f->body); /* half an answer is worse than none */
}

void ag_http_refusal_add(ag_http_refusal *f, ag_str name, ag_str value)
{
    AG_ASSERT(f->n_headers < AG_HTTP_REFUSAL_HEADERS);
    char *copy = ag_arena_strndup(&f->mem, value.p, value.n);
    if (copy) f->headers[f->n_headers++] = (ag_http_header){name, {copy, value.n}};
}

void ag__refusal_fini(ag_http_refusal *f)
{
    ag_buf_fini(&f->body);
    ag_arena_fini(&f->mem);
}
