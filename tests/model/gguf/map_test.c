/* What a path can be other than a model file; and what mapping and opening do when the system refuses. */
#include "check.h"
#include "lib/gguf_build.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "model/gguf/gguf.h"

static char dir[64];

static const char *in_dir(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static unsigned open_files(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (d == NULL) return 0;
    while (readdir(d) != NULL) n++;
    closedir(d);
    return n;
}

static void refused(const char *path, int code, const char *says)
{
    ag_gguf *g = NULL;
    ag_err err = {0};
    int rc = ag_gguf_open(&g, path, &err);
    if (rc != code || err.code != rc || strstr(err.text, says) == NULL || strncmp(err.text, path, strlen(path)) != 0)
        fail_msg("%s: %d \"%s\"; expected %d \"%s\"", path, rc, err.text, code, says);
    assert_null(g);
}

static void test_not_a_file(void **state)
{
    (void)state;
    unsigned before = open_files();
    refused(in_dir("none.gguf"), AG_E_IO, "cannot be opened: No such file");
    refused(dir, AG_E_FILE, "is a directory, not a model file");
    refused("/dev/zero", AG_E_FILE, "is a device, not a model file");
    refused("/dev/null", AG_E_FILE, "is a device, not a model file");
    refused("", AG_E_IO, "cannot be opened: No such file");
    assert_int_equal(mkfifo(in_dir("fifo.gguf"), 0600), 0);
    refused(in_dir("fifo.gguf"), AG_E_FILE, "is a pipe, not a model file"); /* would hang with nobody writing */
    unlink(in_dir("fifo.gguf"));
    gb_save_bytes(in_dir("empty.gguf"), "", 0);
    refused(in_dir("empty.gguf"), AG_E_FILE, "is empty; a GGUF file was expected");
    unlink(in_dir("empty.gguf"));
    gb_save_bytes(in_dir("text.gguf"), "version https://git-lfs", 23);
    refused(in_dir("text.gguf"), AG_E_FILE, "is not a GGUF file");
    unlink(in_dir("text.gguf"));
    assert_int_equal(open_files(), before);
}

#define BIG (256 * 1024) /* weights: 1 MiB, many pages */

static void small_file(gb *b)
{
    float *w = calloc(BIG, sizeof *w);
    w[BIG / 2] = 3.0f;
    gb_init(b);
    gb_str(b, "general.architecture", "llama");
    gb_tensor(b, "big", 0, 1, (uint64_t[]){BIG}, w, BIG * sizeof *w);
    gb_tensor(b, "small", 0, 1, (uint64_t[]){2}, (float[]){1, 2}, 8);
    free(w);
}

/* Of the mappings of this file; -1: there are none. */
static long resident_kib(const char *path)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    long sum = -1, kib;
    unsigned long from, to;
    bool ours = false;
    if (f == NULL) fail_msg("no /proc/self/smaps");
    while (fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) ours = strstr(line, path) != NULL;
        if (ours && sscanf(line, "Rss: %ld kB", &kib) == 1) sum = (sum < 0 ? 0 : sum) + kib;
    }
    fclose(f);
    return sum;
}

static void check_contents(const ag_gguf *g)
{
    const float *big = ag_gguf_tensor_find(g, "big")->data, *small = ag_gguf_tensor_find(g, "small")->data;
    float sum = 0;
    for (uint32_t i = 0; i < BIG; i++) sum += big[i];
    assert_true(sum == 3.0f && big[BIG / 2] == 3.0f && small[0] == 1.0f && small[1] == 2.0f);
}

static void test_release_of_a_mapping(void **state)
{
    (void)state;
    ag_gguf *g;
    gb b;
    const char *path = in_dir("small.gguf");
    small_file(&b);
    gb_save(&b, path);
    gb_free(&b);
    assert_int_equal(ag_gguf_open(&g, path, NULL), AG_OK);
    check_contents(g);
    assert_true(resident_kib(path) >= 1024);
    for (uint32_t i = 0; i < 2; i++) ag_gguf_release(g, ag_gguf_tensor_at(g, i)->data, ag_gguf_tensor_at(g, i)->bytes);
    assert_in_range(resident_kib(path), 0, 64);
    check_contents(g);
    ag_gguf_close(g);
    assert_int_equal(resident_kib(path), -1);
    unlink(path);
}

static void test_release_of_borrowed_bytes(void **state)
{
    (void)state;
    ag_gguf *g;
    gb b;
    size_t n;
    small_file(&b);
    uint8_t *bytes = gb_build(&b, &n);
    gb_free(&b);
    assert_int_equal(ag_gguf_open_mem(&g, "mem", bytes, n, NULL), AG_OK);
    for (uint32_t i = 0; i < 2; i++) ag_gguf_release(g, ag_gguf_tensor_at(g, i)->data, ag_gguf_tensor_at(g, i)->bytes);
    check_contents(g);
    ag_gguf_close(g);
    free(bytes);
}

#ifdef AG_FAULTS
static void test_system_refuses(void **state)
{
    (void)state;
    const char *path = in_dir("small.gguf");
    gb b;
    small_file(&b);
    gb_save(&b, path);
    gb_free(&b);
    unsigned before = open_files();
    ag_fault_arm(AG_FAULT_OPEN, 1);
    refused(path, AG_E_IO, "cannot be opened");
    assert_true(ag_fault_disarm(AG_FAULT_OPEN));
    ag_fault_arm(AG_FAULT_MMAP, 1);
    refused(path, AG_E_IO, "cannot be mapped");
    assert_true(ag_fault_disarm(AG_FAULT_MMAP));
    assert_int_equal(open_files(), before);
    unlink(path);
}
#endif

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/gguf-map-XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
    if (mkdtemp(dir) == NULL) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_a_file), cmocka_unit_test(test_release_of_a_mapping),
        cmocka_unit_test(test_release_of_borrowed_bytes),
#ifdef AG_FAULTS
        cmocka_unit_test(test_system_refuses),
#endif
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return failed;
}
