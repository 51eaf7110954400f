#include "gateway/dialects/parts.h"

#define THINK AG_STR("<think>")
#define THINK_END AG_STR("</think>")
#define HELD_BYTES_MAX (256u << 20)
#define CALLS_BYTES_MAX (16u << 20)
/* Blanks that may turn out to stand ahead of a call or the end of the reasoning; more are somebody's layout. */
#define BLANKS_MAX 64u

static bool holds(ag_str s, ag_str word) { return s.n && memmem(s.p, s.n, word.p, word.n) != NULL; }

ag_form ag_form_of(ag_str t)
{
    return (ag_form){ag_calls_find(t), holds(t, THINK) && holds(t, THINK_END), holds(t, AG_STR("item['tools']"))};
}

void ag_parts_init(ag_parts *p, ag_form form, const json_t *tools, bool thinking, bool one_call)
{
    *p = (ag_parts){.form = form, .thinking = thinking, .begun = !form.thinks || thinking, .skip = thinking,
                    .one_call = one_call, .tools = form.calls == AG_CALLS_NONE ? NULL : tools};
    ag_buf_init(&p->held, HELD_BYTES_MAX);
    ag_arena_init(&p->mem, CALLS_BYTES_MAX);
}

void ag_parts_fini(ag_parts *p)
{
    ag_buf_fini(&p->held);
    ag_arena_fini(&p->mem);
}

bool ag_parts_add(ag_parts *p, ag_str bytes)
{
    ag_buf_consume(&p->held, p->at);
    p->plain -= AG_MIN(p->plain, p->at);
    p->at = 0;
    return ag_buf_add(&p->held, bytes.p, bytes.n);
}

static bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
/* What may stand between calls, and around reasoning. */
static bool is_between(const ag_parts *p, char c)
{
    return is_blank(c) || (c == ';' && p->n_calls && p->form.calls == AG_CALLS_LLAMA3);
}

static ag_str rest_of(const ag_parts *p) { return (ag_str){p->held.p + p->at, p->held.n - p->at}; }

/* Where `word` begins in s, or, at its end, might begin; s.n: nowhere. */
static size_t find_begin(ag_str s, ag_str word)
{
    const char *hit = s.n ? memmem(s.p, s.n, word.p, word.n) : NULL;
    if (hit) return (size_t)(hit - s.p);
    for (size_t k = AG_MIN(word.n - 1, s.n); k > 0; k--)
        if (memcmp(s.p + s.n - k, word.p, k) == 0) return s.n - k;
    return s.n;
}

static size_t without_blanks(ag_str s)
{
    size_t n = s.n;
    while (n && s.n - n < BLANKS_MAX && is_blank(s.p[n - 1])) n--;
    return n;
}

static bool tell(ag_parts *p, ag_part_kind kind, size_t n, ag_part *out)
{
    *out = (ag_part){.kind = kind, .text = {p->held.p + p->at, n}};
    p->at += n;
    p->said = p->said || kind == AG_PART_TEXT;
    return true;
}

/* Whether reasoning begins the answer. false: that cannot be told yet. */
static bool take_opening(ag_parts *p, bool last)
{
    ag_str s = rest_of(p);
    size_t blanks = 0;
    while (blanks < s.n && blanks < BLANKS_MAX && is_blank(s.p[blanks])) blanks++;
    size_t have = AG_MIN(THINK.n, s.n - blanks);
    bool like = memcmp(s.p + blanks, THINK.p, have) == 0;
    if (like && have < THINK.n && !last) return false;
    p->begun = true;
    if (!like || have < THINK.n) return true;
    p->at += blanks + have;
    p->thinking = p->skip = true;
    return true;
}

static bool next_thinking(ag_parts *p, bool last, ag_part *out)
{
    ag_str s = rest_of(p);
    size_t end = find_begin(s, THINK_END);
    bool whole = end + THINK_END.n <= s.n;
    size_t n = last && !whole ? s.n : without_blanks((ag_str){s.p, end});
    if (n) return tell(p, AG_PART_THINKING, n, out);
    if (!whole) return false;
    p->at += end + THINK_END.n;
    p->plain = p->at;
    p->thinking = false;
    p->skip = true;
    return ag_parts_next(p, last, out);
}

