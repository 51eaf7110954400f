/* autoglm serve: settings → log, metrics, gateway (the port opens at once) → model and engine, on a thread of their own
 * → signals, until SIGTERM or SIGINT → drain. The main thread does nothing but wait for these. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/fault.h"
#include "cli/cli.h"
#include "cli/harden.h"
#include "engine/cpu/pool.h"
#include "engine/image.h"
#include "gateway/gateway.h"
#include "gateway/openapi.h"
#include "model/null.h"

extern char **environ;

typedef struct server {
    int argc;
    char **argv;
    ag_conf conf;
    ag_log *log;
    ag_metrics *metrics;
    ag_gateway *gateway;
    ag_model *model;
    ag_engine *engine;
    int signals;  /* signalfd */
    int finished; /* eventfd: the task has ended */
    ag_err err;   /* of the loading task */
    _Atomic bool serves; /* it has come so far that somebody may be answered */
} server;

/* A piece of work that must not keep the main thread from hearing signals. One at a time. */
typedef struct task {
    server *s;
    void (*run)(server *s);
    pthread_t thread;
} task;

static void *task_main(void *arg)
{
    task *t = arg;
    t->run(t->s);
    uint64_t one = 1;
    while (write(t->s->finished, &one, sizeof one) < 0 && errno == EINTR) {}
    return NULL;
}

static int task_begin(task *t, server *s, void (*run)(server *), ag_err *err)
{
    *t = (task){.s = s, .run = run};
    int failed = ag_fault_hit(AG_FAULT_THREAD) ? EAGAIN : pthread_create(&t->thread, NULL, task_main, t);
    return failed ? ag_err_set(err, AG_E_INTERNAL, "a thread could not be started: %s", strerror(failed)) : AG_OK;
}

static void task_end(task *t)
{
    uint64_t count;
    pthread_join(t->thread, NULL);
    while (read(t->s->finished, &count, sizeof count) < 0 && errno == EINTR) {}
}

