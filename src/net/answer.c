#include "net/answer.h"

#include "net/head.h"

#define BAD_BODY_MAX 16384
#define BAD_ID_MAX 256

bool ag__may_send(const ag_http_header *h)
{
    static const char *const ours[] = {"content-length", "transfer-encoding", "connection", "date",
                                       "keep-alive", "proxy-connection", "upgrade"};
    if (!ag__is_token(h->name) || !ag__is_field_value(h->value)) return false;
    for (size_t i = 0; i < AG_ARRAY_LEN(ours); i++)
        if (ag_str_ieq(h->name, ag_str_of(ours[i]))) return false;
    return true;
}

void ag__bad_make(ag__bad *b, ag_http_loop *l, ag_http_bad why, int err, const char *sentence)
{
    const ag_http_handler *h = &l->server->handler;
    const ag_err_row *row = ag_err_find(err);
    *b = (ag__bad){.status = row->http};
    ag_buf_init(&b->body, BAD_BODY_MAX);
    ag_buf_init(&b->id, BAD_ID_MAX);
    if (h->on_bad) h->on_bad(h->arg, why, err, sentence, &b->body, &b->id);
    if (b->body.failed) ag_buf_reset(&b->body); /* half an answer is worse than none */
    b->headers[b->n_headers++] = (ag_http_header){AG_STR("Content-Type"), AG_STR("application/json")};
    if (row->retry == AG_RETRY_AFTER) b->headers[b->n_headers++] = (ag_http_header){AG_STR("Retry-After"), AG_STR("1")};
    if (b->id.n && !b->id.failed)
        b->headers[b->n_headers++] = (ag_http_header){AG_STR("x-request-id"), ag_buf_str(&b->id)};
}

void ag__bad_fini(ag__bad *b)
{
    ag_buf_fini(&b->body);
    ag_buf_fini(&b->id);
}
