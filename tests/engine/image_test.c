/* Stored weights: what is read back is what was repacked, whatever happens to the file, and no accident on the way to
 * it is worse than repacking. */
#include "engine/image.c" /* its own copy, so that heads can be forged */

#include <pthread.h>
#include <sys/file.h>
#include <sys/resource.h>

#include "check.h"
#include "engine/exec.h"
#include "engine/lm.h"
#include "engine/tiny_model.h"

static tiny_model shared, other;
static char dir[64], image_path[AG_IMAGE_PATH_MAX];
static unsigned char *packed; /* as repacking makes them */
static size_t packed_bytes;
static float wanted[256];
static char notes[16384];

static void take_note(void *arg, bool bad, const char *text)
{
    (void)arg;
    size_t n = strlen(notes); /* open and the thread behind it never speak at once */
    snprintf(notes + n, sizeof notes - n, "%s%s\n", bad ? "bad: " : "", text);
}

static int open_rc(ag_lm **lm, const tiny_model *t, ag_image_mode mode, ag_err *err)
{
    ag_lm_conf c = {.threads = 2, .rows_max = 8, .out_max = 8, .ctx_tokens = 64, .ctx_sequences = 1, .image = mode,
                    .image_dir = dir, .note = take_note};
    notes[0] = 0;
    return ag_lm_open(lm, &t->m, &c, err);
}

static ag_lm *open_lm(ag_image_mode mode)
{
    ag_lm *lm = NULL;
    ag_err err = {0};
    if (open_rc(&lm, &shared, mode, &err) != AG_OK) fail_msg("%s", err.text);
    return lm;
}

static ag_weights_info info_of(ag_lm *lm, bool settled)
{
    ag_weights_info i;
    if (settled) lm->ops->settle(lm->backend);
    lm->ops->weights(lm->backend, &i);
    return i;
}

static void run_once(ag_lm *lm, float *out)
{
    int32_t tokens[8] = {'a', 'x', 'b', '1', 'k', ' ', 'm', 'z'};
    uint32_t page = 0, last = 7;
    ag_span span = {0, 8, 0, &page};
    ag_batch b = {.n_rows = 8, .n_spans = 1, .n_out = 1, .tokens = tokens, .spans = &span, .out_rows = &last};
    const float *logits;
    size_t stride;
    ag_lm_run(lm, &b, &logits, &stride);
    memcpy(out, logits, sizeof wanted);
}

static void check_logits(ag_lm *lm)
{
    float got[AG_ARRAY_LEN(wanted)];
    run_once(lm, got);
    assert_memory_equal(got, wanted, sizeof wanted);
}

static void check_weights(ag_lm *lm)
{
    check_logits(lm);
    assert_int_equal(lm->backend->weights.n_bytes, packed_bytes);
    assert_memory_equal(lm->backend->weights.bytes, packed, packed_bytes);
}

static bool there(const char *suffix)
{
    char path[AG_IMAGE_PATH_MAX + 8];
    snprintf(path, sizeof path, "%s%s", image_path, suffix);
    return access(path, F_OK) == 0;
}

static void write_anew(void)
{
    unlink(image_path);
    ag_lm *lm = open_lm(AG_IMAGE_ON);
    ag_weights_info i = info_of(lm, true);
    assert_true(i.written && !i.from_image);
    assert_non_null(strstr(notes, "are stored in"));
    ag_lm_close(lm);
    assert_true(there(""));
    assert_false(there(".tmp"));
}

static void change(uint64_t at, unsigned char mask)
{
    unsigned char c;
    int fd = open(image_path, O_RDWR);
    assert_int_equal(pread(fd, &c, 1, (off_t)at), 1);
    c ^= mask;
    assert_int_equal(pwrite(fd, &c, 1, (off_t)at), 1);
    close(fd);
}

static void test_round_trip(void **state)
{
    (void)state;
    write_anew();
    ag_lm *lm = open_lm(AG_IMAGE_READ);
    check_logits(lm); /* from the mapping, or while it is being moved */
    ag_weights_info i = info_of(lm, true);
    assert_true(i.from_image && !i.written);
    assert_int_equal(i.damage, 0);
    check_weights(lm);
    ag_lm_close(lm);
    assert_non_null(strstr(notes, "weights come from"));
    assert_null(strstr(notes, "bad:"));
}

static _Atomic bool settled;

static void *settle_it(void *lm)
{
    ((ag_lm *)lm)->ops->settle(((ag_lm *)lm)->backend);
    atomic_store(&settled, true);
    return NULL;
}

