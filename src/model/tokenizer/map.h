/* map.h - the two hash tables of a vocabulary: token text to id, and pair of ids to merge rank.
 * Owns    : its slots; the texts are the vocabulary's.
 * Threads : filled by one, then read by any.
 * Limits  : made for a number of entries named at init; it never grows.
 * Errors  : AG_E_NOMEM from init. The hashes are keyed at random, so that no file can aim at one slot. */
#ifndef AG_TOKENIZER_MAP_H
#define AG_TOKENIZER_MAP_H

#include <sodium.h>

#include "base/base.h"

typedef struct ag__text_map {
    const ag_str *texts; /* by id */
    struct ag__text_slot *slots;
    uint32_t mask;
    uint8_t key[crypto_shorthash_KEYBYTES];
} ag__text_map;

int ag__text_map_init(ag__text_map *m, const ag_str *texts, uint32_t n);
void ag__text_map_fini(ag__text_map *m);
int32_t ag__text_map_add(ag__text_map *m, int32_t id);             /* -1, or the id that has this text already */
int32_t ag__text_map_find(const ag__text_map *m, const char *s, size_t n); /* -1: none */
/* Large vocabularies are far larger than the caches, and filling the tables would mostly wait for memory. So texts to
 * be added are asked for before, and those to be found are found many at a time. */
#define AG__TEXTS_MANY 96u
void ag__text_map_ask(const ag__text_map *m, const char *s, size_t n);
void ag__text_map_find_many(const ag__text_map *m, const ag_str *s, uint32_t n, int32_t *ids); /* up to so many */

typedef struct ag__pair_map {
    struct ag__pair_slot *slots;
    uint64_t key;
    uint32_t mask, shift;
} ag__pair_map;

#define AG__NO_RANK UINT32_MAX
int ag__pair_map_init(ag__pair_map *m, uint32_t n);
void ag__pair_map_fini(ag__pair_map *m);
void ag__pair_map_ask(const ag__pair_map *m, int32_t left, int32_t right);
bool ag__pair_map_add(ag__pair_map *m, int32_t left, int32_t right, uint32_t rank); /* false: was there, kept */
uint32_t ag__pair_map_find(const ag__pair_map *m, int32_t left, int32_t right);     /* AG__NO_RANK: none */

#endif
