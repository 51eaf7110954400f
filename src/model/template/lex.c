#include <errno.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "model/template/ast.h"
#include "model/template/uni.h"

typedef struct lexer {
    ag_tparser *p;
    const char *src;
    uint32_t len, at, cap;
    bool line_starting; /* what was matched last ended with a newline */
} lexer;

static ag_tok *tok_push(lexer *x, ag_tok_type type, uint32_t pos)
{
    ag_tparser *p = x->p;
    if (p->n_tok == x->cap) {
        uint32_t cap = x->cap ? x->cap * 2 : 64;
        ag_tok *more = ag_arena_array(p->mem, cap, sizeof *more);
        if (more == NULL) {
            ag__tp_nomem(p);
            return NULL;
        }
        if (p->n_tok) memcpy(more, p->tok, p->n_tok * sizeof *more);
        p->tok = more;
        x->cap = cap;
    }
    ag_tok *t = &p->tok[p->n_tok++];
    *t = (ag_tok){.type = type, .pos = pos};
    return t;
}

static char peek(const lexer *x, uint32_t ahead) { return x->at + ahead < x->len ? x->src[x->at + ahead] : 0; }

static uint32_t skip_space(const lexer *x, uint32_t at)
{
    return (uint32_t)(ag__uni_strip_left(x->src + at, x->src + x->len) - x->src);
}

static uint32_t skip_word(const lexer *x, uint32_t at, const char *word)
{
    size_t n = strlen(word);
    return x->len - at >= n && memcmp(x->src + at, word, n) == 0 ? at + (uint32_t)n : UINT32_MAX;
}

static bool data_push(lexer *x, uint32_t from, uint32_t to)
{
    if (from == to) return true;
    ag_tok *t = tok_push(x, AG_TOK_DATA, from);
    if (t == NULL) return false;
    t->s = (ag_str){x->src + from, to - from};
    return true;
}

/* The end of the text [from, to) before a tag whose sign is '-', '+' or 0: "-" takes all white space away; without a
 * sign, white space alone on the tag's line goes (never before an expression). */
static uint32_t data_end(const lexer *x, uint32_t from, uint32_t to, char sign, bool expression)
{
    if (sign == '-') return (uint32_t)(ag__uni_strip_right(x->src + from, x->src + to) - x->src);
    if (sign == '+' || expression) return to;
    uint32_t line = to;
    while (line > from && x->src[line - 1] != '\n') line--;
    if (line == from && !x->line_starting) return to;
    return skip_space(x, line) >= to ? line : to;
}

/* Moves behind a tag's closing "%}" or "#}" at x->at, with the white space that its sign takes along. */
static void close_tag(lexer *x, char sign, bool trim_newline)
{
    x->at += 2;
    if (sign == '-') {
        x->at = skip_space(x, x->at);
    } else if (sign == 0 && trim_newline && peek(x, 0) == '\n') {
        x->at++;
    }
    x->line_starting = x->src[x->at - 1] == '\n';
}

static bool lex_comment(lexer *x, uint32_t start)
{
    uint32_t i = x->at;
    while (i + 1 < x->len && !(x->src[i] == '#' && x->src[i + 1] == '}')) i++;
    if (i + 1 >= x->len) return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, start, "Missing end of comment tag");
    char sign = i > x->at && (x->src[i - 1] == '-' || x->src[i - 1] == '+') ? x->src[i - 1] : 0;
    x->at = i;
    close_tag(x, sign, true);
    return true;
}

/* The offset of "%}" when [at...) is `word` between optional white space, with the sign before it; else 0. */
static uint32_t raw_word(const lexer *x, uint32_t at, const char *word, bool plus, char *sign)
{
    uint32_t i = skip_word(x, skip_space(x, at), word);
    if (i == UINT32_MAX) return 0;
    i = skip_space(x, i);
    *sign = 0;
    if (i < x->len && (x->src[i] == '-' || (plus && x->src[i] == '+'))) *sign = x->src[i++];
    return skip_word(x, i, "%}") == UINT32_MAX ? 0 : i;
}

