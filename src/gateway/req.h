/* req.h - inside the gateway: one request, from its head to its last byte.
 * A request is a state machine. Callbacks of the HTTP room and of the mailbox write down what came in and call
 * ag__req_run; steps decide; only ag__req_run frees.
 * Owns    : ag_req owns everything it points to but the gateway, loop, stream, engine and conf.
 * Threads : its loop's; while `working` is set a worker thread has request, body, prompts, out and err, and nobody
 *           else.
 * Limits  : ag_gateway_conf; AG_REPLY_BYTES_MAX of an answer that is not streamed, or of one choice's echo that is.
 * Errors  : err, told to the client in DELIVER's place when set before the answer has begun. */
#ifndef AG_REQ_H
#define AG_REQ_H

#include <pthread.h>
#include <stdatomic.h>

#include "gateway/caching.h"
#include "gateway/dialects/openai.h" /* the queue and the models, which other dialects have no form for */
#include "gateway/dialects/responses.h"
#include "gateway/gateway.h"
#include "gateway/guard.h"
#include "gateway/ids.h"
#include "gateway/limiter.h"
#include "gateway/page.h"
#include "gateway/record.h"
#include "gateway/responses_store.h"
#include "gateway/shares.h"
#include "gateway/slots.h"
#include "gateway/text.h"
#include "gateway/waiting.h"
#include "gateway/warm.h"
#include "keys/admin.h"
#include "keys/jwks_source.h"
#include "keys/keyring.h"
#include "net/http.h"

#define AG_GET 1u
#define AG_POST 2u
#define AG_PATCH 4u
#define AG_DELETE 8u
#define AG_GET_PATCH_DELETE (AG_GET | AG_PATCH | AG_DELETE)
#define AG_GET_POST (AG_GET | AG_POST)
#define AG_GET_POST_DELETE (AG_GET | AG_POST | AG_DELETE)
#define AG_GET_PATCH (AG_GET | AG_PATCH)
#define AG_GET_DELETE (AG_GET | AG_DELETE)

/* Parsing and tokenizing up to this size takes well under a millisecond, which the other connections of the loop can
 * wait; above, a worker does it. */
#define AG_INLINE_BODY_MAX (16u << 10)
#define AG_BODY_BYTES_MAX (1u << 30) /* the HTTP room bounds a body by body_bytes_max */
#define AG_HEADS_BYTES_MAX (1u << 20)
#define AG_MOVE_BYTES_MAX 4096u      /* {"priority": 1}, a key */
#define AG_REPLY_BYTES_MAX (256u << 20) /* logprobs make about 3 KiB a token */

#define AG_ALIASES_MAX 64
#define AG_ALIAS_BYTES_MAX 127

#define AG_REQ_STEPS(X) X(HEAD) X(AUTH) X(LIMITS) X(BODY) X(PREPARE) X(LOOKUP) X(ADMIT) X(GENERATE) X(KEEP) \
    X(DELIVER) X(ACCOUNT)
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
    ag_shares shares;
    uint32_t generations_max, max_tokens_max, retry_after_s, band_min;
    bool share_prefixes, strict;
    ag_str aliases; /* "a,b", its own memory; p NULL: none */
    ag_jwks *jwks; /* of a file; NULL: no tokens, or of a URL */
    ag_jwt_rules jwt;
    char *jwt_texts[4]; /* what the rules point to */
} ag_live;

#define AG_LOOKERS_CHAINS 64u

typedef struct ag_gw_loop {
    ag_gateway *gw;
    ag_http_loop *loop;
    ag_slots slots;
    ag_renewal *renewals;
    struct ag_req *lookers[AG_LOOKERS_CHAINS]; /* requests that ask the tier, by their keys */
} ag_gw_loop;

/* Responses that go on without their client. */
typedef struct ag_background {
    pthread_mutex_t lock; /* over n; held where ending is set */
    pthread_cond_t fewer;
    uint32_t n, max;
    atomic_bool ending; /* no more are taken, and those that are there end */
    ag_ids *ids;    /* these, by the responses' ids */
} ag_background;

