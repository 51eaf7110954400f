"""bench/gateway: what the page says of given samples, and that a quick run of it measures our server."""
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ["AUTOGLM_TEST_BIN"]
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HERE = ROOT / "bench/gateway"
sys.path.append(str(HERE.parent))


def load(name):
    spec = importlib.util.spec_from_file_location("gateway_" + name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


page = load("page")


def result(**more):
    def sample(rate, p50, p99, **figures):
        return {"clients": 16, "answers": 10 * rate, "rate": rate, "p50_us": p50, "p99_us": p99, **figures}
    samples = {"added": {page.OURS: sample(9000, 80, 400), page.NGINX: sample(9000, 30, 90)},
               "short": {page.OURS: sample(18000, 800, 900), page.NGINX: sample(20000, 700, 800)},
               "hit": {page.OURS: sample(30000, 300, 400), page.REDIS: sample(20000, 700, 800)},
               "stream": {page.OURS: sample(1500, 60000, 70000, tokens_rate=192000)},
               "stream2": {page.OURS: sample(5000, 60000, 70000, tokens_rate=640000)},
               "tuning": {page.DEFAULTS: sample(8000, 90000, 128000), page.TUNED: sample(12000, 80000, 90000),
                          page.BATCHING: sample(16000, 90000, 120000)},
               "proxy": {page.OURS: sample(15000, 900, 1000, rss=20 << 20),
                         page.LITELLM: sample(250, 60000, 90000, rss=400 << 20)},
               "sync": {page.OURS: sample(2000, 30000, 40000), page.SYNC: sample(240, 260000, 300000)}}
    return {"date": "2026-01-02", "quick": False, "seconds": 10, "others": 0.0, "revision": "abc", "pins": ["core 0", "core 1"],
            "machine": {"processor": "A processor", "cores": 2, "kernel": "6"}, "samples": samples, "missing": {},
            "programs": {page.OURS: {"version": "autoglm 1", "flags": "serve -m null"}}, **more}


class Page(unittest.TestCase):
    def test_goals(self):
        text = page.render(result())
        self.assertIn("| requests/s against nginx sending the same bytes | at least 70 % | 90 % | yes |", text)
        self.assertIn("| requests/s against LiteLLM | at least 30 x | 60 x | yes |", text)
        self.assertIn("| memory against LiteLLM | at most 10 % | 5 % | yes |", text)
        self.assertEqual(text.count("| yes |"), len(page.ROWS))
        self.assertIn("| proxy | LiteLLM | 16 | 250 | 60,000 | 90,000 |  | 400.0 |", text)
        slow = result()
        slow["samples"]["added"][page.OURS]["p99_us"] = 501
        self.assertIn("| added time at half load, p99 | at most 500 µs | 501 µs | no |", page.render(slow))

    def test_what_is_missing_is_said(self):
        r = result(quick=True, missing={"short": "nginx is not installed (package nginx-light)"})
        del r["samples"]["short"][page.NGINX], r["samples"]["proxy"]
        text = page.render(r)
        self.assertIn("| requests/s against nginx sending the same bytes | at least 70 % | not measured |  |", text)
        self.assertEqual(text.count("not measured |"), 3)
        self.assertIn("short is not there in full: nginx is not installed", text)
        self.assertIn("A quick run", text)


class Run(unittest.TestCase):
    def test_quick(self):
        if shutil.which("h2load") is None:
            self.skipTest("h2load is not installed (package nghttp2-client)")
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        with tempfile.TemporaryDirectory() as folder:
            out, samples = pathlib.Path(folder, "gateway.md"), pathlib.Path(folder, "samples.json")
            shutil.copy(ROOT / "docs/gateway.md", out)
            done = subprocess.run([sys.executable, HERE / "run", "--quick", "--binary", BIN, "--only", "added,short,stream",
                                   "--out", out, "--json", samples], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            r = json.loads(samples.read_text())
            for experiment in ("added", "short", "stream"):
                self.assertGreater(r["samples"][experiment][page.OURS]["answers"], 0)
                if nginx and experiment != "stream":
                    self.assertGreater(r["samples"][experiment][page.NGINX]["answers"], 0)
            self.assertEqual(set(r["missing"]), set() if nginx else {"added", "short"})
            self.assertIn("autoglm", r["programs"])
            self.assertIn(done.stdout.strip(), out.read_text())
            self.assertNotIn("Not measured yet.", out.read_text())

    def test_what_is_asked_for_must_be_known(self):
        done = subprocess.run([sys.executable, HERE / "run", "--only", "speed"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("speed is not one of added", done.stderr)
