/* h2spec, the conformance tests of others, in strict mode against a server of rig.h. tools/install builds it where Go
 * is; elsewhere it is skipped. */
#include "check.h"
#include "rig.h"
#include "tls_files.h"

#define H2SPEC ".cache/h2spec/h2spec"

/* On a port that speaks HTTP/1 as well, a first line that no protocol knows is answered by HTTP/1's 400, where h2spec
 * wants to see a closed connection and no more. */
#define NOT_CLEARTEXT "Sends invalid connection preface"

static void run(uint16_t port, const char *more, unsigned allowed)
{
    char command[256], line[512];
    snprintf(command, sizeof command, H2SPEC " -h 127.0.0.1 -p %u --strict -P /length -o 20 %s 2>&1", port, more);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    unsigned tests = 0, passed = 0, skipped = 0, failed = 0, named = 0;
    char *said = calloc(1, 1);
    size_t n = 0;
    bool failures = false;
    while (fgets(line, sizeof line, f)) {
        failures |= strncmp(line, "Failures", 8) == 0;
        named += failures && strstr(line, NOT_CLEARTEXT) != NULL;
        sscanf(line, "%u tests, %u passed, %u skipped, %u failed", &tests, &passed, &skipped, &failed);
        if (!failures) continue;
        said = realloc(said, n + strlen(line) + 1);
        memcpy(said + n, line, strlen(line) + 1);
        n += strlen(line);
    }
    pclose(f);
    if (tests < 140 || skipped || failed != allowed || named != allowed) fail_msg("%u tests\n%s", tests, said);
    free(said);
}

static void test_cleartext(void **state)
{
    (void)state;
    if (access(H2SPEC, X_OK) != 0) {
        check_skipped(146, "h2spec is not there: it needs Go");
        return;
    }
    rig r;
    ag_http_conf conf = rig_conf();
    rig_start(&r, &conf);
    run(ag_http_server_port(r.server), "", 1);
    rig_stop(&r);
}

static void test_tls(void **state)
{
    (void)state;
    if (access(H2SPEC, X_OK) != 0) {
        check_skipped(146, "h2spec is not there: it needs Go");
        return;
    }
    rig r;
    tls_files f;
    tls_files_open(&f);
    tls_made made = tls_make(&f, "a", "localhost", -1, 30, NULL);
    ag_http_conf conf = rig_conf();
    conf.tls = (ag_http_tls){.certs = tls_path(&f, "a.pem"), .keys = tls_path(&f, "a.key")};
    rig_start(&r, &conf);
    run(ag_http_server_port(r.server), "-t -k", 0);
    rig_stop(&r);
    tls_made_free(&made);
    tls_files_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cleartext),
        cmocka_unit_test(test_tls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
