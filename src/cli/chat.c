#include "cli/chat.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "engine/cpu/pool.h"
#include "engine/image.h"
#include "gateway/text.h"

#define READ_AT_ONCE 32

struct ag_chat {
    ag_chat_conf conf;
    ag_model *model;
    ag_engine *engine;
    json_t *messages;
    ag_mbox *news;  /* the engine says that there are tokens */
    int awake;      /* eventfd behind it */
    uint64_t turns; /* each answer of a seeded conversation has a random sequence of its own */
};

static volatile sig_atomic_t interrupted, interrupt_fd;

static void wake(void *arg)
{
    uint64_t one = 1;
    int fd = *(int *)arg;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {}
}

/* Any thread may be the one that the signal interrupts, so the sleeper is woken as the engine wakes it. */
static void on_interrupt(int sig)
{
    (void)sig;
    int fd = interrupt_fd, before = errno;
    interrupted = 1;
    wake(&fd);
    errno = before;
}

static void show_progress(void *arg, uint64_t done, uint64_t all)
{
    ag_progress *p = arg;
    p->total = all;
    ag_progress_show(p, done);
}

static void show_note(void *arg, bool bad, const char *text)
{
    (void)arg;
    if (bad) fprintf(stderr, "%s\n", text);
}

int ag_chat_open(ag_chat **out, const ag_chat_conf *conf, ag_err *err)
{
    ag_chat *c = ag_mem_zalloc(sizeof *c);
    if (c == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for a conversation");
    c->conf = *conf;
    c->awake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->messages = json_array();
    int rc = c->awake < 0 || c->messages == NULL ? ag_err_set(err, AG_E_NOMEM, "no memory for a conversation") : AG_OK;
    if (rc == AG_OK && (rc = ag_mbox_open(&c->news, 4, wake, &c->awake)) != AG_OK)
        ag_err_set(err, rc, "no memory for a conversation");
    if (rc == AG_OK) rc = ag_model_open(&c->model, conf->model, conf->chat_template, err);
    if (rc == AG_OK) {
        ag_progress p;
        const ag_conf *s = conf->settings;
        ag_progress_begin(&p, "loading", 0, true);
        ag_engine_conf e = AG_ENGINE_CONF_DEFAULT;
        e.threads = s->threads ? s->threads : ag_pool_cores();
        e.isa = s->isa;
        e.ctx_tokens = s->ctx;
        e.kv = ag_kv_type_of(s->kv);
        e.no_pass = *s->no_pass ? s->no_pass : NULL;
        e.running_max = 1;
        e.queue_max = 1;
        bool known = ag_image_mode_find(s->weights_image, &e.image);
        AG_ASSERT(known); /* the table's choices are the engine's */
        if (e.image == AG_IMAGE_AUTO) e.image = AG_IMAGE_READ; /* one answer is over before a file is written */
        e.image_dir = *s->weights_image_dir ? s->weights_image_dir : NULL;
        e.note = show_note;
        e.progress = show_progress;
        e.progress_arg = &p;
        rc = ag_engine_open(&c->engine, c->model, &e, err);
        ag_progress_end(&p);
    }
    if (rc == AG_OK) {
        if (c->model->chat == NULL && !conf->raw) c->conf.raw = true;
        *out = c;
    } else {
        ag_chat_close(c);
    }
    return rc;
}

void ag_chat_close(ag_chat *c)
{
    if (c == NULL) return;
    if (c->engine) ag_engine_close(c->engine);
    if (c->model) ag_model_close(c->model);
    while (c->news && ag_mbox_take(c->news)) {}
    ag_mbox_close(c->news);
    json_decref(c->messages);
    if (c->awake >= 0) close(c->awake);
    ag_mem_free(c);
}

bool ag_chat_raw(const ag_chat *c) { return c->conf.raw; }
void ag_chat_clear(ag_chat *c) { json_array_clear(c->messages); }

/* A token may be a part of a character, so an answer may end inside one: jansson takes no such text. */
static json_t *text_value(const char *text, size_t n)
{
    if (ag_utf8_check(text, n) == SIZE_MAX) return json_stringn(text, n);
    ag_buf b;
    ag_buf_init(&b, 6 * (size_t)AG_CHAT_ANSWER_MAX + 2);
    json_t *v = ag_buf_add_json(&b, text, n) ? json_loadb(b.p, b.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
    ag_buf_fini(&b);
    return v;
}

static bool say(ag_chat *c, const char *role, const char *text, size_t n)
{
    json_t *m = json_object();
    if (m && json_object_set_new(m, "role", json_string(role)) == 0 &&
        json_object_set_new(m, "content", text_value(text, n)) == 0)
        return json_array_append_new(c->messages, m) == 0;
    json_decref(m);
    return false;
}

static int prompt_of(ag_chat *c, const char *text, size_t n, int32_t **ids, uint32_t *n_ids, ag_err *err)
{
    if (c->conf.raw) return ag_tokenizer_encode(c->model->tokenizer, text, n, true, false, ids, n_ids, err);
    const char *system = c->conf.system;
    bool ok = json_array_size(c->messages) || system == NULL || say(c, "system", system, strlen(system));
    ok = ok && say(c, "user", text, n);
    json_t *vars = ok ? json_pack("{s:O, s:b, s:n, s:n}", "messages", c->messages, "add_generation_prompt", 1, "tools",
                                  "documents")
                      : NULL;
    int rc = vars ? ag_model_prompt(c->model, vars, (ag_str){0}, false, ids, n_ids, err)
                  : ag_err_set(err, AG_E_NOMEM, "no memory for the conversation");
    json_decref(vars);
    return rc;
}

/* A model's text may hold escape sequences; on a terminal they would be obeyed. */
static void put(FILE *to, ag_str s, bool clean)
{
    if (!clean) {
        fwrite(s.p, 1, s.n, to);
        return;
    }
    for (size_t i = 0; i < s.n; i++) {
        unsigned char ch = (unsigned char)s.p[i];
        bool c1 = ch == 0xC2 && i + 1 < s.n && (unsigned char)s.p[i + 1] < 0xA0; /* U+0080 to U+009F are controls too */
        if (c1) i++;
        else if ((ch >= 0x20 && ch != 0x7F) || ch == '\n' || ch == '\t') fputc(ch, to);
    }
}

static void rest(ag_chat *c)
{
    struct pollfd fd = {.fd = c->awake, .events = POLLIN};
    uint64_t count;
    if (poll(&fd, 1, -1) > 0)
        while (read(c->awake, &count, sizeof count) > 0) {}
    while (ag_mbox_take(c->news)) {}
}

static int follow(ag_chat *c, ag_gen *g, FILE *to, bool clean, ag_chat_answer *answer, ag_err *err)
{
    ag_gen_token tokens[READ_AT_ONCE];
    ag_gen_state state = AG_GEN_WAITING;
    ag_text held;
    ag_text_init(&held);
    uint64_t safe = 0;
    bool told = false, fits = true;
    for (uint32_t n = READ_AT_ONCE; !(ag_gen_ended(state) && n < READ_AT_ONCE);) {
        n = ag_gen_read(g, answer->tokens, tokens, READ_AT_ONCE, &state);
        for (uint32_t i = 0; i < n; i++)
            fits = ag_text_add(&held, ag_tokenizer_piece(c->model->tokenizer, tokens[i].id, false)) && fits;
        answer->tokens += n;
        if (n) safe = tokens[n - 1].text_safe;
        bool last = ag_gen_ended(state) && n < READ_AT_ONCE;
        ag_str ready = ag_text_ready(&held, last ? ag_gen_text_bytes(g) : safe, last);
        fits = ag_buf_add(&answer->text, ready.p, ready.n) && fits;
        if (to && ready.n) {
            put(to, ready, clean);
            fflush(to);
        }
        ag_text_pass(&held, ready.n);
        bool stop = interrupted || !fits || (to && ferror(to));
        if (stop && !told) ag_gen_cancel(g), told = true;
        if (n == 0 && !last) rest(c);
    }
    ag_text_fini(&held);
    answer->finish = state == AG_GEN_STOPPED ? "stop" : state == AG_GEN_LENGTH ? "length" : "cancelled";
    if (state == AG_GEN_FAILED) return ag_gen_error(g, err);
    if (!fits) return ag_err_set(err, AG_E_LIMIT, "the answer is over %u bytes", AG_CHAT_ANSWER_MAX);
    return state == AG_GEN_CANCELLED ? ag_err_set(err, AG_E_CANCELLED, "stopped") : AG_OK;
}

static int generate(ag_chat *c, const int32_t *ids, uint32_t n, FILE *to, bool clean, ag_chat_answer *answer,
                    ag_err *err)
{
    uint32_t room = ag_engine_ctx_max(c->engine);
    if (n >= room)
        return ag_err_set(err, AG_E_CTX_LENGTH,
                          "the conversation has %u tokens, the context %u; /clear begins a new one", n, room);
    uint32_t max = c->conf.max_tokens;
    ag_gen_spec spec = {.prompt = ids,
                        .n_prompt = n,
                        .max_tokens = max && max < room - n ? max : room - n,
                        .sampling = c->conf.sampling,
                        .top_logprobs = -1,
                        .notify = c->news,
                        .msg = c};
    spec.sampling.choice = (uint32_t)c->turns++;
    ag_gen *g;
    int rc = ag_gen_create(&g, c->engine, &spec, err);
    if (rc != AG_OK) return rc;
    answer->prompt_tokens = n;
    struct sigaction mine = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART}, before;
    interrupted = 0;
    interrupt_fd = c->awake;
    sigaction(SIGINT, &mine, &before);
    rc = ag_gen_submit(g, NULL, err);
    if (rc == AG_OK) rc = follow(c, g, to, clean, answer, err);
    sigaction(SIGINT, &before, NULL);
    ag_gen_times t;
    ag_gen_times_get(g, &t);
    answer->first_us = t.first_us > t.submit_us ? t.first_us - t.submit_us : 0;
    answer->all_us = t.end_us > t.submit_us ? t.end_us - t.submit_us : 0;
    ag_gen_put(g);
    return rc;
}

int ag_chat_ask(ag_chat *c, const char *text, size_t n, FILE *to, bool clean, ag_chat_answer *answer, ag_err *err)
{
    size_t turns = json_array_size(c->messages);
    int32_t *ids = NULL;
    uint32_t n_ids = 0;
    const char *system = c->conf.raw ? NULL : c->conf.system;
    size_t bad = ag_utf8_check(text, n), system_bad = system ? ag_utf8_check(system, strlen(system)) : SIZE_MAX;
    int rc = bad == SIZE_MAX ? AG_OK : ag_err_set(err, AG_E_UTF8, "the prompt is not UTF-8 (at byte %zu)", bad);
    if (rc == AG_OK && system_bad != SIZE_MAX)
        rc = ag_err_set(err, AG_E_UTF8, "--system is not UTF-8 (at byte %zu)", system_bad);
    if (rc == AG_OK) rc = prompt_of(c, text, n, &ids, &n_ids, err);
    if (rc == AG_OK && n_ids == 0) rc = ag_err_set(err, AG_E_PARAM, "the prompt is empty");
    if (rc == AG_OK) rc = generate(c, ids, n_ids, to, clean, answer, err);
    bool kept = rc == AG_OK || (rc == AG_E_CANCELLED && answer->text.n);
    /* Where the answer cannot be kept the question is none either: two of them in a row fit no template. */
    if (kept && !c->conf.raw && !say(c, "assistant", answer->text.n ? answer->text.p : "", answer->text.n)) {
        kept = false;
        ag_err_clear(err);
        rc = ag_err_set(err, AG_E_NOMEM, "no memory to keep the answer");
    }
    while (!kept && json_array_size(c->messages) > turns)
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
    ag_mem_free(ids);
    return rc;
}
