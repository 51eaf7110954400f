#include "model/template/uni.h"

#include <utf8proc.h>

#include "base/utf8.h"

uint32_t ag__uni_next(const char **p, const char *end)
{
    uint32_t cp = (unsigned char)**p;
    if (cp < 0x80) {
        *p += 1;
        return cp;
    }
    size_t n = ag_utf8_get(*p, (size_t)(end - *p), &cp);
    if (n == 0) {
        *p += 1;
        return 0xFFFD;
    }
    *p += n;
    return cp;
}

uint32_t ag__uni_prev(const char *begin, const char **p)
{
    const char *q = *p - 1;
    while (q > begin && ((unsigned char)*q & 0xC0) == 0x80) q--;
    const char *at = q;
    uint32_t cp = ag__uni_next(&at, *p);
    *p = q;
    return cp;
}

size_t ag__uni_count(const char *p, size_t n)
{
    size_t c = 0;
    for (size_t i = 0; i < n; i++) c += ((unsigned char)p[i] & 0xC0) != 0x80;
    return c;
}

bool ag__uni_ascii(const char *p, size_t n)
{
    unsigned char any = 0;
    for (size_t i = 0; i < n; i++) any |= (unsigned char)p[i];
    return any < 0x80;
}

size_t ag__uni_offset(const char *p, size_t n, size_t chars)
{
    size_t i = 0;
    while (i < n && chars > 0) {
        i++;
        while (i < n && ((unsigned char)p[i] & 0xC0) == 0x80) i++;
        chars--;
    }
    return i;
}

bool ag__uni_space(uint32_t cp)
{
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x1F);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