static bool lex_raw(lexer *x, uint32_t start)
{
    uint32_t from = x->at, resume;
    for (uint32_t i = from; i + 1 < x->len; i++) {
        if (x->src[i] != '{' || x->src[i + 1] != '%') continue;
        char open = i + 2 < x->len && (x->src[i + 2] == '-' || x->src[i + 2] == '+') ? x->src[i + 2] : 0, sign;
        resume = raw_word(x, i + 2 + (open != 0), "endraw", true, &sign);
        if (resume == 0) continue;
        if (!data_push(x, from, data_end(x, from, i, open, false))) return false;
        x->at = resume;
        close_tag(x, sign, true);
        return true;
    }
    return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, start, "Missing end of raw directive");
}

static uint32_t digits(const lexer *x, uint32_t at, int base)
{
    uint32_t i = at;
    for (;;) {
        uint32_t j = i + (i > at && i < x->len && x->src[i] == '_');
        char c = j < x->len ? x->src[j] : 0, low = (char)(c | 32);
        int v = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : 99;
        if (v >= base) return i;
        i = j + 1;
    }
}

static bool lex_number_text(lexer *x, uint32_t end, bool is_float, int base, uint32_t skip)
{
    char text[512];
    size_t n = 0;
    for (uint32_t i = x->at + skip; i < end; i++) {
        if (x->src[i] == '_') continue;
        if (n + 1 == sizeof text) {
            return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, x->at, "a number with so many digits is not supported");
        }
        text[n++] = x->src[i];
    }
    text[n] = 0;
    ag_tok *t = tok_push(x, is_float ? AG_TOK_FLOAT : AG_TOK_INTEGER, x->at);
    if (t == NULL) return false;
    errno = 0;
    if (is_float) {
        t->f = strtod(text, NULL);
    } else {
        t->i = strtoll(text, NULL, base);
        if (errno == ERANGE) {
            return ag__tp_fail(x->p, AG_TEMPLATE_LIMIT, x->at, "integer %s does not fit 64 bits", text);
        }
    }
    x->at = end;
    return true;
}

static bool lex_number(lexer *x)
{
    uint32_t whole = digits(x, x->at, 10), end = whole;
    bool is_float = false;
    if (end + 1 < x->len && x->src[end] == '.' && x->src[end + 1] >= '0' && x->src[end + 1] <= '9') {
        end = digits(x, end + 1, 10);
        is_float = true;
    }
    if (end < x->len && (x->src[end] | 32) == 'e') {
        uint32_t e = end + 1;
        if (e < x->len && (x->src[e] == '+' || x->src[e] == '-')) e++;
        uint32_t e_end = digits(x, e, 10);
        if (e_end > e) {
            end = e_end;
            is_float = true;
        }
    }
    bool after_dot = x->at > 0 && x->src[x->at - 1] == '.';
    if (is_float && !after_dot) return lex_number_text(x, end, true, 10, 0);
    if (x->src[x->at] == '0') {
        char c = (char)(peek(x, 1) | 32);
        int base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        uint32_t from = x->at + 2 + (base && peek(x, 2) == '_');
        if (base && digits(x, from, base) > from) return lex_number_text(x, digits(x, from, base), false, base, 2);
        uint32_t zeros = x->at + 1;
        while (zeros < whole && (x->src[zeros] == '0' || (x->src[zeros] == '_' && x->src[zeros + 1] == '0'))) zeros++;
        return lex_number_text(x, zeros, false, 10, 0);
    }
    return lex_number_text(x, whole, false, 10, 0);
}

static int hex_value(char c)
{
    char low = (char)(c | 32);
    return c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* \xHH, \uHHHH, \UHHHHHHHH: x->src[*i] is the letter. */
static bool escape_hex(lexer *x, uint32_t *i, uint32_t end, char *out, size_t *n)
{
    char letter = x->src[*i];
    uint32_t need = letter == 'x' ? 2 : letter == 'u' ? 4 : 8, cp = 0;
    for (uint32_t k = 1; k <= need; k++) {
        int v = *i + k < end ? hex_value(x->src[*i + k]) : -1;
        if (v < 0 || cp > 0x10FFFF) {
            return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, *i - 1, "truncated or illegal \\%c escape", letter);
        }
        cp = cp * 16 + (uint32_t)v;
    }
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF)) {
        return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, *i - 1, "\\%c%X is not a character", letter, cp);
    }
    *n += ag_utf8_put(out + *n, cp);
    *i += need + 1;
    return true;
}

