/* Any bytes as a file of prompts' pages. The first chooses whether sums, sizes and identity are put right, so that what
 * lies behind them is reached: then it is refused with a sentence and nothing is taken, or it is a tree that stands up
 * to being used, and stored again it is the same. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"
#include "engine/prefix.h"

enum { P = 4, PAGES = 32, PAGE_BYTES = 16, VOCAB = 256 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned char bytes[PAGES][PAGE_BYTES], key[AG_PREFIX_KEY_BYTES];

static unsigned char *page_of(void *arg, uint32_t page)
{
    (void)arg;
    AG_ASSERT(page < PAGES);
    return bytes[page];
}

/* As many whole pages as there are bytes for. */
static size_t put_right(uint8_t *file, size_t size, const ag_prefix *p)
{
    ag_prefix_head h;
    size_t row = sizeof(ag_prefix_row) + P * sizeof(int32_t);
    if (size < sizeof h) return size;
    uint32_t n = (uint32_t)AG_MIN((size - sizeof h) / (row + PAGE_BYTES), 2u * PAGES);
    h = (ag_prefix_head){.version = AG_PREFIX_VERSION, .order = 0x01020304, .model = p->model, .program = p->program,
                         .cache = p->cache,
                         .page_tokens = P, .pages = n, .page_bytes = PAGE_BYTES};
    memcpy(h.magic, "agprefix", sizeof h.magic);
    h.data_at = AG_ALIGN_UP(sizeof h + n * row, AG_PREFIX_DATA_ALIGN);
    const uint8_t *pages = file + sizeof h + n * row;
    uint8_t *out = malloc(h.data_at + (size_t)n * PAGE_BYTES + 1);
    memset(out, 0, h.data_at);
    memcpy(out + sizeof h, file + sizeof h, n * row);
    memcpy(out + h.data_at, pages, (size_t)n * PAGE_BYTES);
    for (uint32_t i = 0; i < n; i++) {
        ag_prefix_row *r = (void *)(out + sizeof h + i * sizeof *r);
        r->zero = 0;
        r->sum = XXH3_64bits(out + h.data_at + (size_t)i * PAGE_BYTES, PAGE_BYTES);
        if (r->before > i && r->before != UINT32_MAX) r->before %= i + 1;
    }
    h.check = 0;
    memcpy(out, &h, sizeof h);
    h.check = XXH3_64bits(out, sizeof h + n * row);
    memcpy(out, &h, sizeof h);
    memcpy(file, out, h.data_at + (size_t)n * PAGE_BYTES);
    free(out);
    return h.data_at + (size_t)n * PAGE_BYTES;
}

/* In memory where there is such a folder. */
static FILE *file_make(char path[256])
{
    snprintf(path, 256, "/dev/shm/ag-prefix-fuzz-%d", (int)getpid());
    FILE *f = fopen(path, "w");
    if (f) return f;
    const char *dir = getenv("TMPDIR");
    snprintf(path, 256, "%s/ag-prefix-fuzz-XXXXXX", dir && dir[0] ? dir : "/tmp");
    int fd = mkstemp(path);
    return fd < 0 ? NULL : fdopen(fd, "w");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[256];
    ag_err err = {0};
    uint32_t n = 0, again = 0;
    if (size < 1 || size > 1 << 16) return 0;
    ag_prefix p = {.path = path, .bytes_max = 1 << 20, .model = 1, .program = 2, .cache = 3, .page_tokens = P,
                   .pages_max = PAGES,
                   .vocab = VOCAB, .page_bytes = PAGE_BYTES, .key = key, .page = page_of};
    uint8_t *file = malloc(size + 2 * AG_PREFIX_DATA_ALIGN + 1);
    size_t bytes_n = size - 1;
    memcpy(file, data + 1, size - 1);
    if (data[0] % 2) bytes_n = put_right(file, bytes_n, &p);
    FILE *f = file_make(path);
    AG_ASSERT(f && fwrite(file, 1, bytes_n, f) == bytes_n && fclose(f) == 0 && chmod(path, 0600) == 0);
    free(file);
    int rc = ag_kv_open(&p.kv, PAGES, P, &err);
    AG_ASSERT(rc == AG_OK);
    rc = ag_prefix_load(&p, &n, &err);
    AG_ASSERT(rc == err.code && (rc == AG_OK) == (err.text[0] == 0));
    ag_kv_verify(p.kv);
    AG_ASSERT(rc == AG_OK ? ag_kv_available(p.kv) == PAGES : n == 0);
    if (rc == AG_OK) {
        rc = ag_prefix_save(&p, &again, &err);
        AG_ASSERT(rc == AG_OK && again == n);
        ag_kv_forget(p.kv);
        rc = ag_prefix_load(&p, &again, &err);
        AG_ASSERT(rc == AG_OK && again == n);
        ag_kv_verify(p.kv);
    }
    ag_kv_forget(p.kv);
    ag_kv_close(p.kv);
    unlink(path);
    return 0;
}