struct ag_gateway {
    uint32_t magic;
    ag_metrics *metrics;
    ag_log *log;
    ag_http_server *http;
    ag_gw_loop *loops;
    uint32_t n_loops;
    ag_ids *ids;
    ag_auth auth;
    ag_pages pages;
    ag_jwks_source *jwks; /* NULL: no URL; a file's are live's */
    ag_keyring *ring; /* NULL: no database of keys */
    ag_limiter *limiter; /* with the ring */
    ag_responses *responses;
    ag_background background;
    ag_caching caching;
    ag_history *history; /* NULL: none is kept */
    ag_warm *warm;       /* with the history */
    bool keyed;       /* a key is needed: the static one, or one of the ring's */
    char host[256];
    bool guarded;   /* no keys: Host must be a loopback name */
    bool no_auth, tls;
    uint64_t out_bytes_max, body_bytes_max;
    _Atomic(ag_live *) live;
    _Atomic(ag_engine *) engine;
    char model_name[128]; /* written before engine is published, as is what follows */
    ag_form form;
    int32_t shown[AG_GEN_SHOWN_MAX]; /* the control tokens that such answers are marked by */
    uint32_t n_shown;
    atomic_bool draining, started;
    _Atomic uint64_t requests;
};

/* Of gRPC's messages: one is answered by one, one by many, many by many. */
typedef enum ag_flow { AG_FLOW_UNARY, AG_FLOW_STREAM, AG_FLOW_BOTH } ag_flow;

typedef struct ag_route {
    const char *id, *path;
    unsigned methods;
    ag_next (*answer)(ag_req *r);
    int kind; /* an ag_request_kind, 0: none */
    uint32_t auth; /* the AG_ROLE_ that a key needs; 0: none is */
    const ag_dialect *dialect;
    ag_flow flow;
} ag_route;

typedef struct ag_req_prompt {
    int32_t *ids;
    uint32_t n;
    uint32_t max_tokens; /* of each of its answers */
    ag_buf echo_text; /* of a prompt given as ids */
    ag_str echo;
    uint32_t reused, counted; /* the least of its answers so far: the first one leaves the prompt to the others */
} ag_req_prompt;