static bool escape_one(lexer *x, uint32_t *i, uint32_t end, char *out, size_t *n)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = x->src[*i];
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        out[(*n)++] = to[simple - from];
        *i += 1;
    } else if (c == '\n') {
        *i += 1;
    } else if (c >= '0' && c <= '7') {
        uint32_t v = 0, k = 0;
        while (k < 3 && *i + k < end && x->src[*i + k] >= '0' && x->src[*i + k] <= '7') {
            v = v * 8 + (uint32_t)(x->src[*i + k++] - '0');
        }
        *n += ag_utf8_put(out + *n, v);
        *i += k;
    } else if (c == 'x' || c == 'u' || c == 'U') {
        return escape_hex(x, i, end, out, n);
    } else if (c == 'N') {
        return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, *i - 1, "\\N{...} escapes are not supported");
    } else {
        out[(*n)++] = '\\';
    }
    return true;
}

static bool lex_string(lexer *x)
{
    char quote = peek(x, 0);
    uint32_t start = x->at, i = start + 1;
    bool escapes = false;
    for (; i < x->len && x->src[i] != quote; i++) {
        if (x->src[i] == '\\') {
            escapes = true;
            i++;
        }
    }
    if (i >= x->len) return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, start, "unexpected char \"%c\"", quote);
    ag_tok *t = tok_push(x, AG_TOK_STRING, start);
    if (t == NULL) return false;
    t->s = (ag_str){x->src + start + 1, i - start - 1};
    x->at = i + 1;
    if (!escapes) return true;
    char *out = ag_arena_alloc(x->p->mem, t->s.n * 2 + 1); /* \1 to \777 may take a byte more than their letters */
    if (out == NULL) return ag__tp_nomem(x->p);
    size_t n = 0;
    for (uint32_t k = start + 1; k < i;) {
        if (x->src[k] != '\\') {
            out[n++] = x->src[k++];
            continue;
        }
        k++;
        if (!escape_one(x, &k, i, out, &n)) return false;
    }
    t = &x->p->tok[x->p->n_tok - 1];
    t->s = (ag_str){out, n};
    return true;
}

static bool lex_name(lexer *x)
{
    const char *p = x->src + x->at, *end = x->src + x->len, *q = p;
    while (q < end) {
        const char *next = q;
        if (!ag__uni_word(ag__uni_next(&next, end))) break;
        q = next;
    }
    if (q == p) return false;
    const char *first = p;
    uint32_t cp = ag__uni_next(&first, end);
    uint32_t start = x->at;
    if (cp != '_' && !ag__uni_alpha(cp)) {
        return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, start, "Invalid character in identifier");
    }
    ag_tok *t = tok_push(x, AG_TOK_NAME, start);
    if (t == NULL) return false;
    t->s = (ag_str){p, (size_t)(q - p)};
    x->at = (uint32_t)(q - x->src);
    return true;
}

static const struct { char text[3]; ag_tok_type type; } operators[] = {
    {"**", AG_TOK_POW}, {"//", AG_TOK_FLOORDIV}, {"==", AG_TOK_EQ}, {"!=", AG_TOK_NE}, {">=", AG_TOK_GE},
    {"<=", AG_TOK_LE}, {"+", AG_TOK_ADD}, {"-", AG_TOK_SUB}, {"/", AG_TOK_DIV}, {"*", AG_TOK_MUL}, {"%", AG_TOK_MOD},
    {"~", AG_TOK_TILDE}, {"[", AG_TOK_LBRACKET}, {"]", AG_TOK_RBRACKET}, {"(", AG_TOK_LPAREN}, {")", AG_TOK_RPAREN},
    {"{", AG_TOK_LBRACE}, {"}", AG_TOK_RBRACE}, {">", AG_TOK_GT}, {"<", AG_TOK_LT}, {"=", AG_TOK_ASSIGN},
    {".", AG_TOK_DOT}, {":", AG_TOK_COLON}, {"|", AG_TOK_PIPE}, {",", AG_TOK_COMMA}, {";", AG_TOK_SEMICOLON},
};

