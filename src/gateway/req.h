/* req.h - inside the gateway: one request, from its head to its last byte.
 * A request is a state machine. Callbacks of the HTTP room and of the mailbox write down what came in and call
 * ag__req_run; steps decide; only ag__req_run frees.
 * Owns    : ag_req owns everything it points to but the gateway, loop, stream, engine and conf.
 * Threads : its loop's; while `working` is set a worker thread has request, body, prompts and err, and nobody else.
 * Limits  : ag_gateway_conf; AG_REPLY_BYTES_MAX of an answer that is not streamed, or of one choice's echo that is.
 * Errors  : err, told to the client in DELIVER's place when set before the answer has begun. */
#ifndef AG_REQ_H
#define AG_REQ_H

#include <stdatomic.h>

#include "gateway/dialects/openai.h"
#include "gateway/gateway.h"
#include "gateway/guard.h"
#include "gateway/slots.h"
#include "gateway/text.h"
#include "net/http.h"

#define AG_GET 1u
#define AG_POST 2u

/* Parsing and tokenizing up to this size takes well under a millisecond, which the other connections of the loop can
 * wait; above, a worker does it. */
#define AG_INLINE_BODY_MAX (16u << 10)
#define AG_REPLY_BYTES_MAX (256u << 20) /* logprobs make about 3 KiB a token */

#define AG_REQ_STEPS(X) X(HEAD) X(AUTH) X(LIMITS) X(BODY) X(PREPARE) X(ADMIT) X(GENERATE) X(DELIVER) X(ACCOUNT)
typedef enum ag_req_step {
#define X(name) AG_STEP_##name,
    AG_REQ_STEPS(X)
#undef X
    AG_STEP_COUNT
} ag_req_step;

typedef enum ag_next { AG_MORE, AG_PARKED, AG_DONE } ag_next;

typedef struct ag_live { /* what a reload replaces; old ones stay until close, since requests point to them */
    struct ag_live *older;
    ag_origins origins;
    uint32_t generations_max, max_tokens_max, retry_after_s;
} ag_live;

typedef struct ag_gw_loop {
    ag_gateway *gw;
    ag_http_loop *loop;
    ag_slots slots;
} ag_gw_loop;

struct ag_gateway {
    uint32_t magic;
    ag_metrics *metrics;
    ag_log *log;
    ag_http_server *http;
    ag_gw_loop *loops;
    uint32_t n_loops;
    ag_auth auth;
    char host[256];
    bool guarded;   /* no keys: Host must be a loopback name */
    bool no_auth;
    uint64_t out_bytes_max;
    _Atomic(ag_live *) live;
    _Atomic(ag_engine *) engine;
    char model_name[128]; /* written before engine is published */
    atomic_bool draining, started;
    _Atomic uint64_t requests;
};

typedef struct ag_route {
    const char *id, *path;
    unsigned methods;
    ag_next (*answer)(ag_req *r);
    int kind; /* an ag_request_kind, 0: none */
    bool auth;
} ag_route;

typedef struct ag_req_prompt {
    int32_t *ids;
    uint32_t n;
    ag_buf echo_text; /* of a prompt given as ids */
    ag_str echo;
} ag_req_prompt;

typedef struct ag_choice {
    ag_gen *gen;
    void *number; /* in the loop's slots; NULL: none */
    uint32_t prompt;
    uint32_t read; /* tokens taken from the generation */
    ag_text text;
    uint64_t offset; /* for logprobs: characters that the caller has been shown */
    ag_gen_state state;
    bool dirty;  /* a message said that there is news */
    bool begun, ended;
} ag_choice;

struct ag_req {
    uint32_t magic;
    ag_req_step step;
    ag_gateway *gw;
    ag_gw_loop *loop;
    ag_http_stream *s;         /* NULL after done */
    const ag_http_head *head;  /* only while on_head runs */
    const ag_live *live;
    ag_engine *engine;
    const ag_route *route;     /* NULL: no such path */
    /* What callbacks write down. */
    bool body_ended, gone, done, working, worked, blocked;
    bool running, again;       /* ag__req_run is on the stack; it was asked for once more */
    bool answered, streaming, ending, accounted;
    int status;
    const char *finish;        /* of the last choice that ended */
    ag_err err;
    char id[AG_ID_MAX + 1], trace[33], method[16], path[128], origin[256], tenant[65];
    char reply_id[64];
    uint64_t head_us, body_us, first_us;
    ag_buf body, out;
    ag_request request;
    ag_req_prompt *prompts;
    ag_choice *choices;
    uint32_t n_choices, n_ended;
    ag_reply reply;
    ag_usage usage;
};

/* req.c */
extern const ag_http_handler ag__http_handler;
void ag__req_run(ag_req *r);
/* Sets the sentence (when none is set yet) and goes to where it is answered. */
ag_next ag__req_refuse(ag_req *r, int code, const char *fmt, ...) AG_PRINTF(3, 4);
ag_next ag__req_answer(ag_req *r, int status, const char *type, ag_str body, const ag_http_header *more, uint32_t n);
#define AG_HEADERS_MAX 12
uint32_t ag__req_headers(const ag_req *r, ag_http_header out[AG_HEADERS_MAX]); /* those of every response */

/* gatekeep.c: HEAD, AUTH, LIMITS */
ag_next ag__step_head(ag_req *r);
ag_next ag__step_auth(ag_req *r);
ag_next ag__step_limits(ag_req *r);

/* prepare.c: PREPARE, ADMIT */
ag_next ag__step_prepare(ag_req *r);
ag_next ag__step_admit(ag_req *r);
void ag__choices_release(ag_req *r); /* cancels what runs, gives everything back */
void ag__prompts_free(ag_req *r);

/* deliver.c: GENERATE, DELIVER */
ag_next ag__step_generate(ag_req *r);
ag_next ag__step_deliver(ag_req *r);

/* account.c: ACCOUNT */
ag_next ag__step_account(ag_req *r);

/* routes.c */
const ag_route *ag__route_find(ag_str path);
uint32_t ag__route_index(const ag_route *route); /* NULL: the one for paths that are not there */
void ag__routes_name(ag_metrics *m);
void ag__metrics_copy(ag_gateway *gw); /* figures that are kept elsewhere, before a scrape */

#endif
