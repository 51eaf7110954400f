#include "engine/json.h"

typedef enum state {
    START,        /* of the answer: the object must begin */
    KEY_OR_END,   /* behind { */
    KEY,          /* behind a comma in an object */
    COLON,
    VALUE,        /* behind a colon, or a comma in an array */
    VALUE_OR_END, /* behind [ */
    AFTER,        /* behind a value */
    STRING, ESCAPE, HEX, HEX_SECOND, /* _SECOND: behind \ud, where 8 to f would be half of a pair */
    CHARACTER,    /* inside one of several bytes, in a string */
    MINUS, ZERO, DIGITS, POINT, FRACTION, EXPONENT, SIGN, POWER,
    WORD,
    HEAD,         /* of the answer: one of some texts, and then the object */
    DONE
} state;

void ag_json_init(ag_json *j) { *j = (ag_json){.at = START}; }
void ag_json_init_behind(ag_json *j, const char *heads) { *j = (ag_json){.at = HEAD, .word = heads}; }
bool ag_json_in_string(const ag_json *j) { return j->at == STRING; }
bool ag_json_in_character(const ag_json *j) { return j->at == CHARACTER; }
bool ag_json_done(const ag_json *j) { return j->at == DONE; }

static bool is_digit(unsigned char c) { return c >= '0' && c <= '9'; }
static bool is_blank(unsigned char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
static bool is_hex(unsigned char c) { return is_digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'f'); }
static bool in_object(const ag_json *j) { return j->depth && (j->objects >> (j->depth - 1) & 1); }

static bool go(ag_json *j, state to)
{
    j->at = (uint8_t)to;
    return true;
}

static bool open_level(ag_json *j, bool object)
{
    if (j->depth == AG_JSON_NEST_MAX) return false;
    uint64_t bit = 1ull << j->depth++;
    j->objects = object ? j->objects | bit : j->objects & ~bit;
    return go(j, object ? KEY_OR_END : VALUE_OR_END);
}

static bool close_level(ag_json *j, bool object)
{
    if (in_object(j) != object) return false;
    return go(j, --j->depth ? AFTER : DONE);
}

static bool open_string(ag_json *j, bool key)
{
    j->key = key;
    return go(j, STRING);
}

static bool open_word(ag_json *j, const char *rest)
{
    j->word = rest;
    return go(j, WORD);
}

static bool open_digits(ag_json *j, state to)
{
    j->digits = 1;
    return go(j, to);
}

static bool take_value(ag_json *j, unsigned char c)
{
    switch (c) {
    case '{': return open_level(j, true);
    case '[': return open_level(j, false);
    case '"': return open_string(j, false);
    case '-': return go(j, MINUS);
    case '0': return go(j, ZERO);
    case 't': return open_word(j, "rue");
    case 'f': return open_word(j, "alse");
    case 'n': return open_word(j, "ull");
    default: return is_digit(c) && open_digits(j, DIGITS);
    }
}

static bool take_after(ag_json *j, unsigned char c)
{
    switch (c) {
    case ',': return go(j, in_object(j) ? KEY : VALUE);
    case '}': return close_level(j, true);
    case ']': return close_level(j, false);
    default: return false;
    }
}

/* RFC 3629: the first byte says how many follow, and what the second may be. */
static bool take_first(ag_json *j, unsigned char c)
{
    j->left = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
    j->low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    j->high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    return c >= 0xC2 && c <= 0xF4 && go(j, CHARACTER);
}

static bool take_in_string(ag_json *j, unsigned char c)
{
    switch (j->at) {
    case STRING:
        if (c == '"') return go(j, j->key ? COLON : AFTER);
        if (c == '\\') return go(j, ESCAPE);
        return c >= 0x80 ? take_first(j, c) : c >= 0x20;
    case ESCAPE:
        if (c != 'u') return c && strchr("\"\\/bfnrt", c) && go(j, STRING);
        j->left = 4;
        j->low = 0;
        return go(j, HEX);
    case HEX_SECOND:
        if (c < '0' || c > '7') return false;
        /* fall through */
    case HEX:
        j->low = j->low || c != '0';
        if (!is_hex(c) || (--j->left == 0 && !j->low)) return false;
        if (j->left == 3 && (c | 32) == 'd') return go(j, HEX_SECOND);
        return go(j, j->left ? HEX : STRING);
    default: /* CHARACTER */
        if (c < j->low || c > j->high) return false;
        j->low = 0x80;
        j->high = 0xBF;
        return --j->left ? true : go(j, STRING);
    }
}