static bool lex_operator(lexer *x, char *open, uint32_t *n_open)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(operators); i++) {
        const char *o = operators[i].text;
        if (peek(x, 0) != o[0] || (o[1] && peek(x, 1) != o[1])) continue;
        char c = o[1] ? 0 : o[0];
        if (c == '(' || c == '[' || c == '{') {
            if (*n_open == 255) return ag__tp_fail(x->p, AG_TEMPLATE_LIMIT, x->at, "too many nested brackets");
            open[(*n_open)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (*n_open == 0) return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, x->at, "unexpected '%c'", c);
            if (open[--*n_open] != c) {
                return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, x->at, "unexpected '%c', expected '%c'", c, open[*n_open]);
            }
        }
        if (tok_push(x, operators[i].type, x->at) == NULL) return false;
        x->at += o[1] ? 2 : 1;
        return true;
    }
    const char *p = x->src + x->at;
    size_t n = ag_utf8_len(p, x->len - x->at);
    return ag__tp_fail(x->p, AG_TEMPLATE_SYNTAX, x->at, "unexpected char '%.*s'", (int)n, p);
}

/* Behind "{{" or "{%": tokens up to and with the end of the tag. */
static bool lex_tag(lexer *x, bool expression)
{
    char open[256];
    uint32_t n_open = 0;
    const char *end = expression ? "}}" : "%}";
    for (;;) {
        uint32_t space = skip_space(x, x->at);
        if (space != x->at) x->at = space;
        if (x->at >= x->len) return true; /* the parser reports the end of the template */
        if (n_open == 0) {
            char sign = peek(x, 0);
            bool signed_end = sign == '-' || (sign == '+' && !expression);
            signed_end = signed_end && peek(x, 1) == end[0] && peek(x, 2) == end[1];
            if (signed_end || (peek(x, 0) == end[0] && peek(x, 1) == end[1])) {
                if (tok_push(x, expression ? AG_TOK_VAR_END : AG_TOK_BLOCK_END, x->at) == NULL) return false;
                x->at += signed_end;
                close_tag(x, signed_end ? sign : 0, !expression);
                return true;
            }
        }
        char c = peek(x, 0);
        if (c >= '0' && c <= '9') {
            if (!lex_number(x)) return false;
        } else if (c == '\'' || c == '"') {
            if (!lex_string(x)) return false;
        } else if (!lex_name(x)) {
            if (x->p->rc != AG_OK || !lex_operator(x, open, &n_open)) return false;
        }
    }
}

static bool lex_root(lexer *x)
{
    uint32_t from = x->at, i = from;
    while (i + 1 < x->len && !(x->src[i] == '{' && strchr("%{#", x->src[i + 1]) && x->src[i + 1])) i++;
    if (i + 1 >= x->len) {
        x->at = x->len;
        return data_push(x, from, x->len);
    }
    char kind = x->src[i + 1], sign = 0, raw_sign;
    if (i + 2 < x->len && (x->src[i + 2] == '-' || x->src[i + 2] == '+')) sign = x->src[i + 2];
    if (!data_push(x, from, data_end(x, from, i, sign, kind == '{'))) return false;
    x->at = i + 2 + (sign != 0);
    if (kind == '#') return lex_comment(x, i);
    uint32_t raw = kind == '%' ? raw_word(x, x->at, "raw", false, &raw_sign) : 0;
    if (raw) {
        x->at = raw;
        close_tag(x, raw_sign, false);
        return lex_raw(x, i);
    }
    if (tok_push(x, kind == '{' ? AG_TOK_VAR_BEGIN : AG_TOK_BLOCK_BEGIN, i) == NULL) return false;
    return lex_tag(x, kind == '{');
}

bool ag__t_lex(ag_tparser *p)
{
    lexer x = {.p = p, .src = p->t->src, .len = p->t->src_len, .line_starting = true};
    while (x.at < x.len) {
        if (!lex_root(&x)) return false;
    }
    return tok_push(&x, AG_TOK_EOF, x.len) != NULL;
}
