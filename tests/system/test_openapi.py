"""docs/openapi.yaml: whole, what the tables say, and what the server does."""
import os
import pathlib
import re
import subprocess
import sys
import unittest

import jsonschema_rs
import requests
import yaml

from server import LIMIT_S, Keyed, Server, events, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FILE = ROOT / "docs/openapi.yaml"
METHODS = ("get", "post", "patch", "delete")
# Short answers, so that thousands of requests take seconds.
FLAGS = ("--max-generations", "4", "--max-tokens", "16")


def schemathesis(server, *flags):
    """What it printed when it found something; None when all is well."""
    command = [pathlib.Path(sys.executable).with_name("schemathesis"), "--config-file", ROOT / "tests/system/schemathesis.toml",
               "run", FILE, "--url", server.url, "--no-color", *flags]
    done = subprocess.run([str(c) for c in command], cwd=server.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "tests/lib")})
    return done.stdout if done.returncode else None


class File(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.api = yaml.safe_load(FILE.read_text())

    def operations(self):
        for path, item in self.api["paths"].items():
            for method in METHODS:
                if method in item:
                    yield path, method, item[method]

    def test_every_reference_leads_somewhere(self):
        for ref in set(re.findall(r'\$ref: "([^"]+)"', FILE.read_text())):
            at = self.api
            for part in ref.removeprefix("#/").split("/"):
                self.assertIn(part, at, f"{ref}: src/gateway/openapi.yaml lacks it")
                at = at[part]

    def test_nothing_is_missing(self):
        said = re.findall(r"^\| ([A-Z, ]+) \| `(/[^`]*)` \| (yes|no|admin) \|", (ROOT / "docs/api.md").read_text(), re.M)
        want = {(path, method.lower(), "no" if key == "no" else "yes") for methods, path, key in said for method in methods.split(", ")}
        have = {(path, method, "yes" if o["security"] else "no") for path, method, o in self.operations()}
        self.assertEqual(have, want)
        codes = re.findall(r"^\| `(\w+)` \| \d+ \|", (ROOT / "docs/errors.md").read_text(), re.M)
        self.assertEqual(self.api["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"], codes)
        for name in ("completions", "chat_completions"):
            fields = self.api["components"]["schemas"][name]["properties"]
            self.assertIn("model", fields)
            self.assertIn("timeout_ms", fields)

    def test_keys_are_asked_for_where_it_says_so(self):
        with Server(env={"AUTOGLM_API_KEY": "sk-for-the-document"}) as s:
            for path, method, o in self.operations():
                r = requests.request(method, s.url + path.replace("{id}", "x"), timeout=LIMIT_S)
                self.assertEqual(r.status_code == 401, bool(o["security"]), (path, method))
                self.assertIn(str(r.status_code), o["responses"])


class Requests(unittest.TestCase):
    def test_chunks_are_what_it_says(self):
        api = yaml.safe_load(FILE.read_text())
        asks = {"CompletionChunk": ("/v1/completions", {"prompt": ["Once", "Twice"], "n": 2, "logprobs": 2, "echo": True}),
                "ChatChunk": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "logprobs": True,
                                                       "top_logprobs": 2})}
        with Server(*FLAGS) as s:
            for name, (path, body) in asks.items():
                check = jsonschema_rs.Draft202012Validator({**api, "$ref": f"#/components/schemas/{name}"})
                self.assertFalse(check.is_valid({"id": "x"}))
                for usage in (False, True):
                    options = {"include_usage": usage, "position_events": True}
                    r = s.post(path, {**body, "stream": True, "stream_options": options})
                    lines = [line for line in r.content.split(b"\n") if not line.startswith(b"event: ")]
                    chunks = list(events(lines))
                    self.assertGreater(len(chunks), 1)
                    for chunk in chunks:
                        check.validate(chunk)

    def test_what_schemathesis_makes_of_it(self):
        with Server(*FLAGS) as s:
            found = schemathesis(s, "--max-examples", "20", "--phases", "examples,coverage,fuzzing")
            if found:
                self.fail(found)

    def test_what_schemathesis_makes_of_administration(self):
        with Keyed() as k:
            admin = k.keys("create", "--tenant", "ops", "--roles", "admin")["key"]
            wait_for("the key to be known", lambda: k.status(admin) == 403)
            found = schemathesis(k.s, "--max-examples", "20", "--phases", "examples,coverage,fuzzing", "--include-path-regex", "^/admin/",
                                 "-H", f"Authorization: Bearer {admin}")
            if found:
                self.fail(found)
