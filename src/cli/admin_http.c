#include "cli/admin_http.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>

#define URL_BYTES 1024
#define STALLED_S 30L

static size_t on_body(char *p, size_t size, size_t n, void *arg) { return ag_buf_add(arg, p, size * n) ? size * n : 0; }

/* What went wrong, in the server's words where it has some. */
static int refused(long status, const ag_buf *out, ag_err *err)
{
    json_t *o = json_loadb(out->p, out->n, 0, NULL);
    const char *said = json_string_value(json_object_get(json_object_get(o, "error"), "message"));
    if (said) ag_err_set(err, AG_E_PARAM, "the server says: %s", said);
    else
        ag_err_set(err, AG_E_IO, "the server answered with HTTP %ld; is that the address of an autoglm server?",
                   status);
    json_decref(o);
    return err->code;
}

static bool set_up(CURL *e, const char *url, const ag_admin_ask *ask, struct curl_slist *headers,
                   ag_buf *out, char said[CURL_ERROR_SIZE])
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
    curl_easy_setopt(e, CURLOPT_WRITEDATA, out);
    return ok;
}

static int no_memory(ag_err *err) { return ag_err_set(err, AG_E_NOMEM, "no memory to ask the server"); }

static int ask_url(CURL *e, const char *base, const char *key, const ag_admin_ask *ask, ag_buf *out, ag_err *err)
{
    char url[URL_BYTES], line[600], said[CURL_ERROR_SIZE] = "";
    size_t n = strlen(base);
    long status = 0;
    char *id = ask->id ? curl_easy_escape(e, ask->id, 0) : NULL;
    while (n && base[n - 1] == '/') n--;
    if (snprintf(url, sizeof url, "%.*s/admin/v1/%s%s", (int)n, base, ask->path, id ? id : "") >= (int)sizeof url)
        ag_err_set(err, AG_E_USAGE, "the URL is too long");
    curl_free(id);
    if (err->code != AG_OK) return err->code;
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json"), *more = NULL;
    if (key && key[0] && snprintf(line, sizeof line, "Authorization: Bearer %s", key) < (int)sizeof line)
        more = curl_slist_append(headers, line);
    CURLcode code = CURLE_OUT_OF_MEMORY;
    if (headers && set_up(e, url, ask, more ? more : headers, out, said)) code = curl_easy_perform(e);
    curl_easy_getinfo(e, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
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
