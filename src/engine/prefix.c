#include "engine/prefix.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/stored.h"

#define NONE UINT32_MAX
#define MAGIC "agprefix"

_Static_assert(sizeof(ag_prefix_head) == 88 && sizeof(ag_prefix_row) == 24, "the file's form");

static uint64_t hash_text(uint64_t seed, const char *z) { return XXH3_64bits_withSeed(z, strlen(z) + 1, seed); }

static unsigned char *backend_page(void *arg, uint32_t page)
{
    ag_lm *lm = arg;
    return lm->ops->page(lm->backend, page);
}

void ag_prefix_init(ag_prefix *p, ag_lm *lm, ag_kv *kv, unsigned char *key)
{
    const ag_graph *g = &lm->graph;
    const uint32_t shape[] = {g->layers, g->kv_heads, g->dim_k, g->dim_v, lm->kv, AG_KV_PAGE};
    *p = (ag_prefix){.page_tokens = AG_KV_PAGE, .pages_max = lm->pages, .vocab = lm->model->hp.vocab,
                     .page_bytes = lm->page_bytes, .kv = kv, .key = key, .page = backend_page, .arg = lm};
    p->model = ag_gguf_digest(lm->model->gguf);
    p->program = hash_text(hash_text(AG_KV_NUMERICS, AG_VERSION), lm->ops->isa(lm->backend));
    p->cache = XXH3_64bits(shape, sizeof shape);
}

static uint64_t row_bytes(const ag_prefix *p) { return sizeof(ag_prefix_row) + p->page_tokens * sizeof(int32_t); }
static uint64_t table_bytes(const ag_prefix *p, uint64_t n) { return n * row_bytes(p); }
static uint64_t data_at(const ag_prefix *p, uint64_t n)
{
    return AG_ALIGN_UP(sizeof(ag_prefix_head) + table_bytes(p, n), AG_PREFIX_DATA_ALIGN);
}

static ag_prefix_head head_of(const ag_prefix *p, uint32_t n)
{
    ag_prefix_head h = {.version = AG_PREFIX_VERSION, .order = 0x01020304, .model = p->model, .program = p->program,
                        .cache = p->cache, .page_tokens = p->page_tokens, .pages = n, .page_bytes = p->page_bytes,
                        .data_at = data_at(p, n)};
    memcpy(h.magic, MAGIC, sizeof h.magic);
    memcpy(h.key, p->key, sizeof h.key);
    return h;
}

static uint64_t check_of(ag_prefix_head h, const void *table, size_t n)
{
    XXH3_state_t x;
    h.check = 0;
    (void)XXH3_64bits_reset(&x);
    (void)XXH3_64bits_update(&x, &h, sizeof h);
    (void)XXH3_64bits_update(&x, table, n);
    return XXH3_64bits_digest(&x);
}

/* ---- reading ---- */

static int unreadable(const ag_prefix *p, ag_err *err)
{
    return ag_err_set(err, AG_E_IO, "%s cannot be read: %s", p->path, strerror(errno));
}

static int check_file(const ag_prefix *p, int fd, uint64_t *size, ag_err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return unreadable(p, err);
    if (!S_ISREG(st.st_mode)) return ag_err_set(err, AG_E_FILE, "%s is not a file", p->path);
    /* Whoever can write it chooses what the model reads in place of prompts. */
    if (st.st_uid != geteuid() || (st.st_mode & 077))
        return ag_err_set(err, AG_E_FILE,
                          "%s may be read or written by others than this user (owner %u, mode %03o; wanted 600)",
                          p->path, (unsigned)st.st_uid, (unsigned)st.st_mode & 0777);
    *size = (uint64_t)st.st_size;
    return AG_OK;
}

static const char *fault_of(const ag_prefix *p, const ag_prefix_head *h, uint64_t size)
{
    ag_prefix_head ours = head_of(p, h->pages);
    uint64_t data, all;
    if (memcmp(h->magic, ours.magic, sizeof h->magic) != 0) return "is not a file of prompts' pages";
    if (h->version != ours.version || h->order != ours.order)
        return "is of another version, or of a machine with another order of bytes";
    if (h->model != ours.model) return "is of another model, or its file has changed since";
    if (h->program != ours.program)
        return "was computed by another version of the program, or with another instruction set (--isa)";
    if (h->cache != ours.cache || h->page_tokens != ours.page_tokens || h->page_bytes != ours.page_bytes)
        return "is of a KV cache with other numbers (--kv) or of another layout";
    bool whole = ag_mul_ok(h->pages, p->page_bytes, &data) && ag_add_ok(ours.data_at, data, &all) && size == all;
    return whole && h->data_at == ours.data_at ? NULL : "is cut short, or has a damaged head";
}

