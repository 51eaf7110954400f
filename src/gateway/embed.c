/* embed.c - embeddings: what this model has of them, and their answer. Their generations are begun and ended as any
 * others. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "gateway/req.h"

#define INLINE_NUMBERS_MAX (4u << 10) /* written in a millisecond or two; above, a worker does it */

static uint32_t width_of(const ag_req *r) { return ag_engine_model(r->engine)->hp.width; }
static uint32_t dimensions_of(const ag_req *r) { return AG_MIN(r->request.dimensions, width_of(r)); }

static int check_input(ag_req *r, uint32_t i)
{
    char name[24];
    const ag_req_prompt *p = &r->prompts[i];
    uint32_t ctx = ag_engine_ctx_max(r->engine);
    snprintf(name, sizeof name, r->request.n_prompts > 1 ? "input[%u]" : "input", i);
    if (p->n == 0)
        return ag_request_fail(&r->err, AG_E_PARAM, "input",
                               "'%s' comes to no tokens at all; there is nothing to embed.", name);
    if (p->n > ctx)
        return ag_request_fail(&r->err, AG_E_CTX_LENGTH, "input", "'%s' comes to %u tokens; the %s holds %u.", name,
                               p->n, ag__ctx_holder(r), ctx);
    return AG_OK;
}

int ag__embed_check(ag_req *r)
{
    int rc = AG_OK;
    if (r->request.dimensions != AG_REQUEST_UNSET && r->request.dimensions > width_of(r))
        rc = ag_request_fail(&r->err, AG_E_PARAM, "dimensions", "'dimensions' is %u; this model's embeddings have %u.",
                             r->request.dimensions, width_of(r));
    for (uint32_t i = 0; i < r->request.n_prompts && rc == AG_OK; i++) rc = check_input(r, i);
    return rc;
}

int ag__embed_deadline(ag_req *r)
{
    return ag_err_set(&r->err, AG_E_DEADLINE,
                      "The request's timeout of %u ms was not enough: %u of its %u inputs were done.",
                      r->timeout_ms, r->n_ended, r->n_choices);
}

/* The first so many numbers, of length 1 again. */
static void cut(const float *v, uint32_t n, float *out)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) squares += (double)v[i] * (double)v[i];
    double scale = squares > 0 ? 1 / sqrt(squares) : 0;
    for (uint32_t i = 0; i < n; i++) out[i] = (float)((double)v[i] * scale);
}

static void write_all(void *arg)
{
    ag_req *r = arg;
    uint32_t n = dimensions_of(r);
    float *shorter = ag_mem_array(n, sizeof *shorter);
    r->dialect->begin(&r->out, &r->reply);
    for (uint32_t i = 0; i < r->n_choices && shorter && !r->out.failed; i++) {
        const float *v = ag_gen_embedding(r->choices[i].gen);
        if (n < width_of(r)) cut(v, n, shorter);
        r->dialect->embedding(&r->out, &r->reply, i, n < width_of(r) ? shorter : v, n);
    }
    r->dialect->end(&r->out, &r->reply, &r->usage);
    if (shorter == NULL || r->out.failed)
        ag_err_set(&r->err, AG_E_NOMEM, "The answer is larger than the server has memory for.");
    ag_mem_free(shorter);
}

ag_next ag__embed_deliver(ag_req *r)
{
    bool here = (uint64_t)r->n_choices * dimensions_of(r) <= INLINE_NUMBERS_MAX;
    if (!ag__req_work(r, here, write_all)) return AG_PARKED;
    if (r->err.code != AG_OK) return ag__req_refuse(r, r->err.code, "%s", "");
    for (uint32_t i = 0; i < r->n_choices; i++) ag__count_end(r, &r->choices[i]);
    return ag__req_answer(r, 200, r->dialect->type, ag_buf_str(&r->out), NULL, 0);
}
