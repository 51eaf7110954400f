/* chars.h - what a character is, as pre-tokenizers ask: its Unicode category and a few sets of their own.
 * Owns    : nothing.
 * Threads : any.
 * Limits  : text must be valid UTF-8; the caller has checked it.
 * Errors  : none. */
#ifndef AG_TOKENIZER_CHARS_H
#define AG_TOKENIZER_CHARS_H

#include <utf8proc.h>

#include "base/base.h"

#define AG__CAT(c) (1ull << UTF8PROC_CATEGORY_##c)
#define AG__LETTER (AG__CAT(LU) | AG__CAT(LL) | AG__CAT(LT) | AG__CAT(LM) | AG__CAT(LO))
#define AG__MARK (AG__CAT(MN) | AG__CAT(MC) | AG__CAT(ME))
#define AG__NUMBER (AG__CAT(ND) | AG__CAT(NL) | AG__CAT(NO))
#define AG__PUNCT \
    (AG__CAT(PC) | AG__CAT(PD) | AG__CAT(PS) | AG__CAT(PE) | AG__CAT(PI) | AG__CAT(PF) | AG__CAT(PO))
#define AG__SYMBOL (AG__CAT(SM) | AG__CAT(SC) | AG__CAT(SK) | AG__CAT(SO))
/* Bits above the 30 categories. */
#define AG__SPACE (1ull << 32)       /* White_Space */
#define AG__CRLF (1ull << 33)        /* \r \n */
#define AG__BLANK (1ull << 34)       /* U+0020 alone */
#define AG__SLASH (1ull << 35)
#define AG__ASCII_LETTER (1ull << 36)
#define AG__ASCII_DIGIT (1ull << 37)
#define AG__ASCII_PUNCT (1ull << 38) /* the 32 that C calls punctuation */
#define AG__ASCII_MATH (1ull << 39)  /* $ + < = > ^ ~ | */
#define AG__BACKTICK (1ull << 40)

typedef struct ag__range {
    uint32_t first, last;
} ag__range;

/* A set of characters: any bit of `mask`, or inside one of `ranges` (sorted); `invert` turns it round. */
typedef struct ag__class {
    uint64_t mask;
    const ag__range *ranges;
    uint32_t n_ranges;
    bool invert;
} ag__class;

typedef struct ag__char {
    uint32_t cp;
    uint32_t n; /* bytes; 0 at the end of the text */
    uint64_t mask;
} ag__char;

/* The character at s, which holds at least one whole valid one. */
ag__char ag__char_at(const char *s);
bool ag__class_has(const ag__class *c, const ag__char *ch);

#endif
