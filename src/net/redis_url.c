#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fault.h"
#include "net/redis.h"
#include "net/tls.h"

/* A piece of a URL, decoded. false: it does not fit, or is not well formed. */
static bool decode(ag_str p, char *to, size_t size)
{
    size_t n = 0;
    for (const char *at = p.p, *end = p.p + p.n; at < end; at++) {
        int c = *at == '%' ? ag_percent_byte(at, end) : (unsigned char)*at;
        if (c <= 0 || n + 1 >= size) return false;
        if (*at == '%') at += 2;
        to[n++] = (char)c;
    }
    to[n] = 0;
    return true;
}

static bool number(ag_str p, uint32_t max, uint32_t *out)
{
    uint64_t x = 0;
    if (p.n < 1 || p.n > 5) return false;
    for (size_t i = 0; i < p.n; i++) {
        if (p.p[i] < '0' || p.p[i] > '9') return false;
        x = x * 10 + (uint64_t)(p.p[i] - '0');
    }
    *out = (uint32_t)x;
    return x <= max;
}

/* What lies before the first `c`, which is taken too; all of it, and false, where there is none. */
static bool cut(ag_str *rest, char c, ag_str *piece)
{
    const char *at = rest->n ? memchr(rest->p, c, rest->n) : NULL;
    *piece = (ag_str){rest->p, at ? (size_t)(at - rest->p) : rest->n};
    *rest = at ? (ag_str){at + 1, rest->n - piece->n - 1} : (ag_str){rest->p + rest->n, 0};
    return at != NULL;
}

static int refuse(ag_err *err, const char *what)
{
    return ag_err_set(err, AG_E_USAGE,
                      "%s; wanted is redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, or "
                      "unix://PATH[?db=N], with %%XX for what has a meaning there.",
                      what);
}

static int parse_unix(ag_redis_at *out, ag_str rest, ag_err *err)
{
    ag_str path;
    bool query = cut(&rest, '?', &path);
    if (path.n == 0 || path.p[0] != '/' || !decode(path, out->path, sizeof out->path))
        return refuse(err, "The Unix socket of the Redis URL must be an absolute path of at most 107 bytes");
    if (!query) return AG_OK;
    static const ag_str name = {"db=", 3};
    if (!ag_str_starts(rest, name) || !number((ag_str){rest.p + 3, rest.n - 3}, 65535, &out->db))
        return refuse(err, "Behind the path of the Redis URL only ?db=N, from 0 to 65535, is known");
    return AG_OK;
}

static int parse_who(ag_redis_at *out, ag_str who, ag_err *err)
{
    ag_str user;
    bool both = cut(&who, ':', &user);
    if (!decode(user, out->user, sizeof out->user) || !decode(who, out->password, sizeof out->password))
        return refuse(err, "The user or password of the Redis URL is too long or has a % that begins no %XX");
    if (!both) return refuse(err, "Before the @ of the Redis URL stand user and password with a colon between");
    return AG_OK;
}

static int parse_tcp(ag_redis_at *out, ag_str rest, ag_err *err)
{
    ag_str whole, who, host, port = {0};
    uint32_t n = 6379;
    bool with_db = cut(&rest, '/', &whole);
    const char *at = whole.n ? memrchr(whole.p, '@', whole.n) : NULL;
    if (at) {
        who = (ag_str){whole.p, (size_t)(at - whole.p)};
        int rc = parse_who(out, who, err);
        if (rc != AG_OK) return rc;
        whole = (ag_str){at + 1, whole.n - who.n - 1};
    }
    bool v6 = whole.n && whole.p[0] == '[', with_port = false;
    if (v6) {
        ag_str open = {whole.p + 1, whole.n - 1};
        if (!cut(&open, ']', &host)) return refuse(err, "The address of the Redis URL has no ']'");
        with_port = open.n > 0;
        if (with_port && open.p[0] != ':') return refuse(err, "Behind the ']' of the Redis URL only :PORT may stand");
        if (with_port) port = (ag_str){open.p + 1, open.n - 1};
    } else {
        with_port = cut(&whole, ':', &host);
        port = whole;
    }
    if (host.n == 0 || !decode(host, out->host, sizeof out->host))
        return refuse(err, "The host of the Redis URL must be 1 to 255 bytes");
    if (with_port && (!number(port, 65535, &n) || n == 0))
        return refuse(err, "The port of the Redis URL must be 1 to 65535");
    out->port = (uint16_t)n;
    if (with_db && rest.n && !number(rest, 65535, &out->db))
        return refuse(err, "The database of the Redis URL must be a number from 0 to 65535");
    return AG_OK;
}

int ag_redis_at_parse(ag_redis_at *out, const char *url, ag_err *err)
{
    ag_str text = ag_str_of(url);
    *out = (ag_redis_at){0};
    out->tls = ag_str_starts(text, AG_STR("rediss://"));
    if (out->tls) return parse_tcp(out, (ag_str){text.p + 9, text.n - 9}, err);
    if (ag_str_starts(text, AG_STR("redis://"))) return parse_tcp(out, (ag_str){text.p + 8, text.n - 8}, err);
    if (ag_str_starts(text, AG_STR("unix://"))) return parse_unix(out, (ag_str){text.p + 7, text.n - 7}, err);
    if (ag_str_starts(text, AG_STR("redis-sentinel")) || ag_str_starts(text, AG_STR("redis+sentinel")) ||
        ag_str_starts(text, AG_STR("rediss+sentinel")))
        return refuse(err, "Redis Sentinel is not followed; name the server itself, or a proxy before it");
    return refuse(err, "The Redis URL has another scheme");
}

static bool is_set(const char *text) { return text && text[0]; }

static int read_password(const char *path, char out[], size_t size, ag_err *err)
{
    ssize_t n = -1;
    int fd = ag_fault_hit(AG_FAULT_OPEN) ? (errno = EACCES, -1) : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) n = ag_fault_hit(AG_FAULT_READ) ? (errno = EIO, -1) : read(fd, out, size);
    int why = errno;
    if (fd >= 0) close(fd);
    if (n < 0) return ag_err_set(err, AG_E_IO, "The password file '%s' cannot be read: %s.", path, strerror(why));
    size_t len = 0;
    while (len < (size_t)n && out[len] != '\n' && out[len] != '\r' && out[len] != 0) len++;
    if (len == 0 || len == size)
        return ag_err_set(err, AG_E_USAGE, "The first line of the password file '%s' must have 1 to %zu bytes.", path,
                          size - 1);
    out[len] = 0;
    return AG_OK;
}

int ag_redis_at_password(ag_redis_at *at, const char *password, const char *file, ag_err *err)
{
    if (!is_set(password)) return is_set(file) ? read_password(file, at->password, sizeof at->password, err) : AG_OK;
    if (strlen(password) >= sizeof at->password)
        return ag_err_set(err, AG_E_USAGE, "The password of Redis may have %zu bytes.", sizeof at->password - 1);
    memcpy(at->password, password, strlen(password) + 1);
    return AG_OK;
}

int ag_redis_tls_open(ag_redis_tls **out, const ag_redis_at *at, const ag_redis_files *files, ag_err *err)
{
    *out = NULL;
    return at->tls ? ag__tls_conf_open_client(out, files->ca, files->cert, files->key, err) : AG_OK;
}

void ag_redis_tls_close(ag_redis_tls *t) { ag__tls_conf_drop(t); }