static void *wait_for_quiet(void *w)
{
    ag__weights_give_way(w, 1000, UINT64_MAX / 4);
    return NULL;
}

/* Each call returns for a reason of its own; one that has none would never return. */
static void test_gives_way(void **state)
{
    (void)state;
    write_anew();
    ag_lm *lm = open_lm(AG_IMAGE_READ);
    ag_weights *w = &lm->backend->weights;
    assert_int_equal(atomic_load(&w->step_us), 0);
    run_once(lm, (float[AG_ARRAY_LEN(wanted)]){0});
    assert_true(atomic_load(&w->step_us) > 0 && !atomic_load(&w->stepping));
    assert_int_equal(info_of(lm, true).damage, 0); /* settled: it no longer waits */
    assert_non_null(strstr(notes, "are checked"));
    const uint64_t never = UINT64_MAX / 4;
    pthread_t t;
    ag__weights_give_way(w, never, never);
    atomic_store(&w->hurry, false);
    ag__weights_give_way(w, 0, never); /* a step ended long ago */
    atomic_store(&w->step_us, 0);
    assert_int_equal(pthread_create(&t, NULL, wait_for_quiet, w), 0);
    ag__weights_give_way(w, 1000, ag_now_us() + 5000); /* so long none has run at all */
    ag_weights_step(w, true);
    ag_weights_step(w, false);
    pthread_join(t, NULL);
    ag_weights_step(w, true);
    ag__weights_give_way(w, never, ag_now_us() + 2000); /* steps without end: the time is up */
    assert_int_equal(pthread_create(&t, NULL, settle_it, lm), 0);
    ag__weights_give_way(w, never, never); /* called off, before or while it waits */
    pthread_join(t, NULL);
    check_weights(lm);
    ag_lm_close(lm);
    assert_null(strstr(notes, "bad:"));
}

static void test_modes(void **state)
{
    (void)state;
    unlink(image_path);
    const ag_image_mode never[] = {AG_IMAGE_OFF, AG_IMAGE_READ, AG_IMAGE_AUTO}; /* a tiny model is not worth a file */
    for (size_t k = 0; k < AG_ARRAY_LEN(never); k++) {
        ag_lm *lm = open_lm(never[k]);
        ag_weights_info i = info_of(lm, true);
        assert_false(i.written || i.from_image);
        ag_lm_close(lm);
        assert_string_equal(notes, "");
        assert_false(there(""));
    }
    write_anew();
    ag_lm *lm = open_lm(AG_IMAGE_OFF);
    assert_false(info_of(lm, true).from_image);
    ag_lm_close(lm);
    change(20, 1); /* stale */
    lm = open_lm(AG_IMAGE_READ);
    assert_false(info_of(lm, true).written);
    check_weights(lm);
    ag_lm_close(lm);
    lm = open_lm(AG_IMAGE_AUTO); /* renews what was there */
    assert_true(info_of(lm, true).written);
    ag_lm_close(lm);
    ag_image_mode m;
    assert_true(ag_image_mode_find("auto", &m) && m == AG_IMAGE_AUTO);
    assert_false(ag_image_mode_find("perhaps", &m));
}

/* Steps before, between and after the pieces of a move. */
static void test_steps_while_it_moves(void **state)
{
    (void)state;
    tiny_model deep;
    ag_lm *lm = NULL;
    ag_err err = {0};
    float first[AG_ARRAY_LEN(wanted)], got[AG_ARRAY_LEN(wanted)];
    tiny_layers = 120;
    tiny_model_open(&deep, false);
    tiny_layers = TINY_LAYERS;
    unlink(image_path);
    if (open_rc(&lm, &deep, AG_IMAGE_ON, &err) != AG_OK) fail_msg("%s", err.text);
    run_once(lm, first);
    assert_true(info_of(lm, true).written);
    assert_true(lm->backend->weights.n_bytes > 3 * ((size_t)4 << 20)); /* pieces have 4 MiB */
    ag_lm_close(lm);
    if (open_rc(&lm, &deep, AG_IMAGE_READ, &err) != AG_OK) fail_msg("%s", err.text);
    pthread_t t;
    atomic_store(&settled, false);
    assert_int_equal(pthread_create(&t, NULL, settle_it, lm), 0);
    do {
        run_once(lm, got);
        assert_memory_equal(got, first, sizeof first);
    } while (!atomic_load(&settled));
    pthread_join(t, NULL);
    run_once(lm, got);
    assert_memory_equal(got, first, sizeof first);
    assert_int_equal(info_of(lm, false).damage, 0);
    ag_lm_close(lm);
    tiny_model_close(&deep);
}

