#include "check.h"

#include "base/fault.h"
#include "keys/jwks_source.h"

static int open_at(ag_jwks_source **s, const char *url, ag_err *err)
{
    *err = (ag_err){0};
    return ag_jwks_source_open(s, &(ag_jwks_source_conf){.url = url, .refresh_ms = 1000}, err);
}

static void only_what_cannot_be_replaced_on_its_way(void **state)
{
    (void)state;
    static const char *const good[] = {"https://127.0.0.1:1/keys", "https://localhost:1", "http://localhost:1/k",
                                       "http://127.0.0.1:1/k", "http://127.9.9.9:1/k", "http://[::1]:1/k"};
    static const char *const bad[] = {"http://id.example/keys", "http://localhost.example/k", "http://128.0.0.1/k",
                                      "http://10.0.0.1/k", "http://[::2]/k", "http://me:pw@localhost/k", "https://",
                                      "http://"};
    ag_jwks_source *s = NULL;
    ag_err err;
    for (size_t i = 0; i < AG_ARRAY_LEN(good); i++) {
        assert_true(ag_jwks_is_url(good[i]));
        if (open_at(&s, good[i], &err) != AG_OK) fail_msg("%s: %s", good[i], err.text);
        assert_null(ag_jwks_source_get(s));
        ag_jwks_source_missed(s);
        ag_jwks_source_refresh(s);
        ag_jwks_source_close(s); /* whatever it was doing */
    }
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++)
        if (open_at(&s, bad[i], &err) != AG_E_USAGE) fail_msg("'%s' was taken", bad[i]);
    assert_false(ag_jwks_is_url("keys.json"));
    assert_false(ag_jwks_is_url("/etc/https://keys.json"));
}

static void without_memory_or_thread(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    static const ag_fault_kind kinds[] = {AG_FAULT_ALLOC, AG_FAULT_THREAD};
    for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++)
        for (uint32_t n = 1;; n++) {
            ag_jwks_source *s = NULL;
            ag_err err;
            ag_fault_arm(kinds[k], n);
            int rc = open_at(&s, "http://127.0.0.1:1/k", &err);
            if (rc == AG_OK) ag_jwks_source_close(s);
            if (!ag_fault_disarm(kinds[k])) break;
        }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_cannot_be_replaced_on_its_way),
        cmocka_unit_test(without_memory_or_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