typedef struct ag_choice {
    ag_gen *gen;
    void *number; /* in the loop's slots; NULL: none */
    uint32_t prompt;
    uint32_t read; /* tokens taken from the generation */
    ag_text text;
    ag_parts parts;
    uint64_t offset; /* for logprobs: characters that the caller has been shown */
    ag_gen_state state;
    bool dirty;  /* a message said that there is news */
    bool begun, ended;
    bool timed_out;
    bool reused_taken;
    ag_place place;
    bool unbegun; /* timed out before its first token, while another choice had some */
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
    const ag_dialect *dialect;
    /* What callbacks write down. */
    bool body_ended, gone, done, working, worked, blocked;
    bool body_long;            /* over body_max, and so not kept */
    uint32_t body_max;         /* 0: none is wanted */
    bool running, again;       /* ag__req_run is on the stack; it was asked for once more */
    bool detached;             /* a response in the background: it goes on when its client has gone */
    bool counted, listed;      /* it counts as such; it is found by its id */
    void *number;              /* while it counts: in the loop's slots */
    bool begun_kept, kept;     /* its beginning has been kept; its end has, or that was tried */
    bool sealed;               /* it has ended, and is about to be kept; under the lock of background.ids */
    bool answered, streaming, ending, accounted;
    bool tick;                 /* it is time to tell the place in the queue */
    atomic_bool cancel_asked;  /* by id; set from any loop */
    int status;
    const char *finish;        /* of the last choice that ended */
    ag_err err;
    char id[AG_ID_MAX + 1], trace[33], method[16], path[128], origin[256], tenant[AG_TENANT_NAME_MAX + 1];
    char client[48];               /* its address, or "unix" */
    char asked_id[AG_ID_MAX + 1];  /* what a path that ends openly ends with, decoded */
    bool health_known;            /* a service that is watched is one of ours, */
    int health_told;              /* and this is what was last said of it */
    const ag_page *page;          /* of the playground */
    bool page_known;
    ag_key *key;                  /* of the ring; NULL: the static one, or none is needed */
    struct ag_admin *admin;       /* of /admin/v1: keys, limits, usage */
    struct ag_connections *connections; /* and connections */
    struct ag_cache_ask *cache_ask; /* and cache */
    struct ag_lookup *lookup;     /* of /v1/responses/{id} */
    ag_req_caching caching;
    ag_warm_job *warm;            /* it is a warm-up's: it has no client, and counts as nobody's */
    ag_str warm_share;            /* the group of whoever asked it first */
    ag_limiter_call limit;        /* of its key, tenant, model and address */
    bool metered;
    bool head_read, counts;       /* LIMITS has looked at the head; it is a request that limits count */
    bool asking, asked;           /* an answer of the limiter is owed; has come, and is not looked at yet */
    uint64_t charged;             /* tokens of its answers that were counted there */
    uint64_t prompt_charged;      /* of its prompts, */
    bool prompt_used;             /* which one of its generations has begun to compute */
    char rates[2][3][32];         /* of requests, of tokens: values of the dialect's rates; "": not sent */
    ag_ids_link ids, background;
    uint32_t band, timeout_ms;    /* timeout_ms 0: none */
    uint64_t retry_us;            /* when there may be room, by the engine's estimate; 0: unknown */
    ag_waiting waiting;
    char reply_id[64];
    uint64_t head_us, body_us, first_us;
    ag_buf body, out;
    ag_request request;
    ag_req_prompt *prompts;
    bool thinking; /* the prompt has opened the reasoning */
    ag_buf heads;  /* of calls, where the model chooses which it must make: as ag_json_init_behind has them */
    ag_choice *choices;
    uint32_t n_choices, n_ended;
    _Atomic uint32_t n_begun; /* the first so many choices have a generation */
    _Atomic uint32_t moved;   /* by id, from any loop: 1 + the band to go on in; 0: never */
    ag_reply reply;
    ag_response response;
    ag_usage usage;
};

/* req.c */
extern const ag_http_handler ag__http_handler;
void ag__req_run(ag_req *r);
/* Sets the sentence (when none is set yet) and goes to where it is answered. */
ag_next ag__req_refuse(ag_req *r, int code, const char *fmt, ...) AG_PRINTF(3, 4);
/* A request of the access log's, for the warm-up: to be run, on its loop. NULL: no memory, or it is not known here. */
ag_req *ag__req_of_record(ag_gateway *gw, ag_gw_loop *l, const ag_history_record *rec, ag_warm_job *job);
void ag__req_break_off(ag_req *r); /* such a one; it may be gone after this */
/* Has `work` done, here or by a worker: what takes long would hold up the loop. false: it is under way; park, and call
 * again. */
bool ag__req_work(ag_req *r, bool here, void (*work)(void *r));
void ag__req_worked(void *r); /* what a worker, or another loop, was asked for has been done: the step runs again */
ag_next ag__req_answer(ag_req *r, int status, const char *type, ag_str body, const ag_http_header *more, uint32_t n);
/* 200 with a body, which is freed; out of memory where that has failed. */
ag_next ag__req_answer_buf(ag_req *r, const char *type, ag_buf *body, const ag_http_header *more, uint32_t n);
#define AG_RATE_HEADERS                                                                                             \
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "                      \
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, "                            \
    "anthropic-ratelimit-requests-limit, anthropic-ratelimit-requests-remaining, "                                  \
    "anthropic-ratelimit-requests-reset, anthropic-ratelimit-tokens-limit, "                                        \
    "anthropic-ratelimit-tokens-remaining, anthropic-ratelimit-tokens-reset"
