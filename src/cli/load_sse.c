#include "cli/load_sse.h"

void ag_sse_init(ag_sse *s, bool (*event)(void *arg, ag_str data), void *arg)
{
    *s = (ag_sse){.event = event, .arg = arg, .first_line = true};
    ag_buf_init(&s->line, AG_SSE_EVENT_MAX);
    ag_buf_init(&s->data, AG_SSE_EVENT_MAX);
}

void ag_sse_fini(ag_sse *s)
{
    ag_buf_fini(&s->line);
    ag_buf_fini(&s->data);
}

void ag_sse_reset(ag_sse *s)
{
    ag_buf_reset(&s->line);
    ag_buf_reset(&s->data);
    s->has_data = s->after_cr = false;
    s->first_line = true;
}

static bool line_end(ag_sse *s)
{
    ag_str line = ag_buf_str(&s->line);
    bool ok = true;
    if (s->first_line && ag_str_starts(line, AG_STR("\xEF\xBB\xBF"))) line = (ag_str){line.p + 3, line.n - 3};
    s->first_line = false;
    if (line.n == 0) {
        if (s->has_data) ok = s->event(s->arg, ag_buf_str(&s->data));
        ag_buf_reset(&s->data);
        s->has_data = false;
    } else if (ag_str_starts(line, AG_STR("data")) && (line.n == 4 || line.p[4] == ':')) {
        size_t skip = line.n == 4 ? 4 : line.n > 5 && line.p[5] == ' ' ? 6 : 5;
        if (s->has_data) ok = ag_buf_addc(&s->data, '\n');
        ok = ok && ag_buf_add(&s->data, line.p + skip, line.n - skip);
        s->has_data = true;
    }
    ag_buf_reset(&s->line);
    return ok;
}

bool ag_sse_feed(ag_sse *s, const char *p, size_t n)
{
    const char *end = p + n;
    while (p < end) {
        if (s->after_cr && *p == '\n') {
            s->after_cr = false;
            p++;
            continue;
        }
        s->after_cr = false;
        const char *stop = p;
        while (stop < end && *stop != '\n' && *stop != '\r') stop++;
        if (!ag_buf_add(&s->line, p, (size_t)(stop - p))) return false;
        if (stop == end) return true;
        s->after_cr = *stop == '\r';
        if (!line_end(s)) return false;
        p = stop + 1;
    }
    return true;
}
