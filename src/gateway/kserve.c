/* kserve.c - KServe's Open Inference Protocol but for inferring: health and metadata, over gRPC and over HTTP. */
#include <stdio.h>

#include "gateway/dialects/kserve.h"
#include "gateway/dialects/pb.h"
#include "gateway/grpc.h"

/* The numbers of proto/grpc_predict_v2.proto. */
enum { FLAG = 1, SERVER_NAME = 1, SERVER_VERSION = 2, ASK_NAME = 1, ASK_VERSION = 2, MODEL_NAME = 1, MODEL_VERSIONS = 2,
       MODEL_PLATFORM = 3, MODEL_INPUTS = 4, MODEL_OUTPUTS = 5, TENSOR_NAME = 1, TENSOR_TYPE = 2, TENSOR_SHAPE = 3 };

static ag_next refuse(ag_req *r) { return ag__req_refuse(r, r->err.code, "%s", ""); }

/* {"live": true}, with {"name": …} ahead of it for a model. */
static ag_next answer_flag(ag_req *r, const char *word, bool flag, ag_str model)
{
    ag_buf out;
    if (r->dialect->grpc) {
        ag__grpc_begin(&out);
        ag_pb_put(&out, FLAG, flag);
        return ag__grpc_answer(r, &out);
    }
    ag_buf_init(&out, AG_GRPC_ANSWER_MAX);
    ag_buf_addc(&out, '{');
    if (model.p) {
        ag_buf_addz(&out, "\"name\":");
        ag_buf_add_json(&out, model.p, model.n);
        ag_buf_addc(&out, ',');
    }
    ag_buf_addf(&out, "\"%s\":%s}", word, flag ? "true" : "false");
    return ag__req_answer_buf(r, AG_TYPE_JSON, &out, NULL, 0);
}

/* Over HTTP there is no message. */
static int take_message(ag_req *r, ag_str *message)
{
    *message = (ag_str){0};
    return r->dialect->grpc ? ag__grpc_message(r, message) : AG_OK;
}

ag_next ag__v2_live(ag_req *r)
{
    ag_str asked;
    return take_message(r, &asked) == AG_OK ? answer_flag(r, "live", true, (ag_str){0}) : refuse(r);
}

/* Over HTTP a server that is not ready answers 503, as probes look at nothing else. */
ag_next ag__v2_ready(ag_req *r)
{
    ag_str asked;
    bool ready = ag__is_ready(r->gw);
    if (take_message(r, &asked) != AG_OK) return refuse(r);
    if (!ready && !r->dialect->grpc) return ag__req_refuse(r, AG_E_NOT_READY, "The server takes no work at present.");
    return answer_flag(r, "ready", ready, (ag_str){0});
}

ag_next ag__v2_server(ag_req *r)
{
    ag_str asked;
    ag_buf out;
    if (take_message(r, &asked) != AG_OK) return refuse(r);
    if (!r->dialect->grpc)
        return ag__req_answer(r, 200, AG_TYPE_JSON,
                              AG_STR("{\"name\":\"autoglm\",\"version\":\"" AG_VERSION "\",\"extensions\":[]}"),
                              NULL, 0);
    ag__grpc_begin(&out);
    ag_pb_put_text(&out, SERVER_NAME, AG_STR("autoglm"));
    ag_pb_put_text(&out, SERVER_VERSION, AG_STR(AG_VERSION));
    return ag__grpc_answer(r, &out);
}

/* The model that is asked for; err says why it is none of ours. */
static int take_model(ag_req *r, ag_str *name)
{
    ag_str asked, version;
    int rc = take_message(r, &asked);
    if (rc != AG_OK) return rc;
    *name = r->dialect->grpc ? ag_pb_find(asked, ASK_NAME) : ag_str_of(r->asked_id);
    version = ag_pb_find(asked, ASK_VERSION);
    if (version.n && !ag_str_eqz(version, AG_KSERVE_VERSION))
        return ag_err_set(&r->err, AG_E_MODEL_NOT_FOUND, "There is no version '%.*s' of this model; '" AG_KSERVE_VERSION
                          "' is the only one.", (int)AG_MIN(version.n, 40u), version.p);
    if (atomic_load_explicit(&r->gw->engine, memory_order_acquire) == NULL)
        return ag_err_set(&r->err, AG_E_NOT_READY, "The model is still being loaded.");
    if (ag__model_allowed(r) && ag__model_is_ours(r, *name)) return AG_OK;
    return ag_err_set(&r->err, AG_E_MODEL_NOT_FOUND, "There is no model '%.*s' here.", (int)AG_MIN(name->n, 100u),
                      name->p ? name->p : "");
}

ag_next ag__v2_model_ready(ag_req *r)
{
    ag_str name;
    if (take_model(r, &name) != AG_OK) return refuse(r);
    return answer_flag(r, "ready", ag__is_ready(r->gw), name);
}

static void put_tensor(ag_buf *out, uint32_t field, ag_str name)
{
    size_t at = out->n;
    ag_pb_put_text(out, TENSOR_NAME, name);
    ag_pb_put_text(out, TENSOR_TYPE, AG_STR("BYTES"));
    size_t shape = out->n;
    ag_pb_put_varint(out, (uint64_t)-1); /* as many as there are */
    ag_pb_wrap(out, shape, TENSOR_SHAPE);
    ag_pb_wrap(out, at, field);
}

ag_next ag__v2_model(ag_req *r)
{
    ag_str name;
    ag_buf out;
    if (take_model(r, &name) != AG_OK) return refuse(r);
    if (r->dialect->grpc) {
        ag__grpc_begin(&out);
        ag_pb_put_text(&out, MODEL_NAME, name);
        ag_pb_put_text(&out, MODEL_VERSIONS, AG_STR(AG_KSERVE_VERSION));
        ag_pb_put_text(&out, MODEL_PLATFORM, AG_STR(AG_KSERVE_PLATFORM));
        put_tensor(&out, MODEL_INPUTS, AG_STR(AG_KSERVE_INPUT));
        put_tensor(&out, MODEL_OUTPUTS, AG_STR(AG_KSERVE_OUTPUT));
        return ag__grpc_answer(r, &out);
    }
    ag_buf_init(&out, AG_GRPC_ANSWER_MAX);
    ag_buf_addz(&out, "{\"name\":");
    ag_buf_add_json(&out, name.p, name.n);
    ag_buf_addz(&out, ",\"versions\":[\"" AG_KSERVE_VERSION "\"],\"platform\":\"" AG_KSERVE_PLATFORM "\","
                      "\"inputs\":[{\"name\":\"" AG_KSERVE_INPUT "\",\"datatype\":\"BYTES\",\"shape\":[-1]}],"
                      "\"outputs\":[{\"name\":\"" AG_KSERVE_OUTPUT "\",\"datatype\":\"BYTES\",\"shape\":[-1]}]}");
    return ag__req_answer_buf(r, AG_TYPE_JSON, &out, NULL, 0);
}