static bool next_call(ag_parts *p, ag_part *out)
{
    const ag_call *c = &p->found.call[p->told++];
    *out = (ag_part){.kind = AG_PART_CALL, .text = c->arguments, .name = c->name};
    if (p->told == p->found.n) p->found.n = p->told = 0;
    p->n_calls++;
    return true;
}

/* Where the next call begins, or might. */
static size_t call_begin(const ag_parts *p, ag_str s)
{
    const char *opener = ag_calls_row_of(p->form.calls)->opener;
    size_t from = p->plain > p->at ? p->plain - p->at : 0;
    if (opener) return from + find_begin((ag_str){s.p + from, s.n - from}, ag_str_of(opener));
    size_t blanks = 0;
    while (blanks < s.n && is_blank(s.p[blanks])) blanks++;
    return from || p->said ? s.n : blanks;
}

static bool next_text(ag_parts *p, bool last, ag_part *out)
{
    ag_str s = rest_of(p);
    if (p->tools == NULL || p->n_calls + p->n_refused >= AG_CALLS_MAX) return s.n && tell(p, AG_PART_TEXT, s.n, out);
    size_t begin = call_begin(p, s), blank = without_blanks((ag_str){s.p, begin});
    if (blank) return tell(p, AG_PART_TEXT, last && begin == s.n ? s.n : blank, out);
    if (begin == s.n) return last && s.n && tell(p, AG_PART_TEXT, s.n, out);
    /* Only blanks are ahead of it now. */
    ag_str call = {s.p + begin, AG_MIN(s.n - begin, AG_CALL_BYTES_MAX)};
    bool whole = last && call.n == s.n - begin;
    const char *opener = ag_calls_row_of(p->form.calls)->opener;
    ag_scan scan = whole ? AG_SCAN_NO : AG_SCAN_MORE;
    if (opener == NULL || call.n >= strlen(opener))
        scan = ag_calls_scan(p->form.calls, call, whole, p->tools, &p->mem, &p->found);
    if (scan == AG_SCAN_MORE && call.n < AG_CALL_BYTES_MAX) return false;
    if (scan != AG_SCAN_CALLS) {
        size_t n = opener ? begin + 1 : s.n; /* an opener's first byte is a character */
        p->found.n = 0;
        p->n_refused++;
        p->plain = p->at + n;
        return tell(p, AG_PART_TEXT, n, out);
    }
    p->at += begin + p->found.bytes;
    p->said = false;
    p->skip = true;
    return next_call(p, out);
}

void ag_parts_force(ag_parts *p, ag_str tool)
{
    p->forces = true;
    p->forced = tool;
}

/* The name that s begins with, and the arguments behind it. */
static ag_str take_name(const ag_parts *p, ag_str *s)
{
    ag_str tail = ag_str_of(strstr(ag_calls_row_of(p->form.calls)->forced, "%s") + 2);
    const char *end = memmem(s->p, s->n, tail.p, tail.n);
    if (end == NULL) return (ag_str){0};
    ag_str name = ag_tool_name(p->tools, (ag_str){s->p, (size_t)(end - s->p)});
    *s = (ag_str){end + tail.n, s->n - (size_t)(end - s->p) - tail.n};
    return name;
}

static bool next_forced(ag_parts *p, bool last, ag_part *out)
{
    if (!last || p->at == p->held.n) return false;
    ag_str rest = rest_of(p), name = p->forced.p ? p->forced : take_name(p, &rest);
    if (name.p == NULL) return tell(p, AG_PART_TEXT, rest.n, out); /* its time was over in the middle of the name */
    *out = (ag_part){.kind = AG_PART_CALL, .text = rest, .name = name};
    p->at = p->held.n;
    p->n_calls++;
    return true;
}

bool ag_parts_next(ag_parts *p, bool last, ag_part *out)
{
    if (p->forces) return next_forced(p, last, out);
    if (p->one_call && p->n_calls) {
        p->at = p->held.n;
        return false;
    }
    if (p->found.n) return next_call(p, out);
    if (p->at == p->held.n) return false;
    if (!p->begun && !take_opening(p, last)) return false;
    while (p->skip && p->at < p->held.n && is_between(p, p->held.p[p->at])) p->at++;
    if (p->at == p->held.n) return false;
    p->skip = false;
    return p->thinking ? next_thinking(p, last, out) : next_text(p, last, out);
}
