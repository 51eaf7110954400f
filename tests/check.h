/* check.h - cmocka with the headers it forgets to ask for, and where the test data lies.
 * Owns nothing; one thread; no limits. A test program that lacks data calls check_skipped and passes. */
#ifndef AG_TESTS_CHECK_H
#define AG_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* The test runner counts these lines and repeats them at its end. */
static inline void check_skipped(unsigned cases, const char *why)
{
    fprintf(stderr, "skipped: %u cases (%s)\n", cases, why);
}

static inline const char *check_data_dir(void)
{
    const char *dir = getenv("AUTOGLM_TEST_DATA");
    return dir && *dir ? dir : "../shared/data";
}

#endif
