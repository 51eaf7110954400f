#include "keys/jwks_source.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "base/buf.h"
#include "base/fault.h"
#include "base/mem.h"

#define AGAIN_MIN_MS 1000u
#define AGAIN_MAX_MS 60000u

struct ag_jwks_source {
    ag_jwks_source_conf conf;
    char *url;
    bool local; /* http, to this machine */
    pthread_mutex_t lock; /* over what follows, for moments */
    pthread_cond_t wake;
    ag_jwks *set;
    uint64_t missed_us; /* when it is to be fetched for a token; 0: not */
    uint64_t fetched_us; /* when it was fetched last, well or not */
    bool asked, ending;
    bool troubled; /* the thread's: the last fetch failed, and that was said */
    uint32_t failures;
    pthread_t thread;
};

bool ag_jwks_is_url(const char *text)
{
    return ag_str_starts(ag_str_of(text), AG_STR("https://")) || ag_str_starts(ag_str_of(text), AG_STR("http://"));
}

static bool is_this_machine(const char *host)
{
    struct in_addr v4;
    if (strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0) return true;
    return inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127;
}

static int check_url(ag_jwks_source *s, ag_err *err)
{
    char *scheme = NULL, *host = NULL;
    CURLU *u = curl_url();
    bool ok = u && curl_url_set(u, CURLUPART_URL, s->url, CURLU_DISALLOW_USER) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK;
    s->local = ok && strcmp(scheme, "http") == 0;
    int rc = AG_OK;
    if (!ok)
        rc = ag_err_set(err, AG_E_USAGE,
                        "The URL of the keys of tokens (--jwt-jwks) is none: https://HOST/PATH is wanted, without a "
                        "user.");
    else if (s->local && !is_this_machine(host))
        rc = ag_err_set(err, AG_E_USAGE,
                        "The keys of tokens (--jwt-jwks) at http://%s could be replaced on their way: https is wanted "
                        "for other machines.",
                        host);
    curl_free(scheme);
    curl_free(host);
    curl_url_cleanup(u);
    return rc;
}

/* The thread. */

static size_t on_bytes(char *p, size_t size, size_t n, void *arg)
{
    return ag_buf_add(arg, p, size * n) ? size * n : 0;
}

static bool is_ending(ag_jwks_source *s)
{
    pthread_mutex_lock(&s->lock);
    bool ending = s->ending;
    pthread_mutex_unlock(&s->lock);
    return ending;
}

static int on_progress(void *arg, curl_off_t a AG_UNUSED, curl_off_t b AG_UNUSED, curl_off_t c AG_UNUSED,
                       curl_off_t d AG_UNUSED)
{
    return is_ending(arg);
}

static int fetch(ag_jwks_source *s, ag_jwks **out, ag_err *err)
{
    long status = 0;
    ag_buf text;
    ag_buf_init(&text, AG_JWKS_BYTES);
    CURL *c = curl_easy_init();
    if (c == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory to fetch the keys of tokens.");
    curl_easy_setopt(c, CURLOPT_URL, s->url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, s->local ? "http" : "https");
    if (s->local) curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)AG_JWKS_FETCH_MS);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "autoglm/" AG_VERSION);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &text);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, s);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    CURLcode rc = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(c);
    int code;
    if (rc == CURLE_OK && status == 200) code = ag_jwks_parse(out, ag_buf_str(&text), s->url, err);
    else if (text.failed) code = ag_err_set(err, AG_E_USAGE, "'%s' is larger than %u bytes.", s->url, AG_JWKS_BYTES);
    else if (rc != CURLE_OK)
        code = ag_err_set(err, AG_E_IO, "'%s' cannot be fetched: %s.", s->url, curl_easy_strerror(rc));
    else code = ag_err_set(err, AG_E_IO, "'%s' cannot be fetched: it answers %ld.", s->url, status);
    ag_buf_fini(&text);
    return code;
}