#define AG_HEADERS_MAX 24
uint32_t ag__req_headers(const ag_req *r, ag_http_header out[AG_HEADERS_MAX]); /* those of every response */

/* gatekeep.c: HEAD, LIMITS */
ag_next ag__step_head(ag_req *r);
ag_next ag__step_limits(ag_req *r);

/* auth.c: AUTH, and what a key may */
ag_next ag__step_auth(ag_req *r);
const char *ag__key_name(const ag_req *r); /* for logs and usage: an id; "static", or "" where no key is needed */
uint32_t ag__band_min(const ag_req *r);    /* the most urgent band that this caller may use */
/* AG_E_FORBIDDEN for a band, or the model served, that this caller may not use. */
int ag__band_check(const ag_req *r, uint32_t band, ag_err *err);
int ag__model_check(const ag_req *r, ag_err *err);
bool ag__model_allowed(const ag_req *r); /* the key's list has its name or one of its aliases, or there is none */
float ag__weight_of(const ag_req *r);
ag_str ag__req_share(const ag_req *r); /* the group that its key shares caches with; n 0: none. Lives as long as r */

/* metering.c: limits of keys, tenants, models and addresses. Without a file of keys there are none. Where `asking` is
 * set afterwards the answer is yet to come: the step parks, and calls again when it runs the next time. */
int ag__meter_enter(ag_req *r);                    /* LIMITS: counts a request; err says why not */
int ag__meter_prompt(ag_req *r, uint64_t tokens);  /* ADMIT: counts its prompts; err says why not */
void ag__meter_output(ag_req *r);                  /* counts what its generations did since the last time */
void ag__meter_settle(ag_req *r);                  /* the same, and gives back prompts of which nothing was computed */
void ag__meter_watch(ag_req *r);                   /* goes on counting while the client takes nothing */
void ag__meter_forgive(ag_req *r);                 /* its prompts turned out to be there */
void ag__meter_leave(ag_req *r);
uint32_t ag__meter_headers(const ag_req *r, ag_http_header *out); /* at most 6 */
void ag__meter_names(ag_metrics *m);
void ag__meter_seed(ag_gateway *gw, const ag_usage_row *row); /* what was used of this month already */

/* prepare.c: PREPARE, ADMIT */
ag_next ag__step_prepare(ag_req *r);
ag_next ag__step_admit(ag_req *r);
void ag__gen_spec(const ag_req *r, uint32_t index, ag_gen_spec *out); /* of a choice; without its reader */
int ag__gens_submit(ag_req *r, ag_gen *const *gens, uint32_t n);      /* all of them or none; err says why not */
void ag__prompt_forget(ag_req_prompt *p);                             /* its ids: the generations have their copies */
int ag__choices_begin(ag_req *r);    /* as many as may be at once; err says why not */
void ag__choices_release(ag_req *r); /* cancels what runs, gives everything back */
void ag__prompts_free(ag_req *r);
uint64_t ag__deadline_of(const ag_req *r); /* 0: none */
const char *ag__ctx_holder(const ag_req *r); /* what bounds a sequence: the model's context, or a smaller KV cache */
void ag__reply_name(ag_req *r); /* the answer's id */

/* caching.c: the response cache, and LOOKUP */
typedef struct ag_caching_item { /* under what an answer is kept; of a request that may have gone */
    ag_cache_key key;
    uint32_t damage; /* as of the request */
    uint64_t ttl_ms, labels[AG_CACHE_LABELS_MAX];
} ag_caching_item;

