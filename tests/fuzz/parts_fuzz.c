/* The first byte chooses form and reasoning, the second where the text is cut; the rest is what a model says. However
 * it comes, the same parts come of it, every call is one of the tools' with an object for arguments, and text loses
 * nothing but blanks. */
#include <stdlib.h>

#include "base/utf8.h"
#include "gateway/dialects/openai.h"
#include "gateway/dialects/parts.h"

static json_t *tools;

/* Parts of one text, each as its kind, bytes and a zero. */
static size_t take_apart(const uint8_t *data, size_t n, size_t step, ag_buf *out)
{
    ag_parts p;
    ag_part part;
    int open = -1;
    size_t visible = 0;
    bool text = step == n && ag_utf8_check((const char *)data + 2, n - 2) == SIZE_MAX; /* then the parts are as well */
    ag_parts_init(&p, (ag_form){.calls = (ag_calls_form)(data[0] % AG_CALLS_COUNT), .thinks = data[0] & 64}, tools,
                  (data[0] & 192) == 192, data[0] & 32);
    for (size_t at = 2; at <= n; at += step) {
        size_t k = AG_MIN(step, n - at);
        bool last = at + step > n;
        AG_ASSERT(ag_parts_add(&p, (ag_str){(const char *)data + at, k}));
        while (ag_parts_next(&p, last, &part)) {
            AG_ASSERT(part.text.n > 0 && (!text || ag_utf8_check(part.text.p, part.text.n) == SIZE_MAX));
            if (part.kind == AG_PART_CALL) {
                json_t *j = json_loadb(part.text.p, part.text.n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
                AG_ASSERT(json_is_object(j) && (ag_str_eqz(part.name, "f") || ag_str_eqz(part.name, "get_weather")));
                json_decref(j);
            } else {
                visible += part.text.n;
            }
            if (open != (int)part.kind || part.kind == AG_PART_CALL)
                ag_buf_addf(out, "%c%d:%.*s", 0, part.kind, (int)part.name.n, part.name.p);
            ag_buf_add(out, part.text.p, part.text.n);
            open = (int)part.kind;
        }
    }
    AG_ASSERT(p.n_calls <= AG_CALLS_MAX + 1 + AG_CALLS_MAX && visible <= n);
    AG_ASSERT(p.form.calls != AG_CALLS_NONE || p.form.thinks || p.thinking || visible == n - 2);
    ag_parts_fini(&p);
    return visible;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 3) return 0;
    if (tools == NULL) {
        ag_openai_init();
        tools = json_loads("[{\"function\":{\"name\":\"f\"}},{\"function\":{\"name\":\"get_weather\",\"parameters\":{\"properties\":{\"city\":"
                           "{\"type\":\"string\"}}}}}]",
                           0, NULL);
    }
    ag_buf whole, cut;
    ag_buf_init(&whole, 1 << 24);
    ag_buf_init(&cut, 1 << 24);
    take_apart(data, n, n, &whole);
    take_apart(data, n, 1 + data[1] % 16, &cut);
    AG_ASSERT(ag_str_eq(ag_buf_str(&whole), ag_buf_str(&cut)));
    ag_buf_fini(&whole);
    ag_buf_fini(&cut);
    return 0;
}
