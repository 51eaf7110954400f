#include "gateway/ids.h"

#include <pthread.h>
#include <sodium.h>

#include "base/mem.h"

#define BUCKETS 8192u /* chains stay short up to the largest --queue-max */

struct ag_ids {
    pthread_mutex_t lock;
    uint64_t n;
    uint8_t key[crypto_shorthash_KEYBYTES]; /* ids are the clients' to choose */
    ag_ids_link *bucket[BUCKETS];
};

int ag_ids_open(ag_ids **out)
{
    ag_ids *t = ag_mem_zalloc(sizeof *t);
    if (t == NULL) return AG_E_NOMEM;
    pthread_mutex_init(&t->lock, NULL);
    crypto_shorthash_keygen(t->key);
    *out = t;
    return AG_OK;
}

void ag_ids_close(ag_ids *t)
{
    if (t == NULL) return;
    AG_ASSERT(t->n == 0);
    pthread_mutex_destroy(&t->lock);
    ag_mem_free(t);
}

static ag_ids_link **bucket_of(ag_ids *t, const char *id)
{
    uint64_t hash;
    _Static_assert(sizeof hash == crypto_shorthash_BYTES, "a hash is one word");
    crypto_shorthash((uint8_t *)&hash, (const uint8_t *)id, strlen(id), t->key);
    return &t->bucket[hash % BUCKETS];
}

void ag_ids_add(ag_ids *t, ag_ids_link *link)
{
    AG_ASSERT(link->at == NULL);
    ag_ids_link **head = bucket_of(t, link->id);
    pthread_mutex_lock(&t->lock);
    link->next = *head;
    link->at = head;
    if (link->next) link->next->at = &link->next;
    *head = link;
    t->n++;
    pthread_mutex_unlock(&t->lock);
}

void ag_ids_remove(ag_ids *t, ag_ids_link *link)
{
    pthread_mutex_lock(&t->lock);
    if (link->at) {
        *link->at = link->next;
        if (link->next) link->next->at = link->at;
        link->at = NULL;
        t->n--;
    }
    pthread_mutex_unlock(&t->lock);
}

bool ag_ids_use(ag_ids *t, const char *tenant, const char *id, void (*use)(ag_req *r, void *arg), void *arg)
{
    ag_ids_link **head = bucket_of(t, id);
    pthread_mutex_lock(&t->lock);
    ag_ids_link *l = *head;
    while (l && (strcmp(l->id, id) != 0 || strcmp(l->tenant, tenant) != 0)) l = l->next;
    if (l) use(l->r, arg);
    pthread_mutex_unlock(&t->lock);
    return l != NULL;
}

void ag_ids_each(ag_ids *t, void (*use)(ag_req *r, void *arg), void *arg)
{
    pthread_mutex_lock(&t->lock);
    for (uint32_t i = 0; i < BUCKETS; i++)
        for (ag_ids_link *l = t->bucket[i]; l; l = l->next) use(l->r, arg);
    pthread_mutex_unlock(&t->lock);
}