void ag__caching_head(ag_req *r);    /* LIMITS: Cache-Control */
void ag__caching_key(ag_req *r);     /* PREPARE, at its end: whether it is looked up and kept, and under which key */
ag_next ag__step_lookup(ag_req *r);
void ag__caching_keep(ag_req *r);    /* all choices have ended: they are kept if they may be */
void ag__caching_item(const ag_req *r, ag_caching_item *out);
void ag__caching_put(ag_gw_loop *l, const ag_caching_item *item, ag_cache_value *value);
bool ag__caching_good(ag_gen *g);    /* it ended by itself */
ag_record_form ag__caching_form(const ag_req *r, ag_record_prompt *prompts); /* prompts: AG_REQUEST_PROMPTS_MAX */
void ag__caching_count(const ag_req *r, ag_metric_cached how);
uint32_t ag__caching_headers(const ag_req *r, ag_http_header *out); /* at most 3 */
/* Tokens of a choice that may be told now, at most so many; 0: a timer is set, whose tick has it looked at again. */
uint32_t ag__caching_pace(ag_req *r, const ag_choice *c, uint32_t most);
void ag__caching_tick(ag_req *r);
void ag__caching_metrics(ag_gateway *gw);

/* sharing.c: what servers share of it */
int ag__sharing_open(ag_gateway *gw, const ag_gateway_conf *conf, ag_err *err);
bool ag__sharing_look(ag_req *r);     /* LOOKUP: false: it is under way, park; else call.value says what was found */
void ag__sharing_looked(ag_req *r);   /* that was taken */
void ag__sharing_launched(ag_req *r); /* whoever asks the same now follows */
void ag__sharing_leave(ag_req *r);

/* coalesce.c: generations with more readers than one, or with none */
bool ag__caching_take(ag_req *r);    /* ADMIT: its choices are there already, found or computed for another */
bool ag__caching_coalesces(const ag_req *r); /* others may follow its generations */
int ag__caching_begin(ag_req *r);    /* those; err says why not */
void ag__caching_renew(ag_req *r);   /* what was found is stale: it is computed anew, for nobody */
void ag__caching_leave(ag_req *r);   /* before its generations go */
bool ag__caching_pays(ag_req *r);    /* its tokens count in its limits */
void ag__renewal_news(ag_renewal *n);
void ag__renewals_end(ag_gw_loop *l); /* when the loop has ended */

/* responses.c: /v1/responses, and KEEP */
int ag__response_prepare(ag_req *r);     /* PREPARE: the conversation, with what was kept of it; may read the disk */
int ag__response_enter(ag_req *r);       /* ADMIT: counts one in the background; err says why not */
void ag__response_list(ag_req *r);       /* ADMIT: from here on it goes on alone, and is found by its id */
bool ag__response_pending(const ag_req *r); /* it has ended, and is still to be kept */
ag_next ag__response_keep(ag_req *r);    /* keeps it, with r->err where that is set, and comes back to DELIVER */
ag_next ag__step_keep(ag_req *r);
void ag__response_unlist(ag_req *r);     /* before its generations go */
void ag__response_forsake(ag_req *r);    /* the server ends: one whose client does not read goes on without it */
void ag__response_free(ag_req *r);
int ag__response_look(ag_req *r);        /* LIMITS: what is asked, by the head; err says why not */
ag_next ag__answer_response(ag_req *r);
uint32_t ag__background_count(ag_gateway *gw);
void ag__background_end(ag_gateway *gw, uint32_t timeout_ms); /* waits for those in the background, then ends them */

/* deliver.c: GENERATE, DELIVER */
bool ag__any_begun(const ag_req *r); /* one of its choices had a place */
ag_next ag__step_generate(ag_req *r);
ag_next ag__step_deliver(ag_req *r);
int ag__cancel_check(ag_req *r);             /* err says when it was, by id */
void ag__count_end(ag_req *r, ag_choice *c); /* in metrics and usage */

/* embed.c: embeddings, which their dialect tells */
static inline bool ag__embeds(const ag_req *r) { return r->dialect->embedding != NULL; }
int ag__embed_check(ag_req *r);        /* PREPARE: what this model has; err says what not */
int ag__embed_deadline(ag_req *r);     /* err says how far it was when its time was over */
ag_next ag__embed_deliver(ag_req *r);

/* queue.c: requests by id, and the place of a waiting stream */
ag_next ag__answer_queue(ag_req *r);
void ag__queue_watch(ag_req *r);     /* begins to tell the place in the queue */
void ag__queue_tell(ag_req *r);      /* tells it, if there is news */