static ag_gateway_conf gateway_conf(const ag_conf *c)
{
    ag_gateway_conf g = AG_GATEWAY_CONF_DEFAULT;
    g.host = c->host;
    g.port = (uint16_t)c->port;
    g.loops = c->loops;
    g.api_key = *c->api_key ? c->api_key : NULL;
    g.keys_db = *c->keys_db ? c->keys_db : NULL;
    g.keys_secret = *c->keys_secret ? c->keys_secret : NULL;
    g.jwt_jwks = *c->jwt_jwks ? c->jwt_jwks : NULL;
    g.jwt_refresh_ms = c->jwt_refresh_ms;
    g.jwt_issuer = c->jwt_issuer;
    g.jwt_audience = c->jwt_audience;
    g.jwt_tenant_claim = c->jwt_tenant_claim;
    g.jwt_roles_claim = c->jwt_roles_claim;
    g.redis = c->redis;
    g.redis_prefix = c->redis_prefix;
    g.redis_password = c->redis_password;
    g.redis_password_file = c->redis_password_file;
    g.redis_ca = c->redis_ca;
    g.redis_cert = c->redis_cert;
    g.redis_key = c->redis_key;
    g.redis_timeout_ms = c->redis_timeout_ms;
    g.no_auth = c->no_auth;
    g.cache = (ag_caching_conf){.bytes_max = c->cache_bytes,
                                .policy = c->cache_policy,
                                .secret = c->cache_secret,
                                .ttl_s = c->cache_ttl_ms / 1000,
                                .jitter = c->cache_ttl_jitter,
                                .stale_s = c->cache_stale_ms / 1000,
                                .pace = c->cache_pace,
                                .redis = c->cache_redis,
                                .redis_timeout_ms = c->cache_redis_timeout_ms,
                                .redis_lock_ms = c->cache_redis_lock_ms,
                                .redis_queue_bytes = c->cache_redis_queue};
    bool known = ag_history_mode_find(c->history, &g.history.mode);
    AG_ASSERT(known); /* the table's choices are the gateway's */
    g.history.path = c->history_file;
    g.history.bytes_max = c->history_bytes;
    g.history.files_max = c->history_files;
    g.warm = (ag_warm_conf){.full = strcmp(c->warm, "full") == 0,
                            .idle = strcmp(c->warm, "off") != 0,
                            .top = c->warm_top,
                            .concurrency = c->warm_concurrency,
                            .time_ms = c->warm_time_ms};
    g.responses_db = c->responses_db;
    g.responses_max = c->responses_max;
    g.responses_bytes_max = c->responses_bytes;
    g.responses_keep_s = c->responses_keep_ms / 1000;
    g.background_max = c->background_max;
    g.header_bytes_max = (uint32_t)c->header_bytes;
    g.headers_max = c->headers_max;
    g.target_bytes_max = (uint32_t)c->url_bytes;
    g.json = (ag_json_limits){c->json_depth, c->json_items, c->json_string};
    g.body_bytes_max = c->body_bytes;
    g.header_timeout_ms = c->header_timeout_ms;
    g.body_timeout_ms = c->body_timeout_ms;
    g.idle_timeout_ms = c->idle_timeout_ms;
    g.write_timeout_ms = c->write_timeout_ms;
    g.total_timeout_ms = c->total_timeout_ms;
    g.requests_per_connection_max = c->requests_per_connection;
    g.connections_max = c->max_connections;
    g.connections_per_address_max = c->max_connections_per_address;
    g.out_bytes_max = c->out_bytes;
    g.unix_path = c->unix_path;
    g.trusted_proxies = c->trusted_proxies;
    g.tls_certs = c->tls_cert;
    g.tls_keys = c->tls_key;
    g.tls_client_ca = c->tls_client_ca;
    g.tls_handshakes_max = c->tls_handshakes;
    g.h2_streams_max = c->h2_streams;
    g.h2_bodies_max = c->h2_bodies;
    g.h2_window_bytes = (uint32_t)c->h2_window;
    g.h2_connection_window_bytes = (uint32_t)c->h2_connection_window;
    g.h2_resets_max = c->h2_resets;
    g.h2_frames_max = c->h2_frames;
    g.cors_origins = *c->cors_origin ? c->cors_origin : NULL;
    g.generations_max = c->max_generations;
    g.max_tokens_max = c->max_tokens;
    g.retry_after_s = c->retry_after_ms / 1000;
    g.band_min = c->most_urgent_band;
    g.tenant_weights = *c->tenant_weights ? c->tenant_weights : NULL;
    g.share_prefixes = c->share_prefixes;
    g.strict = c->strict;
    g.aliases = c->alias;
    return g;
}

static ag_engine_conf engine_conf(const ag_conf *c)
{
    ag_engine_conf e = AG_ENGINE_CONF_DEFAULT;
    e.threads = c->threads ? c->threads : ag_pool_cores();
    e.isa = c->isa;
    e.ctx_tokens = c->ctx;
    e.kv = ag_kv_type_of(c->kv);
    e.running_max = c->max_running;
    e.queue_max = c->queue_max;
    e.queue_tokens = c->queue_tokens;
    e.queue_bytes = c->queue_bytes;
    e.band_age_us = (uint64_t)c->band_age_ms * 1000;
    e.prompt_weight = c->prompt_weight;
    e.output_weight = c->output_weight;
    e.refuse_late = c->refuse_late;
    e.step_ratio = c->step_ratio / 100.0;
    e.step_gap_us = c->step_gap_ms * 1000;
    e.step_short_us = c->step_short_ms * 1000;
    e.step_rows_min = c->step_rows_min;
    e.no_reuse = !c->prefix_cache;
    e.prefix_path = *c->prefix_save ? c->prefix_save : NULL;
    e.prefix_bytes = c->prefix_save_bytes;
    e.no_pass = *c->no_pass ? c->no_pass : NULL;
    bool known = ag_image_mode_find(c->weights_image, &e.image);
    AG_ASSERT(known); /* the table's choices are the engine's */
    e.image_dir = *c->weights_image_dir ? c->weights_image_dir : NULL;
    return e;
}

