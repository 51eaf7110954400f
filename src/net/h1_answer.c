#include <stdio.h>

#include "net/answer.h"

static const char *reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 411: return "Length Required";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "";
    }
}

static void putz(ag__conn *c, const char *z) { ag__conn_put(c, z, strlen(z)); }

static void put_head(ag__conn *c, int status, const ag_http_header *h, uint32_t n)
{
    char line[96];
    snprintf(line, sizeof line, "HTTP/1.1 %d %s\r\nDate: ", status, reason(status));
    putz(c, line);
    putz(c, ag__loop_date(c->loop));
    putz(c, "\r\n");
    for (uint32_t i = 0; i < n; i++) {
        if (!ag__may_send(&h[i])) continue;
        ag__conn_put(c, h[i].name.p, h[i].name.n);
        putz(c, ": ");
        ag__conn_put(c, h[i].value.p, h[i].value.n);
        putz(c, "\r\n");
    }
}

static void put_length(ag__conn *c, int64_t length)
{
    char line[48];
    snprintf(line, sizeof line, "Content-Length: %lld\r\n", (long long)length);
    putz(c, line);
}

static bool asks_to_close(const ag_http_header *h, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (ag_str_ieq(h[i].name, AG_STR("connection")) && ag_str_ieq(h[i].value, AG_STR("close"))) return true;
    return false;
}

void ag__h1_answer(ag_http_stream *s, int status, const ag_http_header *h, uint32_t n, int64_t length)
{
    AG_ASSERT(status >= 200 && status <= 599);
    ag__conn *c = s->conn;
    bool bare = status == 204 || status == 304; /* never a body, nor a word about its length */
    s->no_body = s->is_head || bare;
    s->chunked = length < 0 && s->head.minor == 1;
    bool until_close = length < 0 && !s->chunked && !s->no_body;
    s->keep = s->keep && (s->read_done || s->drop) && !until_close && !c->loop->draining && !asks_to_close(h, n);

    put_head(c, status, h, n);
    if (length >= 0 && !bare) put_length(c, length);
    if (s->chunked && !bare) putz(c, "Transfer-Encoding: chunked\r\n");
    if (!s->keep) putz(c, "Connection: close\r\n");
    else if (s->head.minor == 0) putz(c, "Connection: keep-alive\r\n");
    putz(c, "\r\n");
}

void ag__h1_data(ag_http_stream *s, const char *p, size_t n)
{
    if (s->no_body) return;
    if (s->chunked) {
        char size[24];
        snprintf(size, sizeof size, "%zx\r\n", n);
        putz(s->conn, size);
    }
    ag__conn_put(s->conn, p, n);
    if (s->chunked) putz(s->conn, "\r\n");
}

void ag__h1_end(ag_http_stream *s)
{
    if (s->chunked && !s->no_body) putz(s->conn, "0\r\n\r\n");
}

void ag__h1_put_bad(ag__conn *c, const ag_http_head *head, ag_http_bad why, int err, const char *sentence)
{
    ag_http_refusal f = {.why = why, .err = err, .sentence = sentence, .head = head};
    bool is_head = head && ag_str_eqz(head->method, "HEAD");
    ag__refusal_make(&f, c->loop);
    put_head(c, f.status, f.headers, f.n_headers);
    put_length(c, (int64_t)f.body.n);
    putz(c, "Connection: close\r\n\r\n");
    if (!is_head) ag__conn_put(c, f.body.p, f.body.n);
    ag__refusal_fini(&f);
}
