#include "net/chunk.h"

#include "net/head.h"

/* 15 hex digits cannot overflow when added up; no body has more. */
#define SIZE_DIGITS_MAX 15
/* Extensions mean nothing here. Clients that send any use a few dozen bytes; without a bound a body of one-byte chunks
 * is a way to make us read without end. */
#define EXT_BYTES_MAX 256
#define EXT_BYTES_ALL_MAX 16384
#define TRAILER_BYTES_MAX 8192

static int hex(unsigned char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static const char *size_byte(ag__chunk *c, unsigned char b)
{
    int v = hex(b);
    if (v >= 0) {
        if (++c->digits > SIZE_DIGITS_MAX) return "a chunk size has more than 15 digits";
        c->size = c->size * 16 + (uint64_t)v;
        return NULL;
    }
    if (c->digits == 0 || (b != '\r' && b != ';')) return "a chunk size must be hexadecimal digits, then ';' or CR LF";
    c->state = b == '\r' ? AG__CHUNK_SIZE_LF : AG__CHUNK_EXT;
    return NULL;
}

static const char *ext_byte(ag__chunk *c, unsigned char b)
{
    if (b == '\r') {
        c->state = AG__CHUNK_SIZE_LF;
        return NULL;
    }
    if (ag__is_ctl(b)) return "a chunk extension holds a control character";
    if (++c->ext > EXT_BYTES_MAX || ++c->ext_all > EXT_BYTES_ALL_MAX) return "the chunk extensions are too long";
    return NULL;
}

static const char *size_line_end(ag__chunk *c)
{
    if (c->body + c->size < c->body || c->body + c->size > INT64_MAX) return "the chunks add up to too much";
    c->body += c->size;
    c->state = c->size ? AG__CHUNK_DATA : AG__CHUNK_TRAILER;
    c->digits = c->ext = 0;
    return NULL;
}

static const char *trailer_byte(ag__chunk *c, unsigned char b)
{
    if (++c->trailer > TRAILER_BYTES_MAX) return "the trailers are too long";
    switch (c->state) {
    case AG__CHUNK_TRAILER:
        c->state = b == '\r' ? AG__CHUNK_LAST_LF : AG__CHUNK_NAME;
        if (b != '\r' && !ag__is_tchar(b)) return "a trailer line must begin with a name";
        return NULL;
    case AG__CHUNK_NAME:
        if (b == ':') c->state = AG__CHUNK_VALUE;
        else if (!ag__is_tchar(b)) return "a trailer line must read: name, ':' with no space before it, value";
        return NULL;
    case AG__CHUNK_VALUE:
        if (b == '\r') c->state = AG__CHUNK_VALUE_LF;
        else if (ag__is_ctl(b)) return "a trailer holds a control character";
        return NULL;
    default:
        if (b != '\n') return "a CR stands without its LF";
        c->state = c->state == AG__CHUNK_LAST_LF ? AG__CHUNK_END : AG__CHUNK_TRAILER;
        return NULL;
    }
}

static const char *frame_byte(ag__chunk *c, unsigned char b)
{
    switch (c->state) {
    case AG__CHUNK_SIZE: return size_byte(c, b);
    case AG__CHUNK_EXT: return ext_byte(c, b);
    case AG__CHUNK_SIZE_LF: return b == '\n' ? size_line_end(c) : "a CR stands without its LF";
    case AG__CHUNK_DATA_CR:
        c->state = AG__CHUNK_DATA_LF;
        return b == '\r' ? NULL : "a chunk is longer than its size says";
    case AG__CHUNK_DATA_LF:
        c->state = AG__CHUNK_SIZE;
        return b == '\n' ? NULL : "a CR stands without its LF";
    default: return trailer_byte(c, b);
    }
}

ag__chunk_kind ag__chunk_next(ag__chunk *c, const char *p, size_t n, size_t *len, const char **sentence)
{
    AG_ASSERT(c->state != AG__CHUNK_END && n > 0);
    if (c->state == AG__CHUNK_DATA) {
        *len = (size_t)AG_MIN((uint64_t)n, c->size);
        c->size -= *len;
        if (c->size == 0) c->state = AG__CHUNK_DATA_CR;
        return AG__CHUNK_IS_DATA;
    }
    for (*len = 0; *len < n && c->state != AG__CHUNK_DATA && c->state != AG__CHUNK_END; ++*len) {
        *sentence = frame_byte(c, (unsigned char)p[*len]);
        if (*sentence) return AG__CHUNK_IS_BAD;
    }
    return AG__CHUNK_IS_FRAME;
}
