#include "gateway/dialects/pb.h"

#include "base/utf8.h"

#define VARINT_BYTES_MAX 10

bool ag_pb_varint(ag_str *rest, uint64_t *out)
{
    uint64_t x = 0;
    for (size_t i = 0; i < rest->n && i < VARINT_BYTES_MAX; i++) {
        unsigned char c = (unsigned char)rest->p[i];
        if (i == VARINT_BYTES_MAX - 1 && c > 1) return false; /* more than 64 bits */
        x |= (uint64_t)(c & 0x7F) << (7 * i);
        if (c & 0x80) continue;
        *out = x;
        *rest = (ag_str){rest->p + i + 1, rest->n - i - 1};
        return true;
    }
    return false;
}

static bool take(ag_str *rest, uint64_t n, ag_str *out)
{
    if (n > rest->n) return false;
    *out = (ag_str){rest->p, (size_t)n};
    *rest = (ag_str){rest->p + n, rest->n - (size_t)n};
    return true;
}

static bool take_fixed(ag_str *rest, size_t n, uint64_t *out)
{
    ag_str bytes;
    if (!take(rest, n, &bytes)) return false;
    *out = 0;
    for (size_t i = 0; i < n; i++) *out |= (uint64_t)(unsigned char)bytes.p[i] << (8 * i);
    return true;
}

int ag_pb_next(ag_str *rest, ag_pb_item *out)
{
    uint64_t tag, length;
    if (rest->n == 0) return 0;
    if (!ag_pb_varint(rest, &tag) || tag >> 3 == 0 || tag >> 3 > (1u << 29) - 1) return -1;
    *out = (ag_pb_item){.field = (uint32_t)(tag >> 3), .wire = (ag_pb_wire)(tag & 7)};
    switch (out->wire) {
    case AG_PB_VARINT: return ag_pb_varint(rest, &out->number) ? 1 : -1;
    case AG_PB_64: return take_fixed(rest, 8, &out->number) ? 1 : -1;
    case AG_PB_32: return take_fixed(rest, 4, &out->number) ? 1 : -1;
    case AG_PB_BYTES: return ag_pb_varint(rest, &length) && take(rest, length, &out->bytes) ? 1 : -1;
    default: return -1; /* groups, which nobody has sent for long */
    }
}

ag_str ag_pb_find(ag_str message, uint32_t field)
{
    ag_pb_item item;
    ag_str found = {0};
    int rc;
    while ((rc = ag_pb_next(&message, &item)) > 0)
        if (item.field == field && item.wire == AG_PB_BYTES) found = item.bytes;
    return rc == 0 ? found : (ag_str){0};
}

static size_t varint_of(char to[VARINT_BYTES_MAX], uint64_t x)
{
    size_t n = 0;
    for (; x >= 0x80; x >>= 7) to[n++] = (char)(x | 0x80);
    to[n++] = (char)x;
    return n;
}

void ag_pb_put_varint(ag_buf *out, uint64_t number)
{
    char bytes[VARINT_BYTES_MAX];
    ag_buf_add(out, bytes, varint_of(bytes, number));
}

static void put_tag(ag_buf *out, uint32_t field, ag_pb_wire wire)
{
    ag_pb_put_varint(out, (uint64_t)field << 3 | wire);
}

void ag_pb_put(ag_buf *out, uint32_t field, uint64_t number)
{
    if (number == 0) return;
    put_tag(out, field, AG_PB_VARINT);
    ag_pb_put_varint(out, number);
}

void ag_pb_put_bytes(ag_buf *out, uint32_t field, ag_str s)
{
    put_tag(out, field, AG_PB_BYTES);
    ag_pb_put_varint(out, s.n);
    ag_buf_add(out, s.p, s.n);
}

void ag_pb_put_string(ag_buf *out, uint32_t field, ag_str s)
{
    if (ag_utf8_check(s.p, s.n) == SIZE_MAX) {
        ag_pb_put_bytes(out, field, s);
        return;
    }
    size_t at = out->n;
    for (size_t i = 0, len; i < s.n; i += AG_MAX(len, 1u)) {
        len = ag_utf8_len(s.p + i, s.n - i);
        if (len) ag_buf_add(out, s.p + i, len);
        else ag_buf_add(out, "\xEF\xBF\xBD", 3);
    }
    ag_pb_wrap(out, at, field);
}

void ag_pb_put_text(ag_buf *out, uint32_t field, ag_str s)
{
    if (s.n) ag_pb_put_string(out, field, s);
}

void ag_pb_put_float(ag_buf *out, uint32_t field, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_tag(out, field, AG_PB_32);
    for (int i = 0; i < 4; i++) ag_buf_addc(out, (char)(bits >> (8 * i)));
}

void ag_pb_wrap(ag_buf *out, size_t at, uint32_t field)
{
    char head[2 * VARINT_BYTES_MAX];
    if (out->failed) return;
    size_t n = out->n - at;
    size_t n_head = varint_of(head, (uint64_t)field << 3 | AG_PB_BYTES);
    n_head += varint_of(head + n_head, n);
    if (!ag_buf_room(out, n_head)) return;
    memmove(out->p + at + n_head, out->p + at, n);
    memcpy(out->p + at, head, n_head);
    out->n += n_head;
}
