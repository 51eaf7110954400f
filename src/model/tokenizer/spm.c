/* SentencePiece BPE: the whole text, its spaces written as U+2581, begins as characters; two neighbours that together
 * are a token merge, the best score first and of equal scores the leftmost. What is no token in the end is written in
 * bytes. Only tokens that text may become take part, so "<s>" written by a user stays text. */
#include "base/mem.h"
#include "base/utf8.h"
#include "model/tokenizer/vocab.h"

#define MARK "\xe2\x96\x81"

/* Scores turned round so that the best is the smallest; no number comes out as AG__NONE (NaN is refused at load). */
static uint32_t score_key(float score)
{
    uint32_t b;
    score += 0.0f; /* -0 is 0 */
    memcpy(&b, &score, sizeof b);
    b = b & 0x80000000u ? ~b : b | 0x80000000u;
    return ~b;
}

static size_t end_of(const ag__job *j, uint32_t i, size_t n)
{
    return j->symbols[i].next == AG__NONE ? n : j->symbols[j->symbols[i].next].at;
}

static int32_t text_token(ag__job *j, size_t at, size_t end)
{
    j->steps++;
    if (end - at > j->t->text_max) return -1;
    int32_t id = ag__text_map_find(&j->t->by_text, j->bytes + at, end - at);
    return id >= 0 && ag__is_text(j->t, id) ? id : -1;
}

static void pair_key(ag__job *j, uint32_t i, size_t n)
{
    ag__symbol *s = j->symbols;
    s[i].key = AG__NONE;
    if (s[i].next == AG__NONE) return;
    int32_t id = text_token(j, s[i].at, end_of(j, s[i].next, n));
    if (id >= 0) s[i].key = score_key(j->t->scores[id]);
}

static void offer(ag__job *j, uint32_t i, size_t n)
{
    pair_key(j, i, n);
    if (j->symbols[i].key != AG__NONE) ag__heap_push(j, ag__key(j->symbols, i));
}

static void merge(ag__job *j, uint32_t n_symbols, size_t n)
{
    ag__symbol *s = j->symbols;
    j->n_heap = 0;
    for (uint32_t i = 0; i < n_symbols; i++) {
        pair_key(j, i, n);
        if (s[i].key != AG__NONE) j->heap[j->n_heap++] = ag__key(s, i);
    }
    ag__heap_init(j);
    while (j->n_heap) {
        uint64_t top = ag__heap_pop(j);
        uint32_t i = (uint32_t)top;
        if (ag__key(s, i) != top) continue;
        uint32_t gone = s[i].next;
        s[i].next = s[gone].next;
        if (s[gone].next != AG__NONE) s[s[gone].next].prev = i;
        s[gone].key = AG__NONE;
        offer(j, i, n);
        if (s[i].prev != AG__NONE) offer(j, s[i].prev, n);
    }
}

/* A character that is no token: its bytes' tokens, or one unknown where the vocabulary lacks them. */
static int add_bytes(ag__job *j, size_t at, size_t end)
{
    const ag_tokenizer *t = j->t;
    bool all = true;
    for (size_t i = at; i < end; i++) all = all && t->bytes[(uint8_t)j->bytes[i]] >= 0;
    if (!all) return t->unk >= 0 ? ag__job_add(j, t->unk) : AG_OK;
    int rc = AG_OK;
    for (size_t i = at; i < end && rc == AG_OK; i++) rc = ag__job_add(j, t->bytes[(uint8_t)j->bytes[i]]);
    return rc;
}

static size_t escape(ag__job *j, const char *text, size_t n, bool prefix)
{
    size_t k = 0;
    if (prefix) {
        memcpy(j->bytes, MARK, 3);
        k = 3;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] == ' ') {
            memcpy(j->bytes + k, MARK, 3);
            k += 3;
        } else {
            j->bytes[k++] = text[i];
        }
    }
    return k;
}

int ag__spm_text(ag__job *j, const char *text, size_t n_text)
{
    bool prefix = j->t->space_prefix;
    size_t spaces = prefix, chars = prefix;
    for (size_t i = 0; i < n_text; i++) {
        spaces += text[i] == ' ';
        chars += ((unsigned char)text[i] & 0xc0) != 0x80;
    }
    if (chars == 0) return AG_OK;
    int rc = ag__job_bytes(j, n_text + 2 * spaces + prefix);
    if (rc == AG_OK) rc = ag__job_room(j, chars);
    if (rc) return rc;
    size_t n = escape(j, text, n_text, prefix);
    uint32_t k = 0;
    for (size_t at = 0; at < n; k++) {
        j->symbols[k] = (ag__symbol){.prev = k ? k - 1 : AG__NONE, .next = k + 1 < chars ? k + 1 : AG__NONE,
                                     .key = AG__NONE, .at = (uint32_t)at};
        do at++;
        while (at < n && ((unsigned char)j->bytes[at] & 0xc0) == 0x80);
    }
    j->steps += n;
    merge(j, k, n);
    for (uint32_t i = 0; i != AG__NONE && rc == AG_OK; i = j->symbols[i].next) {
        size_t at = j->symbols[i].at, end = end_of(j, i, n);
        int32_t id = text_token(j, at, end);
        rc = id >= 0 ? ag__job_add(j, id) : add_bytes(j, at, end);
    }
    return rc;
}
