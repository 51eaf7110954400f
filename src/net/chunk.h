/* chunk.h - the framing of a chunked body, checked before llhttp sees it.
 * Owns    : nothing; the struct is held by the caller and starts as zeros.
 * Threads : one at a time.
 * Limits  : a chunk's line with its extension, all extensions together, the trailers: see chunk.c; the caller bounds
 *           the body by `size` when a chunk begins.
 * Errors  : a constant sentence. Sizes are plain hex digits, lines end in CR LF, nothing stands around them; llhttp 8
 *           lets more pass, and what it lets pass another server may cut elsewhere. */
#ifndef AG_NET_CHUNK_H
#define AG_NET_CHUNK_H

#include "base/base.h"

typedef enum ag__chunk_state {
    AG__CHUNK_SIZE, AG__CHUNK_EXT, AG__CHUNK_SIZE_LF, AG__CHUNK_DATA, AG__CHUNK_DATA_CR, AG__CHUNK_DATA_LF,
    AG__CHUNK_TRAILER, AG__CHUNK_NAME, AG__CHUNK_VALUE, AG__CHUNK_VALUE_LF, AG__CHUNK_LAST_LF, AG__CHUNK_END
} ag__chunk_state;

typedef enum ag__chunk_kind { AG__CHUNK_IS_FRAME, AG__CHUNK_IS_DATA, AG__CHUNK_IS_BAD } ag__chunk_kind;

typedef struct ag__chunk {
    ag__chunk_state state;
    uint64_t size; /* declared, then what is left of this chunk */
    uint64_t body; /* declared by all chunks so far */
    uint32_t digits, ext, ext_all, trailer;
} ag__chunk;

/* The first run of one kind in p[0..n), n > 0: its length in *len (BAD: what was good before the bad byte). Nothing may
 * follow once state is AG__CHUNK_END. A frame ends where data begins or the message ends, so each declared size is seen
 * in `body` before its first byte. */
ag__chunk_kind ag__chunk_next(ag__chunk *c, const char *p, size_t n, size_t *len, const char **sentence);

#endif
