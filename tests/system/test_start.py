"""The server starts, says what it is, refuses what is unsafe, and stops."""
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import unittest

import requests

import tiny_models
from server import LIMIT_S, Server, binary, tiny_model


def serve(*flags, env=None):
    """A server that is expected not to start."""
    done = subprocess.run([binary(), "serve", *flags], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=LIMIT_S, env={**os.environ, **(env or {})})
    return done.returncode, done.stderr


class Start(unittest.TestCase):
    def test_it_says_what_it_is(self):
        with Server("--threads", "1", "--ctx", "512") as s:
            listening, ready = s.wait_line("listening"), s.wait_line("ready")
            self.assertIn("No API key", listening["access"])
            self.assertIn("this machine only", listening["access"])
            self.assertEqual(ready["threads"], 1)
            self.assertIn(ready["isa"], ("scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "amx", "dotprod", "i8mm"))
            self.assertTrue(ready["model"])
            self.assertGreater(ready["ctx"], 0)
            for path in ("/livez", "/readyz", "/health"):
                self.assertEqual(s.get(path).status_code, 200)
            models = s.get("/v1/models").json()
            self.assertEqual(models["object"], "list")
            self.assertEqual([m["id"] for m in models["data"]], [ready["model"]])
            self.assertEqual(s.get("/v1/models/" + ready["model"]).json()["id"], ready["model"])
            self.assertEqual(s.get("/v1/models/other").status_code, 404)
            self.assertEqual(s.metric("autoglm_ready"), 1)

    def test_an_alias_is_the_models_name(self):
        with Server("--model-alias", "my-model") as s:
            self.assertEqual(s.get("/v1/models").json()["data"][0]["id"], "my-model")
            self.assertEqual(s.complete(model="my-model")["model"], "my-model")

    def test_settings_come_from_a_file_and_the_environment(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
            f.write("limits:\n  max-tokens: 3\nmodel:\n  model-alias: from-file\n")
            f.flush()
            with Server("--config", f.name, env={"AUTOGLM_MODEL_ALIAS": "from-env"}) as s:
                self.assertEqual(s.get("/v1/models").json()["data"][0]["id"], "from-env")
                self.assertLessEqual(s.complete(max_tokens=3)["usage"]["completion_tokens"], 3)

    def test_why_a_template_cannot_be_used_is_said(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(tiny_models.write(folder, "llama"))
            template = tiny_models.TEMPLATE.encode()
            path.write_bytes(path.read_bytes().replace(template, b"{% bogus %}".ljust(len(template))))
            with Server(model=str(path)) as s:
                self.assertIn("bogus", s.wait_line("no chat")["template"])
                r = s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]})
                self.assertEqual(r.status_code, 400, r.text)
                self.assertRegex(r.json()["error"]["message"], "cannot be used .*bogus.*--chat-template FILE")
                s.complete()

    def test_what_cannot_be_started_is_said_in_one_sentence(self):
        with socket.socket() as taken, tempfile.NamedTemporaryFile(suffix=".gguf") as broken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            broken.write(b"GGUF\x03\x00\x00\x00" + b"\xff" * 100)
            broken.flush()
            port, model = str(taken.getsockname()[1]), tiny_model()
            cases = [
                ([], 2, "-m MODEL is missing"),
                (["-m", model, "--port", port], 1, port),
                (["-m", model, "--port", "70000"], 2, "65535"),
                (["-m", model, "--prot", "0"], 2, "did you mean --port"),
                (["-m", model, "--host", "0.0.0.0", "--port", "0"], 2, "--no-auth"),
                (["-m", model, "--isa", "z80", "--port", "0"], (1, 2), "z80"),
                (["-m", model, "--no-pass", "nothing", "--port", "0"], (1, 2), "nothing"),
                (["-m", "/nowhere/model.gguf", "--port", "0"], 1, "/nowhere/model.gguf"),
                (["-m", broken.name, "--port", "0"], 1, broken.name),
                (["-m", model, "--chat-template", "/nowhere/x.jinja", "--port", "0"], 1, "/nowhere/x.jinja"),
                (["-m", model, "--config", "/nowhere/x.yaml"], (1, 2), "/nowhere/x.yaml"),
                (["-m", model, "--log-file", "/nowhere/x.log", "--port", "0"], 1, "/nowhere/x.log"),
                (["-m", model, "extra"], 2, "extra"),
            ]
            for flags, code, say in cases:
                with self.subTest(flags=flags):
                    got, text = serve(*flags)
                    self.assertIn(got, code if isinstance(code, tuple) else (code,), text)
                    sentence = [line for line in text.splitlines() if line.startswith("autoglm")]
                    self.assertEqual(len(sentence), 1, text)
                    self.assertIn(say, sentence[0])

    def test_a_key_is_asked_for_where_one_is_set(self):
        with Server(env={"AUTOGLM_API_KEY": "sesame-street"}) as s:
            self.assertEqual(s.get("/v1/models").status_code, 401)
            for header in ("Bearer wrong", "Basic sesame-street", "sesame-street", "Bearer sesame-stree", "Bearer sesame-street2"):
                r = s.get("/v1/models", headers={"Authorization": header})
                self.assertEqual((r.status_code, r.json()["error"]["code"]), (401, "invalid_api_key"), header)
            self.assertEqual(s.get("/v1/models", headers={"Authorization": "Bearer sesame-street"}).status_code, 200)
            self.assertEqual(s.get("/livez").status_code, 200)
            s.signal(signal.SIGHUP)
            s.wait_line("settings reloaded")
            self.assertFalse([line for line in s.log if line and "sesame" in line])

    def test_livez_answers_before_the_model_is_there(self):
        """The port opens first: a request that comes early is told to wait, not refused."""
        with Server(ready=False) as s:
            self.assertEqual(s.get("/livez").status_code, 200)
            s.wait_line("ready")
            self.assertEqual(s.get("/readyz").status_code, 200)

    def test_a_thread_that_is_refused_is_a_sentence(self):
        said = subprocess.run([binary(), "--version"], capture_output=True, text=True, timeout=LIMIT_S,
                              env={**os.environ, "AUTOGLM_FAULT": "thread:1"}).stderr
        if "fault:" not in said:
            self.skipTest("built without fault points")
        for n in range(1, 4):  # the log's, the loop's, the one that loads
            with self.subTest(n=n):
                status, said = serve("-m", tiny_model(), "--port", "0", "--loops", "1", env={"AUTOGLM_FAULT": f"thread:{n}"})
                self.assertEqual(status, 1, said)
                self.assertIn("fault: fired", said)
                self.assertRegex(said, "no threads|memory or thread|thread could not be started")

    def test_ipv6_loopback(self):
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            self.skipTest("no IPv6 on this machine")
        with Server("--host", "::1", ready=False) as s:
            s.wait_line("ready")
            self.assertEqual(requests.get(f"http://[::1]:{s.port}/readyz", timeout=LIMIT_S).status_code, 200)
