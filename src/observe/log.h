/* log.h - log lines: one JSON object or one line of text each, written by a thread of their own.
 * Owns    : a ring of finished lines, the writer thread, the file.
 * Threads : ag_log_write from any thread; it formats, posts and never waits. Level and reopen from any.
 * Limits  : AG_LOG_RING lines waiting, AG_LOG_LINE_MAX bytes a line (longer values are cut). A full ring drops the line
 *           and counts it; the writer says how many were lost. Secrets never come here: callers pass no credentials.
 * Errors  : open: AG_E_IO (the file), AG_E_NOMEM. Every call takes l == NULL and then does nothing. */
#ifndef AG_LOG_H
#define AG_LOG_H

#include "base/err.h"

#define AG_LOG_RING 8192
#define AG_LOG_LINE_MAX 16384

typedef struct ag_log ag_log;

typedef enum ag_log_level { AG_LOG_DEBUG, AG_LOG_INFO, AG_LOG_WARN, AG_LOG_ERROR, AG_LOG_OFF } ag_log_level;
typedef enum ag_log_format { AG_LOG_TEXT, AG_LOG_JSON } ag_log_format;

typedef struct ag_log_conf {
    ag_log_format format;
    ag_log_level level;  /* lines below are not written */
    const char *file;    /* appended to; NULL: stderr */
    const char *service; /* NULL: "autoglm" */
} ag_log_conf;

/* Which request a line is about; empty strings are left out. */
typedef struct ag_log_ctx {
    ag_str request_id, trace_id;
} ag_log_ctx;

typedef struct ag_log_field {
    const char *name;
    enum { AG_LOG_STR, AG_LOG_U64, AG_LOG_I64, AG_LOG_F64, AG_LOG_BOOL } kind;
    union {
        ag_str s;
        uint64_t u;
        int64_t i;
        double d;
        bool b;
    };
} ag_log_field;

#define AG_LOG_S(key, str) ((ag_log_field){.name = (key), .kind = AG_LOG_STR, .s = (str)})
#define AG_LOG_Z(key, z) ((ag_log_field){.name = (key), .kind = AG_LOG_STR, .s = ag_str_of(z)})
#define AG_LOG_U(key, n) ((ag_log_field){.name = (key), .kind = AG_LOG_U64, .u = (n)})
#define AG_LOG_I(key, n) ((ag_log_field){.name = (key), .kind = AG_LOG_I64, .i = (n)})
#define AG_LOG_D(key, x) ((ag_log_field){.name = (key), .kind = AG_LOG_F64, .d = (x)})
#define AG_LOG_B(key, x) ((ag_log_field){.name = (key), .kind = AG_LOG_BOOL, .b = (x)})

int ag_log_open(ag_log **out, const ag_log_conf *conf, ag_err *err);
void ag_log_close(ag_log *l); /* writes what waits, then ends the thread */

void ag_log_level_set(ag_log *l, ag_log_level level);
bool ag_log_level_find(const char *name, ag_log_level *out); /* "debug", "info", "warn", "error", "off" */
bool ag_log_on(const ag_log *l, ag_log_level level);
void ag_log_reopen(ag_log *l); /* before the next line: the file was moved away by a log rotation */
uint64_t ag_log_dropped(const ag_log *l);

/* ctx may be NULL. */
void ag_log_write(ag_log *l, ag_log_level level, const ag_log_ctx *ctx, const char *msg, const ag_log_field *fields,
                  uint32_t n);
void ag_log_printf(ag_log *l, ag_log_level level, const char *fmt, ...) AG_PRINTF(3, 4);

/* AG_LOG(l, AG_LOG_INFO, &ctx, "listening", AG_LOG_U("port", port)) */
#define AG_LOG(l, level, ctx, msg, ...)                                                                       \
    do {                                                                                                      \
        if (ag_log_on((l), (level))) {                                                                        \
            const ag_log_field ag_log_fields_[] = {__VA_ARGS__};                                              \
            ag_log_write((l), (level), (ctx), (msg), ag_log_fields_, (uint32_t)AG_ARRAY_LEN(ag_log_fields_)); \
        }                                                                                                     \
    } while (0)

#endif
