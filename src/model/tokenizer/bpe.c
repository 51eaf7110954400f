/* Byte-level BPE: the text is cut by the pre-tokenizer; in each piece the bytes are merged pair by pair, the pair of
 * the lowest rank first and of equal ranks the leftmost, with a heap of candidates. A candidate is stale when its
 * symbol is gone or would merge at another rank now; since a rank names one pair, no more need be kept of it. */
#include "base/mem.h"
#include "model/tokenizer/vocab.h"

/* The token that is this whole piece, -1: none. */
static int32_t whole(ag__job *j, const char *piece, size_t n, int *rc)
{
    const ag_tokenizer *t = j->t;
    if (n > t->text_max) return -1;
    *rc = ag__job_bytes(j, 2 * n);
    if (*rc) return -1;
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = ag__byte_to_char((uint8_t)piece[i]);
        if (c >= 0x80) {
            j->bytes[k++] = (char)(0xc0 | c >> 6);
            j->bytes[k++] = (char)(0x80 | (c & 0x3f));
        } else {
            j->bytes[k++] = (char)c;
        }
    }
    j->steps += n;
    int32_t id = ag__text_map_find(&t->by_text, j->bytes, k);
    return id >= 0 && ag__is_text(t, id) ? id : -1;
}

static void pair_key(ag__job *j, uint32_t i)
{
    ag__symbol *s = j->symbols;
    s[i].key = AG__NONE;
    if (s[i].next == AG__NONE || s[i].id < 0 || s[s[i].next].id < 0) return;
    j->steps++;
    s[i].key = ag__pair_map_find(&j->t->merges, s[i].id, s[s[i].next].id);
}

static void offer(ag__job *j, uint32_t i)
{
    pair_key(j, i);
    if (j->symbols[i].key != AG__NONE) ag__heap_push(j, ag__key(j->symbols, i));
}

static void merge(ag__job *j, uint32_t n)
{
    ag__symbol *s = j->symbols;
    j->n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        pair_key(j, i);
        if (s[i].key != AG__NONE) j->heap[j->n_heap++] = ag__key(s, i);
    }
    ag__heap_init(j);
    while (j->n_heap) {
        uint64_t top = ag__heap_pop(j);
        uint32_t i = (uint32_t)top;
        if (ag__key(s, i) != top) continue;
        uint32_t gone = s[i].next;
        s[i].id = j->t->merged[s[i].key];
        s[i].next = s[gone].next;
        if (s[gone].next != AG__NONE) s[s[gone].next].prev = i;
        s[gone].key = AG__NONE;
        offer(j, i);
        if (s[i].prev != AG__NONE) offer(j, s[i].prev);
    }
}

static int piece(void *arg, const char *text, size_t n)
{
    ag__job *j = arg;
    int rc = AG_OK;
    if (n > 1 && j->t->pre->whole_first) {
        int32_t id = whole(j, text, n, &rc);
        if (rc) return rc;
        if (id >= 0) return ag__job_add(j, id);
    }
    rc = ag__job_room(j, n);
    if (rc) return rc;
    ag__symbol *s = j->symbols;
    for (uint32_t i = 0; i < n; i++)
        s[i] = (ag__symbol){.prev = i ? i - 1 : AG__NONE, .next = i + 1 < n ? i + 1 : AG__NONE, .key = AG__NONE,
                            .id = j->t->bytes[(uint8_t)text[i]]};
    if (n > 1) merge(j, (uint32_t)n);
    for (uint32_t i = 0; i != AG__NONE && rc == AG_OK; i = s[i].next)
        if (s[i].id >= 0) rc = ag__job_add(j, s[i].id);
    return rc;
}

int ag__bpe_text(ag__job *j, const char *text, size_t n)
{
    return ag__pre_split(j->t->pre, text, n, piece, j, &j->steps);
}