static const char *row_fault(const ag_prefix *p, const ag_prefix_row *rows, uint32_t i, const int32_t *tokens)
{
    const ag_prefix_row *r = &rows[i];
    if (r->salt == AG_KV_ALONE || r->zero || (r->before != NONE && (r->before >= i || rows[r->before].salt != r->salt)))
        return "has a damaged tree";
    for (uint32_t t = 0; t < p->page_tokens; t++)
        if (tokens[t] < 0 || (uint32_t)tokens[t] >= p->vocab) return "names tokens that the model does not have";
    return NULL;
}

/* One page: its place in the tree, its bytes, and whether they are what was written. */
static int load_page(const ag_prefix *p, int fd, const ag_prefix_head *h, const ag_prefix_row *rows, uint32_t i,
                     const int32_t *tokens, uint32_t *pages, ag_err *err)
{
    const char *why = row_fault(p, rows, i, tokens);
    if (why) return ag_err_set(err, AG_E_FILE, "%s %s", p->path, why);
    pages[i] = ag_kv_kept_add(p->kv, rows[i].before == NONE ? NONE : pages[rows[i].before], rows[i].salt, tokens);
    if (pages[i] == NONE) return ag_err_set(err, AG_E_FILE, "%s has the same page twice", p->path);
    if (p->page_bytes == 0) return AG_OK;
    unsigned char *bytes = p->page(p->arg, pages[i]);
    int rc = ag__stored_read(fd, bytes, p->page_bytes, h->data_at + i * p->page_bytes);
    if (rc != AG_OK) unreadable(p, err);
    else if (XXH3_64bits(bytes, p->page_bytes) != rows[i].sum)
        rc = ag_err_set(err, AG_E_FILE, "%s has a page that does not have its checksum", p->path);
    /* A page is handed out as it is, and attention multiplies what is not filled yet by 0: no NaN may lie there. */
    if (rc != AG_OK) memset(bytes, 0, p->page_bytes);
    return rc;
}

