#include "keys/usage.h"

#include <pthread.h>
#include <sodium.h>

#include "base/mem.h"

#define HEADS 4096u

typedef struct entry {
    ag_usage_row row;
    uint32_t next; /* in its chain, plus one; 0: the last */
} entry;

typedef struct sheet {
    entry *list;
    uint32_t n, cap;
    uint32_t head[HEADS]; /* plus one */
} sheet;

struct ag_usage {
    pthread_mutex_t lock; /* over all but what `write` has taken */
    pthread_mutex_t write_lock; /* one writer at a time, so that rows that come back find their place */
    uint8_t key[crypto_shorthash_KEYBYTES];
    sheet *now, *spare;
    uint64_t lost, day_number;
    char day[AG_KEYS_DAY_BYTES + 1]; /* of day_number */
};

int ag_usage_open(ag_usage **out)
{
    ag_usage *u = ag_mem_zalloc(sizeof *u);
    if (u == NULL) return AG_E_NOMEM;
    u->now = ag_mem_zalloc(sizeof *u->now);
    u->spare = ag_mem_zalloc(sizeof *u->spare);
    pthread_mutex_init(&u->lock, NULL);
    pthread_mutex_init(&u->write_lock, NULL);
    crypto_shorthash_keygen(u->key);
    if (u->now == NULL || u->spare == NULL) return ag_usage_close(u), AG_E_NOMEM;
    *out = u;
    return AG_OK;
}

void ag_usage_close(ag_usage *u)
{
    if (u == NULL) return;
    if (u->now) ag_mem_free(u->now->list);
    if (u->spare) ag_mem_free(u->spare->list);
    ag_mem_free(u->now);
    ag_mem_free(u->spare);
    pthread_mutex_destroy(&u->write_lock);
    pthread_mutex_destroy(&u->lock);
    ag_mem_free(u);
}

static uint32_t *head_of(ag_usage *u, sheet *s, const char *key, const char *model)
{
    uint64_t a, b;
    crypto_shorthash((uint8_t *)&a, (const uint8_t *)key, strlen(key), u->key);
    crypto_shorthash((uint8_t *)&b, (const uint8_t *)model, strlen(model), u->key);
    return &s->head[(a ^ b * 3) % HEADS];
}

static void copy(char *to, size_t size, const char *from)
{
    size_t n = strnlen(from, size - 1);
    memcpy(to, from, n);
    to[n] = 0;
}

static bool grow(sheet *s)
{
    if (s->n < s->cap) return true;
    if (s->n == AG_USAGE_ROWS_MAX) return false;
    uint32_t cap = s->cap ? s->cap * 2 : 16;
    entry *list = ag_mem_resize(s->list, cap, sizeof *list);
    if (list == NULL) return false;
    s->list = list;
    s->cap = cap;
    return true;
}

static void add(ag_usage *u, const char *day, const ag_usage_what *w)
{
    sheet *s = u->now;
    uint32_t *head = head_of(u, s, w->key, w->model), i = *head;
    while (i && (strcmp(s->list[i - 1].row.day, day) != 0 || strcmp(s->list[i - 1].row.key, w->key) != 0 ||
                 strcmp(s->list[i - 1].row.tenant, w->tenant) != 0 || strcmp(s->list[i - 1].row.model, w->model) != 0))
        i = s->list[i - 1].next;
    if (i == 0) {
        if (!grow(s)) {
            u->lost++;
            return;
        }
        entry *e = &s->list[s->n++];
        *e = (entry){.next = *head};
        copy(e->row.key, sizeof e->row.key, w->key);
        copy(e->row.tenant, sizeof e->row.tenant, w->tenant);
        copy(e->row.model, sizeof e->row.model, w->model);
        copy(e->row.day, sizeof e->row.day, day);
        i = *head = s->n;
    }
    ag_usage_row *r = &s->list[i - 1].row;
    r->requests += w->requests;
    r->prompt_tokens += w->prompt_tokens;
    r->output_tokens += w->output_tokens;
}

void ag_usage_add(ag_usage *u, uint64_t wall_s, const ag_usage_what *what)
{
    pthread_mutex_lock(&u->lock);
    if (u->day[0] == 0 || u->day_number != wall_s / 86400) {
        u->day_number = wall_s / 86400;
        ag_keys_day(wall_s, u->day);
    }
    add(u, u->day, what);
    pthread_mutex_unlock(&u->lock);
}

static void put_back(ag_usage *u, const sheet *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        const ag_usage_row *r = &s->list[i].row;
        ag_usage_what w = {r->key, r->tenant, r->model, r->requests, r->prompt_tokens, r->output_tokens};
        add(u, r->day, &w);
    }
}

static int write_sheet(const sheet *s, ag_keys_db *db, ag_err *err)
{
    ag_usage_row *rows = ag_mem_array(s->n, sizeof *rows);
    if (rows == NULL) return ag_err_set(err, AG_E_NOMEM, "There is no memory to write the usage of keys.");
    for (uint32_t i = 0; i < s->n; i++) rows[i] = s->list[i].row;
    int rc = ag_keys_db_usage_add(db, rows, s->n, err);
    ag_mem_free(rows);
    return rc;
}

int ag_usage_write(ag_usage *u, ag_keys_db *db, ag_err *err)
{
    int rc = AG_OK;
    pthread_mutex_lock(&u->write_lock);
    pthread_mutex_lock(&u->lock);
    sheet *s = u->now;
    if (s->n) {
        u->now = u->spare;
        u->spare = s;
    }
    pthread_mutex_unlock(&u->lock);
    if (s->n) {
        rc = write_sheet(s, db, err);
        pthread_mutex_lock(&u->lock);
        if (rc != AG_OK) put_back(u, s);
        pthread_mutex_unlock(&u->lock);
        s->n = 0;
        memset(s->head, 0, sizeof s->head);
    }
    pthread_mutex_unlock(&u->write_lock);
    return rc;
}

uint64_t ag_usage_waiting(ag_usage *u)
{
    pthread_mutex_lock(&u->lock);
    uint64_t n = u->now->n;
    pthread_mutex_unlock(&u->lock);
    return n;
}

uint64_t ag_usage_lost(ag_usage *u)
{
    pthread_mutex_lock(&u->lock);
    uint64_t n = u->lost;
    pthread_mutex_unlock(&u->lock);
    return n;
}
