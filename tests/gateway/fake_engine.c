#include "gateway/fake_engine.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

#define CTX 200000
#define VOCAB 300
#define BOS 256
#define WIDTH 4

struct ag_gen {
    _Atomic int refs;
    ag_gen *next;
    ag_gen *leader;            /* of a follower */
    uint32_t followers;        /* that have not ended */
    int32_t *prompt;
    uint32_t n_prompt, n, want, max_tokens;
    uint8_t *answer;
    uint32_t n_answer, fail_at, taken;
    bool hold, burn, refuse, late, displace, give_up, cancel, pending, top, timed_out;
    bool wait;                 /* for fake_engine_release */
    uint8_t band;
    uint32_t reused, cut;
    uint64_t deadline_us;
    int error;
    ag_gen_state state;
    ag_mbox *notify;
    void *msg;
    ag_gen_token *prompt_tokens;
    float *embedding;
    ag_gen_times times;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;
static pthread_t thread;
static bool closing;
static ag_gen *running;
static uint32_t live;
static uint64_t cancelled;
static uint32_t n_made;
static fake_spec newest;
static ag_model model;
static uint64_t identity = 1;
static _Atomic uint32_t damage;
static const ag_gen_top tops[2] = {{'t', -0.25f}, {'u', -2}};

static bool post(ag_gen *g)
{
    if (g->notify == NULL || g->pending) return true;
    g->pending = true;
    if (ag_mbox_post(g->notify, g->msg)) return true;
    g->pending = false;
    return false;
}

/* As far as its leader, and what becomes of that, or its own end. */
static void follow(ag_gen *g)
{
    ag_gen *l = g->leader;
    bool late = g->deadline_us && ag_now_us() >= g->deadline_us && !ag_gen_ended(l->state);
    g->n = l->n;
    g->times.admit_us = l->times.admit_us;
    g->times.first_us = l->times.first_us;
    if (g->cancel) {
        g->state = AG_GEN_CANCELLED;
        cancelled++;
    } else if (late) {
        g->timed_out = l->n > 0;
        g->error = AG_E_DEADLINE;
        g->state = l->n ? AG_GEN_LENGTH : AG_GEN_FAILED;
    } else {
        g->state = l->state;
        g->error = l->error;
        g->timed_out = l->timed_out;
    }
    if (!ag_gen_ended(g->state)) return;
    g->times.end_us = ag_now_us();
    if (--l->followers == 0 && l->notify == NULL && !ag_gen_ended(l->state)) l->cancel = true;
}

static bool follows_news(const ag_gen *g) { return g->cancel || g->n != g->leader->n || g->state != g->leader->state; }

static void step(ag_gen *g)
{
    bool late = g->deadline_us && ag_now_us() >= g->deadline_us && g->leader == NULL;
    if (g->leader) {
        follow(g);
        return;
    }
    if (g->cancel) {
        g->state = AG_GEN_CANCELLED;
        cancelled++;
    } else if (g->displace || g->give_up || (late && g->wait)) {
        g->error = g->displace ? AG_E_QUEUE_FULL : AG_E_DEADLINE;
        g->state = AG_GEN_FAILED;
    } else if (late && (g->n || g->n_answer == 0)) { /* what need not wait begins first */
        g->timed_out = true;
        g->state = AG_GEN_LENGTH;
    } else if (g->wait) {
        return;
    } else if (g->n == g->fail_at) {
        if (g->burn && g->taken < g->n) return;
        g->state = AG_GEN_FAILED;
    } else if (g->n == g->max_tokens) {
        g->state = g->embedding ? AG_GEN_STOPPED : AG_GEN_LENGTH;
    } else if (g->n == g->n_answer) {
        if (g->hold) return;
        g->state = AG_GEN_STOPPED;
    } else {
        g->state = AG_GEN_RUNNING;
        g->n++;
        if (g->times.first_us == 0) g->times.first_us = ag_now_us();
        g->times.last_us = ag_now_us();
    }
    if (ag_gen_ended(g->state)) g->times.end_us = ag_now_us();
}

/* Sleeps until there is something to do. */
static void await_work(void)
{
    for (bool idle = true; idle && !closing;) {
        uint64_t next = UINT64_MAX, now = ag_now_us();
        for (ag_gen *g = running; g; g = g->next) {
            if (g->deadline_us) next = AG_MIN(next, g->deadline_us);
            if (g->leader) idle = idle && !follows_news(g);
            else if (g->cancel || g->displace || g->give_up || !(g->wait || (g->hold && g->n == g->n_answer)))
                idle = false;
        }
        if (!idle || next <= now) return;
        struct timespec at;
        clock_gettime(CLOCK_REALTIME, &at);
        uint64_t ns = (uint64_t)at.tv_nsec + AG_MIN(next - now, (uint64_t)3600000000) * 1000;
        at.tv_sec += (time_t)(ns / 1000000000);
        at.tv_nsec = (long)(ns % 1000000000);
        pthread_cond_timedwait(&news, &lock, &at);
    }
}

static void *engine_main(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    while (!closing) {
        await_work();
        for (ag_gen **at = &running; *at;) {
            ag_gen *g = *at;
            if (!ag_gen_ended(g->state)) step(g);
            bool told = post(g);
            if (!ag_gen_ended(g->state) || !told) {
                at = &g->next;
                continue;
            }
            *at = g->next;
            pthread_mutex_unlock(&lock);
            ag_gen_put(g);
            pthread_mutex_lock(&lock);
            at = &running; /* the list may have changed meanwhile */
        }
        pthread_mutex_unlock(&lock);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

ag_engine *fake_engine_open(void)
{
    closing = false;
    cancelled = 0;
    model.tokenizer = (ag_tokenizer *)&model;
    model.chat = (ag_template *)&model;
    model.created = 1700000000;
    model.hp.width = WIDTH;
    strcpy(model.name, "fake");
    model.chat_source = (char *)"";
    if (pthread_create(&thread, NULL, engine_main, NULL) != 0) abort();
    return (ag_engine *)&model;
}

void fake_engine_template(const char *source) { model.chat_source = (char *)source; }

void fake_engine_close(void)
{
    pthread_mutex_lock(&lock);
    closing = true;
    pthread_cond_signal(&news);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    while (running) {
        ag_gen *g = running;
        running = g->next;
        ag_gen_put(g);
    }
}

uint32_t fake_engine_live(void)
{
    pthread_mutex_lock(&lock);
    uint32_t n = live;
    pthread_mutex_unlock(&lock);
    return n;
}

uint64_t fake_engine_cancelled(void)
{
    pthread_mutex_lock(&lock);
    uint64_t n = cancelled;
    pthread_mutex_unlock(&lock);
    return n;
}

void fake_engine_identify(uint64_t as) { identity = as; }

uint32_t fake_engine_made(void)
{
    pthread_mutex_lock(&lock);
    uint32_t n = n_made;
    pthread_mutex_unlock(&lock);
    return n;
}

void fake_engine_release(void)
{
    pthread_mutex_lock(&lock);
    for (ag_gen *g = running; g; g = g->next) {
        if (g->wait) g->times.admit_us = ag_now_us();
        g->wait = false;
    }
    pthread_cond_signal(&news);
    pthread_mutex_unlock(&lock);
}

fake_spec fake_engine_seen(void)
{
    pthread_mutex_lock(&lock);
    fake_spec s = newest;
    pthread_mutex_unlock(&lock);
    return s;
}

const ag_model *ag_engine_model(const ag_engine *e AG_UNUSED) { return &model; }
uint32_t ag_engine_ctx_max(const ag_engine *e AG_UNUSED) { return CTX; }
const char *ag_engine_isa(const ag_engine *e AG_UNUSED) { return "fake"; }
uint64_t ag_engine_identity(const ag_engine *e AG_UNUSED) { return identity; }
uint32_t ag_engine_damage(const ag_engine *e AG_UNUSED) { return atomic_load(&damage); }
void fake_engine_damage(void) { atomic_fetch_add(&damage, 2); }
bool ag_engine_turn(ag_engine *e AG_UNUSED) { return false; }
void ag_engine_stats_get(ag_engine *e AG_UNUSED, ag_engine_stats *out)
{
    *out = (ag_engine_stats){.running = fake_engine_live(), .kv_pages = 10, .kv_pages_used = 5, .prompt_tokens = 7,
                             .cancelled = fake_engine_cancelled()};
}

/* Generations. */

static void read_wish(ag_gen *g, const char *z)
{
    const char *text;
    g->wait = strstr(z, "wait") != NULL;
    g->late = strstr(z, "late") != NULL;
    g->displace = strstr(z, "displace") != NULL;
    g->give_up = strstr(z, "give up") != NULL;
    if ((text = strstr(z, "cut:"))) g->cut = (uint32_t)atoi(text + 4) + 1;
    if ((text = strstr(z, "reuse:"))) g->reused = (uint32_t)atoi(text + 6);
    if ((text = strstr(z, "say:"))) {
        g->answer = (uint8_t *)ag_mem_strndup(text + 4, strlen(text + 4));
        g->n_answer = (uint32_t)strlen(text + 4);
    } else if ((text = strstr(z, "long:")) || (text = strstr(z, "fail:")) || (text = strstr(z, "burn:"))) {
        g->n_answer = (uint32_t)atoi(text + 5);
        g->burn = strstr(z, "burn:") != NULL;
        if (g->burn || strstr(z, "fail:")) g->fail_at = g->n_answer;
        g->answer = ag_mem_alloc(g->n_answer + 1);
        if (g->answer) memset(g->answer, 'x', g->n_answer + 1);
    } else if (strstr(z, "hold") || strstr(z, "mute")) {
        g->hold = true;
        g->n_answer = strstr(z, "hold") != NULL;
        g->answer = (uint8_t *)ag_mem_strndup("h", 1);
    } else {
        g->refuse = strstr(z, "full") != NULL;
        g->answer = ag_mem_zalloc(1);
    }
}

/* How many of the prompt's bytes there are of each remainder. */
static float *embed(const ag_gen_spec *s)
{
    float *v = ag_mem_array(WIDTH, sizeof *v), squares = 0;
    for (uint32_t i = 0; v && i < s->n_prompt; i++) v[s->prompt[i] % WIDTH]++;
    for (uint32_t k = 0; v && k < WIDTH; k++) squares += v[k] * v[k];
    for (uint32_t k = 0; v && k < WIDTH; k++) v[k] /= sqrtf(squares);
    return v;
}

int ag_gen_create(ag_gen **out, ag_engine *e AG_UNUSED, const ag_gen_spec *s, ag_err *err)
{
    ag_gen *g = ag_mem_zalloc(sizeof *g);
    if (g == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory");
    char *z = ag_mem_zalloc(s->n_prompt + 1);
    for (uint32_t i = 0, n = 0; z && i < s->n_prompt; i++)
        if (s->prompt[i] < 256) z[n++] = (char)s->prompt[i];
    g->refs = 1;
    g->fail_at = UINT32_MAX;
    g->max_tokens = s->max_tokens;
    g->band = s->band;
    g->deadline_us = s->deadline_us;
    g->notify = s->notify;
    g->msg = s->msg;
    g->top = s->top_logprobs >= 0;
    g->n_prompt = s->n_prompt;
    g->prompt_tokens = ag_mem_array(s->n_prompt, sizeof *g->prompt_tokens);
    for (uint32_t i = 0; g->prompt_tokens && i < s->n_prompt; i++)
        g->prompt_tokens[i] = (ag_gen_token){.id = s->prompt[i], .logprob = i ? -0.75f : NAN};
    if (z) read_wish(g, z);
    if (s->embed) g->embedding = embed(s);
    if (g->reused) g->reused += s->sampling.choice;
    ag_mem_free(z);
    pthread_mutex_lock(&lock);
    live++;
    n_made++;
    newest = (fake_spec){.weight = s->weight, .band = s->band, .share_all = s->share_all,
                         .deadline_us = s->deadline_us};
    memcpy(newest.tenant, s->tenant.p, AG_MIN(s->tenant.n, sizeof newest.tenant - 1));
    if (s->share_group.n)
        memcpy(newest.share_group, s->share_group.p, AG_MIN(s->share_group.n, sizeof newest.share_group - 1));
    pthread_mutex_unlock(&lock);
    if (z == NULL || g->prompt_tokens == NULL || g->answer == NULL || (s->embed && g->embedding == NULL)) {
        ag_gen_put(g);
        return ag_err_set(err, AG_E_NOMEM, "no memory");
    }
    *out = g;
    return AG_OK;
}

ag_gen *ag_gen_get(ag_gen *g)
{
    g->refs++;
    return g;
}

void ag_gen_put(ag_gen *g)
{
    if (g == NULL || --g->refs > 0) return;
    pthread_mutex_lock(&lock);
    live--;
    pthread_mutex_unlock(&lock);
    ag_mem_free(g->answer);
    ag_mem_free(g->prompt_tokens);
    ag_mem_free(g->embedding);
    ag_gen_put(g->leader);
    ag_mem_free(g);
}

int ag_gen_follow(ag_gen **out, ag_gen *leader, const ag_gen_follow_spec *s, ag_err *err)
{
    ag_gen *g = ag_mem_zalloc(sizeof *g);
    if (g == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory");
    pthread_mutex_lock(&lock);
    bool lost = leader->cancel;
    if (!lost) {
        live++;
        leader->refs++;
        leader->followers++;
        leader->band = AG_MIN(leader->band, s->band);
        if (s->deadline_us == 0 || leader->deadline_us == 0) leader->deadline_us = 0;
        else leader->deadline_us = AG_MAX(leader->deadline_us, s->deadline_us);
        newest.band = leader->band;
        newest.deadline_us = leader->deadline_us;
        g->refs = 2; /* the caller's, and that of the list */
        g->leader = leader;
        g->notify = s->notify;
        g->msg = s->msg;
        g->band = s->band;
        g->deadline_us = s->deadline_us;
        g->times.submit_us = ag_now_us();
        ag_gen **at = &running;
        while (*at) at = &(*at)->next;
        *at = g;
        pthread_cond_signal(&news);
    }
    pthread_mutex_unlock(&lock);
    if (lost) {
        ag_mem_free(g);
        return ag_err_set(err, AG_E_CANCELLED, "It has been given up.");
    }
    *out = g;
    return AG_OK;
}

int ag_gen_replay_begin(ag_gen **out, ag_engine *e AG_UNUSED, const ag_gen_replay_spec *s)
{
    ag_gen *g = ag_mem_zalloc(sizeof *g);
    if (g == NULL) return AG_E_NOMEM;
    g->refs = 1;
    g->top = s->top_logprobs >= 0;
    g->n_prompt = s->n_prompt;
    pthread_mutex_lock(&lock);
    live++;
    pthread_mutex_unlock(&lock);
    g->answer = ag_mem_alloc(s->n_tokens + 1);
    g->prompt_tokens = ag_mem_array(s->n_prompt, sizeof *g->prompt_tokens);
    if (s->embed) g->embedding = ag_mem_array(WIDTH, sizeof *g->embedding);
    if (g->answer == NULL || g->prompt_tokens == NULL || (s->embed && g->embedding == NULL)) {
        ag_gen_put(g);
        return AG_E_NOMEM;
    }
    *out = g;
    return AG_OK;
}

int ag_gen_replay_token(ag_gen *g, const ag_gen_token *t)
{
    g->answer[g->n++] = (uint8_t)t->id;
    return AG_OK;
}

void ag_gen_replay_prompt(ag_gen *g, uint32_t i, const ag_gen_token *t) { g->prompt_tokens[i] = *t; }
float *ag_gen_replay_embedding(ag_gen *g) { return g->embedding; }

void ag_gen_replay_end(ag_gen *g, ag_gen_state state, uint64_t text_bytes, uint32_t reused)
{
    g->state = state;
    g->cut = text_bytes < g->n ? (uint32_t)text_bytes : 0;
    g->reused = reused;
}

int ag_gen_submit_all(ag_gen *const *gens, uint32_t n, uint64_t *retry_us, ag_err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (retry_us) *retry_us = gens[i]->refuse || gens[i]->late ? 2500000 : 0;
        if (gens[i]->refuse) return ag_err_set(err, AG_E_QUEUE_FULL, "All places are taken.");
        if (gens[i]->late) return ag_err_set(err, AG_E_DEADLINE, "It would be ready in 9000 ms.");
    }
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < n; i++) {
        ag_gen *g = ag_gen_get(gens[i]), **at = &running;
        g->times.submit_us = ag_now_us();
        if (!g->wait && !g->give_up) g->times.admit_us = g->times.submit_us;
        while (*at) at = &(*at)->next;
        *at = g;
    }
    pthread_cond_signal(&news);
    pthread_mutex_unlock(&lock);
    return AG_OK;
}

void ag_gen_cancel(ag_gen *g)
{
    pthread_mutex_lock(&lock);
    g->cancel = true;
    pthread_cond_signal(&news);
    pthread_mutex_unlock(&lock);
}

uint32_t ag_gen_read(ag_gen *g, uint32_t from, ag_gen_token *out, uint32_t max, ag_gen_state *state)
{
    pthread_mutex_lock(&lock);
    g->pending = false;
    if (state) *state = g->state;
    ag_gen *source = g->leader ? g->leader : g;
    uint32_t n = AG_MIN(g->n - from, max);
    source->taken = AG_MAX(source->taken, from + n);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (ag_gen_token){.id = source->answer[from + i],
                                .logprob = source->top ? -0.5f : NAN,
                                .top = tops,
                                .n_top = source->top ? 2 : 0,
                                .text_safe = source->cut ? AG_MIN(from + i + 1, source->cut) : from + i + 1};
    pthread_mutex_unlock(&lock);
    return n;
}

uint32_t ag_gen_count(const ag_gen *g)
{
    pthread_mutex_lock(&lock);
    uint32_t n = g->n;
    pthread_mutex_unlock(&lock);
    return n;
}

int ag_gen_error(ag_gen *g, ag_err *err)
{
    return ag_err_set(err, g->error ? g->error : AG_E_INTERNAL, "The device caught fire.");
}

bool ag_gen_timed_out(ag_gen *g) { return g->timed_out; }
uint32_t ag_gen_reused(ag_gen *g) { return g->leader ? g->leader->reused : g->reused; }
uint64_t ag_gen_retry_us(ag_gen *g AG_UNUSED) { return 7000001; }

void ag_gen_move(ag_gen *g, uint8_t band)
{
    pthread_mutex_lock(&lock);
    g->band = band;
    pthread_mutex_unlock(&lock);
}

void ag_gen_wait_get(ag_gen *g, ag_gen_wait *out)
{
    pthread_mutex_lock(&lock);
    *out = (ag_gen_wait){.state = g->state, .band = g->band, .waited_us = 1000};
    bool before = true;
    for (ag_gen *o = running; o && g->wait && !ag_gen_ended(g->state); o = o->next) {
        before = before && o != g;
        out->position += o == g || (o->wait && (o->band < g->band || (o->band == g->band && before)));
    }
    if (!ag_gen_ended(g->state)) out->state = g->wait ? AG_GEN_WAITING : AG_GEN_RUNNING;
    out->wait_us = out->position > 1 ? out->position * 1500000ull : 0;
    pthread_mutex_unlock(&lock);
}

ag_str ag_gen_piece(const ag_gen *g AG_UNUSED, int32_t id) { return ag_tokenizer_piece(model.tokenizer, id, false); }
uint64_t ag_gen_text_bytes(ag_gen *g)
{
    uint32_t cut = g->leader ? g->leader->cut : g->cut;
    return cut ? AG_MIN(g->n, cut) : g->n;
}
const ag_gen_token *ag_gen_prompt(ag_gen *g) { return g->leader ? g->leader->prompt_tokens : g->prompt_tokens; }
const float *ag_gen_embedding(const ag_gen *g) { return g->leader ? g->leader->embedding : g->embedding; }
void ag_gen_times_get(ag_gen *g, ag_gen_times *out)
{
    pthread_mutex_lock(&lock);
    *out = g->times;
    pthread_mutex_unlock(&lock);
}

/* Model and tokenizer. */

/* The last message's content, and the prefill. */
int ag_model_prompt(const ag_model *m, const json_t *vars, ag_str tail, bool parse_special, int32_t **ids, uint32_t *n,
                    ag_err *err)
{
    json_t *messages = json_object_get(vars, "messages"),
           *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *content = json_string_value(json_object_get(last, "content"));
    if (content && strcmp(content, "raise") == 0) return ag_err_set(err, AG_E_TEMPLATE, "The template says no.");
    if (content == NULL) content = "";
    ag_buf text;
    ag_buf_init(&text, 64u << 20);
    ag_buf_addz(&text, content);
    ag_buf_add(&text, tail.p, tail.n);
    int rc = text.failed ? ag_err_set(err, AG_E_NOMEM, "no memory")
                         : ag_tokenizer_encode(m->tokenizer, text.p, text.n, false, parse_special, ids, n, err);
    ag_buf_fini(&text);
    return rc;
}

int ag_tokenizer_encode(const ag_tokenizer *t AG_UNUSED, const char *text, size_t n_text, bool add_special,
                        bool parse_special AG_UNUSED, int32_t **ids, uint32_t *n, ag_err *err)
{
    *ids = ag_mem_array(n_text + 1, sizeof **ids);
    if (*ids == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory");
    *n = 0;
    if (add_special) (*ids)[(*n)++] = BOS;
    for (size_t i = 0; i < n_text; i++) (*ids)[(*n)++] = (unsigned char)text[i];
    return AG_OK;
}

ag_str ag_tokenizer_piece(const ag_tokenizer *t AG_UNUSED, int32_t id, bool special)
{
    static char bytes[256];
    if (id == BOS) return special ? AG_STR("<s>") : AG_STR("");
    if (id < 0 || id > 255) return (ag_str){0};
    __atomic_store_n(&bytes[id], (char)id, __ATOMIC_RELAXED);
    return (ag_str){&bytes[id], 1};
}

bool ag_tokenizer_decode(const ag_tokenizer *t, const int32_t *ids, uint32_t n, bool special, ag_buf *out)
{
    for (uint32_t i = 0; i < n; i++) {
        ag_str p = ag_tokenizer_piece(t, ids[i], special);
        ag_buf_add(out, p.p, p.n);
    }
    return !out->failed;
}

int32_t ag_tokenizer_find(const ag_tokenizer *t AG_UNUSED, ag_str piece AG_UNUSED) { return -1; }
ag_token_kind ag_tokenizer_kind(const ag_tokenizer *t AG_UNUSED, int32_t id AG_UNUSED) { return AG_TOKEN_NORMAL; }
uint32_t ag_tokenizer_size(const ag_tokenizer *t AG_UNUSED) { return VOCAB; }
