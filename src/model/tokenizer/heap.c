#include "model/tokenizer/vocab.h"

static void sift_down(ag__job *j, size_t i)
{
    uint64_t *h = j->heap, key = h[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= j->n_heap) break;
        if (child + 1 < j->n_heap && h[child + 1] < h[child]) child++;
        j->steps++;
        if (key <= h[child]) break;
        h[i] = h[child];
        i = child;
    }
    h[i] = key;
}

void ag__heap_init(ag__job *j)
{
    for (size_t i = j->n_heap / 2; i-- > 0;) sift_down(j, i);
}

void ag__heap_push(ag__job *j, uint64_t key)
{
    AG_ASSERT(j->n_heap < j->heap_cap);
    size_t i = j->n_heap++;
    for (; i > 0; i = (i - 1) / 2) {
        uint64_t parent = j->heap[(i - 1) / 2];
        j->steps++;
        if (parent <= key) break;
        j->heap[i] = parent;
    }
    j->heap[i] = key;
}

uint64_t ag__heap_pop(ag__job *j)
{
    AG_ASSERT(j->n_heap > 0);
    uint64_t top = j->heap[0];
    j->heap[0] = j->heap[--j->n_heap];
    if (j->n_heap) sift_down(j, 0);
    return top;
}
