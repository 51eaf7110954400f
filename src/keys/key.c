#include "keys/key.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"

#define PREFIX "ag-"

const ag_limit_row ag_limit_rows[AG_LIMIT_COUNT] = {
#define AG_LIMIT(field, words, flag, max, what) {#field, words, flag, what, offsetof(ag_limits, field), max},
#include "keys/limits.def"
#undef AG_LIMIT
};

/* The secret's file. */

static int file_fail(ag_err *err, const char *path, const char *what)
{
    return ag_err_set(err, AG_E_IO, "The secret of the keys, '%s', cannot be %s: %s.", path, what, strerror(errno));
}

static bool all_through(int fd, uint8_t *p, size_t n, bool write_it)
{
    for (size_t done = 0; done < n;) {
        if (ag_fault_hit(write_it ? AG_FAULT_WRITE : AG_FAULT_READ)) return errno = EIO, false;
        ssize_t k = write_it ? write(fd, p + done, n - done) : read(fd, p + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return k == 0 ? (errno = ENODATA, false) : false;
        done += (size_t)k;
    }
    return true;
}

/* Written under another name first: whoever reads the real one finds all of it. */
static int secret_make(const char *path, ag_err *err)
{
    char temp[4200];
    ag_key_secret s;
    if (snprintf(temp, sizeof temp, "%s.%d.new", path, (int)getpid()) >= (int)sizeof temp) {
        errno = ENAMETOOLONG;
        return file_fail(err, path, "made");
    }
    unlink(temp);
    int fd =
        ag_fault_hit(AG_FAULT_OPEN) ? (errno = EACCES, -1) : open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return file_fail(err, path, "made");
    randombytes_buf(s.bytes, sizeof s.bytes);
    bool ok = all_through(fd, s.bytes, sizeof s.bytes, true) && !ag_fault_hit(AG_FAULT_SYNC) && fsync(fd) == 0;
    int rc = ok ? AG_OK : file_fail(err, path, "written");
    close(fd);
    if (ok && link(temp, path) != 0 && errno != EEXIST) rc = file_fail(err, path, "made");
    unlink(temp);
    sodium_memzero(&s, sizeof s);
    return rc;
}

static int secret_read(ag_key_secret *s, int fd, const char *path, ag_err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return file_fail(err, path, "read");
    if (!S_ISREG(st.st_mode) || (st.st_mode & 077) != 0)
        return ag_err_set(err, AG_E_USAGE,
                          "The secret of the keys, '%s', must be a file that only its owner may read: chmod 600 it.",
                          path);
    if (st.st_size != sizeof s->bytes)
        return ag_err_set(err, AG_E_USAGE,
                          "The secret of the keys, '%s', has %lld bytes in place of %zu: bring it back "
                          "from a copy; without it no key can be checked.",
                          path, (long long)st.st_size, sizeof s->bytes);
    return all_through(fd, s->bytes, sizeof s->bytes, false) ? AG_OK : file_fail(err, path, "read");
}

int ag_key_secret_load(ag_key_secret *s, const char *path, bool make, ag_err *err)
{
    if (sodium_init() < 0) return ag_err_set(err, AG_E_INTERNAL, "The cryptographic library could not be set up.");
    int rc = AG_OK, fd = ag_fault_hit(AG_FAULT_OPEN) ? (errno = EACCES, -1) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && make) {
        rc = secret_make(path, err);
        if (rc == AG_OK) fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (rc != AG_OK) return rc;
    if (fd < 0) return file_fail(err, path, "opened");
    rc = secret_read(s, fd, path, err);
    close(fd);
    return rc;
}

/* Texts. */

void ag_key_make(char id[AG_KEY_ID_BYTES + 1], char text[AG_KEY_TEXT_BYTES + 1], const char *keep_id)
{
    uint8_t raw[32];
    char secret[44];
    if (keep_id) {
        AG_ASSERT(strlen(keep_id) == AG_KEY_ID_BYTES);
        memcpy(id, keep_id, AG_KEY_ID_BYTES + 1);
    } else {
        randombytes_buf(raw, AG_KEY_ID_BYTES / 2);
        sodium_bin2hex(id, AG_KEY_ID_BYTES + 1, raw, AG_KEY_ID_BYTES / 2);
    }
    randombytes_buf(raw, sizeof raw);
    sodium_bin2base64(secret, sizeof secret, raw, sizeof raw, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    snprintf(text, AG_KEY_TEXT_BYTES + 1, PREFIX "%s-%s", id, secret);
    sodium_memzero(raw, sizeof raw);
    sodium_memzero(secret, sizeof secret);
}

bool ag_key_text_id(ag_str text, char id[AG_KEY_ID_BYTES + 1])
{
    if (text.n != AG_KEY_TEXT_BYTES || !ag_str_starts(text, AG_STR(PREFIX))) return false;
    const char *p = text.p + sizeof PREFIX - 1;
    for (int i = 0; i < AG_KEY_ID_BYTES; i++)
        if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f'))) return false;
    if (p[AG_KEY_ID_BYTES] != '-') return false;
    memcpy(id, p, AG_KEY_ID_BYTES);
    id[AG_KEY_ID_BYTES] = 0;
    return true;
}

void ag_key_hash(const ag_key_secret *s, ag_str text, uint8_t out[32])
{
    crypto_generichash(out, 32, (const unsigned char *)text.p, text.n, s->bytes, sizeof s->bytes);
}

/* Lists. */

bool ag_key_name_ok(ag_str name)
{
    bool ok = name.n >= 1 && name.n <= AG_KEY_NAME_MAX;
    for (size_t i = 0; ok && i < name.n; i++) ok = name.p[i] > ' ' && name.p[i] <= '~' && name.p[i] != ',';
    return ok;
}

bool ag_key_cache_ok(ag_str mode) { return ag_str_eqz(mode, "use") || ag_str_eqz(mode, "off"); }

bool ag_key_models_ok(ag_str models)
{
    if (models.n == 0) return true;
    bool ok = models.n <= AG_KEY_MODELS_MAX;
    uint32_t n = 0;
    for (ag_str one; ok && ag_str_next(&models, &one);) {
        ok = one.n >= 1 && one.n <= AG_KEY_MODEL_MAX && ++n <= AG_KEY_MODELS;
        for (size_t i = 0; ok && i < one.n; i++) ok = (unsigned char)one.p[i] >= ' ' && one.p[i] != 0x7F;
    }
    return ok;
}

uint32_t ag_key_roles_of(ag_str list)
{
    uint32_t roles = 0;
    for (ag_str one; ag_str_next(&list, &one);) {
        uint32_t role = ag_str_eqz(one, "inference") ? AG_ROLE_INFERENCE : ag_str_eqz(one, "admin") ? AG_ROLE_ADMIN : 0;
        if (role == 0 || (roles & role)) return 0;
        roles |= role;
    }
    return roles;
}
