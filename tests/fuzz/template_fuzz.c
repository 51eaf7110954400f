/* Any bytes as a template, over a few variables of every type, with tight limits. */
#include <stdlib.h>

#include "model/template/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static json_t *vars;
    if (vars == NULL) {
        vars = json_loads("{\"s\": \"Hello añ你😀\", \"i\": 42, \"x\": 3.5, \"n\": null, \"t\": true,"
                          "\"l\": [3, 1, 2],"
                          "\"d\": {\"a\": 1, \"b\": [{\"c\": \"deep\"}]},"
                          "\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}",
                          0, NULL);
        if (vars == NULL) abort();
    }
    ag_template_limits limits = {.steps = 20000, .depth = 1000, .output_bytes = 65536, .memory_bytes = 1u << 20};
    ag_template_error e;
    ag_template *t;
    ag_buf out;
    if (ag_template_parse(&t, (const char *)data, n, &e) != AG_OK) return 0;
    ag_buf_init(&out, 1u << 17);
    ag_template_render(t, vars, 1753538709, &limits, &out, &e);
    ag_buf_fini(&out);
    ag_template_free(t);
    return 0;
}
