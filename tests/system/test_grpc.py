"""gRPC with clients of others: Python's grpcio with its health and reflection packages, and grpcurl."""
import base64
import gzip
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest

import grpc
import h2_raw
import recite
from google.protobuf import descriptor_pool
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_protos import PROTO, info_of, kserve, kserve_stubs, pb, stubs
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from server import LIMIT_S, PLAIN, Keyed, Server, long_model, text_of, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GRPCURL = shutil.which("grpcurl") or str(ROOT / ".cache/grpcurl/grpcurl")
ENDLESS = {"prompt": ["Once"], "max_tokens": 100000, "ignore_eos": True}
TALK = [{"role": "user", "content": "Tell me a story."}]


def channel_to(server, *options, credentials=None):
    target = f"127.0.0.1:{server.port}"
    options = [("grpc.enable_retries", 0), *options]
    return grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)


class Grpc(unittest.TestCase):
    """One server, one channel."""
    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.s = Server(*cls.flags)
        cls.channel = channel_to(cls.s)
        cls.stub = stubs.InferenceStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.s.stop()

    def fails(self, code, reason, call, *args, **more):
        with self.assertRaises(grpc.RpcError) as caught:
            answer = call(*args, timeout=LIMIT_S, **more)
            list(answer) if hasattr(answer, "__next__") else None
        self.assertEqual(caught.exception.code(), code, caught.exception)
        said, more = info_of(caught.exception)
        self.assertEqual(said, reason)
        self.assertTrue(more["request_id"] and more["type"])
        return caught.exception, more

    def raw(self, path):
        """A method that takes and gives bytes, whatever they are."""
        return self.channel.unary_unary(path, request_serializer=lambda b: b, response_deserializer=lambda b: b)


