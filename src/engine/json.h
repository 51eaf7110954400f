/* json.h - keeps an answer to one JSON object (RFC 8259), behind one of some texts where it is to stand there: which
 * tokens may come next, whatever the model thinks.
 * A pushdown automaton over bytes, and a model's vocabulary as a trie that is walked with it. A token is allowed when
 * what it spells goes on from here, and when what is open then can be closed with the tokens that are left: so the
 * answer is whole even if its length ends it.
 * Owns    : ag_json_vocab its tables. ag_json is 24 bytes, copied freely.
 * Threads : a vocabulary is read-only after open; an ag_json by one thread at a time. Nothing hangs on time or chance.
 * Limits  : AG_JSON_HEAD_MAX bytes ahead of the object, AG_JSON_NEST_MAX levels, AG_JSON_BLANKS_MAX blanks in a row (a
 *           model may love them too much), AG_JSON_DIGITS_MAX digits ahead of a point and as many behind it, two in an
 *           exponent, so that every reader can hold the number; tokens of AG_JSON_TOKEN_MAX bytes. Escapes of
 *           surrogates (\ud83d) are not let through, since half of a pair is no character, nor is that of NUL, which
 *           many readers refuse.
 * Errors  : open: AG_E_UNSUPPORTED (a vocabulary without tokens for single bytes, which closing needs), AG_E_NOMEM.
 * Cost    : ag_json_allow for 151,552 tokens (GLM-4): 25 us inside of a string, 10 to 70 elsewhere (Zen 5); open 50
 *           ms. */
#ifndef AG_JSON_H
#define AG_JSON_H

#include "model/tokenizer/tokenizer.h"

#define AG_JSON_HEAD_MAX 255u
#define AG_JSON_NEST_MAX 64u
#define AG_JSON_BLANKS_MAX 64u
#define AG_JSON_DIGITS_MAX 18u
#define AG_JSON_TOKEN_MAX 255u

typedef struct ag_json {
    /* a bit for each level: it is an object, not an array; ahead of it: where a text like this stands */
    uint64_t objects;
    uint8_t depth;
    uint8_t at;       /* a state of json.c's */
    uint8_t left;     /* of an escape or a character: what must come of it */
    uint8_t digits;   /* of a number, since its sign, point or e; ahead of the object: bytes that came */
    uint8_t low, high; /* of the next byte of a character; low: an escape has a digit that is not 0 */
    uint8_t blanks;   /* that came last */
    bool key;         /* the string is one */
    const char *word; /* true, false, null: the letters that must come. Ahead of the object: the texts */
} ag_json;

void ag_json_init(ag_json *j);
/* The object stands behind one of these texts, each of AG_JSON_HEAD_MAX bytes at most and ended by NUL, the last by
 * two. None is the beginning of another. They live as long as *j is in use. */
void ag_json_init_behind(ag_json *j, const char *heads);
bool ag_json_take(ag_json *j, unsigned char byte); /* false: it may not come here; *j is then spoilt */
bool ag_json_done(const ag_json *j);               /* the object is whole; nothing may come */
bool ag_json_in_string(const ag_json *j);          /* between two of its characters */
bool ag_json_in_character(const ag_json *j);       /* inside of one that has several bytes */
uint32_t ag_json_cost(const ag_json *j);           /* bytes that close it; 0: done */

typedef struct ag_json_vocab ag_json_vocab;
int ag_json_vocab_open(ag_json_vocab **out, const ag_tokenizer *t, ag_err *err);
void ag_json_vocab_close(ag_json_vocab *v);
/* Sets the bit of each token that may come, with `left` tokens to the answer's end, itself among them, and clears those
 * of all others up to `n` bits. At least one is allowed while ag_json_cost is at most `left`. */
void ag_json_allow(const ag_json_vocab *v, const ag_json *j, uint32_t left, uint64_t *allowed, uint32_t n);

#endif
