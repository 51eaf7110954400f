/* Any bytes as a model file: opening answers with a sentence or with a file of which everything can be read. */
#include "model/gguf/gguf.h"

#include "../lib/gguf_touch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ag_gguf *g;
    ag_err err = {0};
    int rc = ag_gguf_open_mem(&g, "fuzz.gguf", data, size, &err);
    AG_ASSERT(rc == err.code && (rc == AG_OK) == (err.text[0] == 0));
    if (rc != AG_OK) return 0;
    volatile uint64_t sum = gguf_touch(g);
    (void)sum;
    ag_gguf_close(g);
    return 0;
}