/* The expected head, as open makes it. */
static void expect(ag_image *im, ag_lm *lm)
{
    ag_err err = {0};
    const ag_weights *w = &lm->backend->weights;
    assert_int_equal(ag_image_init(im, &lm->plan, w->packs, w->at, w->n_bytes, dir, &err), AG_OK);
    assert_string_equal(im->path, image_path);
}

static void test_every_byte_of_the_head(void **state)
{
    (void)state;
    write_anew();
    ag_lm *lm = open_lm(AG_IMAGE_OFF);
    ag_image im;
    expect(&im, lm);
    for (uint64_t at = 0; at < im.head_bytes; at++) {
        ag_err err = {0};
        change(at, (unsigned char)(1u << at % 8));
        if (ag_image_open(&im, &err) != AG_E_FILE) fail_msg("byte %u: %s", (unsigned)at, err.text);
        change(at, (unsigned char)(1u << at % 8));
    }
    ag_err err = {0};
    assert_int_equal(ag_image_open(&im, &err), AG_OK);
    ag_image_fini(&im);
    ag_lm_close(lm);
}

/* Writes a head whose own check is right. */
static void forge(ag_image *im)
{
    im->head->check = head_check(im);
    int fd = open(image_path, O_RDWR);
    assert_int_equal(pwrite(fd, im->head, im->head_bytes, 0), im->head_bytes);
    close(fd);
}

static void test_forged_heads(void **state)
{
    (void)state;
    write_anew();
    ag_lm *lm = open_lm(AG_IMAGE_OFF);
    ag_image im, forged;
    expect(&im, lm);
    const struct { size_t at; const char *why; } field[] = {
        {offsetof(ag_image_head, version), "another version"}, {offsetof(ag_image_head, order), "another version"},
        {offsetof(ag_image_head, layout), "another way"},      {offsetof(ag_image_head, model), "another model"},
        {offsetof(ag_image_head, packs), "another plan"},      {offsetof(ag_image_head, data_at), "another plan"},
        {offsetof(ag_image_head, data_bytes), "another plan"},
            {sizeof(ag_image_head) + offsetof(ag_image_row, type), "another plan"},
        {sizeof(ag_image_head) + offsetof(ag_image_row, rows), "another plan"},
            {sizeof(ag_image_head) + offsetof(ag_image_row, k), "another plan"},
        {sizeof(ag_image_head) + offsetof(ag_image_row, row0), "another plan"},
            {sizeof(ag_image_head) + offsetof(ag_image_row, name), "another plan"},
        {sizeof(ag_image_head) + offsetof(ag_image_row, at), "another plan"},
            {sizeof(ag_image_head) + offsetof(ag_image_row, bytes), "another plan"},
    };
    for (size_t i = 0; i < AG_ARRAY_LEN(field); i++) {
        ag_err err = {0};
        expect(&forged, lm);
        ((unsigned char *)forged.head)[field[i].at] ^= 0x10;
        forge(&forged);
        ag_image_fini(&forged);
        assert_int_equal(ag_image_open(&im, &err), AG_E_FILE);
        if (!strstr(err.text, field[i].why)) fail_msg("field %zu: %s", i, err.text);
    }
    ag_image_fini(&im);
    ag_lm_close(lm);
}

static void test_every_length(void **state)
{
    (void)state;
    write_anew();
    ag_lm *lm = open_lm(AG_IMAGE_OFF);
    ag_image im;
    expect(&im, lm);
    off_t all = (off_t)(im.head->data_at + im.head->data_bytes);
    for (off_t n = all + 1; n >= 0; n -= n > all - 2 ? 1 : n > 4000 ? 997 : 1) {
        ag_err err = {0};
        assert_int_equal(truncate(image_path, n), 0);
        assert_int_equal(ag_image_open(&im, &err), n == all ? AG_OK : AG_E_FILE);
        ag_image_close(&im);
    }
    ag_image_fini(&im);
    ag_lm_close(lm);
}

static void test_another_model(void **state)
{
    (void)state;
    write_anew();
    ag_lm *lm = NULL;
    ag_err err = {0};
    assert_int_equal(open_rc(&lm, &other, AG_IMAGE_ON, &err), AG_OK); /* of the same name, changed since */
    ag_weights_info i = info_of(lm, true);
    assert_true(!i.from_image && i.written);
    ag_lm_close(lm);
    assert_non_null(strstr(notes, "bad: weights are repacked"));
    lm = open_lm(AG_IMAGE_READ);
    assert_false(info_of(lm, true).from_image);
    check_weights(lm);
    ag_lm_close(lm);
}

