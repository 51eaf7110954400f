#include "gateway/text.h"

#include "base/utf8.h"

void ag_text_init(ag_text *t)
{
    *t = (ag_text){0};
    ag_buf_init(&t->held, AG_TEXT_HELD_MAX);
}

void ag_text_fini(ag_text *t) { ag_buf_fini(&t->held); }
bool ag_text_add(ag_text *t, ag_str bytes) { return ag_buf_add(&t->held, bytes.p, bytes.n); }

ag_str ag_text_ready(const ag_text *t, uint64_t safe, bool last)
{
    size_t n = safe <= t->passed ? 0 : AG_MIN(safe - t->passed, t->held.n);
    if (!last && n) n -= ag_utf8_tail(t->held.p, n);
    return (ag_str){t->held.p, n};
}

void ag_text_pass(ag_text *t, size_t n)
{
    ag_buf_consume(&t->held, n);
    t->passed += n;
}