class Answers(Grpc):
    def test_same_as_http(self):
        fields = {"max_tokens": 24, "temperature": 0.9, "top_p": 0.95, "seed": 7, "logit_bias": PLAIN, "n": 2}
        typed = {**fields, "logit_bias": {int(k): v for k, v in PLAIN.items()}}
        asked = {"prompt": ["Once upon a time", "The sun"], **fields, "logprobs": 2, "echo": True, "stop": ["zzz"]}
        http = self.s.post("/v1/completions", asked).json()
        request = pb.GenerateRequest(**{**asked, **typed})
        whole = self.stub.Generate(request)
        self.assertEqual([c.text for c in whole.choices], [c["text"] for c in http["choices"]])
        self.assertEqual([c.finish_reason for c in whole.choices], [c["finish_reason"] for c in http["choices"]])
        self.assertEqual([c.index for c in whole.choices], [0, 1, 2, 3])
        self.assertEqual((whole.usage.prompt_tokens, whole.usage.completion_tokens),
                         (http["usage"]["prompt_tokens"], http["usage"]["completion_tokens"]))
        for one, other in zip(whole.choices, http["choices"]):
            told = [f"{t.logprob:.7g}" if t.HasField("logprob") else None for t in one.logprobs]
            self.assertEqual(told, [None if x is None else f"{x:.7g}" for x in other["logprobs"]["token_logprobs"]])
        chunks = list(self.stub.GenerateStream(request))
        texts = {}
        for chunk in chunks:
            for c in chunk.choices:
                texts[c.index] = texts.get(c.index, "") + c.text
        self.assertEqual(texts, {c.index: c.text for c in whole.choices})
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)

    def test_chat_same_as_http(self):
        fields = {"messages": TALK, "max_tokens": 24, "seed": 11, "logit_bias": PLAIN}
        http = self.s.post("/v1/chat/completions", fields).json()["choices"][0]
        streamed = text_of(self.s.stream("/v1/chat/completions", **fields))[0]
        request = pb.ChatRequest(**{**fields, "logit_bias": {int(k): v for k, v in PLAIN.items()}})
        whole = self.stub.Chat(request)
        self.assertEqual((whole.choices[0].message.role, whole.choices[0].message.content), ("assistant", http["message"]["content"]))
        chunks = list(self.stub.ChatStream(request))
        self.assertGreater(len(chunks), 2)
        self.assertEqual("".join(c.message.content for chunk in chunks for c in chunk.choices), streamed)
        self.assertEqual({chunk.id for chunk in chunks}, {chunks[0].id})
        self.assertEqual(chunks[-1].usage.prompt_tokens, whole.usage.prompt_tokens)

    def test_embeddings_same_as_http(self):
        texts = ["Once upon a time", "The sun", "the little river"]
        http = self.s.post("/v1/embeddings", {"input": texts, "dimensions": 20}).json()
        answer = self.stub.Embed(pb.EmbedRequest(input=texts, dimensions=20))
        self.assertEqual([e.index for e in answer.embeddings], [0, 1, 2])
        for told, want in zip(answer.embeddings, http["data"]):
            self.assertEqual([f"{x:.9g}" for x in told.values], [f"{x:.9g}" for x in want["embedding"]])
        self.assertEqual((answer.usage.prompt_tokens, answer.model), (http["usage"]["prompt_tokens"], http["model"]))
        whole = self.stub.Embed(pb.EmbedRequest(input=texts[:1]), compression=grpc.Compression.Gzip).embeddings[0].values
        ids = self.s.post("/tokenize", {"prompt": texts[0]}).json()["tokens"]
        self.assertEqual(self.stub.Embed(pb.EmbedRequest(input_tokens=ids)).embeddings[0].values, whole)
        self.assertEqual(list(whole), self.floats(self.s.post("/v1/embeddings", {"input": ids, "encoding_format": "base64"}).json()))

    @staticmethod
    def floats(answer):
        raw = base64.b64decode(answer["data"][0]["embedding"])
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))

    def test_tokens(self):
        http = self.s.post("/tokenize", {"prompt": "Once upon a time", "with_pieces": True}).json()
        told = self.stub.Tokenize(pb.TokenizeRequest(prompt="Once upon a time", with_pieces=True))
        self.assertEqual(list(told.tokens), [t["id"] for t in http["tokens"]])
        self.assertEqual(len(told.pieces), len(told.tokens))
        self.assertEqual(told.max_model_len, http["max_model_len"])
        chat = self.stub.Tokenize(pb.TokenizeRequest(messages=TALK))
        self.assertEqual(list(chat.tokens), self.s.post("/tokenize", {"messages": TALK}).json()["tokens"])
        plain = self.stub.Tokenize(pb.TokenizeRequest(prompt="Once", add_special_tokens=False))
        self.assertEqual(self.stub.Detokenize(pb.DetokenizeRequest(tokens=plain.tokens)).content.strip(), "Once")
        again = self.stub.Generate(pb.GenerateRequest(prompt_tokens=told.tokens, max_tokens=8, temperature=0))
        self.assertEqual(again.choices[0].text, self.s.complete("Once upon a time", max_tokens=8)["choices"][0]["text"])

    def test_models(self):
        models = self.stub.Models(pb.ModelsRequest()).models
        http = self.s.get("/v1/models").json()["data"]
        self.assertEqual([(m.id, m.created, m.max_model_len) for m in models],
                         [(m["id"], m["created"], m["max_model_len"]) for m in http])

    def test_metadata(self):
        answer, call = self.stub.Generate.with_call(pb.GenerateRequest(prompt=["x"], max_tokens=1),
                                                    metadata=[("x-request-id", "mine"), ("x-request-priority", "3"), ("x-tenant", "them")])
        self.assertEqual(dict(call.initial_metadata())["x-request-id"], "mine")
        line = wait_for("the access line", lambda: next((e for e in self.s.lines() if e.get("request_id") == "mine"), None))
        self.assertEqual((line["path"], line["status"], line["priority"], line["tenant"], line["output_tokens"]),
                         ("/autoglm.v1.Inference/Generate", 200, 3, "them", answer.usage.completion_tokens))
        self.assertGreaterEqual(self.s.metric("autoglm_http_requests_total", route="grpc_generate", status="200"), 1)

    def test_gzip(self):
        text = "word " * 4000
        told = self.s.post("/tokenize", {"prompt": text}).json()["tokens"]
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            answer = self.stub.Tokenize(pb.TokenizeRequest(prompt=text, with_pieces=True), compression=compression)
            self.assertEqual(list(answer.tokens), told)
        # grpcio does not tell what was on the wire.
        packed = h2_raw.frame(gzip.compress(pb.TokenizeRequest(prompt=text).SerializeToString()), packed=True)
        answer = h2_raw.call(self.s.port, "/autoglm.v1.Inference/Tokenize", packed, {"grpc-encoding": "gzip"})
        self.assertEqual((answer.headers["grpc-encoding"], answer.trailers["grpc-status"], answer.body[0]), ("gzip", "0", 1))
        unpacked = gzip.decompress(answer.body[5:])
        self.assertEqual(list(pb.TokenizeResponse.FromString(unpacked).tokens), told)
        self.assertLess(len(answer.body), len(unpacked) // 4)

    def test_many_at_once(self):
        calls = [self.stub.Generate.future(pb.GenerateRequest(prompt=[f"{i}"], max_tokens=8, seed=i, ignore_eos=True)) for i in range(60)]
        self.assertEqual({c.result().usage.completion_tokens > 0 for c in calls}, {True})


class Tools(unittest.TestCase):
    def test_calls_and_reasoning(self):
        """A model that recites calls two tools; they go back into the next turn as they came."""
        said = ('<think>\nWell, now.\n</think>\n\nBoth.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>\n'
                '<tool_call>{"name":"add","arguments":{"a":[1,2.5]}}</tool_call>')
        schema = json.dumps({"type": "object", "properties": {"city": {"type": "string"}}})
        tools = [{"type": "function", "function": {"name": n, "description": "d", "parameters_json": schema}} for n in ("get_weather", "add")]
        http_tools = [{"type": "function", "function": {"name": n, "description": "d", "parameters": json.loads(schema)}}
                      for n in ("get_weather", "add")]
        with tempfile.TemporaryDirectory() as folder:
            model = recite.write(f"{folder}/m.gguf", said, "{# <tool_call> <think> </think> #}" + recite.TURNS)
            with Server(model=model) as s, channel_to(s) as channel:
                stub, ask = stubs.InferenceStub(channel), {"messages": TALK, "tools": tools, "tool_choice": "auto"}
                want = s.post("/v1/chat/completions", {**ask, "tools": http_tools}).json()["choices"][0]
                whole = stub.Chat(pb.ChatRequest(**ask)).choices[0]
                streamed = [c for chunk in stub.ChatStream(pb.ChatRequest(**ask)) for c in chunk.choices]
                for reason, message in ((whole.finish_reason, whole.message), (streamed[-1].finish_reason, pb.Message(
                        content="".join(c.message.content for c in streamed),
                        reasoning_content="".join(c.message.reasoning_content for c in streamed),
                        tool_calls=[call for c in streamed for call in c.message.tool_calls]))):
                    self.assertEqual((reason, message.content, message.reasoning_content),
                                     (want["finish_reason"], want["message"]["content"], want["message"]["reasoning_content"]))
                    self.assertEqual([(c.type, c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls],
                                     [("function", "get_weather", {"city": "Köln"}), ("function", "add", {"a": [1, 2.5]})])
                turns = [*TALK, whole.message, {"role": "tool", "tool_call_id": whole.message.tool_calls[0].id, "content": "rain"}]
                told = stub.Tokenize(pb.TokenizeRequest(messages=turns, tools=tools))
                for call, again in zip(want["message"]["tool_calls"], whole.message.tool_calls):
                    call["id"] = again.id
                http = [*TALK, want["message"], turns[2]]
                self.assertEqual(list(told.tokens), s.post("/tokenize", {"messages": http, "tools": http_tools}).json()["tokens"])


class Health(Grpc):
    def test_check(self):
        health = health_pb2_grpc.HealthStub(self.channel)
        for service in ("", "autoglm.v1.Inference", "inference.GRPCInferenceService", "grpc.health.v1.Health"):
            self.assertEqual(health.Check(health_pb2.HealthCheckRequest(service=service)).status, 1, service)
        self.fails(grpc.StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND", health.Check, health_pb2.HealthCheckRequest(service="nope"))

    def test_watch(self):
        s = Server()
        with channel_to(s) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watched = health.Watch(health_pb2.HealthCheckRequest())
            unknown = health.Watch(health_pb2.HealthCheckRequest(service="nope"))
            self.assertEqual(next(watched).status, health_pb2.HealthCheckResponse.SERVING)
            self.assertEqual(next(unknown).status, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            unknown.cancel()
            with self.assertRaises(grpc.RpcError) as caught:
                list(health.Watch(health_pb2.HealthCheckRequest(), timeout=1))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
            s.signal(15)  # it says so, and the call does not hold up the end
            self.assertEqual(next(watched).status, health_pb2.HealthCheckResponse.NOT_SERVING)
            with self.assertRaises(grpc.RpcError) as caught:
                next(watched)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
        s.end()


class Reflection(Grpc):
    def test_says_what_proto_says(self):
        found = ProtoReflectionDescriptorDatabase(self.channel)
        services = set(found.get_services())
        self.assertEqual(services, {"autoglm.v1.Inference", "inference.GRPCInferenceService", "grpc.health.v1.Health",
                                    "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"})
        pool = descriptor_pool.DescriptorPool(found)
        answered = 0
        for name in services:
            for method in pool.FindServiceByName(name).methods:
                if method.name in ("ServerReflectionInfo", "Watch"):
                    continue
                try:
                    self.raw(f"/{name}/{method.name}")(b"", timeout=LIMIT_S)
                except grpc.RpcError as e:
                    self.assertNotEqual(e.code(), grpc.StatusCode.UNIMPLEMENTED, method.full_name)
                answered += 1
        self.assertEqual(answered, 9 + 1 + 6)
        self.assertEqual(pool.FindMessageTypeByName("autoglm.v1.ChatRequest").fields_by_name["seed"].number, 20)
        with self.assertRaises(KeyError):
            pool.FindMessageTypeByName("autoglm.v1.Nope")

    def test_fields_are_those_of_http(self):
        """What a request can say over gRPC, fields.def checks."""
        known = {line.split("`")[1] for line in (ROOT / "docs/api.md").read_text().splitlines() if line.startswith("| `")}
        for message in (pb.GenerateRequest, pb.ChatRequest, pb.EmbedRequest, pb.TokenizeRequest, pb.DetokenizeRequest):
            for field in message.DESCRIPTOR.fields:
                name = field.name.removesuffix("_json")
                self.assertIn({"prompt_tokens": "prompt", "input_tokens": "input"}.get(name, name), known, (message.DESCRIPTOR.name, field.name))
                default_is_zero = name in ("model", "ignore_eos", "echo", "parse_special", "logprobs", "with_pieces")
                self.assertTrue(field.is_repeated or field.has_presence or default_is_zero, (message.DESCRIPTOR.name, field.name))


class Refused(Grpc):
    flags = ("--body-bytes", "64KiB", "--strict", "--alias", "other")

    def test_unknown_methods(self):
        for path in ("/autoglm.v1.Inference/Nope", "/nope.Nope/Nope", "/v1/chat/completions", "/livez"):
            error, _ = self.fails(grpc.StatusCode.UNIMPLEMENTED, "NOT_FOUND", self.raw(path), b"")
            self.assertIn(path, error.details())

    def test_bad_messages(self):
        generate = self.raw("/autoglm.v1.Inference/Generate")
        for body, reason in ((b"\x0a\x05x", "INVALID_PROTOBUF"), (b"\xff", "INVALID_PROTOBUF"), (b"\x0a\x01\xff", "INVALID_UTF8"),
                             (b"\x08\x05", "INVALID_PROTOBUF"), (b"", "MISSING_REQUIRED_PARAMETER")):
            self.fails(grpc.StatusCode.INVALID_ARGUMENT, reason, generate, body)
        error, more = self.fails(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE", generate, b"\x12\x01x\x98\x06\x01")
        self.assertEqual((more["param"], "strict" in error.details()), ("field_99", True))
        error, more = self.fails(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE", self.stub.Generate,
                                 pb.GenerateRequest(prompt=["x"], temperature=11))
        http = self.s.post("/v1/completions", {"prompt": "x", "temperature": 11}).json()["error"]
        self.assertEqual((error.details(), more["param"], more["type"]), (http["message"], http["param"], http["type"]))
        error, _ = self.fails(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_JSON", self.stub.Chat,
                              pb.ChatRequest(messages=TALK, chat_template_kwargs_json="{é"))
        self.assertIn("chat_template_kwargs_json", error.details())
        self.fails(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", self.stub.Generate, pb.GenerateRequest(prompt=["x"], model="nope"))
        self.fails(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE", self.stub.GenerateStream,
                   pb.GenerateRequest(prompt=["x"], top_p=0))
        self.fails(grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED", self.stub.Generate,
                   pb.GenerateRequest(prompt=["x"], max_tokens=1 << 20))

    def test_sizes(self):
        big = pb.GenerateRequest(prompt=["x" * 70000])
        self.fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", self.stub.Generate, big)
        error, _ = self.fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", self.stub.Generate,
                              pb.GenerateRequest(prompt=["x" * (1 << 20)]), compression=grpc.Compression.Gzip)
        self.assertIn("unpacked", error.details())
        self.fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", self.stub.Cancel, pb.CancelRequest(id="x" * 5000))
        self.assertEqual(self.stub.Models(pb.ModelsRequest()).models[1].id, "other")  # the connection lives

    def test_metadata(self):
        ask = pb.GenerateRequest(prompt=["x"])
        for name, value in (("x-request-priority", "9"), ("x-request-timeout-ms", "soon"), ("x-tenant", "a b")):
            _, more = self.fails(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE", self.stub.Generate, ask, metadata=[(name, value)])
            self.assertEqual(more["param"], name)

    def test_framing(self):
        """What no client library sends."""
        path, good = "/autoglm.v1.Inference/Models", b"\0\0\0\0\0"
        cases = [({}, b"", "3", "no message"), ({}, b"\0\0\0\0", "3", "middle"), ({}, good + good, "3", "more than one"),
                 ({}, b"\2\0\0\0\0", "3", "begins with 0"), ({}, b"\1\0\0\0\0", "3", "grpc-encoding"),
                 ({"grpc-encoding": "gzip"}, b"\1\0\0\0\1x", "3", "gzip"), ({"grpc-encoding": "br"}, good, "12", "'br'"),
                 ({"grpc-timeout": "1s"}, good, "3", "grpc-timeout"), ({}, b"\0\xff\xff\xff\xff", "8", "larger")]
        for headers, body, status, words in cases:
            answer = h2_raw.call(self.s.port, path, body, headers)
            self.assertEqual((answer.headers[":status"], answer.headers["content-type"]), ("200", "application/grpc"))
            self.assertEqual(answer.headers["grpc-status"], status, (headers, body, answer.headers))
            self.assertIn(words, answer.headers["grpc-message"])
            self.assertEqual(answer.body, b"")
        answer = h2_raw.call(self.s.port, path, good, {"grpc-encoding": "br"})
        self.assertEqual(answer.headers["grpc-accept-encoding"], "identity,gzip")

    def test_what_http_refuses_is_told_as_a_status(self):
        path, good = "/autoglm.v1.Inference/Models", b"\0\0\0\0\0"
        with Server("--body-bytes", "64KiB", "--body-timeout", "100ms", "--url-bytes", "256") as s:
            cases = [(path, {"x-long": "x" * 20000}, True, "headers_too_large", 431),
                     (path + "x" * 300, {}, True, "uri_too_long", 414), (path, {"host": "other"}, True, "bad_request", 400),
                     (path, {"content-length": "70000"}, False, "request_too_large", 413), (path, {}, False, "request_timeout", 408)]
            for at, headers, ends, code, http in cases:
                answer = h2_raw.call(s.port, at, good, headers, ends)
                self.assertEqual((answer.headers[":status"], answer.headers["content-type"]), ("200", "application/grpc"), code)
                self.assertEqual(answer.headers["grpc-status"], self.statuses()[code], code)
                self.assertTrue(answer.headers["grpc-message"] and answer.headers["x-request-id"])
                self.assertEqual((answer.body, answer.trailers), (b"", {}))
                told = status_pb2.Status.FromString(base64.b64decode(answer.headers["grpc-status-details-bin"] + "=="))
                info = error_details_pb2.ErrorInfo()
                self.assertTrue(told.details[0].Unpack(info))
                self.assertEqual((info.reason, info.metadata["request_id"]), (code.upper(), answer.headers["x-request-id"]))
                line = wait_for("the line", lambda: next((e for e in s.lines() if e.get("request_id") == info.metadata["request_id"]), None))
                self.assertEqual((line["status"], line["code"]), (http, code))
            with channel_to(s, ("grpc.max_metadata_size", 1 << 20)) as channel:
                with self.assertRaises(grpc.RpcError) as caught:
                    stubs.InferenceStub(channel).Models(pb.ModelsRequest(), timeout=LIMIT_S, metadata=[("x-long", "x" * 20000)])
                self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, caught.exception)
                self.assertEqual(info_of(caught.exception)[0], "HEADERS_TOO_LARGE")

    @staticmethod
    def statuses():
        """Of each code of an error, as errors.md has them."""
        rows = [line.split("|") for line in (ROOT / "docs/errors.md").read_text().splitlines() if line.startswith("| `")]
        return {row[1].strip(" `"): str(grpc.StatusCode[row[3].strip()].value[0]) for row in rows}

    def test_what_is_not_grpc(self):
        url = self.s.url + "/autoglm.v1.Inference/Chat"
        self.assertEqual(self.s.get("/autoglm.v1.Inference/Chat").status_code, 405)
        self.assertEqual(self.s.post("/autoglm.v1.Inference/Chat", {}).status_code, 415)
        self.assertEqual(self.s.session.post(url, data=b"", headers={"Content-Type": "application/grpc"}).status_code, 415)  # HTTP/1.1
        answer = h2_raw.call(self.s.port, "/autoglm.v1.Inference/Chat", b"", {"content-type": "application/grpc+json"})
        self.assertEqual(answer.headers[":status"], "415")
        answer = h2_raw.call(self.s.port, "/autoglm.v1.Inference/Models", b"\0\0\0\0\0", {"content-type": "application/grpc+proto"})
        self.assertEqual(answer.trailers["grpc-status"], "0")

    def test_pings(self):
        """A client that pings without end is told to calm down."""
        with h2_raw.Connection(self.s.port) as c:
            for _ in range(1100):
                c.h2.ping(b"12345678")
            self.assertEqual(c.wait_end(), 11)  # ENHANCE_YOUR_CALM
        self.assertGreaterEqual(self.s.metric("autoglm_connections_refused_total", reason="h2_pings"), 1)


class Keys(unittest.TestCase):
    def test_keys_roles_and_limits(self):
        with Keyed() as k, channel_to(k.s) as channel:
            stub, ask = stubs.InferenceStub(channel), pb.GenerateRequest(prompt=["x"], max_tokens=1, ignore_eos=True)

            def code(call, *headers):
                with self.assertRaises(grpc.RpcError) as caught:
                    call(ask if call == stub.Generate else pb.ModelsRequest(), metadata=headers, timeout=LIMIT_S)
                return caught.exception.code(), info_of(caught.exception)[0]
            missing = (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")
            self.assertEqual(code(stub.Generate), missing)
            self.assertEqual(code(stub.Models), missing)
            self.assertEqual(code(stub.Generate, ("authorization", "Bearer ag-000000000000-" + "x" * 43)), missing)
            self.assertEqual(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status, 1)  # needs none
            key = k.key("--tenant", "them")
            for header in (("authorization", "Bearer " + key["key"]), ("x-api-key", key["key"])):
                self.assertEqual(stub.Generate(ask, metadata=[header]).usage.completion_tokens, 1)
            wait_for("the line", lambda: any(e.get("tenant") == "them" and e.get("path", "").endswith("/Generate")
                                             for e in k.s.lines()))
            few = k.key("--tenant", "few", "--limit-requests-per-minute", 1)
            header = ("x-api-key", few["key"])
            answer, call = stub.Generate.with_call(ask, metadata=[header])
            self.assertEqual(dict(call.initial_metadata())["x-ratelimit-limit-requests"], "1")
            self.assertEqual(len(stub.Models(pb.ModelsRequest(), metadata=[header]).models), 1)  # this is none of them
            self.assertEqual(code(stub.Generate, header), (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED"))
            admin = k.keys("create", "--tenant", "ops", "--roles", "admin")["key"]
            wait_for("the key to be known", lambda: k.status(admin) == 403)
            self.assertEqual(code(stub.Generate, ("x-api-key", admin)), (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN"))
            del answer


class Ends(unittest.TestCase):
    """How calls end before they are done: by their client, by another call, by time, by the server."""

    def serve(self, *flags):
        s = Server(*flags, model=long_model(), chat=False)
        self.addCleanup(s.stop)
        channel = channel_to(s)
        self.addCleanup(channel.close)
        return s, stubs.InferenceStub(channel)

    def test_client_cancels(self):
        s, stub = self.serve()
        stream = stub.GenerateStream(pb.GenerateRequest(**ENDLESS))
        next(stream)
        stream.cancel()
        wait_for("the generation to be cancelled", lambda: s.metric("autoglm_generations_cancelled_total") == 1)
        call = stub.Generate.future(pb.GenerateRequest(**ENDLESS))
        wait_for("the other one to run", lambda: s.metric("autoglm_generations_running") == 1)
        call.cancel()
        wait_for("it to be cancelled", lambda: s.metric("autoglm_generations_cancelled_total") == 2)
        wait_for("the line of it", lambda: [e["status"] for e in s.lines() if e.get("client_gone")] == [499, 499])

    def test_cancelled_by_id(self):
        s, stub = self.serve()
        stream = stub.GenerateStream(pb.GenerateRequest(**ENDLESS), metadata=[("x-request-id", "mine")])
        next(stream)
        self.assertTrue(stub.Cancel(pb.CancelRequest(id="mine")).cancelled)
        with self.assertRaises(grpc.RpcError) as caught:
            list(stream)
        self.assertEqual((caught.exception.code(), info_of(caught.exception)[0]),
                         (grpc.StatusCode.CANCELLED, "CANCELLED_BY_REQUEST"))
        with self.assertRaises(grpc.RpcError) as caught:
            stub.Cancel(pb.CancelRequest(id="mine"))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_deadline_while_waiting(self):
        s, stub = self.serve("--max-running", "1", "--refuse-late=no")
        running = stub.GenerateStream(pb.GenerateRequest(**ENDLESS))
        next(running)
        # grpcio gives up by itself when its own deadline has passed, so the server's answer is read without it.
        answer = h2_raw.call(s.port, "/autoglm.v1.Inference/Generate", h2_raw.frame(pb.GenerateRequest(**ENDLESS).SerializeToString()),
                             {"grpc-timeout": "300m"})
        self.assertEqual(answer.headers["grpc-status"], "4")
        # The message may ask for less time, and not for more.
        for ms, timeout in ((LIMIT_S * 1000, "300m"), (300, f"{LIMIT_S}S")):
            message = pb.GenerateRequest(timeout_ms=ms, **ENDLESS).SerializeToString()
            answer = h2_raw.call(s.port, "/autoglm.v1.Inference/Generate", h2_raw.frame(message), {"grpc-timeout": timeout})
            self.assertEqual(answer.headers["grpc-status"], "4")
            self.assertIn("timeout of 300 ms", answer.headers["grpc-message"])
        with self.assertRaises(grpc.RpcError) as caught:
            stub.Generate(pb.GenerateRequest(**ENDLESS), timeout=0.3)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        with self.assertRaises(grpc.RpcError) as caught:
            stub.Generate(pb.GenerateRequest(**ENDLESS), metadata=[("x-request-timeout-ms", "300")])
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertEqual(info_of(caught.exception)[0], "DEADLINE_EXCEEDED")
        running.cancel()

    def test_deadline_while_running(self):
        s, stub = self.serve()
        answer = stub.Generate(pb.GenerateRequest(timeout_ms=5000, **ENDLESS))
        self.assertTrue(answer.choices[0].timed_out and answer.choices[0].finish_reason == "length" and answer.choices[0].text)

    def test_slow_reader(self):
        """Who reads nothing is bounded, and cut."""
        s, _ = self.serve("--write-timeout", "1s", "--out-bytes", "64KiB")
        with h2_raw.Connection(s.port, opens_windows=False) as c:
            c.ask("/autoglm.v1.Inference/GenerateStream", h2_raw.frame(pb.GenerateRequest(**ENDLESS).SerializeToString()))
            wait_for("it to be cut", lambda: s.metric("autoglm_connections_refused_total", reason="write_timeout") == 1)
        wait_for("the generation to be cancelled", lambda: s.metric("autoglm_generations_cancelled_total") == 1)

    def test_drain(self):
        s = Server(model=long_model(), chat=False)
        with channel_to(s) as channel:
            stream = stubs.InferenceStub(channel).GenerateStream(pb.GenerateRequest(prompt=["Once"], max_tokens=200, ignore_eos=True))
            next(stream)
            s.signal(15)
            self.assertEqual(list(stream)[-1].usage.completion_tokens, 200)
        s.end()


class Kserve(Grpc):
    def test_metadata(self):
        stub, name = kserve_stubs.GRPCInferenceServiceStub(self.channel), self.s.get("/v1/models").json()["data"][0]["id"]
        self.assertTrue(stub.ServerLive(kserve.ServerLiveRequest()).live)
        self.assertTrue(stub.ServerReady(kserve.ServerReadyRequest()).ready)
        self.assertTrue(stub.ModelReady(kserve.ModelReadyRequest(name=name)).ready)
        server = stub.ServerMetadata(kserve.ServerMetadataRequest())
        self.assertEqual({"name": server.name, "version": server.version, "extensions": []}, self.s.get("/v2").json())
        model, http = stub.ModelMetadata(kserve.ModelMetadataRequest(name=name)), self.s.get(f"/v2/models/{name}").json()
        self.assertEqual((model.name, list(model.versions), model.platform), (http["name"], http["versions"], http["platform"]))
        for told, said in ((model.inputs, http["inputs"]), (model.outputs, http["outputs"])):
            self.assertEqual([{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in told], said)
        for call, ask in ((stub.ModelReady, kserve.ModelReadyRequest), (stub.ModelMetadata, kserve.ModelMetadataRequest)):
            self.fails(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", call, ask(name="nope"))
            self.fails(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", call, ask(name=name, version="2"))
        for path, body in (("/v2/health/live", {"live": True}), ("/v2/health/ready", {"ready": True}),
                           (f"/v2/models/{name}/ready", {"name": name, "ready": True})):
            self.assertEqual(self.s.get(path).json(), body)

    def infer(self, texts, raw, **parameters):
        tensor = kserve.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[len(texts)])
        ask = kserve.ModelInferRequest(id="7", inputs=[tensor])
        for name, value in parameters.items():
            kind = "double_param" if isinstance(value, float) else "int64_param"
            setattr(ask.parameters[name], kind, value)
        if raw:
            ask.raw_input_contents.append(b"".join(struct.pack("<I", len(t)) + t for t in texts))
        else:
            ask.inputs[0].contents.bytes_contents.extend(texts)
        return kserve_stubs.GRPCInferenceServiceStub(self.channel).ModelInfer(ask)

    def test_infer_same_as_completions(self):
        fields = {"max_tokens": 16, "temperature": 0.5, "seed": 3}
        want = [c["text"] for c in self.s.post("/v1/completions", {"prompt": ["Once", "The sun"], **fields}).json()["choices"]]
        name = self.s.get("/v1/models").json()["data"][0]["id"]
        body = {"id": "7", "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [2], "data": ["Once", "The sun"]}],
                "parameters": fields}
        http = self.s.post(f"/v2/models/{name}/infer", body).json()
        self.assertEqual(http, {"model_name": name, "model_version": "1", "id": "7", "outputs": [
            {"name": "text_output", "datatype": "BYTES", "shape": [2], "data": want}]})
        plain, raw = self.infer([b"Once", b"The sun"], False, **fields), self.infer([b"Once", b"The sun"], True, **fields)
        self.assertEqual([t.decode() for t in plain.outputs[0].contents.bytes_contents], want)
        self.assertEqual(raw.raw_output_contents[0], b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in want))
        for answer in (plain, raw):
            self.assertEqual((answer.id, answer.model_name, answer.outputs[0].name, list(answer.outputs[0].shape)),
                             ("7", name, "text_output", [2]))

    def test_errors_in_their_form(self):
        name = self.s.get("/v1/models").json()["data"][0]["id"]
        for method, path, body, status in (("POST", "/v2/models/nope/infer", {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1],
                                                                                       "data": ["x"]}]}, 404),
                                           ("POST", f"/v2/models/{name}/infer", {}, 400), ("GET", "/v2/models/nope", None, 404),
                                           ("GET", "/v2/models/nope/ready", None, 404), ("POST", "/v2", {}, 405)):
            r = self.s.session.request(method, self.s.url + path, json=body)
            self.assertEqual((r.status_code, list(r.json())), (status, ["error"]), path)
        self.assertEqual(self.s.get("/v2/models/a/b/ready").status_code, 404)


class Ways(unittest.TestCase):
    def test_tls_and_unix_socket(self):
        with tempfile.TemporaryDirectory() as folder:
            cert, key, path = f"{folder}/c.pem", f"{folder}/c.key", f"{folder}/s.sock"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
                            "-out", cert, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
                           check=True, stderr=subprocess.DEVNULL)
            with Server(chat=False, ready=False, *("--tls-cert", cert, "--tls-key", key)) as s:
                s.wait_line("ready")
                credentials = grpc.ssl_channel_credentials(pathlib.Path(cert).read_bytes())
                with channel_to(s, credentials=credentials) as channel:
                    stream = stubs.InferenceStub(channel).GenerateStream(pb.GenerateRequest(prompt=["x"], max_tokens=4, ignore_eos=True))
                    self.assertEqual(list(stream)[-1].usage.completion_tokens, 4)
            named = [("grpc.default_authority", "localhost")]
            with Server("--unix", path), grpc.insecure_channel("unix:" + path, named) as channel:
                self.assertEqual(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status, 1)


@unittest.skipUnless(os.access(GRPCURL, os.X_OK), "grpcurl is not installed")
class Grpcurl(Grpc):
    def run_it(self, *args, proto=False):
        flags = ["-plaintext"] + (["-import-path", str(PROTO), "-proto", "autoglm/v1/inference.proto"] if proto else [])
        done = subprocess.run([GRPCURL, *flags, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S)
        return done.returncode, done.stdout

    def test_lists_and_calls(self):
        at = f"127.0.0.1:{self.s.port}"
        code, out = self.run_it(at, "list")
        self.assertEqual((code, out.split()[0], len(out.split())), (0, "autoglm.v1.Inference", 5))
        self.assertIn("rpc ChatStream", self.run_it(at, "describe", "autoglm.v1.Inference")[1])
        self.assertIn("int64 seed", self.run_it(at, "describe", ".autoglm.v1.ChatRequest")[1])
        ask = json.dumps({"messages": TALK, "max_tokens": 8, "seed": 5})
        http = self.s.post("/v1/chat/completions", json.loads(ask)).json()["choices"][0]["message"]["content"]
        for proto in (False, True):
            code, out = self.run_it("-d", ask, at, "autoglm.v1.Inference/Chat", proto=proto)
            self.assertEqual((code, json.loads(out)["choices"][0]["message"]["content"]), (0, http), out)
        code, out = self.run_it("-d", ask, at, "autoglm.v1.Inference/ChatStream")
        self.assertEqual(code, 0, out)
        self.assertIn('"completionTokens"', out)
        code, out = self.run_it("-format-error", "-d", '{"prompt": ["x"], "temperature": 11}', at, "autoglm.v1.Inference/Generate")
        self.assertNotEqual(code, 0)
        self.assertIn("between 0 and 10; 11 was given", out)
        self.assertIn("INVALID_VALUE", out)
        self.assertIn('"SERVING"', self.run_it(at, "grpc.health.v1.Health/Check")[1])


if __name__ == "__main__":
    unittest.main()