static void test_a_byte_of_each_pack(void **state)
{
    (void)state;
    write_anew();
    ag_lm *lm = open_lm(AG_IMAGE_OFF);
    ag_image im;
    expect(&im, lm);
    ag_lm_close(lm);
    for (uint64_t p = 0; p < im.head->packs; p++) {
        uint64_t at = p % 3 == 0 ? 0 : p % 3 == 1 ? im.rows[p].bytes - 1 : im.rows[p].bytes / 2;
        change(im.head->data_at + im.rows[p].at + at, 0x20);
        lm = open_lm(p % 2 ? AG_IMAGE_READ : AG_IMAGE_ON);
        run_once(lm, (float[AG_ARRAY_LEN(wanted)]){0}); /* whatever it says, it says it without harm */
        ag_weights_info i = info_of(lm, true);
        assert_true(i.from_image);
        assert_int_equal(i.damage, 2);
        assert_int_equal(i.written, p % 2 == 0);
        check_weights(lm);
        ag_lm_close(lm);
        assert_non_null(strstr(notes, "does not have its checksum"));
        if (p % 2) change(im.head->data_at + im.rows[p].at + at, 0x20); /* the other kind was written anew */
    }
    lm = open_lm(AG_IMAGE_READ);
    assert_int_equal(info_of(lm, true).damage, 0);
    ag_lm_close(lm);
    ag_image_fini(&im);
}

static void test_one_writes(void **state)
{
    (void)state;
    char temporary[AG_IMAGE_PATH_MAX + 8];
    unlink(image_path);
    snprintf(temporary, sizeof temporary, "%s.tmp", image_path);
    int fd = open(temporary, O_RDWR | O_CREAT, 0644);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    ag_lm *lm = open_lm(AG_IMAGE_ON);
    assert_false(info_of(lm, true).written);
    ag_lm_close(lm);
    assert_non_null(strstr(notes, "by another process"));
    close(fd); /* as when that process dies: what it left is used */
    lm = open_lm(AG_IMAGE_ON);
    assert_true(info_of(lm, true).written);
    ag_lm_close(lm);
    assert_false(there(".tmp"));
    /* A link to somebody's file under the temporary name. */
    unlink(image_path);
    char victim[96];
    snprintf(victim, sizeof victim, "%s/victim", dir);
    FILE *f = fopen(victim, "w");
    fputs("keep", f);
    fclose(f);
    for (int hard = 0; hard < 2; hard++) {
        assert_int_equal(hard ? link(victim, temporary) : symlink(victim, temporary), 0);
        lm = open_lm(AG_IMAGE_ON);
        assert_false(info_of(lm, true).written);
        ag_lm_close(lm);
        struct stat st;
        assert_true(stat(victim, &st) == 0 && st.st_size == 4);
        unlink(temporary);
    }
    unlink(victim);
}

static void test_not_a_file_of_ours(void **state)
{
    (void)state;
    write_anew();
    if (geteuid() == 0) {
        assert_int_equal(chown(image_path, 54321, 54321), 0);
        ag_lm *lm = open_lm(AG_IMAGE_READ);
        assert_false(info_of(lm, true).from_image);
        ag_lm_close(lm);
        assert_non_null(strstr(notes, "belongs to another user"));
        /* Nor when a file of theirs stands beside it as if it were the model. */
        char path[AG_IMAGE_PATH_MAX];
        snprintf(path, sizeof path, "%.*s", (int)(strlen(image_path) - strlen(AG_IMAGE_SUFFIX)), image_path);
        fclose(fopen(path, "w"));
        assert_int_equal(chown(path, 54321, 54321), 0);
        lm = open_lm(AG_IMAGE_READ);
        assert_false(info_of(lm, true).from_image);
        ag_lm_close(lm);
        unlink(path);
    } else {
        check_skipped(1, "only root can give files away");
    }
    unlink(image_path);
    assert_int_equal(mkfifo(image_path, 0600), 0);
    ag_lm *lm = open_lm(AG_IMAGE_READ); /* does not wait for a writer */
    assert_false(info_of(lm, true).from_image);
    ag_lm_close(lm);
    unlink(image_path);
}

