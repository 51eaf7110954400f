#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <strings.h>

#include "base/utf8.h"
#include "cli/pull.h"

#define LISTING_MAX (8u << 20)

/* A name that a server or a person chose becomes a file of ours only if it is one plain word of a path. */
static bool name_take(ag_pull_ref *ref, const char *s, size_t n)
{
    if (n == 0 || n >= sizeof ref->name || s[0] == '.' || s[0] == '-' || ag_utf8_check(s, n) != SIZE_MAX) return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] == '/' || s[i] == '\\' || (unsigned char)s[i] < 0x20 || s[i] == 0x7F) return false;
    memcpy(ref->name, s, n);
    ref->name[n] = 0;
    return true;
}

/* The last segment of the URL's path, percent-decoded. */
static int from_url(const char *url, ag_pull_ref *ref, ag_err *err)
{
    if ((size_t)snprintf(ref->url, sizeof ref->url, "%s", url) >= sizeof ref->url)
        return ag_err_set(err, AG_E_USAGE, "%.60s...: a URL has at most %d bytes", url, AG_PULL_URL_MAX - 1);
    const char *path = strstr(url, "://") + 3, *end = path + strcspn(path, "?#"), *from = end;
    while (from > path && from[-1] != '/') from--;
    char name[sizeof ref->name];
    size_t n = 0;
    for (const char *p = from; from > path && p < end && n < sizeof name; p++) {
        int byte = ag_percent_byte(p, end);
        name[n++] = byte >= 0 ? (char)byte : *p;
        if (byte >= 0) p += 2;
    }
    if (n == sizeof name || !name_take(ref, name, n))
        return ag_err_set(err, AG_E_USAGE, "%s: its path does not end in a file's name; say where to with --output",
                          url);
    return AG_OK;
}

/* Writes `path` behind the URL so far, everything but plain letters percent-encoded, slashes kept. */
static bool url_add(ag_buf *b, ag_str path)
{
    for (size_t i = 0; i < path.n; i++) {
        unsigned char c = (unsigned char)path.p[i];
        if (isalnum(c) || (c && strchr("-_.~/", c))) ag_buf_addc(b, (char)c);
        else ag_buf_addf(b, "%%%02X", c);
    }
    return !b->failed;
}

static int hub_url(const char *hub, const char *middle, ag_str repo, const char *after, ag_str file,
                   char out[AG_PULL_URL_MAX], ag_err *err)
{
    ag_buf b;
    ag_buf_init(&b, AG_PULL_URL_MAX);
    size_t n = strlen(hub);
    while (n && hub[n - 1] == '/') n--;
    ag_buf_add(&b, hub, n);
    ag_buf_addz(&b, middle);
    url_add(&b, repo);
    ag_buf_addz(&b, after);
    url_add(&b, file);
    int rc = ag_buf_zterm(&b) ? AG_OK : ag_err_set(err, AG_E_USAGE, "%.60s: the name is too long", repo.p);
    if (rc == AG_OK) memcpy(out, b.p, b.n + 1);
    ag_buf_fini(&b);
    return rc;
}

static int from_hub_file(const char *hub, ag_str repo, ag_str file, ag_pull_ref *ref, ag_err *err)
{
    const char *slash = memrchr(file.p, '/', file.n);
    const char *name = slash ? slash + 1 : file.p;
    if (!name_take(ref, name, (size_t)(file.p + file.n - name)))
        return ag_err_set(err, AG_E_USAGE, "%.*s: not a file's name", (int)AG_MIN(file.n, (size_t)80), file.p);
    return hub_url(hub, "/", repo, "/resolve/main/", file, ref->url, err);
}

/* Holds `word` as a whole, whatever the case: Q4_K does not find Q4_K_M. */
static bool holds_word(const char *name, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = name; *p; p++) {
        bool begins = p == name || !(isalnum((unsigned char)p[-1]) || p[-1] == '_');
        if (begins && strncasecmp(p, word, n) == 0 && !isalnum((unsigned char)p[n]) && p[n] != '_') return true;
    }
    return false;
}

/* "…-00001-of-00003.gguf" */
static bool is_part(const char *path)
{
    unsigned part, parts;
    size_t n = strlen(path);
    return n > 20 && sscanf(path + n - 20, "-%5u-of-%5u.gguf", &part, &parts) == 2;
}

typedef struct search {
    const char *ref, *hub, *word;
    ag_str repo;
    ag_pull_ref *out;
    uint32_t max, n;
    bool parts;
    char names[200]; /* of what there is, for the sentence */
} search;

