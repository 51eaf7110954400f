#include "check.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "keys/key.h"

static char folder[64], path[128];

static int setup(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/autoglm-key-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/secret", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    assert_int_equal(rmdir(folder), 0); /* nothing is left beside it */
    return 0;
}

static void texts_have_an_id_that_is_found_again(void **state)
{
    (void)state;
    char id[AG_KEY_ID_BYTES + 1], text[AG_KEY_TEXT_BYTES + 1], found[AG_KEY_ID_BYTES + 1], other[AG_KEY_TEXT_BYTES + 1];
    ag_key_secret s;
    assert_int_equal(ag_key_secret_load(&s, path, true, NULL), AG_OK);
    ag_key_make(id, text, NULL);
    assert_int_equal(strlen(text), AG_KEY_TEXT_BYTES);
    assert_true(ag_key_text_id(ag_str_of(text), found));
    assert_string_equal(found, id);
    ag_key_make(found, other, id); /* rotated: the id stays, the rest does not */
    assert_string_equal(found, id);
    assert_memory_equal(other, text, 3 + AG_KEY_ID_BYTES + 1);
    assert_string_not_equal(other, text);
    uint8_t a[32], b[32];
    ag_key_hash(&s, ag_str_of(text), a);
    ag_key_hash(&s, ag_str_of(other), b);
    assert_memory_not_equal(a, b, 32);
    static const char *const bad[] = {"", "ag-", "sk-012345678901-abcdefghijabcdefghijabcdefghijabcdefghijabc",
                                      "ag-01234567890A-abcdefghijabcdefghijabcdefghijabcdefghijabc",
                                      "ag-012345678901_abcdefghijabcdefghijabcdefghijabcdefghijabc"};
    for (size_t i = 0; i < AG_ARRAY_LEN(bad); i++) assert_false(ag_key_text_id(ag_str_of(bad[i]), found));
}

static void the_secret_is_made_once_and_must_be_the_owners_alone(void **state)
{
    (void)state;
    ag_key_secret a, b;
    ag_err err = {0};
    struct stat st;
    assert_int_equal(ag_key_secret_load(&a, path, false, &err), AG_E_IO);
    assert_non_null(strstr(err.text, "No such file"));
    assert_int_equal(ag_key_secret_load(&a, path, true, NULL), AG_OK);
    assert_int_equal(ag_key_secret_load(&b, path, true, NULL), AG_OK);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(chmod(path, 0640), 0);
    ag_err_clear(&err);
    assert_int_equal(ag_key_secret_load(&b, path, true, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "chmod 600"));
    assert_int_equal(chmod(path, 0600) | truncate(path, 31), 0);
    ag_err_clear(&err);
    assert_int_equal(ag_key_secret_load(&b, path, true, &err), AG_E_USAGE);
    assert_non_null(strstr(err.text, "31 bytes"));
}

#ifdef AG_FAULTS
static void a_secret_that_cannot_be_made_leaves_nothing(void **state)
{
    (void)state;
    static const ag_fault_kind kinds[] = {AG_FAULT_OPEN, AG_FAULT_READ, AG_FAULT_WRITE, AG_FAULT_SYNC};
    ag_key_secret s;
    for (size_t i = 0; i < AG_ARRAY_LEN(kinds); i++) {
        ag_err err = {0};
        ag_fault_arm(kinds[i], 1);
        assert_int_equal(ag_key_secret_load(&s, path, true, &err), AG_E_IO);
        assert_true(ag_fault_disarm(kinds[i]));
        assert_non_null(strstr(err.text, path));
        unlink(path);
    }
}
#endif

static void lists_are_checked(void **state)
{
    (void)state;
    assert_true(ag_key_name_ok(AG_STR("gold")));
    assert_false(ag_key_name_ok(AG_STR("")) || ag_key_name_ok(AG_STR("a b")) || ag_key_name_ok(AG_STR("a,b")));
    assert_int_equal(ag_key_roles_of(AG_STR("inference")), AG_ROLE_INFERENCE);
    assert_int_equal(ag_key_roles_of(AG_STR("admin,inference")), AG_ROLE_INFERENCE | AG_ROLE_ADMIN);
    assert_int_equal(ag_key_roles_of(AG_STR("admin,")) | ag_key_roles_of(AG_STR("root")) |
                         ag_key_roles_of(AG_STR("admin,admin")) | ag_key_roles_of(AG_STR("")),
                     0);
    assert_true(ag_key_models_ok(AG_STR("a,b c")) && ag_key_models_ok(AG_STR("")));
    assert_false(ag_key_models_ok(AG_STR("a,,b")) || ag_key_models_ok(AG_STR("a\n")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(texts_have_an_id_that_is_found_again, setup, teardown),
        cmocka_unit_test_setup_teardown(the_secret_is_made_once_and_must_be_the_owners_alone, setup, teardown),
#ifdef AG_FAULTS
        cmocka_unit_test_setup_teardown(a_secret_that_cannot_be_made_leaves_nothing, setup, teardown),
#endif
        cmocka_unit_test(lists_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