static void note(void *arg, bool bad, const char *text)
{
    const server *s = arg;
    AG_LOG(s->log, bad ? AG_LOG_WARN : AG_LOG_INFO, NULL, "weights", AG_LOG_Z("note", text));
}

static void prefix_note(void *arg, bool bad, const char *text)
{
    const server *s = arg;
    AG_LOG(s->log, bad ? AG_LOG_WARN : AG_LOG_INFO, NULL, "prefixes", AG_LOG_Z("note", text));
}

static ag_log_level log_level(const ag_conf *c)
{
    ag_log_level level = AG_LOG_INFO;
    bool known = ag_log_level_find(c->log_level, &level);
    AG_ASSERT(known); /* the table's choices are the log's */
    return level;
}

static void load(server *s)
{
    uint64_t began = ag_now_us();
    const ag_conf *c = &s->conf;
    const char *chat = *c->chat_template ? c->chat_template : NULL;
    int rc = ag_model_is_null(c->model) ? ag_model_open_null(&s->model, c->model, chat, &s->err)
                                        : ag_model_open(&s->model, c->model, chat, &s->err);
    ag_engine_conf conf = engine_conf(c);
    conf.metrics = s->metrics;
    conf.by_turns = rc == AG_OK && s->model->null && s->model->null_rate == 0; /* the loops take its steps */
    conf.note = note;
    conf.prefix_note = prefix_note;
    conf.note_arg = s;
    if (rc == AG_OK) rc = ag_engine_open(&s->engine, s->model, &conf, &s->err);
    if (rc != AG_OK) return;
    if (s->model->chat_error[0])
        AG_LOG(s->log, AG_LOG_WARN, NULL, "no chat", AG_LOG_Z("template", s->model->chat_error));
    atomic_store(&s->serves, true);
    ag_gateway_set_engine(s->gateway, s->engine, *c->model_alias ? c->model_alias : NULL);
    ag_engine_stats stats;
    ag_engine_stats_get(s->engine, &stats);
    AG_LOG(s->log, AG_LOG_INFO, NULL, ag_gateway_warms(s->gateway, NULL, NULL) ? "loaded" : "ready",
           AG_LOG_Z("model", *c->model_alias ? c->model_alias : s->model->name),
           AG_LOG_Z("isa", ag_engine_isa(s->engine)), AG_LOG_U("threads", conf.threads),
           AG_LOG_U("ctx", ag_engine_ctx_max(s->engine)), AG_LOG_U("kv_pages", stats.kv_pages),
           AG_LOG_U("load_ms", (ag_now_us() - began) / 1000));
}

/* The engine writes its prompts' pages when it ends, which may take its time too. */
static void stop(server *s)
{
    ag_gateway_stop(s->gateway, s->conf.shutdown_timeout_ms);
    ag_engine_close(s->engine);
    s->engine = NULL;
}

/* Reads everything again; either all LIVE settings are taken over or none. */
static void reload(server *s)
{
    ag_conf next = {0};
    ag_err err = {0};
    uint32_t changed = 0;
    ag_conf_input in = {.argc = s->argc - 1, .argv = s->argv + 1, .env = environ};
    int rc = ag_conf_load(&next, &in, &err);
    if (rc == AG_OK) rc = ag_conf_diff(&s->conf, &next, &changed, &err);
    ag_gateway_conf g = rc == AG_OK ? gateway_conf(&next) : AG_GATEWAY_CONF_DEFAULT;
    if (rc == AG_OK) rc = ag_gateway_reload(s->gateway, &g, &err);
    ag_log_reopen(s->log);
    if (rc != AG_OK) {
        AG_LOG(s->log, AG_LOG_ERROR, NULL, "settings not reloaded", AG_LOG_Z("error", err.text));
        ag_conf_fini(&next);
        return;
    }
    ag_log_level_set(s->log, log_level(&next));
    ag_conf_fini(&s->conf);
    s->conf = next;
    AG_LOG(s->log, AG_LOG_INFO, NULL, "settings reloaded",
           AG_LOG_U("changed", changed));
}

