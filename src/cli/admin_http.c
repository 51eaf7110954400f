#include "cli/admin_http.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>

#include "base/utf8.h"

#define URL_BYTES 1024
#define LINE_BYTES 16384 /* a key may be a token (JWT), of a kilobyte and more */
#define STALLED_S 30L

typedef struct sink {
    ag_buf *out;
    bool over; /* its ceiling */
} sink;

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    sink *to = arg;
    to->over = size * n > to->out->max - to->out->n;
    return !to->over && ag_buf_add(to->out, p, size * n) ? size * n : 0;
}

static int no_memory(ag_err *err) { return ag_err_set(err, AG_E_NOMEM, "no memory to ask the server"); }

/* The server's sentence, without what a terminal obeys. */
static void plain(const char *said, char *out, size_t size)
{
    size_t n = strlen(said), to = 0, len;
    for (size_t i = 0; i < n && to + 5 < size; i += len ? len : 1) {
        uint32_t cp = 0;
        len = ag_utf8_get(said + i, n - i, &cp);
        if (len == 0 || cp < 0x20 || (cp >= 0x7F && cp < 0xA0)) continue;
        memcpy(out + to, said + i, len);
        to += len;
    }
    out[to] = 0;
}

/* What went wrong, in the server's words where it has some. */
static int refused(long status, const ag_buf *out, ag_err *err)
{
    json_t *o = json_loadb(out->p, out->n, 0, NULL);
    const char *said = json_string_value(json_object_get(json_object_get(o, "error"), "message"));
    if (said) {
        char words[400];
        plain(said, words, sizeof words);
        ag_err_set(err, AG_E_PARAM, "the server says: %s", words);
    } else {
        ag_err_set(err, AG_E_IO, "the server answered with HTTP %ld; is that the address of an autoglm server?",
                   status);
    }
    json_decref(o);
    return err->code;
}

static bool set_up(CURL *e, const char *url, const ag_admin_ask *ask, struct curl_slist *headers,
                   sink *to, char said[CURL_ERROR_SIZE])
{
    bool ok = curl_easy_setopt(e, CURLOPT_URL, url) == CURLE_OK &&
              curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
              curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers) == CURLE_OK &&
              curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, ask->method) == CURLE_OK;
    if (ok && ask->body.n) {
        ok = curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, (long)ask->body.n) == CURLE_OK &&
             curl_easy_setopt(e, CURLOPT_POSTFIELDS, ask->body.p) == CURLE_OK;
    }
    curl_easy_setopt(e, CURLOPT_USERAGENT, "autoglm/" AG_VERSION);
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L); /* a key goes where it was sent and nowhere else */
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, STALLED_S);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, said);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, to);
    return ok;
}

/* NULL with *err set. */
static struct curl_slist *headers_of(const char *key, ag_err *err)
{
    char line[LINE_BYTES];
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json"), *more = headers;
    if (headers && key && key[0]) {
        if (snprintf(line, sizeof line, "Authorization: Bearer %s", key) >= (int)sizeof line)
            ag_err_set(err, AG_E_USAGE, "AUTOGLM_API_KEY is too long");
        else more = curl_slist_append(headers, line);
    }
    if (more == NULL) no_memory(err);
    if (err->code == AG_OK) return headers;
    curl_slist_free_all(headers);
    return NULL;
}

static int ask_url(CURL *e, const char *base, const char *key, const ag_admin_ask *ask, ag_buf *out, ag_err *err)
{
    char url[URL_BYTES], said[CURL_ERROR_SIZE] = "";
    size_t n = strlen(base);
    long status = 0;
    char *id = ask->id ? curl_easy_escape(e, ask->id, 0) : NULL;
    while (n && base[n - 1] == '/') n--;
    if (snprintf(url, sizeof url, "%.*s/admin/v1/%s%s", (int)n, base, ask->path, id ? id : "") >= (int)sizeof url)
        ag_err_set(err, AG_E_USAGE, "the URL is too long");
    curl_free(id);
    if (err->code != AG_OK) return err->code;
    struct curl_slist *headers = headers_of(key, err);
    if (headers == NULL) return err->code;
    CURLcode code = CURLE_OUT_OF_MEMORY;
    sink to = {.out = out};
    if (set_up(e, url, ask, headers, &to, said)) code = curl_easy_perform(e);
    curl_easy_getinfo(e, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    if (to.over)
        return ag_err_set(err, AG_E_LIMIT, "%s: the answer is over %zu bytes; is that an autoglm server?", base,
                          out->max);
    if (code == CURLE_OUT_OF_MEMORY || out->failed) return no_memory(err);
    if (code != CURLE_OK) return ag_err_set(err, AG_E_IO, "%s: %s", base, said[0] ? said : curl_easy_strerror(code));
    return status == 200 ? AG_OK : refused(status, out, err);
}

int ag_admin_http(const char *url, const char *key, const ag_admin_ask *ask, ag_buf *out, ag_err *err)
{
    CURL *e = curl_easy_init();
    int rc = e ? ask_url(e, url, key, ask, out, err) : no_memory(err);
    curl_easy_cleanup(e);
    return rc;
}
