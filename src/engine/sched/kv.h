/* kv.h - pages of the KV cache: which are free, which are shared, which are kept because somebody may ask for them
 * again. Pages hold a fixed number of tokens. A page that is full and belongs to a known prefix is a node of a radix
 * tree whose edges are whole pages: (salt, tokens of this page, and all pages before it) say what it holds, and
 * sequences with the same beginning under the same salt use the same pages. A node counts the sequences that use it.
 * One that nobody uses stays until its page is needed: leaves only, least recently used first. Found by a keyed hash,
 *                                                      compared in full.
 * A node may also be promised: one sequence is about to compute it, others with the same prefix wait for it in place of
 * computing it as well.
 * Pure: no clock, no thread; the memory of the pages is the backend's.
 * Owns    : the table of pages, the tree, copies of the tokens in it (4 bytes a token).
 * Threads : the engine's lock; ag_kv_stats from any through what the engine publishes.
 * Limits  : the pages given at open. Matching n tokens is O(n); taking, putting, reclaiming are O(log pages) a page.
 * Errors  : AG_E_NOMEM from open, which makes room for everything. Nothing after that allocates. */
#ifndef AG_KV_H
#define AG_KV_H

#include "base/err.h"

typedef struct ag_kv ag_kv;

typedef struct ag_kv_stats {
    uint32_t pages, free, used /* by sequences */, kept /* by nobody, for reuse */;
    uint64_t hit_tokens, asked_tokens; /* of ag_kv_match, since the start */
    uint64_t reclaimed;
} ag_kv_stats;

/* A sequence's pages, in order. The table belongs to the sequence's owner; ag_kv changes it through these calls. */
typedef struct ag_kv_seq {
    uint64_t salt;      /* whose prefixes it may share; AG_KV_ALONE: nobody's */
    uint32_t *pages;    /* cap of them */
    uint32_t n, cap;
    uint32_t shared;    /* the first so many pages are nodes of the tree */
    uint32_t waits;     /* 1 + the node that it waits for, promised by somebody else; 0: none */
    uint32_t promised;  /* 1 + its last promised node; 0: it has promised nothing */
} ag_kv_seq;
#define AG_KV_ALONE 0

int ag_kv_open(ag_kv **out, uint32_t pages, uint32_t page_tokens, ag_err *err);
void ag_kv_close(ag_kv *kv); /* asserts that no sequence has a page or a promise left */

/* Extends s by pages whose tokens are known and computed: tokens[0..n) are the sequence's; it has s->n pages, all
 * shared (else nothing is done). Only whole pages within the first `n_reusable` tokens count (the last token of a
 * prompt must be computed in any case). Returns the tokens that its pages now hold. When the next page is promised by
 * another sequence, s->waits is set, else cleared. Needs s->cap for n tokens. */
uint32_t ag_kv_match(ag_kv *kv, ag_kv_seq *s, const int32_t *tokens, uint32_t n_reusable);
/* What is there of these tokens to be reused, without taking anything (estimates at the door). */
typedef struct ag_kv_found {
    uint32_t tokens;    /* of whole pages that are computed, */
    uint32_t idle;      /* of which so many pages are only kept */
    bool promised;      /* somebody computes the next one */
} ag_kv_found;
ag_kv_found ag_kv_peek(const ag_kv *kv, uint64_t salt, const int32_t *tokens, uint32_t n_reusable);
/* Says that s is about to compute its next pages, those that lie whole within tokens[0..n). What is there already or
 * promised by others ends the row of promises. No-op when s shares with nobody or its last page is not shared. */
void ag_kv_promise(ag_kv *kv, ag_kv_seq *s, const int32_t *tokens, uint32_t n);
/* Who promised the page that s waits for; NULL: it waits for none, or the promise is void by now. */
ag_kv_seq *ag_kv_waits_for(const ag_kv *kv, const ag_kv_seq *s);
/* Pages for positions below `to`, reclaiming kept ones. false: too few; then none are taken. */
bool ag_kv_reserve(ag_kv *kv, ag_kv_seq *s, uint32_t to);
/* Positions below `computed` are in the cache: full pages of s become nodes that others may use; promises are kept. For
 * a page that somebody else made known first (equal tokens after equal tokens give equal bits) s gives back its own:
 * its table changes, so not while a step reads it. */
void ag_kv_publish(ag_kv *kv, ag_kv_seq *s, const int32_t *tokens, uint32_t computed);
/* Gives everything back: private pages are free, shared ones stay while they last, promises are void (who waited for
 * them computes for itself). */
void ag_kv_drop(ag_kv *kv, ag_kv_seq *s);
/* Pages that could be had now: free and kept. */
uint32_t ag_kv_available(const ag_kv *kv);
/* How many more could be had if s left, too, beside all that were asked about since the last begin. Changes nothing. */
void ag_kv_leaving_begin(ag_kv *kv);
uint32_t ag_kv_leaving(ag_kv *kv, const ag_kv_seq *s);
/* Forgets all kept pages (weights were found damaged; tests). Pages in use become private: nobody new shares them. */
void ag_kv_forget(ag_kv *kv);
/* What is kept, for a file: the pages used last first, each behind the one before it. While no sequence has any. */
typedef struct ag_kv_kept {
    uint32_t page, before;  /* before: the page that it goes on from; UINT32_MAX: it is the first of its prefix */
    uint64_t salt, used;    /* used: when, for the order */
    uint32_t depth;
    const int32_t *tokens;  /* until something changes */
} ag_kv_kept;
uint32_t ag_kv_kept_list(const ag_kv *kv, ag_kv_kept *out); /* how many; out has room for all pages */
/* Puts one back, in the list's order, into pages that nobody has used yet: which is to be filled with what it held.
 * UINT32_MAX: none is free, or these tokens are there already. */
uint32_t ag_kv_kept_add(ag_kv *kv, uint32_t before, uint64_t salt, const int32_t *tokens);
void ag_kv_stats_get(const ag_kv *kv, ag_kv_stats *out);
/* Asserts that every page is accounted for once: free, private to one, or a node; O(pages). */
void ag_kv_verify(const ag_kv *kv);

#endif