/* Waits for a signal or for the task to end. Returns the signal, or 0. */
static int wait_event(server *s, bool task_runs)
{
    for (;;) {
        struct pollfd fds[2] = {{.fd = s->signals, .events = POLLIN},
                                {.fd = task_runs ? s->finished : -1, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0) continue;
        struct signalfd_siginfo info;
        if (fds[0].revents & POLLIN && read(s->signals, &info, sizeof info) == sizeof info) return (int)info.ssi_signo;
        if (fds[1].revents & POLLIN) return 0;
    }
}

/* A terminal is shown how far the warm-up is, unless log lines go there. */
static void show_warming(server *s)
{
    ag_progress bar;
    uint64_t done, wanted, shown = 0;
    struct pollfd fd = {.fd = s->signals, .events = POLLIN};
    while (*s->conf.log_file && ag_gateway_warms(s->gateway, &done, &wanted)) {
        if (shown == 0 && wanted) ag_progress_begin(&bar, "warming up", shown = wanted, false);
        if (shown) ag_progress_show(&bar, done);
        if (poll(&fd, 1, 200) > 0) break;
    }
    if (shown) ag_progress_end(&bar);
}

/* SIGINT while answers finish, or a signal during loading: what runs cannot be told, the process is all there is to
 * tidy. */
_Noreturn static void leave_at_once(server *s, const char *why, int status)
{
    AG_LOG(s->log, AG_LOG_WARN, NULL, why);
    ag_log_close(s->log);
    _exit(status);
}

static int give_up(server *s)
{
    ag_gateway_drain(s->gateway);
    ag_gateway_stop(s->gateway, 0);
    return ag_cli_fail("serve", &s->err);
}

static int run(server *s)
{
    task loading, stopping;
    int sig, last = 0;
    if (task_begin(&loading, s, load, &s->err) != AG_OK) return give_up(s);
    bool again = false; /* a SIGHUP during loading counts once it is done */
    while ((sig = wait_event(s, true)) != 0) {
        if (sig == SIGHUP) again = true;
        else if (atomic_load(&s->serves)) last = sig; /* nearly done, and somebody may be served already */
        else leave_at_once(s, "stopped while loading", 0);
    }
    task_end(&loading);
    if (s->err.code != AG_OK) return give_up(s);
    if (again) reload(s);
    if (last == 0) {
        show_warming(s);
        while ((last = wait_event(s, false)) == SIGHUP) reload(s);
    }

    AG_LOG(s->log, AG_LOG_INFO, NULL, "draining", AG_LOG_Z("signal", strsignal(last)),
           AG_LOG_U("requests", ag_gateway_requests(s->gateway)));
    ag_gateway_drain(s->gateway);
    ag_engine_drain(s->engine);
    if (task_begin(&stopping, s, stop, &s->err) != AG_OK) leave_at_once(s, s->err.text, 1);
    /* SIGTERM may come again without meaning more: make and other parents pass on what the whole process group got. */
    while ((sig = wait_event(s, true)) != 0)
        if (sig == SIGINT) leave_at_once(s, "stopped by a second signal", 1);
    task_end(&stopping);
    AG_LOG(s->log, AG_LOG_INFO, NULL, "stopped");
    return 0;
}

/* Signals come through a descriptor; threads started later inherit the mask, so none of them is ever interrupted. */
static int signals_open(server *s)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGPIPE); /* blocked, never read: writing to a closed socket is an error code, */
    sigaddset(&set, SIGXFSZ); /* as is a file that may not grow */
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0) return AG_E_IO;
    sigdelset(&set, SIGPIPE);
    sigdelset(&set, SIGXFSZ);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    s->finished = eventfd(0, EFD_CLOEXEC);
    return s->signals < 0 || s->finished < 0 ? AG_E_IO : AG_OK;
}

static int on_bound(void *arg, ag_err *err)
{
    const ag_conf *c = arg;
    return *c->user ? ag_harden_user(c->user, err) : AG_OK;
}

