/* A file's digest: all that stands before its tensors' data, and a sample of each tensor. Reading the whole of it would
 * cost more than what a digest is asked for. */
#include "base/hash.h"
#include "model/gguf/gguf_priv.h"

#define SAMPLE 64u /* bytes: one cache line, which costs the page that it is on */

static void add(XXH3_state_t *x, const void *p, size_t n) { (void)XXH3_64bits_update(x, p, n); }

uint64_t ag_gguf_digest(const ag_gguf *g)
{
    AG_CHECK(g, AG__GGUF_MAGIC);
    XXH3_state_t x;
    (void)XXH3_64bits_reset(&x);
    for (uint32_t i = 0; i < g->n_parts; i++) {
        const ag__gguf_part *p = &g->parts[i];
        const uint8_t *data = p->bytes + p->n;
        for (uint32_t t = 0; t < g->n_tensors; t++) {
            const uint8_t *d = g->tensors[t].data;
            if (d >= p->bytes && d < data) data = d;
        }
        uint64_t facts[2] = {p->n, (uint64_t)p->mtime_ns};
        add(&x, facts, sizeof facts);
        add(&x, p->bytes, (size_t)(data - p->bytes));
    }
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        const ag_gguf_tensor *s = &g->tensors[t];
        add(&x, (const uint8_t *)s->data + s->bytes / 2 / SAMPLE * SAMPLE,
            (size_t)AG_MIN(s->bytes - s->bytes / 2 / SAMPLE * SAMPLE, SAMPLE));
    }
    return XXH3_64bits_digest(&x);
}
