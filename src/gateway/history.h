/* history.h - the access log of requests that can be answered from the cache: what was asked, by whom, when. From it is
 * counted what is asked for most, and with what it holds that is asked again, before or while somebody waits for it
 * (warm.h).
 * A record is a line: a checksum, then time, key, route, tenant, model, sharing group and, in full, the body that asks
 * the same again.
 * Nothing is kept but what the mode says: full, prompts and all; hashes, keyed ones, that tell equal requests apart and
 * nothing more; off.
 * Owns    : its files, PATH and the older PATH.1, PATH.2 ..., the secret of its hashes, PATH.key, all for their
 *           owner's eyes; its thread, its ring, the counts.
 * Threads : add from any, and it never waits; top, find and get from any, for the time of a lock or a read of one line.
 * Limits  : bytes_max a file, files_max of them; AG_HISTORY_BODY_MAX of a body, longer ones are kept as hashes;
 *           AG_HISTORY_RING records and AG_HISTORY_RING_BYTES on their way to the disk, what is over is dropped and
 *           counted; AG_HISTORY_KEYS keys are counted.
 * Errors  : open: AG_E_USAGE, AG_E_IO, AG_E_NOMEM, AG_E_INTERNAL (its thread). A disk that is full or fails later drops
 *           records: the log says so once, a metric how many. Torn and damaged lines are skipped and counted. */
#ifndef AG_HISTORY_H
#define AG_HISTORY_H

#include "base/buf.h"
#include "cache/hot.h"
#include "observe/log.h"
#include "observe/metrics.h"

#define AG_HISTORY_BODY_MAX (256u << 10)
#define AG_HISTORY_LINE_MAX (2u << 20)
#define AG_HISTORY_NAME_MAX 255u /* of route, tenant, model, share */
#define AG_HISTORY_RING 8192u
#define AG_HISTORY_RING_BYTES (32u << 20)
#define AG_HISTORY_KEYS 65536u
#define AG_HISTORY_FILES_MAX 100u
#define AG_HISTORY_BYTES_MIN (4u << 20) /* of a file: a few lines of any length */

typedef enum ag_history_mode { AG_HISTORY_OFF, AG_HISTORY_HASHES, AG_HISTORY_FULL } ag_history_mode;
bool ag_history_mode_find(const char *name, ag_history_mode *out);

typedef struct ag_history_conf {
    ag_history_mode mode;   /* not OFF */
    const char *path;
    uint64_t bytes_max;
    uint32_t files_max;     /* with the one that is written */
} ag_history_conf;

typedef struct ag_history_record {
    uint64_t time_ms;       /* since 1970 */
    ag_cache_key key;
    ag_str route, tenant, model;
    ag_str share;           /* the group whose answers it shares; n 0: its tenant's alone */
    ag_str body;            /* n 0: not known */
} ag_history_record;

typedef struct ag_history ag_history;

/* metrics, log: NULL is fine. */
int ag_history_open(ag_history **out, const ag_history_conf *conf, ag_metrics *metrics, ag_log *log, ag_err *err);
void ag_history_close(ag_history *h); /* what was added is written first; NULL is fine */
/* For a request's key: the same in every run of the server. 32 bytes. */
const uint8_t *ag_history_secret(const ag_history *h);

/* Copies what it keeps. In hashes' mode the body may be left out. */
void ag_history_add(ag_history *h, const ag_history_record *r);

bool ag_history_known(const ag_history *h); /* what was there at the start has been read, and is counted */
/* Those asked for most often, of those the most frequent first; `at` names a record (ag_history_get). How many. */
uint32_t ag_history_top(ag_history *h, ag_hot_key *out, uint32_t n);
/* The record that a count's `at` names, if it is still there, is whole and has a body; its texts lie in *text. */
bool ag_history_get(ag_history *h, const ag_hot_key *k, ag_history_record *out, ag_buf *text);

/* bytes: of the file written */
typedef struct ag_history_stats { uint64_t written, dropped, damaged, bytes; } ag_history_stats;
void ag_history_stats_get(const ag_history *h, ag_history_stats *out);

/* history_line.c: a line without its end. Writing: false when it is over AG_HISTORY_LINE_MAX. Reading: the texts lie in
 * *text; false: it is damaged. */
bool ag__history_line_write(ag_buf *out, const ag_history_record *r);
bool ag__history_line_read(ag_str line, ag_history_record *out, ag_buf *text);

#endif