static int load_rows(const ag_prefix *p, int fd, const ag_prefix_head *h, unsigned char *table, uint32_t *n,
                     ag_err *err)
{
    const ag_prefix_row *rows = (const void *)table;
    const int32_t *tokens = (const void *)(rows + h->pages);
    uint32_t take = AG_MIN(h->pages, ag_kv_available(p->kv));
    uint32_t *pages = ag_mem_array(take, sizeof *pages);
    if (pages == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the table of %s", p->path);
    int rc = AG_OK;
    for (uint32_t i = 0; i < take && rc == AG_OK; i++)
        rc = load_page(p, fd, h, rows, i, tokens + (size_t)i * p->page_tokens, pages, err);
    ag_mem_free(pages);
    if (rc != AG_OK) ag_kv_forget(p->kv);
    else *n = take;
    return rc;
}

static int load(const ag_prefix *p, int fd, uint32_t *n, ag_err *err)
{
    ag_prefix_head h;
    uint64_t size;
    int rc = check_file(p, fd, &size, err);
    if (rc != AG_OK) return rc;
    if (size < sizeof h)
        return ag_err_set(err, AG_E_FILE, "%s is cut short, or is not a file of prompts' pages", p->path);
    if (ag__stored_read(fd, &h, sizeof h, 0) != AG_OK) return unreadable(p, err);
    const char *why = fault_of(p, &h, size);
    if (why) return ag_err_set(err, AG_E_FILE, "%s %s", p->path, why);
    size_t bytes = table_bytes(p, h.pages); /* no more than the file has */
    unsigned char *table = ag_mem_alloc(bytes);
    if (table == NULL) return ag_err_set(err, AG_E_NOMEM, "no memory for the table of %s", p->path);
    if (ag__stored_read(fd, table, bytes, sizeof h) != AG_OK) rc = unreadable(p, err);
    else if (check_of(h, table, bytes) != h.check) rc = ag_err_set(err, AG_E_FILE, "%s has a damaged table", p->path);
    if (rc == AG_OK) rc = load_rows(p, fd, &h, table, n, err);
    if (rc == AG_OK) memcpy(p->key, h.key, sizeof h.key);
    ag_mem_free(table);
    return rc;
}

int ag_prefix_load(const ag_prefix *p, uint32_t *pages, ag_err *err)
{
    *pages = 0;
    int fd = ag_fault_hit(AG_FAULT_OPEN) ? (errno = EIO, -1)
                                         : open(p->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return ag_err_set(err, errno == ENOENT ? AG_E_NOT_FOUND : AG_E_IO, "%s cannot be opened: %s", p->path,
                          strerror(errno));
    int rc = load(p, fd, pages, err);
    close(fd);
    return rc;
}

/* ---- writing ---- */

/* The most recently used that the file has room for. */
static uint32_t room_for(const ag_prefix *p, uint32_t n)
{
    uint64_t each = row_bytes(p) + p->page_bytes, over = sizeof(ag_prefix_head) + AG_PREFIX_DATA_ALIGN;
    if (p->bytes_max < over) return 0;
    return (uint32_t)AG_MIN(n, (p->bytes_max - over) / each);
}

/* The head comes last: without it a file is none of ours. */
static int write_all(const ag_prefix *p, const ag__stored *s, const ag_kv_kept *kept, uint32_t n, unsigned char *table,
                     const uint32_t *row_of)
{
    ag_prefix_head h = head_of(p, n);
    ag_prefix_row *rows = (void *)table;
    int32_t *tokens = (void *)(rows + n);
    uint64_t pushed = 0;
    for (uint32_t i = 0; i < n; i++) {
        const unsigned char *bytes = p->page(p->arg, kept[i].page);
        uint64_t at = h.data_at + i * p->page_bytes;
        rows[i] = (ag_prefix_row){.salt = kept[i].salt,
                                  .before = kept[i].before == NONE ? NONE : row_of[kept[i].before],
                                  .sum = p->page_bytes ? XXH3_64bits(bytes, p->page_bytes) : 0};
        memcpy(tokens + (size_t)i * p->page_tokens, kept[i].tokens, p->page_tokens * sizeof *tokens);
        if (p->page_bytes && ag__stored_write(s, bytes, p->page_bytes, at) != AG_OK) return AG_E_IO;
        for (; pushed + AG_STORED_PIECE <= at; pushed += AG_STORED_PIECE)
            if (ag__stored_push(s, pushed) != AG_OK) return AG_E_IO;
    }
    size_t bytes = table_bytes(p, n);
    h.check = check_of(h, table, bytes);
    static const unsigned char zeros[AG_PREFIX_DATA_ALIGN];
    int rc = ag__stored_write(s, table, bytes, sizeof h);
    if (rc == AG_OK) rc = ag__stored_write(s, zeros, h.data_at - sizeof h - bytes, sizeof h + bytes);
    return rc == AG_OK ? ag__stored_write(s, &h, sizeof h, 0) : rc;
}

int ag_prefix_save(const ag_prefix *p, uint32_t *pages, ag_err *err)
{
    ag__stored s;
    ag_kv_kept *kept = ag_mem_array(p->pages_max, sizeof *kept);
    uint32_t *row_of = ag_mem_array(p->pages_max, sizeof *row_of), n = 0;
    unsigned char *table = NULL;
    int rc = kept && row_of ? AG_OK : AG_E_NOMEM;
    *pages = 0;
    if (rc == AG_OK) n = room_for(p, ag_kv_kept_list(p->kv, kept));
    for (uint32_t i = 0; i < n; i++) row_of[kept[i].page] = i;
    if (n && (table = ag_mem_alloc(table_bytes(p, n))) == NULL) rc = AG_E_NOMEM;
    if (rc == AG_E_NOMEM) ag_err_set(err, rc, "no memory for the table of %s", p->path);
    if (rc == AG_OK && n && (rc = ag__stored_begin(&s, p->path, 0600, err)) == AG_OK)
        rc = ag__stored_end(&s, write_all(p, &s, kept, n, table, row_of), err);
    if (rc == AG_OK) *pages = n;
    ag_mem_free(table);
    ag_mem_free(row_of);
    ag_mem_free(kept);
    return rc;
}
