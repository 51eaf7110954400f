#include "keys/keyring.h"

#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fault.h"
#include "base/mem.h"

#define RING_MAGIC 0x4b52494eu
#define SUBJECT_BYTES (AG_KEYS_MODEL_MAX + 16)

typedef struct subject {
    char name[SUBJECT_BYTES];
    ag_limits limits;
} subject;

/* What the file said at one moment: sorted lists, since they are looked up often and changed seldom. */
typedef struct table {
    ag_key **keys; /* by id */
    uint32_t n_keys, keys_cap;
    subject *subjects; /* by name */
    uint32_t n_subjects, subjects_cap;
    uint32_t n_live;
    uint64_t version;
    bool failed; /* no memory */
} table;

struct ag_keyring {
    uint32_t magic;
    ag_keyring_conf conf;
    char *path, *secret_path;
    ag_key_secret secret;
    pthread_mutex_t lock; /* over t and secret: held for a lookup or a swap */
    table *t;
    _Atomic uint64_t fresh_us; /* when the file was last seen to be as `t` says */
    ag_usage *usage;
    pthread_mutex_t read_lock; /* over reading the file into a table and putting that in place */
    ag_keys_db *db; /* the keeper's */
    dev_t dev;
    ino_t ino;
    bool troubled, unwritten; /* the last look or writing failed, and that was said */
    pthread_mutex_t wake_lock;
    pthread_cond_t wake;
    bool ending;
    pthread_t keeper;
};

/* Tables. */

void ag_key_put(ag_key *k)
{
    if (k == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&k->refs, 1, memory_order_acq_rel);
    AG_ASSERT(before > 0);
    if (before == 1) ag_mem_free(k);
}

static void table_free(table *t)
{
    if (t == NULL) return;
    for (uint32_t i = 0; i < t->n_keys; i++) ag_key_put(t->keys[i]);
    ag_mem_free(t->keys);
    ag_mem_free(t->subjects);
    ag_mem_free(t);
}

static bool room(void *list, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap) return true;
    uint32_t more = *cap ? *cap * 2 : 16;
    void *p = ag_mem_resize(*(void **)list, more, size);
    if (p == NULL) return false;
    *(void **)list = p;
    *cap = more;
    return true;
}

static bool add_key(void *arg, const ag_key *k)
{
    table *t = arg;
    ag_key *mine = room(&t->keys, t->n_keys, &t->keys_cap, sizeof *t->keys) ? ag_mem_alloc(sizeof *mine) : NULL;
    if (mine == NULL) return t->failed = true, false;
    *mine = *k;
    atomic_init(&mine->refs, 1);
    t->keys[t->n_keys++] = mine;
    t->n_live += k->revoked_s == 0;
    return true;
}

static bool add_subject(void *arg, const char *name, const ag_limits *l)
{
    table *t = arg;
    if (strncmp(name, "key:", 4) == 0) return true; /* the keys have them */
    if (!room(&t->subjects, t->n_subjects, &t->subjects_cap, sizeof *t->subjects)) return t->failed = true, false;
    subject *s = &t->subjects[t->n_subjects++];
    *s = (subject){.limits = *l};
    AG_ASSERT(strlen(name) < sizeof s->name);
    memcpy(s->name, name, strlen(name) + 1);
    return true;
}

static int by_id(const void *a, const void *b) { return strcmp((*(ag_key *const *)a)->id, (*(ag_key *const *)b)->id); }
static int by_name(const void *a, const void *b)
{
    return strcmp(((const subject *)a)->name, ((const subject *)b)->name);
}

