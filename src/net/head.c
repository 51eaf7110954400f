#include "net/head.h"

/* 18 digits always fit an int64_t; a longer number is no length that anybody means. */
#define LENGTH_DIGITS_MAX 18
/* The longest registered method has 17 letters. */
#define METHOD_MAX 32

bool ag__is_tchar(unsigned char c)
{
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return true;
    return c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

bool ag__is_token(ag_str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!ag__is_tchar((unsigned char)s.p[i])) return false;
    return s.n > 0;
}

bool ag__is_field_value(ag_str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (ag__is_ctl((unsigned char)s.p[i])) return false;
    return true;
}

ag__scan ag__head_scan(const char *p, size_t n, size_t *at, const char **sentence)
{
    size_t i = *at;
    for (; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        bool after_cr = i > 0 && p[i - 1] == '\r';
        if (c == '\n') {
            if (!after_cr) {
                *sentence = "a line ends in LF alone; lines of a request end in CR LF";
                return AG__SCAN_BAD;
            }
            if (i == 1) {
                *sentence = "the request line is empty";
                return AG__SCAN_BAD;
            }
            if (i >= 3 && p[i - 2] == '\n') {
                *at = i + 1;
                return AG__SCAN_DONE;
            }
        } else if (after_cr) {
            *sentence = "a CR stands without its LF";
            return AG__SCAN_BAD;
        } else if (c != '\r' && ag__is_ctl(c)) {
            *sentence = i == 0 ? "the request begins with a control character; this port speaks plain HTTP, not TLS"
                               : "the head of the request holds a control character";
            return AG__SCAN_BAD;
        }
    }
    *at = i;
    return AG__SCAN_MORE;
}

/* The line at p[at..n) without its CR LF, which the scan has made sure of. */
static ag_str line_at(const char *p, size_t n, size_t at)
{
    const char *cr = memchr(p + at, '\r', n - at);
    AG_ASSERT(cr != NULL);
    return (ag_str){p + at, (size_t)(cr - (p + at))};
}

static ag_str trim(ag_str s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t')) s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t')) s.n--;
    return s;
}

static ag_str after(ag_str s, size_t n) { return (ag_str){s.p + n, s.n - n}; }

static bool is_host(ag_str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && (c == 0 || strchr("-._~!$&'()*+,;=%:[]", c) == NULL)) return false;
    }
    return s.n > 0;
}

static void cut_query(ag_http_head *h, ag_str rest)
{
    const char *q = rest.n ? memchr(rest.p, '?', rest.n) : NULL;
    h->path = rest;
    h->query = (ag_str){0};
    if (q == NULL) return;
    h->path.n = (size_t)(q - rest.p);
    h->query = after(rest, h->path.n + 1);
}

/* Path and query of the target; *authority is set for the absolute form, whose host must then be the Host. */
static int parse_target(ag_http_head *h, ag_str *authority, const char **sentence)
{
    ag_str t = h->target;
    for (size_t i = 0; i < t.n; i++) {
        unsigned char c = (unsigned char)t.p[i];
        if (c <= 0x20 || c >= 0x7F || c == '#') {
            *sentence = "the target holds a space, a '#' or a byte outside ASCII; percent-encode it";
            return AG_E_HTTP;
        }
    }
    if (t.n && t.p[0] == '/') {
        cut_query(h, t);
        return AG_OK;
    }
    if (ag_str_eqz(t, "*") && ag_str_eqz(h->method, "OPTIONS")) {
        cut_query(h, t);
        return AG_OK;
    }
    size_t scheme = t.n > 7 && ag_str_ieq((ag_str){t.p, 7}, AG_STR("http://"))    ? 7
                    : t.n > 8 && ag_str_ieq((ag_str){t.p, 8}, AG_STR("https://")) ? 8
                                                                                  : 0;
    if (scheme == 0) {
        *sentence = "the target must be a path that begins with '/'";
        return AG_E_HTTP;
    }
    ag_str rest = after(t, scheme);
    size_t n = 0;
    while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?') n++;
    *authority = (ag_str){rest.p, n};
    cut_query(h, after(rest, n));
    if (h->path.n == 0) h->path = AG_STR("/");
    return AG_OK;
}

static int parse_request_line(ag_http_head *h, ag_str line, ag_str *authority, const char **sentence)
{
    const char *sp = memchr(line.p, ' ', line.n);
    size_t n = sp ? (size_t)(sp - line.p) : line.n;
    h->method = (ag_str){line.p, n};
    if (sp == NULL || n > METHOD_MAX || !ag__is_token(h->method)) {
        *sentence = "the request line must read: METHOD, one space, target, one space, HTTP/1.1";
        return AG_E_HTTP;
    }
    if (ag_str_eqz(h->method, "CONNECT")) {
        *sentence = "CONNECT is for proxies, which this is not";
        return AG_E_HTTP;
    }
    ag_str rest = after(line, n + 1);
    sp = rest.n ? memrchr(rest.p, ' ', rest.n) : NULL;
    if (sp == NULL) {
        *sentence = "the request line must end in HTTP/1.1 or HTTP/1.0";
        return AG_E_HTTP;
    }
    h->target = (ag_str){rest.p, (size_t)(sp - rest.p)};
    ag_str version = after(rest, h->target.n + 1);
    if (!ag_str_eqz(version, "HTTP/1.1") && !ag_str_eqz(version, "HTTP/1.0")) {
        *sentence = "only HTTP/1.1 and HTTP/1.0 are spoken here";
        return AG_E_HTTP;
    }
    h->minor = (uint8_t)(version.p[7] - '0');
    return parse_target(h, authority, sentence);
}

