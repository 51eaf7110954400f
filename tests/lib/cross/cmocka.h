/* cmocka.h - the few words of cmocka that tests of kernels use, for cross builds, where there is no library.
 * Owns nothing; one thread; a failed assertion ends the test and is told as cmocka tells it in TAP. */
#ifndef AG_TESTS_CROSS_CMOCKA_H
#define AG_TESTS_CROSS_CMOCKA_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};
#define cmocka_unit_test(f) {#f, f}

static jmp_buf cross_failed;

#define fail_msg(...)                                                                                                  \
    do {                                                                                                               \
        printf("# %s:%d: ", __FILE__, __LINE__);                                                                       \
        printf(__VA_ARGS__);                                                                                           \
        printf("\n");                                                                                                  \
        longjmp(cross_failed, 1);                                                                                      \
    } while (0)
#define cross_check(ok, text) do { if (!(ok)) fail_msg("%s", text); } while (0)
#define assert_true(x) cross_check(x, #x)
#define assert_false(x) cross_check(!(x), "not " #x)
#define assert_null(p) cross_check((p) == NULL, #p " is NULL")
#define assert_non_null(p) cross_check((p) != NULL, #p " is not NULL")
#define assert_ptr_equal(a, b) cross_check((const void *)(a) == (const void *)(b), #a " is " #b)
#define assert_int_equal(a, b)                                                                                         \
    do {                                                                                                               \
        intmax_t cross_a = (intmax_t)(a), cross_b = (intmax_t)(b);                                                     \
        if (cross_a != cross_b) fail_msg("%s: %jd, not %jd", #a, cross_a, cross_b);                                    \
    } while (0)
#define assert_string_equal(a, b) cross_check(strcmp(a, b) == 0, #a " equals " #b)
#define assert_memory_equal(a, b, n) cross_check(memcmp(a, b, n) == 0, #a " equals " #b)

static inline bool cross_passes(void (*run)(void **state))
{
    if (setjmp(cross_failed) != 0) return false;
    run(NULL);
    return true;
}

static inline int cross_run(const struct CMUnitTest *tests, size_t n)
{
    int failed = 0;
    printf("1..%zu\n", n);
    for (size_t i = 0; i < n; i++) {
        bool ok = cross_passes(tests[i].run);
        failed += !ok;
        printf("%s %zu - %s\n", ok ? "ok" : "not ok", i + 1, tests[i].name);
        fflush(stdout);
    }
    return failed;
}
#define cmocka_run_group_tests(tests, setup, teardown) cross_run(tests, sizeof(tests) / sizeof *(tests))

#endif