static int table_read(table **out, ag_keys_db *db, ag_err *err)
{
    table *t = ag_mem_zalloc(sizeof *t);
    if (t == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory for the table of keys.");
    int rc = ag_keys_db_version(db, &t->version, err); /* first: what changes behind it is read once more */
    if (rc == AG_OK) rc = ag_keys_db_list(db, add_key, t, err);
    if (rc == AG_OK && !t->failed) rc = ag_keys_db_limits_list(db, add_subject, t, err);
    if (rc == AG_OK && t->failed) rc = ag_err_set(err, AG_E_NOMEM, "There is no memory for the table of keys.");
    if (rc != AG_OK) return table_free(t), rc;
    if (t->n_keys) qsort(t->keys, t->n_keys, sizeof *t->keys, by_id);
    if (t->n_subjects) qsort(t->subjects, t->n_subjects, sizeof *t->subjects, by_name);
    *out = t;
    return AG_OK;
}

/* Brings `t` up to what the file says through `db`. Under read_lock, so that an older table never replaces a newer. */
static int refresh(ag_keyring *r, ag_keys_db *db, ag_err *err)
{
    uint64_t began = ag_now_us(), version = 0;
    table *next = NULL;
    pthread_mutex_lock(&r->read_lock);
    int rc = ag_keys_db_version(db, &version, err);
    if (rc == AG_OK && (r->t == NULL || version != r->t->version)) rc = table_read(&next, db, err);
    if (next) {
        pthread_mutex_lock(&r->lock);
        table *old = r->t;
        r->t = next;
        pthread_mutex_unlock(&r->lock);
        table_free(old);
    }
    if (rc == AG_OK) atomic_store_explicit(&r->fresh_us, began, memory_order_relaxed);
    pthread_mutex_unlock(&r->read_lock);
    return rc;
}

/* The keeper. */

static void note(const ag_keyring *r, bool bad, const char *text)
{
    if (r->conf.note) r->conf.note(r->conf.arg, bad, text);
}

static int open_db(ag_keyring *r, ag_err *err)
{
    struct stat st;
    int rc = ag_keys_db_open(&r->db, r->path, r->secret_path, err);
    if (rc == AG_OK) rc = ag_keys_db_relax(r->db, err);
    if (rc != AG_OK) return rc;
    if (stat(r->path, &st) != 0) {
        ag_keys_db_close(r->db);
        r->db = NULL;
        return ag_err_set(err, AG_E_KEYS, "The keys database '%s' is not there any more.", r->path);
    }
    r->dev = st.st_dev;
    r->ino = st.st_ino;
    return AG_OK;
}

/* A file that was put in the place of ours is opened anew; one that was taken away is missed, not made again. */
static int look(ag_keyring *r, ag_err *err)
{
    struct stat st;
    if (stat(r->path, &st) != 0)
        return ag_err_set(err, AG_E_KEYS, "The keys database '%s' cannot be found: %s.", r->path, strerror(errno));
    if (r->db && (st.st_dev != r->dev || st.st_ino != r->ino)) {
        ag_keys_db_close(r->db);
        r->db = NULL;
    }
    bool anew = r->db == NULL;
    int rc = anew ? open_db(r, err) : AG_OK;
    if (rc == AG_OK && anew) {
        pthread_mutex_lock(&r->read_lock);
        r->t->version = UINT64_MAX; /* the count was another file's */
        pthread_mutex_lock(&r->lock);
        r->secret = *ag_keys_db_secret(r->db);
        pthread_mutex_unlock(&r->lock);
        pthread_mutex_unlock(&r->read_lock);
    }
    return rc == AG_OK ? refresh(r, r->db, err) : rc;
}

static void keep(ag_keyring *r)
{
    ag_err err = {0};
    if (look(r, &err) == AG_OK) {
        if (r->troubled) note(r, false, "The keys database can be read again.");
        r->troubled = false;
    } else if (!r->troubled) {
        r->troubled = true;
        note(r, true, err.text);
    }
}

static void write_usage(ag_keyring *r)
{
    ag_err err = {0};
    if (r->db == NULL || r->troubled) return; /* which was said; rows wait until the file is well again */
    if (ag_usage_write(r->usage, r->db, &err) == AG_OK) {
        if (r->unwritten) note(r, false, "The usage of keys can be written again.");
        r->unwritten = false;
    } else if (!r->unwritten) {
        r->unwritten = true;
        note(r, true, err.text);
    }
}

static void *keeper_main(void *arg)
{
    ag_keyring *r = arg;
    pthread_mutex_lock(&r->wake_lock);
    while (!r->ending) {
        ag_cond_wait_until(&r->wake, &r->wake_lock, ag_now_us() + AG_KEYRING_POLL_MS * 1000);
        if (r->ending) break;
        pthread_mutex_unlock(&r->wake_lock);
        keep(r);
        write_usage(r);
        pthread_mutex_lock(&r->wake_lock);
    }
    pthread_mutex_unlock(&r->wake_lock);
    return NULL;
}

static void locks_init(ag_keyring *r)
{
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_init(&r->read_lock, NULL);
    pthread_mutex_init(&r->wake_lock, NULL);
    ag_cond_init(&r->wake);
}

static void ring_free(ag_keyring *r)
{
    ag_usage_close(r->usage);
    ag_keys_db_close(r->db);
    table_free(r->t);
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->wake_lock);
    pthread_mutex_destroy(&r->read_lock);
    pthread_mutex_destroy(&r->lock);
    sodium_munlock(&r->secret, sizeof r->secret); /* and wiped */
    ag_mem_free(r->path);
    ag_mem_free(r->secret_path);
    r->magic = 0;
    ag_mem_free(r);
}

