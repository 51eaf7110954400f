#include "net/addr.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/random.h>

#include <sodium.h>

#include "base/mem.h"

#define ADDRS_MAGIC 0x41445253u

typedef struct slot {
    ag__addr addr;
    uint32_t count; /* 0: free */
} slot;

struct ag__addrs {
    uint32_t magic;
    uint32_t mask, cap, used;
    pthread_mutex_t lock;
    /* Clients choose their addresses, so the hash is keyed: nobody can make all of theirs meet in one place. */
    unsigned char key[crypto_shorthash_KEYBYTES];
    slot slots[];
};

int ag__addrs_open(ag__addrs **out, uint32_t cap)
{
    AG_ASSERT(cap >= 1 && cap <= 1u << 24);
    uint32_t n = 4;
    while (n < cap * 2) n *= 2;
    ag__addrs *t = ag_mem_zalloc(sizeof *t + n * sizeof(slot));
    if (t == NULL) return AG_E_NOMEM;
    if (getrandom(t->key, sizeof t->key, 0) != (ssize_t)sizeof t->key) {
        ag_mem_free(t);
        return AG_E_IO;
    }
    t->magic = ADDRS_MAGIC;
    t->mask = n - 1;
    t->cap = cap;
    pthread_mutex_init(&t->lock, NULL);
    *out = t;
    return AG_OK;
}

void ag__addrs_close(ag__addrs *t)
{
    if (t == NULL) return;
    AG_CHECK(t, ADDRS_MAGIC);
    AG_ASSERT(t->used == 0);
    pthread_mutex_destroy(&t->lock);
    t->magic = 0;
    ag_mem_free(t);
}

static uint32_t home(const ag__addrs *t, const ag__addr *a)
{
    uint64_t h;
    crypto_shorthash((unsigned char *)&h, a->b, sizeof a->b, t->key);
    return (uint32_t)h & t->mask;
}

/* The address's slot, or the free one where it would go; at most half of the slots are in use. */
static uint32_t find(const ag__addrs *t, const ag__addr *a)
{
    uint32_t i = home(t, a);
    while (t->slots[i].count && memcmp(&t->slots[i].addr, a, sizeof *a) != 0) i = (i + 1) & t->mask;
    return i;
}

static bool is_none(const ag__addr *a)
{
    static const ag__addr none;
    return memcmp(a, &none, sizeof none) == 0;
}

bool ag__addrs_get(ag__addrs *t, const ag__addr *a, uint32_t max)
{
    AG_CHECK(t, ADDRS_MAGIC);
    if (is_none(a)) return true;
    pthread_mutex_lock(&t->lock);
    slot *s = &t->slots[find(t, a)];
    bool ok = s->count < max && (s->count || t->used < t->cap);
    if (ok && s->count++ == 0) {
        s->addr = *a;
        t->used++;
    }
    pthread_mutex_unlock(&t->lock);
    return ok;
}

/* Frees slot i and moves up those behind it that would no longer be found. */
static void remove_at(ag__addrs *t, uint32_t i)
{
    t->used--;
    for (uint32_t j = (i + 1) & t->mask; t->slots[j].count; j = (j + 1) & t->mask) {
        uint32_t want = home(t, &t->slots[j].addr);
        if (((j - want) & t->mask) < ((j - i) & t->mask)) continue;
        t->slots[i] = t->slots[j];
        i = j;
    }
    t->slots[i] = (slot){0};
}

void ag__addrs_put(ag__addrs *t, const ag__addr *a)
{
    AG_CHECK(t, ADDRS_MAGIC);
    if (is_none(a)) return;
    pthread_mutex_lock(&t->lock);
    uint32_t i = find(t, a);
    AG_ASSERT(t->slots[i].count > 0);
    if (--t->slots[i].count == 0) remove_at(t, i);
    pthread_mutex_unlock(&t->lock);
}

uint32_t ag__addrs_count(ag__addrs *t)
{
    AG_CHECK(t, ADDRS_MAGIC);
    pthread_mutex_lock(&t->lock);
    uint32_t n = t->used;
    pthread_mutex_unlock(&t->lock);
    return n;
}

bool ag__ip_of(const struct sockaddr *sa, ag__ip *ip)
{
    *ip = (ag__ip){{0}};
    if (sa->sa_family == AF_INET6) memcpy(ip->b, &((const struct sockaddr_in6 *)sa)->sin6_addr, 16);
    if (sa->sa_family != AF_INET) return sa->sa_family == AF_INET6;
    ip->b[10] = ip->b[11] = 0xFF;
    memcpy(ip->b + 12, &((const struct sockaddr_in *)sa)->sin_addr, 4);
    return true;
}

void ag__addr_of(const ag__ip *ip, ag__addr *a, char *text, size_t n_text)
{
    struct in6_addr in;
    memcpy(&in, ip->b, 16);
    *a = (ag__addr){{0}};
    if (IN6_IS_ADDR_V4MAPPED(&in)) {
        memcpy(a->b, ip->b, 16);
        inet_ntop(AF_INET, ip->b + 12, text, (socklen_t)n_text);
    } else {
        memcpy(a->b, ip->b, 8);
        a->b[15] = 1; /* apart from `none`, which ::1 would be without its last half */
        inet_ntop(AF_INET6, ip->b, text, (socklen_t)n_text);
    }
}
