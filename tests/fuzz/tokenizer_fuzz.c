/* Any bytes as a vocabulary and a text, or a small whole vocabulary with any pre-tokenizer and a text.
 *     first byte even: u32 length of a GGUF file, the file, the text
 *     first byte odd : a byte that chooses the vocabulary, the text */
#include "base/mem.h"
#include "base/utf8.h"
#include "model/tokenizer/vocab.h"

#include "../model/tokenizer/tiny_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ids(const ag_tokenizer *t, const int32_t *ids, uint32_t n, bool add, bool parse)
{
    int32_t unknown = t->unk;
    for (uint32_t i = 0; i < n; i++) {
        AG_ASSERT(ids[i] >= 0 && (uint32_t)ids[i] < ag_tokenizer_size(t));
        /* Plain text never becomes a control token, but for the one that a file names as the unknown. */
        bool control = ag_tokenizer_kind(t, ids[i]) == AG_TOKEN_CONTROL;
        if (!add && !parse) AG_ASSERT(!control || ids[i] == unknown);
        (void)ag_tokenizer_ends(t, ids[i]);
    }
}

/* Four ways to encode; what was taken for text decodes again, and with `whole` comes back as it was. */
static void use(const ag_tokenizer *t, const char *text, size_t n, bool whole)
{
    for (int way = 0; way < 4; way++) {
        bool add = way & 1, parse = way & 2;
        int32_t *ids;
        uint32_t n_ids;
        ag_err err = {0};
        int rc = ag_tokenizer_encode(t, text, n, add, parse, &ids, &n_ids, &err);
        AG_ASSERT(rc == err.code && (rc == AG_OK) == (ag_utf8_check(text, n) == SIZE_MAX));
        if (rc != AG_OK) continue;
        check_ids(t, ids, n_ids, add, parse);
        ag_buf out;
        ag_buf_init(&out, 64 << 20);
        (void)ag_tokenizer_decode(t, ids, n_ids, !whole || parse, &out);
        if (whole && !add) AG_ASSERT(out.n == n && (n == 0 || memcmp(out.p, text, n) == 0));
        ag_buf_fini(&out);
        ag_mem_free(ids);
    }
}

static void use_file(const uint8_t *data, size_t size)
{
    uint32_t n = 0;
    if (size < sizeof n) return;
    memcpy(&n, data, sizeof n);
    data += sizeof n;
    size -= sizeof n;
    if (n > size) n = (uint32_t)size;
    ag_gguf *g;
    ag_tokenizer *t = NULL;
    ag_err err = {0};
    if (ag_gguf_open_mem(&g, "fuzz.gguf", data, n, NULL) != AG_OK) return;
    int rc = ag_tokenizer_open(&t, g, &err);
    AG_ASSERT(rc == err.code && (rc == AG_OK) == (t != NULL) && (rc == AG_OK) == (err.text[0] == 0));
    if (rc == AG_OK) {
        for (int32_t i = -1; i <= (int32_t)ag_tokenizer_size(t); i++) (void)ag_tokenizer_piece(t, i, true);
        use(t, (const char *)data + n, size - n, false);
    }
    ag_tokenizer_close(t);
    ag_gguf_close(g);
}

/* Opened once each; the text is what changes. */
static void use_tiny(const uint8_t *data, size_t size)
{
    static tiny_opened opened[256];
    if (size == 0) return;
    unsigned choice = data[0];
    tiny_opened *o = &opened[choice];
    if (o->t == NULL) {
        tiny v;
        if (choice == 0xff) {
            tiny_spm(&v);
        } else {
            const ag__pre *p = ag__pre_next(NULL);
            for (unsigned i = 0; i < choice && ag__pre_next(p); i++) p = ag__pre_next(p);
            tiny_bpe(&v, p->name);
        }
        tiny_open(o, &v);
        AG_ASSERT(o->rc == AG_OK);
    }
    use(o->t, (const char *)data + 1, size - 1, choice != 0xff);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    if (data[0] & 1) use_tiny(data + 1, size - 1);
    else use_file(data + 1, size - 1);
    return 0;
}
