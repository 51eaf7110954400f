/* From tokens to the bytes they stand for, made once for all tokens when the vocabulary is opened. */
#include "base/mem.h"
#include "base/utf8.h"
#include "model/tokenizer/vocab.h"

static bool stands_for_itself(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

/* The 68 bytes that do not print (00-20, 7F-A0, AD) are U+0100 to U+0143 in their order. */
uint32_t ag__byte_to_char(uint8_t byte)
{
    if (stands_for_itself(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    return byte == 0xad ? 0x143u : 0x121u + (byte - 0x7fu);
}

int ag__char_to_byte(uint32_t cp)
{
    if (cp < 0x100) return stands_for_itself(cp) ? (int)cp : -1;
    if (cp <= 0x120) return (int)(cp - 0x100);
    if (cp < 0x143) return (int)(cp - 0x121 + 0x7f);
    return cp == 0x143 ? 0xad : -1;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

int ag__byte_of_text(ag_str s)
{
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>') return -1;
    int h = hex(s.p[3]), l = hex(s.p[4]);
    return h < 0 || l < 0 ? -1 : h * 16 + l;
}

/* The bytes behind a token of byte-level BPE; SIZE_MAX: not in that alphabet, so it stands for its own text. */
static size_t bpe_bytes(ag_str text, char *out)
{
    size_t k = 0;
    for (size_t i = 0; i < text.n;) {
        uint32_t cp;
        size_t n = ag_utf8_get(text.p + i, text.n - i, &cp);
        int b = n ? ag__char_to_byte(cp) : -1;
        if (b < 0) return SIZE_MAX;
        out[k++] = (char)b;
        i += n;
    }
    return k;
}

static size_t spm_bytes(ag_str text, char *out)
{
    size_t k = 0;
    for (size_t i = 0; i < text.n;) {
        if (text.n - i >= 3 && memcmp(text.p + i, "\xe2\x96\x81", 3) == 0) {
            out[k++] = ' ';
            i += 3;
        } else {
            out[k++] = text.p[i++];
        }
    }
    return k;
}

static bool differs(const ag_tokenizer *t, uint32_t i)
{
    return t->kinds[i] == AG_TOKEN_NORMAL || t->kinds[i] == AG_TOKEN_BYTE;
}

int ag__pieces_make(ag_tokenizer *t, ag_err *err)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < t->n; i++) bytes += differs(t, i) ? t->texts[i].n : 0;
    t->pieces = ag_mem_array(t->n, sizeof *t->pieces);
    t->piece_bytes = ag_mem_alloc(bytes);
    if (t->pieces == NULL || t->piece_bytes == NULL)
        return ag_err_set(err, AG_E_NOMEM, "no memory for the pieces of %u tokens", t->n);
    char *out = t->piece_bytes;
    for (uint32_t i = 0; i < t->n; i++) {
        t->pieces[i] = t->texts[i];
        if (!differs(t, i)) continue;
        size_t n;
        int byte = t->kinds[i] == AG_TOKEN_BYTE ? ag__byte_of_text(t->texts[i]) : -1;
        if (byte >= 0) {
            out[0] = (char)byte;
            n = 1;
        } else {
            n = t->model == AG__BPE ? bpe_bytes(t->texts[i], out) : spm_bytes(t->texts[i], out);
        }
        if (n == SIZE_MAX) continue;
        t->pieces[i] = (ag_str){out, n};
        out += n;
    }
    return AG_OK;
}