static int serve(server *s)
{
    ag_err err = {0};
    ag_log_conf log = {.format = strcmp(s->conf.log_format, "json") == 0 ? AG_LOG_JSON : AG_LOG_TEXT,
                       .level = log_level(&s->conf),
                       .file = *s->conf.log_file ? s->conf.log_file : NULL};
    ag_gateway_conf g = gateway_conf(&s->conf);
    g.bound = on_bound;
    g.bound_arg = &s->conf;
    int status = 1, rc = ag_harden_begin(&s->conf, &err);
    if (rc == AG_OK && (rc = signals_open(s)) != AG_OK)
        ag_err_set(&err, rc, "signals cannot be received: %s", strerror(errno));
    if (rc == AG_OK) rc = ag_log_open(&s->log, &log, &err);
    if (rc == AG_OK && (rc = ag_metrics_open(&s->metrics, AG_VERSION, "")) != AG_OK)
        ag_err_set(&err, rc, "no memory for metrics");
    if (rc == AG_OK) rc = ag_gateway_open(&s->gateway, &g, s->metrics, s->log, &err);
    if (rc == AG_OK && s->conf.sandbox) rc = ag_harden_calls(&s->conf, &err);
    if (rc == AG_OK) rc = ag_gateway_start(s->gateway, &err);
    if (rc == AG_OK) {
        ag_buf welcome;
        ag_buf_init(&welcome, 4096);
        ag_gateway_welcome(s->gateway, &welcome);
        AG_LOG(s->log, AG_LOG_INFO, NULL, "listening", AG_LOG_Z("host", s->conf.host),
               AG_LOG_U("port", ag_gateway_port(s->gateway)), AG_LOG_S("access", ag_buf_str(&welcome)));
        ag_buf_fini(&welcome);
        status = run(s);
    } else {
        status = ag_cli_fail("serve", &err);
    }
    if (s->engine) ag_engine_close(s->engine);
    if (s->gateway) ag_gateway_close(s->gateway);
    if (s->model) ag_model_close(s->model);
    ag_metrics_close(s->metrics);
    if (s->log) ag_log_close(s->log);
    if (s->signals >= 0) close(s->signals);
    if (s->finished >= 0) close(s->finished);
    return status;
}

static int print_page(bool (*write)(ag_buf *out))
{
    ag_buf b;
    ag_buf_init(&b, 1 << 20);
    bool ok = write(&b);
    if (ok) fwrite(b.p, 1, b.n, stdout);
    ag_buf_fini(&b);
    return ok ? 0 : 1;
}

int ag_cmd_serve(int argc, char **argv)
{
    bool markdown = false, openapi = false;
    const ag_opt opts[] = {
        {"settings-markdown", 0, AG_OPT_FLAG, &markdown, 0, 0, "print docs/settings.md and leave"},
        {"openapi", 0, AG_OPT_FLAG, &openapi, 0, 0, "print docs/openapi.yaml and leave"},
    };
    ag_cli cli = {
        .usage = "serve -m MODEL [SETTINGS]",
        .about =
            "Serves a GGUF model over HTTP: OpenAI's completions and chat, Anthropic's messages, /v1/models, /metrics.\n"
            "SIGTERM and SIGINT let running answers finish, a further SIGINT does not; SIGHUP reads the settings again.\n"
            "-m null is a model without weights, for measuring what is around one: it answers with a fixed text, byte by\n"
            "byte, as fast as it can; null:rate=1000 with so many tokens a second.",
        .opts = opts,
        .n_opts = AG_ARRAY_LEN(opts),
        .groups = "model,server,engine,limits,queue,cache,log"};
    server s = {.argc = argc, .argv = argv, .signals = -1, .finished = -1};
    int status;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        s.conf = cli.conf;
        cli.conf = (ag_conf){0};
        ag_err err = {0};
        if (markdown) status = print_page(ag_conf_markdown);
        else if (openapi) status = print_page(ag_openapi_write);
        else if (*s.conf.model) status = serve(&s);
        else
            ag_err_set(&err, AG_E_USAGE, "-m MODEL is missing: which GGUF file is to be served?"),
                status = ag_cli_fail("serve", &err);
    }
    ag_conf_fini(&s.conf);
    ag_cli_fini(&cli);
    return status;
}
