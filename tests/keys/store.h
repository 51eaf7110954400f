/* store.h - a folder with a database of keys in it, for tests.
 * Owns    : the folder, until store_teardown. Threads: the test's own. Limits, errors: none; a test that cannot be set
 *           up fails. */
#ifndef STORE_H
#define STORE_H

#include "check.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "keys/keys_db.h"

static char store_folder[64], store_path[128], store_secret[160];

AG_UNUSED static int store_setup(void **state)
{
    (void)state;
    strcpy(store_folder, "/tmp/autoglm-keys-XXXXXX");
    assert_non_null(mkdtemp(store_folder));
    snprintf(store_path, sizeof store_path, "%s/keys.db", store_folder);
    snprintf(store_secret, sizeof store_secret, "%s.secret", store_path);
    return 0;
}

AG_UNUSED static int store_teardown(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", store_folder);
    return system(command);
}

AG_UNUSED static ag_keys_db *store_open(void)
{
    ag_keys_db *db = NULL;
    ag_err err = {0};
    if (ag_keys_db_open(&db, store_path, NULL, &err) != AG_OK) fail_msg("%s", err.text);
    return db;
}

/* A key of `tenant`; its id and text are the caller's. */
AG_UNUSED static void store_key(ag_keys_db *db, const char *tenant, ag_key *k, char text[AG_KEY_TEXT_BYTES + 1])
{
    ag_err err = {0};
    k->roles = k->roles ? k->roles : AG_ROLE_INFERENCE;
    strcpy(k->tenant, tenant);
    if (ag_keys_db_create(db, k, text, &err) != AG_OK) fail_msg("%s", err.text);
}

AG_UNUSED static void store_write(const char *bytes, size_t n, off_t at)
{
    int fd = open(store_path, O_WRONLY);
    assert_int_equal(pwrite(fd, bytes, n, at), n);
    close(fd);
}

#define STORED(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)

#endif
