"""bench/queue: what the page says of given figures, and that a run of it measures our server."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from server import long_model

BIN = os.environ["AUTOGLM_TEST_BIN"]
BENCH = pathlib.Path(__file__).resolve().parent.parent.parent / "bench"
HERE = BENCH / "queue"


def load(name, **known):
    """A module of bench/queue under a name of its own, since other benchmarks have a page and a run too."""
    spec = importlib.util.spec_from_file_location("queue_" + name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    before = {k: sys.modules.get(k) for k in known}
    sys.modules.update(known)
    try:
        spec.loader.exec_module(module)
    finally:
        for k, v in before.items():
            sys.modules.pop(k) if v is None else sys.modules.__setitem__(k, v)
    return module


experiments = load("experiments", servers=type(sys)("servers"))
page = load("page", experiments=experiments)


class Engine:
    def __init__(self, name, command, extra=None):
        self.name, self.command, self.extra = name, command, extra or {}


def result(**by):
    return {"date": "2026-01-01", "quick": False, "threads": 2, "model": "m.gguf", "others": 0.0, "missing": {"vLLM": "it cannot be had"},
            "machine": {"processor": "p", "cores": 2, "kernel": "k"}, "servers": {"autoglm": "1", "llama.cpp": "2"},
            "experiments": by, "failed": {}}


class Page(unittest.TestCase):
    def test_goals_are_ours_to_miss(self):
        text = page.render(result(long={"autoglm": {"gap p99 over alone": 1.31, "largest gap over alone": 2.0},
                                        "llama.cpp": {"gap p99 over alone": 40.0, "largest gap over alone": 200.0}},
                                  fair={"autoglm": {"share over the weights'": 1.2}, "llama.cpp": {"share over the weights'": 0.6}}))
        self.assertIn("| gap p99 over alone | at most 1.3 | **1.31**, missed | 40 |", text)
        self.assertIn("| largest gap over alone | at most 2 | 2 | 200 |", text)
        self.assertIn("| share over the weights' | 0.9 to 1.1 | **1.20**, missed | – |", text)
        self.assertIn("vLLM: unavailable. it cannot be had", text)

    def test_what_spoils_a_measurement_is_said(self):
        text = page.render({**result(), "others": 0.3, "quick": True})
        self.assertIn("other work took 30 % of it", text)
        self.assertIn("only show that the measurement works", text)

    def test_every_goal_is_a_figure_of_an_experiment(self):
        text = (HERE / "experiments.py").read_text()
        for figure in [*experiments.GOALS, *experiments.OURS_ONLY]:
            self.assertGreaterEqual(text.count(f'"{figure}":'), 1, figure)


class Commands(unittest.TestCase):
    def test_peers_are_started_for_what_is_asked_of_them(self):
        def command(name, words, reuse):
            return experiments.Bench(Engine(name, words.split()), "b", "quick", run=print).command(8, 512, reuse, ["--x"])
        self.assertEqual(command("autoglm", "a serve", True), ["a", "serve", "--x"])
        self.assertEqual(command("autoglm", "a serve", False), ["a", "serve", "--x", "--prefix-cache=no"])
        self.assertEqual(command("llama.cpp", "l --no-cache-prompt", True), ["l", "-np", "8", "-c", "4096"])
        self.assertEqual(command("vLLM", "v --max-model-len 256 --no-enable-prefix-caching", False),
                         ["v", "--max-model-len", "512", "--no-enable-prefix-caching"])

    def test_peers_are_not_told_what_only_we_know(self):
        for name, told in (("autoglm", "x:band=0:clients=2:timeout=1s:tenant=t"), ("llama.cpp", "x:clients=2")):
            said = []
            b = experiments.Bench(Engine(name, []), "b", "quick", run=lambda c: (said.append(c), (0, '{"classes":{"x":1}}', 0))[1])
            b.extra = {}
            self.assertEqual(b.classes("u", x={"band": 0, "clients": 2, "timeout": "1s", "tenant": "t"}), {"x": 1})
            self.assertEqual(said[0][said[0].index("--classes") + 1], told)


class Run(unittest.TestCase):
    def test_our_server_is_measured_and_shown_again_without_measuring(self):
        with tempfile.TemporaryDirectory() as folder:
            kept, out = pathlib.Path(folder, "kept.json"), pathlib.Path(folder, "page.md")
            out.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
            args = [sys.executable, str(HERE / "run"), "--quick", "--binary", BIN, "--model", long_model(), "--json", str(kept),
                    "--without", "llama.cpp", "--without", "vLLM", "--serve-flag=--ctx=65536"]
            done = subprocess.run([*args, "--only", "long,prefix,cancels", "--out", str(out)], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=600)
            self.assertEqual(done.returncode, 0, done.stderr)
            got = json.loads(kept.read_text())["experiments"]
            self.assertEqual(list(got), ["long", "prefix", "cancels"])
            for name, by in got.items():
                for figure in by["autoglm"]:
                    if figure in experiments.GOALS and experiments.GOALS[figure] == (None, 0):
                        self.assertEqual(by["autoglm"][figure], 0, figure)
            self.assertGreater(got["cancels"]["autoglm"]["stayed"], 0)
            self.assertGreater(got["long"]["autoglm"]["the long prompt's first token, ms"], 0)
            text = out.read_text()
            self.assertTrue(text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text)
            again = subprocess.run([*args, "--render"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            self.assertEqual(again.returncode, 0, again.stderr)
            self.assertIn(again.stdout.strip(), text)

    def test_what_there_is_not(self):
        done = subprocess.run([sys.executable, str(HERE / "run"), "--only", "nothing"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn("there is no 'nothing', but long, urgent", done.stderr)


if __name__ == "__main__":
    unittest.main()