static bool tell_used(void *arg, const ag_usage_row *row)
{
    const ag_keyring *r = arg;
    r->conf.used(r->conf.arg, row);
    return true;
}

static int tell_month(ag_keyring *r, ag_err *err)
{
    char day[AG_KEYS_DAY_BYTES + 1];
    ag_keys_day(ag_wall_us() / 1000000, day);
    memcpy(day + 8, "01", 2);
    return r->conf.used ? ag_keys_db_usage_list(r->db, &(ag_usage_filter){.from = day}, tell_used, r, err) : AG_OK;
}

int ag_keyring_open(ag_keyring **out, const ag_keyring_conf *conf, ag_err *err)
{
    ag_keyring *r = ag_mem_zalloc(sizeof *r);
    if (r == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory for the keys.");
    const char *secret = conf->secret_path ? conf->secret_path : "";
    r->magic = RING_MAGIC;
    r->conf = *conf;
    locks_init(r);
    (void)sodium_mlock(&r->secret, sizeof r->secret); /* neither swapped out nor dumped, where the limits allow it */
    int rc = AG_OK;
    r->path = ag_mem_strndup(conf->path, strlen(conf->path));
    r->secret_path = ag_mem_strndup(secret, strlen(secret));
    if (r->path == NULL || r->secret_path == NULL || ag_usage_open(&r->usage) != AG_OK)
        rc = ag_err_set(err, AG_E_NOMEM, "There is no memory for the keys.");
    if (rc == AG_OK) rc = open_db(r, err);
    if (rc == AG_OK) {
        r->secret = *ag_keys_db_secret(r->db);
        rc = refresh(r, r->db, err);
    }
    if (rc == AG_OK) rc = tell_month(r, err);
    if (rc == AG_OK && (ag_fault_hit(AG_FAULT_THREAD) || pthread_create(&r->keeper, NULL, keeper_main, r) != 0))
        rc = ag_err_set(err, AG_E_INTERNAL, "The thread that watches the keys could not be started.");
    if (rc == AG_OK) *out = r;
    else ring_free(r);
    return rc;
}

void ag_keyring_close(ag_keyring *r)
{
    if (r == NULL) return;
    AG_CHECK(r, RING_MAGIC);
    pthread_mutex_lock(&r->wake_lock);
    r->ending = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->wake_lock);
    pthread_join(r->keeper, NULL);
    keep(r); /* what was wrong with the file may be well again */
    write_usage(r);
    if (ag_usage_waiting(r->usage)) note(r, true, "The usage of the last seconds could not be written and is lost.");
    ring_free(r);
}

