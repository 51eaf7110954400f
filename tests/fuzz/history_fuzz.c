/* Any bytes as the access log. The first chooses: 0 a line as it comes; 1 a line whose sum is put right, so that what
 * lies behind it is reached, and what is read of it is written as it was read; 2 a file, in windows of some bytes. */
#include "gateway/history.c"

#include "base/hash.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool same(const ag_history_record *a, const ag_history_record *b)
{
    return a->time_ms == b->time_ms && memcmp(&a->key, &b->key, sizeof a->key) == 0 && ag_str_eq(a->route, b->route) &&
           ag_str_eq(a->tenant, b->tenant) && ag_str_eq(a->model, b->model) && ag_str_eq(a->share, b->share) &&
           ag_str_eq(a->body, b->body);
}

static void check_line(ag_str line)
{
    ag_history_record r, again;
    ag_buf text, out, text2;
    ag_buf_init(&text, AG_HISTORY_LINE_MAX);
    ag_buf_init(&text2, AG_HISTORY_LINE_MAX);
    ag_buf_init(&out, 2 * AG_HISTORY_LINE_MAX);
    if (ag__history_line_read(line, &r, &text)) {
        bool ok = ag__history_line_write(&out, &r) && ag__history_line_read(ag_buf_str(&out), &again, &text2);
        AG_ASSERT(ok && same(&r, &again));
    }
    ag_buf_fini(&text);
    ag_buf_fini(&text2);
    ag_buf_fini(&out);
}

static void check_signed(ag_str rest)
{
    ag_buf line;
    ag_buf_init(&line, AG_HISTORY_LINE_MAX);
    ag_buf_addc(&line, ' ');
    ag_buf_add(&line, rest.p, rest.n);
    char sum[17];
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)XXH3_64bits(line.p, line.n));
    ag_buf whole;
    ag_buf_init(&whole, AG_HISTORY_LINE_MAX);
    ag_buf_add(&whole, sum, 16);
    ag_buf_add(&whole, line.p, line.n);
    check_line(ag_buf_str(&whole));
    ag_buf_fini(&line);
    ag_buf_fini(&whole);
}

/* As read_file does it: what is done with goes, more comes. */
static void check_file(ag_str file, size_t step)
{
    ag_history h = {.magic = HISTORY_MAGIC, .path = "-"};
    reading r = {.h = &h, .file = 1};
    ag_buf window;
    int rc = ag_hot_open(&h.hot, 16, 0, NULL);
    AG_ASSERT(rc == AG_OK);
    pthread_mutex_init(&h.lock, NULL);
    ag_buf_init(&window, 2 * AG_HISTORY_LINE_MAX);
    ag_buf_init(&r.text, AG_HISTORY_LINE_MAX);
    uint64_t at = 0;
    for (size_t from = 0; from < file.n; from += step) {
        ag_buf_add(&window, file.p + from, AG_MIN(step, file.n - from));
        size_t done = take_lines(&r, window.p, window.n, at);
        AG_ASSERT(done <= window.n);
        ag_buf_consume(&window, done);
        at += done;
        AG_ASSERT(at + window.n <= file.n && window.n <= AG_HISTORY_LINE_MAX);
    }
    ag_hot_verify(h.hot);
    ag_hot_close(h.hot);
    pthread_mutex_destroy(&h.lock);
    ag_buf_fini(&window);
    ag_buf_fini(&r.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    AG_ASSERT(sodium_init() >= 0);
    if (n < 2) return 0;
    ag_str text = {(const char *)data + 2, n - 2};
    switch (data[0] % 3) {
    case 0: check_line(text); break;
    case 1: check_signed(text); break;
    default: check_file(text, data[1] + 1u);
    }
    return 0;
}