bool ag__uni_line_end(uint32_t cp)
{
    return (cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

static utf8proc_category_t category(uint32_t cp) { return utf8proc_category((utf8proc_int32_t)cp); }

bool ag__uni_alpha(uint32_t cp)
{
    if (cp < 0x80) return (cp | 32) >= 'a' && (cp | 32) <= 'z';
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_LO;
}

bool ag__uni_decimal(uint32_t cp)
{
    return cp < 0x80 ? cp >= '0' && cp <= '9' : category(cp) == UTF8PROC_CATEGORY_ND;
}

bool ag__uni_digit(uint32_t cp)
{
    if (ag__uni_decimal(cp)) return true;
    return cp == 0xB2 || cp == 0xB3 || cp == 0xB9 || cp == 0x2070 || (cp >= 0x2074 && cp <= 0x2079) ||
           (cp >= 0x2080 && cp <= 0x2089) || (cp >= 0x2460 && cp <= 0x2468) || (cp >= 0x2474 && cp <= 0x247C) ||
           (cp >= 0x2488 && cp <= 0x2490);
}

bool ag__uni_numeric(uint32_t cp)
{
    if (ag__uni_digit(cp)) return true;
    if (cp < 0x80) return false;
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool ag__uni_word(uint32_t cp)
{
    return cp == '_' || ag__uni_alpha(cp) || ag__uni_numeric(cp);
}

bool ag__uni_lower(uint32_t cp)
{
    if (cp < 0x80) return cp >= 'a' && cp <= 'z';
    return category(cp) == UTF8PROC_CATEGORY_LL || cp == 0xAA || cp == 0xBA;
}

bool ag__uni_upper(uint32_t cp)
{
    if (cp < 0x80) return cp >= 'A' && cp <= 'Z';
    return category(cp) == UTF8PROC_CATEGORY_LU;
}

bool ag__uni_titled(uint32_t cp) { return cp >= 0x80 && category(cp) == UTF8PROC_CATEGORY_LT; }

bool ag__uni_cased(uint32_t cp) { return ag__uni_lower(cp) || ag__uni_upper(cp) || ag__uni_titled(cp); }

bool ag__uni_printable(uint32_t cp)
{
    if (cp < 0x80) return cp >= 32 && cp < 127;
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_CC: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_CS: case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN: case UTF8PROC_CATEGORY_ZL: case UTF8PROC_CATEGORY_ZP: case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

/* Characters whose capital is several (Unicode's SpecialCasing; the rest of that file is Greek with iota below). */
static const struct { uint16_t cp, upper[3], title[3]; } special[] = {
    {0x00DF, {'S', 'S'}, {'S', 's'}},          {0x0149, {0x2BC, 'N'}, {0x2BC, 'N'}},
    {0x01F0, {'J', 0x30C}, {'J', 0x30C}},      {0x0390, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
    {0x03B0, {0x3A5, 0x308, 0x301}, {0x3A5, 0x308, 0x301}}, {0x0587, {0x535, 0x552}, {0x535, 0x582}},
    {0x1E96, {'H', 0x331}, {'H', 0x331}},      {0x1E97, {'T', 0x308}, {'T', 0x308}},
    {0x1E98, {'W', 0x30A}, {'W', 0x30A}},      {0x1E99, {'Y', 0x30A}, {'Y', 0x30A}},
    {0x1E9A, {'A', 0x2BE}, {'A', 0x2BE}},      {0xFB00, {'F', 'F'}, {'F', 'f'}},
    {0xFB01, {'F', 'I'}, {'F', 'i'}},          {0xFB02, {'F', 'L'}, {'F', 'l'}},
    {0xFB03, {'F', 'F', 'I'}, {'F', 'f', 'i'}}, {0xFB04, {'F', 'F', 'L'}, {'F', 'f', 'l'}},
    {0xFB05, {'S', 'T'}, {'S', 't'}},          {0xFB06, {'S', 'T'}, {'S', 't'}},
    {0xFB13, {0x544, 0x546}, {0x544, 0x576}},  {0xFB14, {0x544, 0x535}, {0x544, 0x565}},
    {0xFB15, {0x544, 0x53B}, {0x544, 0x56B}},  {0xFB16, {0x54E, 0x546}, {0x54E, 0x576}},
    {0xFB17, {0x544, 0x53D}, {0x544, 0x56D}},
};

static int map_special(uint32_t cp, ag_uni_case to, uint32_t out[3])
{
    for (size_t i = 0; i < AG_ARRAY_LEN(special); i++) {
        if (special[i].cp != cp) continue;
        const uint16_t *m = to == AG_UNI_UPPER ? special[i].upper : special[i].title;
        int n = 0;
        while (n < 3 && m[n] != 0) {
            out[n] = m[n];
            if (to == AG_UNI_FOLD) out[n] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)m[n]);
            n++;
        }
        return n;
    }
    return 0;
}

int ag__uni_map(uint32_t cp, ag_uni_case to, uint32_t out[3])
{
    utf8proc_int32_t c = (utf8proc_int32_t)cp;
    if (cp >= 0x80 && to != AG_UNI_LOWER) {
        int n = map_special(cp, to, out);
        if (n > 0) return n;
    }
    if (cp == 0x130 && (to == AG_UNI_LOWER || to == AG_UNI_FOLD)) {
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    if (to == AG_UNI_FOLD && cp == 0x3C2) c = 0x3C3;
    out[0] = (uint32_t)(to == AG_UNI_UPPER ? utf8proc_toupper(c) : to == AG_UNI_TITLE ? utf8proc_totitle(c)
                                                                                      : utf8proc_tolower(c));
    if (to == AG_UNI_FOLD && cp == 0xB5) out[0] = 0x3BC;
    return 1;
}

static bool case_ignorable(uint32_t cp)
{
    if (cp == '\'' || cp == '.' || cp == ':' || cp == '^' || cp == '`' || cp == 0xB7 || cp == 0x2019) return true;
    if (cp < 0x80) return false;
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK;
}

bool ag__uni_final_sigma(const char *begin, const char *at, const char *end)
{
    const char *p = at;
    uint32_t cp = 0;
    while (p > begin && case_ignorable(cp = ag__uni_prev(begin, &p))) cp = 0;
    if (!ag__uni_cased(cp)) return false;
    p = at + 2;
    cp = 0;
    while (p < end && case_ignorable(cp = ag__uni_next(&p, end))) cp = 0;
    return !ag__uni_cased(cp);
}

const char *ag__uni_strip_left(const char *p, const char *end)
{
    while (p < end) {
        const char *q = p;
        if (!ag__uni_space(ag__uni_next(&q, end))) break;
        p = q;
    }
    return p;
}

const char *ag__uni_strip_right(const char *p, const char *end)
{
    while (end > p) {
        const char *q = end;
        if (!ag__uni_space(ag__uni_prev(p, &q))) break;
        end = q;
    }
    return end;
}
