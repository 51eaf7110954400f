/* keyed.h - a gateway with a file of keys, and a connection of the test's own to that file.
 * Owns    : the gateway and the folder of keys, until teardown_keys. Threads: the test's own. Limits, errors: none of
 *           its own; a test that cannot be set up fails. */
#ifndef KEYED_H
#define KEYED_H

#include "gateway/served.h"
#include "keys/keyring.h"
#include "keys/store.h"

#define PATH "/v1/completions"
#define SAY "{\"prompt\":\"say:hi\",\"max_tokens\":9}" /* 7 tokens, and 2 of the answer */

static ag_keys_db *db;

AG_UNUSED static void open_keys(void **state)
{
    store_setup(state);
    db = store_open();
}

AG_UNUSED static int serve_keys(ag_gateway_conf conf)
{
    conf.keys_db = store_path;
    serve(conf, true);
    return 0;
}

AG_UNUSED static int setup_keys(void **state)
{
    open_keys(state);
    return serve_keys(AG_GATEWAY_CONF_DEFAULT);
}

AG_UNUSED static int teardown_keys(void **state)
{
    teardown(state);
    ag_keys_db_close(db);
    return store_teardown(state);
}

#define KEYED(f) cmocka_unit_test_setup_teardown(f, setup_keys, teardown_keys)

#endif