typedef struct fields { /* what the headers said so far about framing */
    uint32_t host, length, coding;
    ag_str host_value;
    bool close, keep_alive;
} fields;

static int parse_length(ag_http_head *h, ag_str v, const char **sentence)
{
    int64_t n = 0;
    for (size_t i = 0; i < v.n && i < LENGTH_DIGITS_MAX; i++) {
        if (v.p[i] < '0' || v.p[i] > '9') break;
        n = n * 10 + (v.p[i] - '0');
        if (i + 1 == v.n) {
            h->content_length = n;
            return AG_OK;
        }
    }
    *sentence = "Content-Length must be one plain decimal number of at most 18 digits";
    return AG_E_HTTP;
}

static void parse_connection(fields *f, ag_str v)
{
    while (v.n) {
        const char *comma = memchr(v.p, ',', v.n);
        size_t n = comma ? (size_t)(comma - v.p) : v.n;
        ag_str word = trim((ag_str){v.p, n});
        if (ag_str_ieq(word, AG_STR("close"))) f->close = true;
        if (ag_str_ieq(word, AG_STR("keep-alive"))) f->keep_alive = true;
        v = after(v, comma ? n + 1 : n);
    }
}

static int parse_field(ag__head *h, fields *f, const ag_http_header *x, const char **sentence)
{
    int rc = AG_OK;
    if (ag_str_ieq(x->name, AG_STR("host"))) {
        f->host_value = x->value;
        if (++f->host > 1 || !is_host(x->value)) {
            *sentence = f->host > 1 ? "there is more than one Host header" : "the Host header is not a host name";
            rc = AG_E_HTTP;
        }
    } else if (ag_str_ieq(x->name, AG_STR("content-length"))) {
        if (++f->length > 1) {
            *sentence = "there is more than one Content-Length";
            rc = AG_E_HTTP;
        } else {
            rc = parse_length(&h->pub, x->value, sentence);
        }
    } else if (ag_str_ieq(x->name, AG_STR("transfer-encoding"))) {
        h->chunked = true;
        if (++f->coding > 1 || !ag_str_ieq(x->value, AG_STR("chunked"))) {
            *sentence = "Transfer-Encoding must be \"chunked\", once";
            rc = AG_E_HTTP;
        }
    } else if (ag_str_ieq(x->name, AG_STR("connection"))) {
        parse_connection(f, x->value);
    } else if (ag_str_ieq(x->name, AG_STR("expect"))) {
        h->expect_continue = true;
        if (!ag_str_ieq(x->value, AG_STR("100-continue"))) {
            *sentence = "only Expect: 100-continue is known";
            rc = AG_E_EXPECT;
        }
    }
    return rc;
}

static int parse_header_line(ag_http_header *x, ag_str line, const char **sentence)
{
    if (line.p[0] == ' ' || line.p[0] == '\t') {
        *sentence = "a header is folded over two lines";
        return AG_E_HTTP;
    }
    const char *colon = memchr(line.p, ':', line.n);
    x->name = (ag_str){line.p, colon ? (size_t)(colon - line.p) : 0};
    if (!ag__is_token(x->name)) {
        *sentence = "a header line must read: name, ':' with no space before it, value";
        return AG_E_HTTP;
    }
    x->value = trim(after(line, x->name.n + 1));
    return AG_OK;
}

/* What can only be judged once every header is known. */
static int check_whole(ag__head *h, const fields *f, ag_str authority, const char **sentence)
{
    if (f->host == 0 && h->pub.minor == 1) {
        *sentence = "the Host header is missing";
        return AG_E_HTTP;
    }
    if (authority.p && (f->host == 0 || !ag_str_ieq(authority, f->host_value))) {
        *sentence = "the host in the target is not the one in the Host header";
        return AG_E_HTTP;
    }
    if (h->chunked && (f->length || h->pub.minor == 0)) {
        *sentence = f->length ? "Content-Length and Transfer-Encoding exclude each other"
                              : "HTTP/1.0 has no Transfer-Encoding";
        return AG_E_HTTP;
    }
    return AG_OK;
}

int ag__head_parse(ag__head *h, const char *p, size_t n, ag_http_header *slots, uint32_t max, const char **sentence)
{
    *h = (ag__head){.pub = {.headers = slots, .content_length = -1}};
    fields f = {0};
    ag_str authority = {0};
    ag_str line = line_at(p, n, 0);
    int rc = parse_request_line(&h->pub, line, &authority, sentence);
    for (size_t at = line.n + 2; rc == AG_OK; at += line.n + 2) {
        line = line_at(p, n, at);
        if (line.n == 0) break;
        if (h->pub.n_headers == max) {
            *sentence = "the request has more headers than the server takes";
            return AG_E_HEADERS_TOO_LARGE;
        }
        ag_http_header *x = &slots[h->pub.n_headers];
        rc = parse_header_line(x, line, sentence);
        if (rc != AG_OK) break;
        h->pub.n_headers++;
        rc = parse_field(h, &f, x, sentence);
    }
    if (rc == AG_OK) rc = check_whole(h, &f, authority, sentence);
    if (rc != AG_OK) return rc;
    h->pub.has_body = h->chunked || h->pub.content_length > 0;
    h->persistent = !f.close && (h->pub.minor == 1 || f.keep_alive);
    h->expect_continue = h->expect_continue && h->pub.minor == 1; /* 1.0 has no interim answers */
    return AG_OK;
}

ag_str ag_http_head_get(const ag_http_head *h, const char *name)
{
    ag_str want = ag_str_of(name);
    for (uint32_t i = 0; i < h->n_headers; i++)
        if (ag_str_ieq(h->headers[i].name, want)) return h->headers[i].value;
    return (ag_str){0};
}
