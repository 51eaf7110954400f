/* tokenizer.h - text to token ids and back, by the vocabulary and rules that a GGUF file carries.
 * Owns    : its tables; pieces point into them (or into the GGUF mapping, which must outlive the tokenizer).
 * Threads : immutable after open; every call may run on any thread at once. Scratch memory is per call.
 * Limits  : vocabulary 1,000,000 tokens, a token 64 KiB, text AG_TOKENIZER_TEXT_MAX bytes a call. Cost O(n log n);
 *           scratch 32 to 48 bytes for each byte (SentencePiece: character) of the longest piece between two cuts.
 * Errors  : AG_E_FILE (a vocabulary that is damaged: which key), AG_E_UNSUPPORTED (an unknown tokenizer model or
 *           pre-tokenizer, by name, with those that are known), AG_E_UTF8, AG_E_LIMIT, AG_E_NOMEM.
 * Kinds   : byte-level BPE (tokenizer.ggml.model "gpt2", by tokenizer.ggml.pre), SentencePiece BPE with byte fallback
 *           ("llama"; gemma's too). */
#ifndef AG_TOKENIZER_H
#define AG_TOKENIZER_H

#include "base/buf.h"
#include "base/err.h"
#include "model/gguf/gguf.h"

#define AG_TOKENIZER_TEXT_MAX (64u << 20)

typedef struct ag_tokenizer ag_tokenizer;

typedef enum ag_token_kind { /* tokenizer.ggml.token_type */
    AG_TOKEN_NORMAL = 1, AG_TOKEN_UNKNOWN, AG_TOKEN_CONTROL, AG_TOKEN_USER, AG_TOKEN_UNUSED, AG_TOKEN_BYTE
} ag_token_kind;

int ag_tokenizer_open(ag_tokenizer **out, const ag_gguf *g, ag_err *err);
void ag_tokenizer_close(ag_tokenizer *t);

/* Ids of text, malloc'ed into *ids (ag_mem_free), *n of them; empty text may give *ids NULL. `add_special` puts BOS in
 * front (and EOS behind) where the vocabulary asks for it; `parse_special` lets control tokens written out in the text
 * become those tokens (for templates; never for text from a user who may not). Text may hold NUL. It must be UTF-8. */
int ag_tokenizer_encode(const ag_tokenizer *t, const char *text, size_t n_text, bool add_special, bool parse_special,
                        int32_t **ids, uint32_t *n, ag_err *err);

/* As ag_tokenizer_encode with parse_special and without add_special, but no control token begins at the bytes
 * plain[0..n_plain), which ascend: text of others inside a prompt that a template wrote. */
int ag_tokenizer_encode_prompt(const ag_tokenizer *t, const char *text, size_t n_text, const uint32_t *plain,
                               uint32_t n_plain, int32_t **ids, uint32_t *n, ag_err *err);
/* Whether parse_special would make a token of what text[at..n) begins with that it is not otherwise. */
bool ag_tokenizer_control_at(const ag_tokenizer *t, const char *text, size_t at, size_t n);

/* The bytes that one token stands for, special tokens written out when `special`, else nothing for control, unknown and
 * unused ones (user-defined ones are text and always come).
 * Never has the sentence-leading-space rule applied; bytes may be part of a UTF-8 character. id out of range: empty. */
ag_str ag_tokenizer_piece(const ag_tokenizer *t, int32_t id, bool special);

/* All pieces put together; one leading space is taken off where the vocabulary puts one in front of text (only when the
 * first id is where the text began: a BOS in front is written out like any other token, and what follows keeps its
 * space). Bytes that are not UTF-8 are kept as they are. false: out's ceiling or no memory. */
bool ag_tokenizer_decode(const ag_tokenizer *t, const int32_t *ids, uint32_t n, bool special, ag_buf *out);

uint32_t ag_tokenizer_size(const ag_tokenizer *t); /* tokens in the vocabulary */
ag_token_kind ag_tokenizer_kind(const ag_tokenizer *t, int32_t id);
int32_t ag_tokenizer_find(const ag_tokenizer *t, ag_str piece); /* the id of exactly this token text, -1: none */
int32_t ag_tokenizer_bos(const ag_tokenizer *t); /* -1: none */
int32_t ag_tokenizer_eos(const ag_tokenizer *t); /* -1: none */
bool ag_tokenizer_adds_bos(const ag_tokenizer *t);
bool ag_tokenizer_strips_space(const ag_tokenizer *t); /* decode takes a leading space off */
/* Tokens that end an answer: EOS, EOT, EOM and the families' own (<|im_end|>, <|eot_id|>, <|user|>, <end_of_turn>,
 * …). */
bool ag_tokenizer_ends(const ag_tokenizer *t, int32_t id);

#endif
