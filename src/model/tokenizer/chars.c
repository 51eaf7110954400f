#include "model/tokenizer/chars.h"

#define CAT(c) AG__CAT(c)
#define PO (CAT(PO) | AG__ASCII_PUNCT)
#define PS (CAT(PS) | AG__ASCII_PUNCT)
#define PE (CAT(PE) | AG__ASCII_PUNCT)
#define MATH (CAT(SM) | AG__ASCII_PUNCT | AG__ASCII_MATH)

/* ASCII is most of most texts, and the only place where the sets of our own have members by name. */
static const uint64_t ascii[128] = {
    [0x00 ... 0x08] = CAT(CC), [0x0e ... 0x1f] = CAT(CC), [0x7f] = CAT(CC),
    ['\t'] = CAT(CC) | AG__SPACE, [0x0b ... 0x0c] = CAT(CC) | AG__SPACE,
    ['\n'] = CAT(CC) | AG__SPACE | AG__CRLF, ['\r'] = CAT(CC) | AG__SPACE | AG__CRLF,
    [' '] = CAT(ZS) | AG__SPACE | AG__BLANK,
    ['0' ... '9'] = CAT(ND) | AG__ASCII_DIGIT,
    ['A' ... 'Z'] = CAT(LU) | AG__ASCII_LETTER, ['a' ... 'z'] = CAT(LL) | AG__ASCII_LETTER,
    ['!'] = PO, ['"'] = PO, ['#'] = PO, ['%'] = PO, ['&'] = PO, ['\''] = PO, ['*'] = PO, [','] = PO, ['.'] = PO,
    ['/'] = PO | AG__SLASH, [':'] = PO, [';'] = PO, ['?'] = PO, ['@'] = PO, ['\\'] = PO,
    ['('] = PS, ['['] = PS, ['{'] = PS, [')'] = PE, [']'] = PE, ['}'] = PE,
    ['-'] = CAT(PD) | AG__ASCII_PUNCT, ['_'] = CAT(PC) | AG__ASCII_PUNCT,
    ['+'] = MATH, ['<'] = MATH, ['='] = MATH, ['>'] = MATH, ['|'] = MATH, ['~'] = MATH,
    ['$'] = CAT(SC) | AG__ASCII_PUNCT | AG__ASCII_MATH, ['^'] = CAT(SK) | AG__ASCII_PUNCT | AG__ASCII_MATH,
    ['`'] = CAT(SK) | AG__ASCII_PUNCT | AG__BACKTICK,
};

/* White_Space is every separator (Zs, Zl, Zp) and these controls; beyond ASCII only NEL is one of them. */
static uint64_t mask_of(uint32_t cp)
{
    uint64_t m = 1ull << utf8proc_category((utf8proc_int32_t)cp);
    if ((m & (CAT(ZS) | CAT(ZL) | CAT(ZP))) || cp == 0x85) m |= AG__SPACE;
    return m;
}

ag__char ag__char_at(const char *s)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return (ag__char){u[0], 1, ascii[u[0]]};
    uint32_t cp, n;
    if (u[0] < 0xe0) {
        cp = (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
        n = 2;
    } else if (u[0] < 0xf0) {
        cp = (u[0] & 0x0fu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
        n = 3;
    } else {
        cp = (u[0] & 0x07u) << 18 | (u[1] & 0x3fu) << 12 | (u[2] & 0x3fu) << 6 | (u[3] & 0x3fu);
        n = 4;
    }
    return (ag__char){cp, n, mask_of(cp)};
}

static bool in_ranges(const ag__range *r, uint32_t n, uint32_t cp)
{
    uint32_t lo = 0, hi = n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (cp > r[mid].last) lo = mid + 1;
        else hi = mid;
    }
    return lo < n && cp >= r[lo].first;
}

bool ag__class_has(const ag__class *c, const ag__char *ch)
{
    bool in = (ch->mask & c->mask) != 0 || (c->n_ranges && in_ranges(c->ranges, c->n_ranges, ch->cp));
    return in != c->invert;
}
