#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>

static const ag_err_row rows[AG_E_COUNT] = {
#define AG_ERR(name, http, grpc, type, code, retry, what)                                                              \
    [AG_E_##name] = {#name, http, AG_GRPC_##grpc, #grpc, type, code, AG_RETRY_##retry, what},
#include "base/err.def"
#undef AG_ERR
};

const ag_err_row *ag_err_find(int code)
{
    AG_ASSERT(code > 0 && code < AG_E_COUNT);
    return &rows[code];
}

void ag_err_clear(ag_err *e)
{
    e->code = AG_OK;
    e->param[0] = 0;
    e->text[0] = 0;
}

int ag_err_set(ag_err *e, int code, const char *fmt, ...)
{
    AG_ASSERT(code > 0 && code < AG_E_COUNT);
    if (e == NULL || e->code != AG_OK) return code;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    e->code = code;
    if (n >= (int)sizeof e->text) { /* cut at a character's edge, so that the sentence stays UTF-8 */
        size_t end = sizeof e->text - 1;
        while (end > 0 && ((unsigned char)e->text[end - 1] & 0xC0) == 0x80) end--;
        if (end > 0 && ((unsigned char)e->text[end - 1] & 0x80)) end--;
        e->text[end] = 0;
    }
    return code;
}