static bool take_in_number(ag_json *j, unsigned char c)
{
    bool digit = is_digit(c), point = c == '.', power = (c | 32) == 'e';
    switch (j->at) {
    case MINUS: return digit && open_digits(j, c == '0' ? ZERO : DIGITS);
    case POINT: return digit && open_digits(j, FRACTION);
    case EXPONENT: return c == '+' || c == '-' ? go(j, SIGN) : digit && open_digits(j, POWER);
    case SIGN: return digit && open_digits(j, POWER);
    case ZERO:
    case DIGITS:
        if (digit) return j->at == DIGITS && ++j->digits <= AG_JSON_DIGITS_MAX;
        if (point) return go(j, POINT);
        if (power) return go(j, EXPONENT);
        break;
    case FRACTION:
        if (digit) return ++j->digits <= AG_JSON_DIGITS_MAX;
        if (power) return go(j, EXPONENT);
        break;
    default: /* POWER */
        if (digit) return ++j->digits <= 2;
    }
    if (is_blank(c)) return go(j, AFTER);
    return take_after(j, c);
}

/* The next of the texts that go on as what has come, from `h` on; NULL: no more. */
static const char *like(const ag_json *j, const char *h)
{
    while (*h && strncmp(h, j->word + j->objects, j->digits) != 0) h += strlen(h) + 1;
    return *h ? h : NULL;
}

static bool take_head(ag_json *j, unsigned char c)
{
    const char *h = like(j, j->word);
    while (h && (c == 0 || (unsigned char)h[j->digits] != c)) h = like(j, h + strlen(h) + 1);
    if (h == NULL) return false;
    j->objects = (uint64_t)(h - j->word);
    if (h[++j->digits] == 0) ag_json_init(j);
    return true;
}

static uint32_t head_cost(const ag_json *j)
{
    size_t least = SIZE_MAX;
    for (const char *h = like(j, j->word); h; h = like(j, h + strlen(h) + 1))
        least = AG_MIN(least, strlen(h) - j->digits);
    return (uint32_t)least + 2;
}

bool ag_json_take(ag_json *j, unsigned char c)
{
    if (j->at >= STRING && j->at <= CHARACTER) return take_in_string(j, c);
    if (j->at == HEAD) return take_head(j, c);
    if (is_blank(c) && j->at != WORD && j->at != DONE) {
        if (++j->blanks > AG_JSON_BLANKS_MAX) return false;
        return j->at <= AFTER || take_in_number(j, c);
    }
    j->blanks = 0;
    switch (j->at) {
    case START: return c == '{' && open_level(j, true);
    case KEY_OR_END: return c == '}' ? close_level(j, true) : c == '"' && open_string(j, true);
    case KEY: return c == '"' && open_string(j, true);
    case COLON: return c == ':' && go(j, VALUE);
    case VALUE_OR_END:
        if (c == ']') return close_level(j, false);
        /* fall through */
    case VALUE: return take_value(j, c);
    case AFTER: return take_after(j, c);
    case WORD:
        if (c != (unsigned char)*j->word) return false;
        return *++j->word ? true : go(j, AFTER);
    case DONE: return false;
    default: return take_in_number(j, c);
    }
}

uint32_t ag_json_cost(const ag_json *j)
{
    uint32_t close = j->depth, string = j->key ? 3u : 1u; /* behind a key comes :0 */
    switch (j->at) {
    case HEAD: return head_cost(j);
    case START: return 2;
    case KEY: return close + 4; /* "":0 */
    case COLON: return close + 2;
    case VALUE:
    case MINUS:
    case POINT:
    case EXPONENT:
    case SIGN: return close + 1;
    case STRING: return close + string;
    case ESCAPE: return close + string + 1;
    case HEX:
    case HEX_SECOND:
    case CHARACTER: return close + string + j->left;
    case WORD: return close + (uint32_t)strlen(j->word);
    default: return close;
    }
}