static void note(const ag_jwks_source *s, bool bad, const char *text)
{
    if (s->conf.note) s->conf.note(s->conf.arg, bad, text);
}

static void renew(ag_jwks_source *s)
{
    ag_err err = {0};
    ag_jwks *set = NULL;
    int rc = fetch(s, &set, &err);
    pthread_mutex_lock(&s->lock);
    ag_jwks *old = rc == AG_OK ? s->set : NULL;
    if (rc == AG_OK) s->set = set;
    bool ending = s->ending;
    s->fetched_us = ag_now_us();
    s->missed_us = 0;
    pthread_mutex_unlock(&s->lock);
    ag_jwks_free(old);
    if (rc == AG_OK && s->troubled) note(s, false, "The keys of tokens can be fetched again.");
    if (rc != AG_OK && !s->troubled && !ending) note(s, true, err.text);
    s->troubled = rc != AG_OK;
    s->failures = rc == AG_OK ? 0 : s->failures + 1;
}

/* When it is to be fetched the next time. Under the lock. */
static uint64_t due_us(const ag_jwks_source *s)
{
    uint64_t ms = s->conf.refresh_ms;
    if (s->failures) ms = AG_MIN(ms, AG_MIN(AGAIN_MIN_MS << AG_MIN(s->failures - 1, 6u), AGAIN_MAX_MS));
    uint64_t due = s->fetched_us + ms * 1000;
    return s->missed_us ? AG_MIN(due, s->missed_us) : due;
}

static void *thread_main(void *arg)
{
    ag_jwks_source *s = arg;
    pthread_setname_np(pthread_self(), "ag-jwks");
    renew(s);
    pthread_mutex_lock(&s->lock);
    while (!s->ending) {
        uint64_t due = due_us(s);
        if (!s->asked && ag_now_us() < due) {
            ag_cond_wait_until(&s->wake, &s->lock, due);
            continue;
        }
        s->asked = false;
        pthread_mutex_unlock(&s->lock);
        renew(s);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Outside of it. */

int ag_jwks_source_open(ag_jwks_source **out, const ag_jwks_source_conf *conf, ag_err *err)
{
    ag_jwks_source *s = ag_mem_zalloc(sizeof *s);
    if (s == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory for the keys of tokens.");
    s->conf = *conf;
    pthread_mutex_init(&s->lock, NULL);
    ag_cond_init(&s->wake);
    int rc = AG_OK;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || (s->url = ag_mem_strndup(conf->url, strlen(conf->url))) == NULL)
        rc = ag_err_set(err, AG_E_NOMEM, "There is no memory for the keys of tokens.");
    if (rc == AG_OK) rc = check_url(s, err);
    if (rc == AG_OK && (ag_fault_hit(AG_FAULT_THREAD) || pthread_create(&s->thread, NULL, thread_main, s) != 0))
        rc = ag_err_set(err, AG_E_INTERNAL, "The thread that fetches the keys of tokens could not be started.");
    if (rc == AG_OK) {
        *out = s;
        return AG_OK;
    }
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    ag_mem_free(s->url);
    ag_mem_free(s);
    return rc;
}

void ag_jwks_source_close(ag_jwks_source *s)
{
    if (s == NULL) return;
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    ag_jwks_free(s->set);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    ag_mem_free(s->url);
    ag_mem_free(s);
}

ag_jwks *ag_jwks_source_get(ag_jwks_source *s)
{
    pthread_mutex_lock(&s->lock);
    ag_jwks *set = ag_jwks_hold(s->set);
    pthread_mutex_unlock(&s->lock);
    return set;
}

void ag_jwks_source_missed(ag_jwks_source *s)
{
    pthread_mutex_lock(&s->lock);
    if (s->missed_us == 0) {
        s->missed_us = s->fetched_us + AG_JWKS_MISS_MS * 1000ull;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
}

void ag_jwks_source_refresh(ag_jwks_source *s)
{
    pthread_mutex_lock(&s->lock);
    s->asked = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}