void ag__queue_take_id(ag_req *r);   /* asked_id out of the head's path */
bool ag__queue_cancel(ag_req *r, bool *cancelled); /* asked_id; false: it neither waits nor runs */

/* grpc.c, grpc_reflect.c: gRPC's calls */
int ag__grpc_limits(ag_req *r);      /* LIMITS: what headers say of messages and of the time; err says what is wrong */
void ag__grpc_end(ag_req *r);        /* trailers, ahead of the end of an answer: how it went */
ag_next ag__grpc_refuse(ag_req *r, uint32_t retry_s);
void ag__grpc_bad(ag_http_refusal *f, const ag_err *err, ag_str id); /* the same of what net refuses */
ag_next ag__grpc_models(ag_req *r);
ag_next ag__grpc_cancel(ag_req *r);
ag_next ag__grpc_check(ag_req *r);
ag_next ag__grpc_watch(ag_req *r);
ag_next ag__grpc_reflect(ag_req *r);

/* kserve.c: the Open Inference Protocol, over HTTP and gRPC */
ag_next ag__v2_live(ag_req *r);
ag_next ag__v2_ready(ag_req *r);
ag_next ag__v2_server(ag_req *r);
ag_next ag__v2_model(ag_req *r);
ag_next ag__v2_model_ready(ag_req *r);

/* page.c: the playground */
ag_next ag__answer_page(ag_req *r);
void ag__page_look(ag_req *r);       /* which file, and whether the client has it: by the head */

/* connections.c: what each connection is doing */
int ag__connections_look(ag_req *r); /* LIMITS: which page of them, by the head; err says why not */
ag_next ag__answer_connections(ag_req *r);
void ag__connections_free(ag_req *r);

/* Printable ASCII without blanks, out of a piece of a URL; false, and "": it is not, or does not fit. */
bool ag__percent_decode(ag_str p, char *to, size_t size);
/* The next "name=value" of a query, as it was sent; false: there is none. */
bool ag__query_next(ag_str *query, ag_str *name, ag_str *value);

/* admin.c: /admin/v1 */
int ag__admin_look(ag_req *r);       /* LIMITS: what is asked, by the head; err says why not */
ag_next ag__answer_admin(ag_req *r);
void ag__admin_free(ag_req *r);

/* caching_admin.c: the response cache, as administrators see it */
int ag__cache_look(ag_req *r);       /* LIMITS: what is asked, by the head; err says why not */
ag_next ag__answer_cache(ag_req *r);

/* warm.c: /admin/v1/cache/warm */
ag_next ag__answer_warm(ag_req *r);
void ag__cache_ask_free(ag_req *r);

/* account.c: ACCOUNT */
ag_next ag__step_account(ag_req *r);

/* routes.c */
bool ag__model_is_ours(const ag_req *r, ag_str name); /* its name, or an alias */
uint32_t ag__model_cards(const ag_req *r, ag_model_card cards[AG_ALIASES_MAX + 1]); /* its name, then its aliases */
bool ag__is_ready(const ag_gateway *gw); /* the model is loaded, and new work is taken */
const ag_route *ag__route_find(ag_str path);
/* Of errors over plain HTTP; route NULL: there is none for the path. */
const ag_dialect *ag__route_dialect(const ag_route *route, ag_str path);
ag_str ag__route_id(const ag_route *route, ag_str path); /* the segment that the route leaves open; p NULL: none */
const ag_route *ag__route_named(ag_str id); /* NULL: there is none */
ag_str ag__route_allow(const ag_route *route); /* "GET, HEAD, OPTIONS" */
uint32_t ag__route_index(const ag_route *route); /* NULL: the one for paths that are not there */
void ag__routes_name(ag_metrics *m);
void ag__metrics_copy(ag_gateway *gw); /* figures that are kept elsewhere, before a scrape */

#endif