static void test_no_folder(void **state)
{
    (void)state;
    char before[sizeof dir];
    memcpy(before, dir, sizeof dir);
    strcat(dir, "/none");
    for (int file = 0; file < 2; file++) { /* nothing is there, or a file */
        if (file) fclose(fopen(dir, "w"));
        ag_lm *lm = open_lm(AG_IMAGE_ON);
        assert_false(info_of(lm, true).written);
        check_weights(lm);
        ag_lm_close(lm);
        assert_non_null(strstr(notes, "bad: repacked weights are not stored"));
    }
    unlink(dir);
    memcpy(dir, before, sizeof dir);
}

static void test_a_folder_without_room_or_leave(void **state)
{
    (void)state;
    unlink(image_path);
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){.rlim_cur = AG_IMAGE_DATA_ALIGN + 4096, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    ag_lm *lm = open_lm(AG_IMAGE_ON);
    ag_weights_info i = info_of(lm, true);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_false(i.written);
    check_weights(lm);
    ag_lm_close(lm);
    assert_non_null(strstr(notes, "bad: repacked weights are not stored"));
    assert_false(there("") || there(".tmp"));
    if (geteuid() == 0) {
        check_skipped(1, "root may write everywhere");
        return;
    }
    assert_int_equal(chmod(dir, 0500), 0);
    lm = open_lm(AG_IMAGE_ON);
    i = info_of(lm, true);
    assert_int_equal(chmod(dir, 0700), 0);
    assert_false(i.written);
    ag_lm_close(lm);
    assert_non_null(strstr(notes, "Permission denied"));
}

static void test_faults(void **state)
{
    (void)state;
#ifdef AG_FAULTS
    const ag_fault_kind kinds[] = {AG_FAULT_WRITE, AG_FAULT_OPEN, AG_FAULT_READ, AG_FAULT_MMAP, AG_FAULT_THREAD,
                                   AG_FAULT_ALLOC};
    for (int stored = 0; stored < 2; stored++)
        for (size_t k = 0; k < AG_ARRAY_LEN(kinds); k++)
            for (uint32_t n = 1;; n++) {
                if (stored) write_anew();
                else unlink(image_path);
                ag_lm *lm = NULL;
                ag_err err = {0};
                ag_fault_arm(kinds[k], n);
                int rc = open_rc(&lm, &shared, AG_IMAGE_ON, &err);
                if (rc == AG_OK) lm->ops->settle(lm->backend);
                bool fired = ag_fault_disarm(kinds[k]);
                if (rc == AG_OK) check_weights(lm);
                else assert_true(fired && err.text[0]);
                if (rc == AG_OK && !fired) assert_true(info_of(lm, true).from_image == stored);
                if (rc == AG_OK && !stored && !info_of(lm, true).written) assert_non_null(strstr(notes, "bad: "));
                ag_lm_close(lm);
                assert_false(there(".tmp"));
                if (there("")) { /* then it is whole */
                    lm = open_lm(AG_IMAGE_READ);
                    ag_weights_info i = info_of(lm, true);
                    assert_true(i.from_image && i.damage == 0);
                    ag_lm_close(lm);
                }
                if (!fired) break;
            }
#endif
}

int main(void)
{
    tiny_model_open(&shared, true);
    tiny_model_open(&other, false);
    strcpy(dir, "/tmp/ag-image-XXXXXX");
    if (mkdtemp(dir) == NULL) return 1;
    ag_lm *lm = open_lm(AG_IMAGE_OFF);
    run_once(lm, wanted);
    packed_bytes = lm->backend->weights.n_bytes;
    packed = ag_mem_alloc(packed_bytes);
    memcpy(packed, lm->backend->weights.bytes, packed_bytes);
    ag_lm_close(lm);
    snprintf(image_path, sizeof image_path, "%s/tiny.gguf-%08x" AG_IMAGE_SUFFIX, dir,
             (uint32_t)XXH3_64bits("tiny.gguf", 9));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_gives_way),
        cmocka_unit_test(test_steps_while_it_moves), cmocka_unit_test(test_modes),
            cmocka_unit_test(test_every_byte_of_the_head),
        cmocka_unit_test(test_forged_heads),  cmocka_unit_test(test_every_length), cmocka_unit_test(test_another_model),
        cmocka_unit_test(test_a_byte_of_each_pack), cmocka_unit_test(test_one_writes),
            cmocka_unit_test(test_not_a_file_of_ours),
        cmocka_unit_test(test_no_folder), cmocka_unit_test(test_a_folder_without_room_or_leave),
        cmocka_unit_test(test_faults),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(image_path);
    rmdir(dir);
    ag_mem_free(packed);
    tiny_model_close(&shared);
    tiny_model_close(&other);
    return rc;
}