/* Lookups. */

/* Both the hash and its comparison take the same time for every text, a known id or not. */
ag_key_fate ag_keyring_check(ag_keyring *r, ag_str text, uint64_t wall_s, ag_key **out)
{
    AG_CHECK(r, RING_MAGIC);
    ag_key like = {0}, *key = NULL, *const wanted = &like;
    static const uint8_t nobody[32];
    uint8_t hash[32];
    bool ours = ag_key_text_id(text, like.id);
    if (ag_now_us() - atomic_load_explicit(&r->fresh_us, memory_order_relaxed) > AG_KEYRING_STALE_MS * 1000ull)
        return AG_KEY_STALE;
    pthread_mutex_lock(&r->lock);
    ag_key *const *found = r->t->n_keys ? bsearch(&wanted, r->t->keys, r->t->n_keys, sizeof *r->t->keys, by_id) : NULL;
    if (ours && found) {
        key = *found;
        atomic_fetch_add_explicit(&key->refs, 1, memory_order_relaxed);
    }
    ag_key_secret secret = r->secret;
    pthread_mutex_unlock(&r->lock);
    ag_key_hash(&secret, text, hash);
    bool same = sodium_memcmp(hash, key ? key->hash : nobody, sizeof hash) == 0;
    sodium_memzero(&secret, sizeof secret);
    ag_key_fate fate = key == NULL                                  ? AG_KEY_UNKNOWN
                       : !same                                      ? AG_KEY_WRONG
                       : key->revoked_s                             ? AG_KEY_REVOKED
                       : key->expires_s && wall_s >= key->expires_s ? AG_KEY_EXPIRED
                                                                    : AG_KEY_OK;
    if (fate == AG_KEY_OK) *out = key;
    else ag_key_put(key);
    return fate;
}

static const subject *find_subject(const table *t, const char *kind, const char *name)
{
    subject like;
    if (t->n_subjects == 0 || strlen(kind) + strlen(name) + 2 > sizeof like.name) return NULL;
    strcpy(strcpy(like.name, kind) + strlen(kind), ":");
    strcat(like.name, name);
    return bsearch(&like, t->subjects, t->n_subjects, sizeof like, by_name);
}

bool ag_keyring_limits(ag_keyring *r, const char *kind, const char *name, ag_limits *out)
{
    AG_CHECK(r, RING_MAGIC);
    pthread_mutex_lock(&r->lock);
    const subject *own = find_subject(r->t, kind, name), *s = own ? own : find_subject(r->t, kind, "*");
    *out = s ? s->limits : (ag_limits){0};
    pthread_mutex_unlock(&r->lock);
    return own != NULL;
}

uint64_t ag_keyring_keys(ag_keyring *r)
{
    AG_CHECK(r, RING_MAGIC);
    pthread_mutex_lock(&r->lock);
    uint64_t n = r->t->n_live;
    pthread_mutex_unlock(&r->lock);
    return n;
}

ag_usage *ag_keyring_usage(ag_keyring *r) { return r->usage; }

int ag_keyring_job(ag_keyring *r, int (*work)(void *arg, ag_keys_db *db, ag_err *err), void *arg, ag_err *err)
{
    AG_CHECK(r, RING_MAGIC);
    ag_keys_db *db = NULL;
    int rc = ag_keys_db_open(&db, r->path, r->secret_path, err);
    /* What waits counts for who asks; where it cannot be written the keeper says so. */
    if (rc == AG_OK) (void)ag_usage_write(r->usage, db, NULL);
    if (rc == AG_OK) rc = work(arg, db, err);
    if (rc == AG_OK) rc = refresh(r, db, err);
    ag_keys_db_close(db);
    return rc;
}
