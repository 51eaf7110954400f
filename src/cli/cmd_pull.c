/* autoglm pull: a model's file, or all parts of a split one, by URL or hub name. */
#include <curl/curl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/pull.h"

#define PARTS_MAX 1024

typedef struct pull {
    const char *hub, *output, *sha256;
    uint32_t retries, wait_ms;
    bool json;
    ag_pull_ref *refs;
} pull;

/* --output names a file, or a folder that is there. */
static int target(const pull *p, const ag_pull_ref *ref, bool many, char path[AG_PULL_PATH_MAX], ag_err *err)
{
    struct stat st;
    const char *out = p->output ? p->output : ".";
    bool folder = stat(out, &st) == 0 && S_ISDIR(st.st_mode);
    if (!folder && many)
        return ag_err_set(err, AG_E_USAGE,
                          "%s: the model has several parts, so --output must be a folder that is there", out);
    int n = !folder              ? snprintf(path, AG_PULL_PATH_MAX, "%s", out)
            : p->output == NULL ? snprintf(path, AG_PULL_PATH_MAX, "%s", ref->name)
                                : snprintf(path, AG_PULL_PATH_MAX, "%s/%s", out, ref->name);
    return n < AG_PULL_PATH_MAX ? AG_OK : ag_err_set(err, AG_E_USAGE, "%.80s...: the path is too long", path);
}

static int fetch(const pull *p, const ag_pull_ref *ref, bool many, ag_err *err)
{
    char path[AG_PULL_PATH_MAX];
    int rc = target(p, ref, many, path, err);
    if (rc != AG_OK) return rc;
    ag_pull_spec spec = {
        .url = ref->url, .path = path, .sha256 = p->sha256, .retries = p->retries, .retry_wait_ms = p->wait_ms};
    ag_pull_result r;
    rc = ag_pull_file(&spec, &r, err);
    if (rc != AG_OK) return rc;
    if (p->json) {
        ag_buf b;
        ag_buf_init(&b, 8 * AG_PULL_PATH_MAX);
        ag_buf_addz(&b, "{\"path\":");
        ag_buf_add_json(&b, path, strlen(path));
        ag_buf_addf(&b, ",\"bytes\":%llu,\"sha256\":\"%s\",\"checked\":%s,\"there\":%s}\n", (unsigned long long)r.bytes,
                    r.sha256, r.checked ? "true" : "false", r.there ? "true" : "false");
        fwrite(b.p, 1, b.n, stdout);
        ag_buf_fini(&b);
        return AG_OK;
    }
    printf("%s\n", path);
    fprintf(stderr, "%s: %llu bytes, sha256 %s%s%s\n", path, (unsigned long long)r.bytes, r.sha256,
            r.checked ? ", as expected" : ", not checked against anything", r.there ? "; it was there already" : "");
    return AG_OK;
}

static int run(pull *p, const char *ref, ag_err *err)
{
    uint32_t n = 0;
    if (p->sha256 && (strlen(p->sha256) != 64 || strspn(p->sha256, "0123456789abcdefABCDEF") != 64))
        return ag_err_set(err, AG_E_USAGE, "--sha256: '%.80s' is not 64 hex digits", p->sha256);
    int rc = ag_pull_refs(ref, p->hub, p->retries, p->wait_ms, p->refs, PARTS_MAX, &n, err);
    if (rc == AG_OK && n > 1 && p->sha256)
        rc = ag_err_set(err, AG_E_USAGE, "%s: the model has %u parts; one --sha256 cannot be that of all", ref, n);
    for (uint32_t i = 0; rc == AG_OK && i < n; i++) rc = fetch(p, &p->refs[i], n > 1, err);
    return rc;
}

int ag_cmd_pull(int argc, char **argv)
{
    pull p = {.hub = getenv("AUTOGLM_HUB"), .retries = 5, .wait_ms = 500};
    const ag_opt opts[] = {
        {"output", 'o', AG_OPT_TEXT, &p.output, 0, 0, "the file, or the folder it goes into [.]"},
        {"hub", 0, AG_OPT_TEXT, &p.hub, 0, 0, "where hub names are looked up (also AUTOGLM_HUB)"},
        {"sha256", 0, AG_OPT_TEXT, &p.sha256, 0, 0, "what the file's checksum must be [the hub's word]"},
        {"retries", 0, AG_OPT_U32, &p.retries, 0, 100, "tries in a row that may bring nothing [5]"},
        {"retry-wait-ms", 0, AG_OPT_U32, &p.wait_ms, 0, 60000,
         "before the second try; doubles, up to 16 times that [500]"},
        {"json", 0, AG_OPT_FLAG, &p.json, 0, 0, "one JSON object a file on stdout"},
    };
    ag_cli cli = {
        .usage = "pull REF [OPTIONS]",
        .about =
            "Fetches a model. REF is a URL, owner/repo/file.gguf on a hub, or owner/repo:WORD for the file that has\n"
            "WORD in its name (Q4_K_M). What was broken off goes on where it ended; the checksum is verified; a file\n"
            "that is there already is never overwritten.",
        .opts = opts,
        .n_opts = AG_ARRAY_LEN(opts),
        .args_min = 1,
        .args_max = 1};
    int status;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        int rc = AG_E_NOMEM;
        p.refs = ag_mem_array(PARTS_MAX, sizeof *p.refs);
        if (p.refs == NULL || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
            ag_err_set(&err, AG_E_NOMEM, "no memory");
        else rc = run(&p, cli.args[0], &err);
        status = rc == AG_OK ? 0 : ag_cli_fail(argv[0], &err);
        curl_global_cleanup();
        ag_mem_free(p.refs);
    }
    ag_cli_fini(&cli);
    return status;
}
