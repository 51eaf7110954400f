/* pre.h - pre-tokenizers: how text is cut into the pieces inside which BPE merges.
 * A pre-tokenizer is a list of passes, each a list of rules, all in one table (pre_table.c). A pass cuts what the pass
 * before it left: at each place the first rule that matches takes its match as a piece; characters that no rule takes
 * gather into a piece of their own. That is what regular expressions joined by | and a split that keeps the matches and
 * the gaps do; they are written as rules because backtracking engines are quadratic on some of them (\s+$ over a long
 * row of spaces) and disagree on Unicode.
 * Owns    : nothing; the table is constant.
 * Threads : any.
 * Limits  : each character is looked at a bounded number of times per pass: cost O(n).
 * Errors  : what the piece callback returns (0 goes on). */
#ifndef AG_TOKENIZER_PRE_H
#define AG_TOKENIZER_PRE_H

#include "model/tokenizer/chars.h"

typedef struct ag__view { /* the piece that a pass cuts: text[at..end), looked at from `begin` */
    const char *text;
    size_t begin, end;
    uint64_t *steps; /* characters looked at; tests count with it */
} ag__view;

typedef struct ag__rule ag__rule;
/* The end of the match at `at` (whose character is *first), or `at` itself when there is none. */
typedef size_t ag__rule_fn(const ag__rule *r, const ag__view *v, size_t at, const ag__char *first);

struct ag__rule {
    ag__rule_fn *match;
    const ag__class *lead; /* one character that may come first (must, with lead_needed) */
    const ag__class *body; /* one or more, up to max */
    const ag__class *tail; /* any number behind it */
    uint32_t max;          /* 0: no bound */
    uint32_t min;          /* 0 counts as 1 */
    bool lead_needed;
    bool suffix;           /* an English contraction may follow */
};

typedef struct ag__pass {
    const ag__rule *rules;
    uint32_t n;
} ag__pass;

typedef struct ag__pre {
    const char *name; /* as tokenizer.ggml.pre spells it */
    const ag__pass *passes;
    uint32_t n_passes;
    bool whole_first; /* a piece that is a token is that token, whatever the merges say ("ignore_merges") */
    bool add_bos;     /* where the file does not say */
} ag__pre;

ag__rule_fn ag__rule_run, ag__rule_cased, ag__rule_contraction, ag__rule_contraction_any_case, ag__rule_newlines,
    ag__rule_spaces_not_last, ag__rule_spaces, ag__rule_spaces_at_end;

const ag__pre *ag__pre_find(ag_str name);               /* NULL: not known */
const ag__pre *ag__pre_next(const ag__pre *p);          /* walks the table from NULL to NULL */

typedef int ag__piece_fn(void *arg, const char *piece, size_t n);
int ag__pre_split(const ag__pre *p, const char *text, size_t n, ag__piece_fn *piece, void *arg, uint64_t *steps);

#endif
