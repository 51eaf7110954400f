/* connections.c - GET /admin/v1/connections: what each connection is doing, a page of them at a time. Each loop tells
 * of its own; what it tells is written down here, on its thread, while the request waits for it. */
#include "base/mem.h"
#include "gateway/req.h"

#define AFTER_MAX 999999999999999999u
#define PAGE_DEFAULT 100u
#define PAGE_MAX 1000u
#define ANSWER_BYTES_MAX (16u << 20) /* a thousand with eight ids, each byte of which may be written in six */

typedef struct seen {
    uint64_t id, age_ms, requests, bytes_in, bytes_out;
    ag_http_state state;
    bool h2, tls;
    uint32_t n_open, n_ids;
    char peer[48], ids[AG_HTTP_USERS_MAX][AG_ID_MAX + 1];
} seen;

typedef struct ag_connections {
    uint64_t after;
    uint32_t limit, n;
    bool more;
    seen *list, **order; /* limit of each; order: by id */
} ag_connections;

static int take_number(ag_str name, ag_str value, uint64_t min, uint64_t max, uint64_t *out, ag_err *err)
{
    uint64_t x = 0;
    if (!ag_str_u64(value, max, &x) || x < min)
        return ag_err_set(err, AG_E_PARAM, "'%.*s' in the query must be a whole number from %llu to %llu.", (int)name.n,
                          name.p, (unsigned long long)min, (unsigned long long)max);
    *out = x;
    return AG_OK;
}

int ag__connections_look(ag_req *r)
{
    uint64_t after = 0, limit = PAGE_DEFAULT;
    ag_str query = r->head->query, name, value;
    int rc = AG_OK;
    while (rc == AG_OK && ag__query_next(&query, &name, &value)) {
        if (ag_str_eqz(name, "after")) rc = take_number(name, value, 0, AFTER_MAX, &after, &r->err);
        else if (ag_str_eqz(name, "limit")) rc = take_number(name, value, 1, PAGE_MAX, &limit, &r->err);
        else
            rc = ag_err_set(&r->err, AG_E_PARAM, "The query may say after and limit, not '%.*s'.",
                            (int)AG_MIN(name.n, 40u), name.p);
    }
    if (rc != AG_OK) return rc;
    ag_connections *c = r->connections = ag_mem_zalloc(sizeof *c);
    if (c) {
        *c = (ag_connections){.after = after, .limit = (uint32_t)limit};
        c->list = ag_mem_array(c->limit, sizeof *c->list);
        c->order = ag_mem_array(c->limit, sizeof *c->order);
    }
    if (c && c->list && c->order) return AG_OK;
    return ag_err_set(&r->err, AG_E_NOMEM, "The server has no memory left for this request.");
}

void ag__connections_free(ag_req *r)
{
    if (r->connections == NULL) return;
    ag_mem_free(r->connections->list);
    ag_mem_free((void *)r->connections->order);
    ag_mem_free(r->connections);
}

static void write_down(seen *to, const ag_http_conn_info *c)
{
    *to = (seen){.id = c->id, .age_ms = c->age_ms, .requests = c->requests, .bytes_in = c->bytes_in,
                 .bytes_out = c->bytes_out, .state = c->state, .h2 = c->h2, .tls = c->tls, .n_open = c->n_open};
    AG_ASSERT(c->peer.n < sizeof to->peer);
    memcpy(to->peer, c->peer.p, c->peer.n);
    for (uint32_t i = 0; i < c->n_users; i++) {
        const ag_req *open = c->users[i];
        if (open) memcpy(to->ids[to->n_ids++], open->id, sizeof open->id); /* NULL: there was no memory for it */
    }
}

/* The least of the ids over `after`; those of each loop come in order. */
static bool see(void *arg, const ag_http_conn_info *info)
{
    ag_connections *c = ((ag_req *)arg)->connections;
    uint32_t at = c->n;
    if (info->id <= c->after) return true;
    while (at > 0 && c->order[at - 1]->id > info->id) at--;
    bool full = c->n == c->limit;
    c->more |= full;
    if (at == c->limit) return false;
    seen *to = full ? c->order[c->limit - 1] : &c->list[c->n++];
    memmove((void *)(c->order + at + 1), (void *)(c->order + at), (c->n - 1 - at) * sizeof *c->order);
    c->order[at] = to;
    write_down(to, info);
    return true;
}

static void put_string(ag_buf *out, const char *name, const char *text)
{
    ag_buf_addf(out, ",\"%s\":", name);
    ag_buf_add_json(out, text, strlen(text));
}

static void put_one(ag_buf *out, const seen *c)
{
    static const char *const states[] = {
#define X(name, text) text,
        AG_HTTP_STATES(X)
#undef X
    };
    ag_buf_addf(out, "{\"id\":%llu", (unsigned long long)c->id);
    put_string(out, "address", c->peer);
    put_string(out, "state", states[c->state]);
    put_string(out, "protocol", c->h2 ? "h2" : "http/1.1");
    ag_buf_addf(out, ",\"tls\":%s,\"age_s\":%llu.%03u", c->tls ? "true" : "false",
                (unsigned long long)(c->age_ms / 1000), (unsigned)(c->age_ms % 1000));
    ag_buf_addf(out, ",\"requests\":%llu,\"bytes_in\":%llu,\"bytes_out\":%llu", (unsigned long long)c->requests,
                (unsigned long long)c->bytes_in, (unsigned long long)c->bytes_out);
    ag_buf_addf(out, ",\"open\":%u,\"request_ids\":[", c->n_open);
    for (uint32_t i = 0; i < c->n_ids; i++) {
        if (i) ag_buf_addc(out, ',');
        ag_buf_add_json(out, c->ids[i], strlen(c->ids[i]));
    }
    ag_buf_addz(out, "]}");
}

ag_next ag__answer_connections(ag_req *r)
{
    const ag_connections *c = r->connections;
    if (r->working) return AG_PARKED;
    if (!r->worked) {
        r->working = true;
        if (ag_http_loop_visit(r->loop->loop, see, ag__req_worked, r)) return AG_PARKED;
        r->working = false;
        return ag__req_refuse(r, AG_E_NOMEM, "The server has no memory left for this request.");
    }
    ag_buf body;
    ag_buf_init(&body, ANSWER_BYTES_MAX);
    ag_buf_addz(&body, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < c->n; i++) {
        if (i) ag_buf_addc(&body, ',');
        put_one(&body, c->order[i]);
    }
    ag_buf_addf(&body, "],\"has_more\":%s}", c->more ? "true" : "false");
    ag_http_header store = {AG_STR("cache-control"), AG_STR("no-store")};
    return ag__req_answer_buf(r, "application/json", &body, &store, 1);
}
