#include "base/mem.h"
#include "net/h2.h"

void ag__h2_head_open(ag__h2_head *h, size_t bytes_max)
{
    *h = (ag__h2_head){.max = bytes_max};
    ag_buf_init(&h->text, bytes_max);
    ag_buf_init(&h->pseudo, bytes_max);
}

void ag__h2_head_close(ag__h2_head *h)
{
    ag_buf_fini(&h->text);
    ag_buf_fini(&h->pseudo);
}

void ag__h2_head_begin(ag__h2_head *h)
{
    size_t max = h->max;
    ag_buf text = h->text, pseudo = h->pseudo;
    ag_buf_reset(&text);
    ag_buf_reset(&pseudo);
    if (text.cap > AG__KEEP_BYTES) ag_buf_fini(&text);
    if (pseudo.cap > AG__KEEP_BYTES) ag_buf_fini(&pseudo);
    *h = (ag__h2_head){.max = max, .text = text, .pseudo = pseudo};
}

/* Adds while the head fits; what comes after it did not is dropped, the decoder must see it all the same. */
static bool put(ag__h2_head *h, ag_buf *b, const char *p, size_t n)
{
    if (h->too_large || h->no_memory) return false;
    if (h->text.n + h->pseudo.n + n > h->max) h->too_large = true;
    else if (n && !ag_buf_add(b, p, n)) h->no_memory = true;
    return !h->too_large && !h->no_memory;
}

static void putz(ag__h2_head *h, const char *z) { put(h, &h->text, z, strlen(z)); }

static ag_str method_of(const ag__h2_head *h) { return (ag_str){h->pseudo.p + h->method.at, h->method.n}; }
static ag_str authority_of(const ag__h2_head *h) { return (ag_str){h->pseudo.p + h->authority.at, h->authority.n}; }

bool ag__h2_head_is(const ag__h2_head *h, const char *method)
{
    return h->method.n && ag_str_eqz(method_of(h), method);
}

static void put_line(ag__h2_head *h, ag_str name, ag_str value)
{
    put(h, &h->text, name.p, name.n);
    putz(h, ": ");
    put(h, &h->text, value.p, value.n);
    putz(h, "\r\n");
}

/* Pseudo headers come before the others, so at the first of those the request line is known. */
static void put_request_line(ag__h2_head *h)
{
    h->lined = true;
    if (h->pseudo.n == 0) return;
    put(h, &h->text, h->pseudo.p + h->method.at, h->method.n);
    putz(h, " ");
    put(h, &h->text, h->pseudo.p + h->path.at, h->path.n);
    putz(h, " HTTP/1.1\r\n");
    if (h->authority.n) put_line(h, AG_STR("host"), authority_of(h));
}

static void keep_pseudo(ag__h2_head *h, ag_str name, ag_str value)
{
    size_t at = h->pseudo.n;
    if (ag_str_eqz(name, ":method")) h->method.at = at, h->method.n = value.n;
    else if (ag_str_eqz(name, ":path")) h->path.at = at, h->path.n = value.n;
    else if (ag_str_eqz(name, ":authority")) h->authority.at = at, h->authority.n = value.n;
    else return; /* the scheme says nothing that we do not know */
    if (!put(h, &h->pseudo, value.p, value.n)) h->method.n = h->path.n = h->authority.n = 0;
}

static bool is_grpc(ag_str type)
{
    static const ag_str names[] = {{"application/grpc+proto", 22}, {"application/grpc", 16}};
    for (size_t i = 0; i < AG_ARRAY_LEN(names); i++) {
        ag_str name = names[i];
        if (type.n < name.n || !ag_str_ieq((ag_str){type.p, name.n}, name)) continue;
        return type.n == name.n || type.p[name.n] == ';';
    }
    return false;
}

void ag__h2_head_add(ag__h2_head *h, ag_str name, ag_str value)
{
    if (!ag__is_field_value(value)) { /* nghttp2 looks at this too; a line must not end where we do not end it */
        h->sentence = "a header holds a control character";
        return;
    }
    if (name.n && name.p[0] == ':') {
        if (!h->lined) keep_pseudo(h, name, value);
        return;
    }
    if (!h->lined) put_request_line(h);
    if (ag_str_eqz(name, "content-type")) h->grpc = is_grpc(value);
    /* A client may say its host in both places, as long as it is the same one. */
    if (h->authority.n && ag_str_eqz(name, "host") && ag_str_ieq(value, authority_of(h))) return;
    put_line(h, name, value);
}

int ag__h2_head_end(ag__h2_head *h, ag__head *out, ag_http_header *slots, uint32_t max, const char **sentence)
{
    if (!h->lined) put_request_line(h);
    putz(h, "\r\n");
    *sentence = h->sentence;
    if (h->sentence) return AG_E_HTTP;
    if (h->no_memory) {
        *sentence = "there is no memory for this request";
        return AG_E_NOMEM;
    }
    if (h->too_large) {
        *sentence = "the headers are longer than the server takes";
        return AG_E_HEADERS_TOO_LARGE;
    }
    size_t at = 0;
    ag__scan scan = ag__head_scan(h->text.p, h->text.n, &at, sentence);
    if (scan == AG__SCAN_BAD) return AG_E_HTTP;
    if (scan == AG__SCAN_MORE || at != h->text.n) {
        *sentence = "the head of the request can be read in two ways";
        return AG_E_HTTP;
    }
    return ag__head_parse(out, h->text.p, at, slots, max, sentence);
}