static int search_take(search *s, const char *path, ag_err *err)
{
    size_t n = strlen(path), used = strlen(s->names);
    if (n < 5 || strcasecmp(path + n - 5, ".gguf") != 0) return AG_OK;
    if (!holds_word(path, s->word)) {
        if (used < sizeof s->names) snprintf(s->names + used, sizeof s->names - used, "%s%s", used ? ", " : "", path);
        return AG_OK;
    }
    bool part = is_part(path);
    if (s->n && (!part || !s->parts))
        return ag_err_set(err, AG_E_USAGE, "%s: both %s and %s match; name one of them as owner/repo/file", s->ref,
                          s->out[0].name, path);
    if (s->n == s->max) return ag_err_set(err, AG_E_LIMIT, "%s: over %u parts", s->ref, s->max);
    s->parts = part;
    return from_hub_file(s->hub, s->repo, ag_str_of(path), &s->out[s->n++], err);
}

static int from_listing(search *s, uint32_t retries, uint32_t wait_ms, ag_err *err)
{
    char url[AG_PULL_URL_MAX];
    ag_buf body;
    ag_buf_init(&body, LISTING_MAX);
    json_t *list = NULL;
    int rc = hub_url(s->hub, "/api/models/", s->repo, "/tree/main?recursive=true", (ag_str){NULL, 0}, url, err);
    if (rc == AG_OK) rc = ag_pull_text(url, retries, wait_ms, &body, err);
    if (rc == AG_OK) {
        list = json_loadb(body.n ? body.p : "", body.n, 0, NULL);
        if (!json_is_array(list)) rc = ag_err_set(err, AG_E_IO, "%s: the hub's answer is not a list of files", url);
    }
    for (size_t i = 0; rc == AG_OK && i < json_array_size(list); i++) {
        const char *path = json_string_value(json_object_get(json_array_get(list, i), "path"));
        if (path) rc = search_take(s, path, err);
    }
    if (rc == AG_OK && s->n == 0)
        rc = ag_err_set(err, AG_E_NOT_FOUND, "%s: no .gguf file there has '%s' in its name; there is %s", s->ref,
                        s->word, *s->names ? s->names : "none at all");
    json_decref(list);
    ag_buf_fini(&body);
    return rc;
}

int ag_pull_refs(const char *ref, const char *hub, uint32_t retries, uint32_t retry_wait_ms, ag_pull_ref *out,
                 uint32_t max, uint32_t *n, ag_err *err)
{
    *n = 0;
    if (strstr(ref, "://")) {
        if (strncasecmp(ref, "http://", 7) != 0 && strncasecmp(ref, "https://", 8) != 0)
            return ag_err_set(err, AG_E_USAGE, "%s: only http and https are fetched", ref);
        int rc = from_url(ref, out, err);
        if (rc == AG_OK) *n = 1;
        return rc;
    }
    const char *owner_end = strchr(ref, '/');
    size_t repo_n = owner_end ? (size_t)(owner_end - ref) + 1 + strcspn(owner_end + 1, "/:") : 0;
    if (owner_end == NULL || owner_end == ref || ref + repo_n == owner_end + 1 || ref[repo_n] == 0 ||
        ref[repo_n + 1] == 0)
        return ag_err_set(err, AG_E_USAGE,
                          "%s: neither a URL, nor owner/repo/file.gguf, nor owner/repo:WORD (as owner/repo:Q4_K_M)",
                          ref);
    if (hub == NULL || *hub == 0)
        return ag_err_set(err, AG_E_USAGE, "%s: which hub has it? Say --hub URL, or set AUTOGLM_HUB", ref);
    if (strncasecmp(hub, "http://", 7) != 0 && strncasecmp(hub, "https://", 8) != 0)
        return ag_err_set(err, AG_E_USAGE, "%s: a hub's address begins with http:// or https://", hub);
    ag_str repo = {ref, repo_n};
    if (ref[repo_n] == '/') {
        int rc = from_hub_file(hub, repo, ag_str_of(ref + repo_n + 1), out, err);
        if (rc == AG_OK) *n = 1;
        return rc;
    }
    search s = {.ref = ref, .hub = hub, .word = ref + repo_n + 1, .repo = repo, .out = out, .max = max};
    int rc = from_listing(&s, retries, retry_wait_ms, err);
    if (rc == AG_OK) *n = s.n;
    return rc;
}
