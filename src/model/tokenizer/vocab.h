/* vocab.h - a vocabulary as the files of this folder share it, and the parts that each of them fills.
 * Owns    : struct ag_tokenizer owns its tables; token texts point into the GGUF mapping.
 * Threads : built by ag_tokenizer_open, then read-only.
 * Limits  : AG__TOKENS_MAX tokens, AG__TOKEN_BYTES_MAX bytes each, AG__MERGES_MAX merges.
 * Errors  : AG_E_FILE with the key's name; AG_E_UNSUPPORTED; AG_E_NOMEM. */
#ifndef AG_TOKENIZER_VOCAB_H
#define AG_TOKENIZER_VOCAB_H

#include "model/tokenizer/map.h"
#include "model/tokenizer/pre.h"
#include "model/tokenizer/tokenizer.h"

#define AG__TOKENS_MAX 1000000u
#define AG__TOKEN_BYTES_MAX 65536u
#define AG__MERGES_MAX 8000000u /* the longest lists of real files, made of ranks, hold two merges a token */
#define AG__MAGIC 0x746f6b31u

typedef enum ag__model { AG__BPE, AG__SPM } ag__model;

/* Special tokens in the order of their bytes; a text is matched by narrowing the range that agrees so far. */
typedef struct ag__specials {
    int32_t *ids;
    uint32_t n;
    uint32_t begin[257]; /* by first byte */
} ag__specials;

struct ag_tokenizer {
    uint32_t magic;
    ag__model model;
    uint32_t n;              /* tokens */
    ag_str *texts;           /* as the file has them */
    ag_str *pieces;          /* as text */
    char *piece_bytes;       /* those pieces that differ from their texts */
    uint8_t *kinds;
    uint8_t *flags;          /* AG__FLAG_ */
    uint32_t text_max;       /* bytes of the longest token */
    ag__text_map by_text;
    int32_t bytes[256];      /* BPE: the token of a byte; SPM: its <0xXX> token; -1: none */
    ag__specials all, user;  /* with parse_special, and without */

    const ag__pre *pre;      /* BPE */
    ag__pair_map merges;     /* BPE: rank by pair */
    int32_t *merged;         /* BPE: what the merge of this rank makes */

    float *scores;           /* SPM */
    bool space_prefix;       /* SPM */

    int32_t bos, eos, unk;
    bool adds_bos, adds_eos;
};

enum {
    AG__FLAG_ENDS = 1,
    AG__FLAG_RSTRIP = 2, /* spaces behind it are dropped */
};

static inline ag_token_kind ag__kind(const ag_tokenizer *t, int32_t id) { return (ag_token_kind)t->kinds[id]; }
/* May plain text become this token? Control tokens must not come out of text that only looks like them. */
static inline bool ag__is_text(const ag_tokenizer *t, int32_t id)
{
    return t->kinds[id] == AG_TOKEN_NORMAL || t->kinds[id] == AG_TOKEN_USER;
}

int ag__vocab_load(ag_tokenizer *t, const ag_gguf *g, ag_err *err);    /* texts, kinds, scores */
int ag__merges_load(ag_tokenizer *t, const ag_gguf *g, ag_err *err);   /* BPE; after ag__vocab_load */
int ag__marks_load(ag_tokenizer *t, const ag_gguf *g, ag_err *err);    /* BOS, EOS, what ends an answer */
int ag__pieces_make(ag_tokenizer *t, ag_err *err);
int ag__specials_make(ag_tokenizer *t, ag_err *err);
void ag__specials_fini(ag__specials *s);
/* The longest special token that text[at..n) begins with, -1: none. */
int32_t ag__specials_match(const ag_tokenizer *t, const ag__specials *s, const char *text, size_t at, size_t n,
                           uint64_t *steps);

/* GPT-2 writes each byte as one printable character: the byte itself where it is printable Latin-1, else one from
 * U+0100 on. -1: this character stands for no byte. */
uint32_t ag__byte_to_char(uint8_t byte);
int ag__char_to_byte(uint32_t cp);
/* The byte of a text "<0xXX>", -1: it has another form. */
int ag__byte_of_text(ag_str text);

/* A part of the text while merging: BPE begins with bytes, SPM with characters. */
typedef struct ag__symbol {
    uint32_t prev, next; /* AG__NONE at the ends */
    uint32_t key;        /* of merging it with the next: BPE its rank, SPM its score turned round; AG__NONE: cannot */
    union {
        int32_t id;      /* BPE; -1: no token has this byte */
        uint32_t at;     /* SPM: its first byte */
    };
} ag__symbol;
#define AG__NONE UINT32_MAX

/* One encoding: ids that grow, scratch that is kept from piece to piece. */
typedef struct ag__job {
    const ag_tokenizer *t;
    const uint32_t *plain; /* where no control token begins, ascending */
    uint32_t n_plain;
    int32_t *ids;
    uint32_t n, cap;
    ag__symbol *symbols;
    uint64_t *heap;
    char *bytes;    /* BPE: a piece in the alphabet of the vocabulary; SPM: a text with its spaces written as U+2581 */
    size_t symbols_cap, heap_cap, bytes_cap, n_heap;
    uint64_t steps; /* heap moves, characters and bytes looked at */
} ag__job;

int ag__job_add(ag__job *j, int32_t id);
int ag__job_room(ag__job *j, size_t symbols);        /* symbols, and the heap that merging them can fill */
int ag__job_bytes(ag__job *j, size_t n);
/* The heap's key for merging symbol i with the next. It is stale when the symbol's own key has changed since. */
static inline uint64_t ag__key(const ag__symbol *s, uint32_t i) { return (uint64_t)s[i].key << 32 | i; }
int ag__bpe_text(ag__job *j, const char *text, size_t n);              /* pre-tokenizes, then merges */
int ag__spm_text(ag__job *j, const char *text, size_t n);
/* ag_tokenizer_encode, and the work done in *steps; tests count with it. */
int ag__encode(const ag_tokenizer *t, const char *text, size_t n, bool add_special, bool parse_special, int32_t **ids,
               uint32_t *n_ids, uint64_t *steps, ag_err *err);

/* A heap of 64-bit keys, the smallest on top: rank above position, so that of equal ranks the leftmost comes first. */
void ag__heap_init(ag__job *j);                 /* orders what was put into heap[0..n_heap) */
void ag__heap_push(ag__job *j, uint64_t key);   /* there must be room */
uint64_t ag__heap_pop(ag__job *j);

#endif
