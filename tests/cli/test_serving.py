"""bench/serving: what the page says of given measurements, and that a run of it measures our server."""

import copy
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom

import tiny_models

BIN = os.environ["AUTOGLM_TEST_BIN"]
HERE = pathlib.Path(__file__).resolve().parent.parent.parent / "bench/serving"
sys.path.insert(0, str(HERE.parent))  # what pages share


def load(name):
    spec = importlib.util.spec_from_file_location("serving_" + name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page = load("page")


def one(tokens_s, first_ms, clients=1, last_ms=None, **more):
    """A round of ten requests of 100 tokens each."""
    buckets = [[first_ms * 1000, 9], [(last_ms or first_ms) * 1000, 1]]
    return {
        "requests": {"ok": 10, "failed": 0},
        "prompt_tokens": 1000,
        "output_tokens": 1000,
        "answers_without_usage": 0,
        "elapsed_s": 1000 / tokens_s,
        "ttft_ms": {"buckets_us": buckets},
        "gap_ms": {"buckets_us": [[2000, 90]]},
        "load_cpu_s": 0.1,
        "server_cpu_s": 1.0,
        **more,
    }


def result(ours, theirs):
    servers = {"autoglm": ours, "llama.cpp": theirs}
    return {
        "date": "2026-01-01",
        "quick": False,
        "rounds": 1,
        "threads": 2,
        "model": "m<1>.gguf",
        "prompt": 100,
        "answer": "32-96",
        "clients": sorted(int(c) for c in ours),
        "machine": {"processor": "p & q", "cores": 2, "memory_gib": 8.0, "kernel": "k"},
        "others": 0.0,
        "revision": "r",
        "missing": {"vLLM": "it cannot be had"},
        "servers": {
            name: {
                "version": "1",
                "flags": ["-x"],
                "clients_flags": {n: ["-np", n] for n in cells},
                "environment": {"THREADS": "2"},
                "cells": cells,
                "lost": {},
            }
            for name, cells in servers.items()
        },
    }


class Page(unittest.TestCase):
    def test_goals_are_computed_from_the_measurements(self):
        r = result(
            {"1": [one(300, 30)], "8": [one(390, 30)], "32": [one(400, 30, last_ms=160)]},
            {"1": [one(200, 60)], "8": [one(200, 60)], "32": [one(200, 100)]},
        )
        self.assertEqual(
            [(1, 1.5, True), (1, 0.5, True), (8, 1.95, False), (32, 2.0, True), (32, 1.6, False)],
            [(n, round(ratio, 3), met) for n, _, ratio, goal, met in page.compared(r) if goal],
        )
        text = page.text(r)
        self.assertEqual(2, text.count("**missed**"))
        for words in ("vLLM: unavailable. it cannot be had", "`-x`, and for one client `-np 1`; 8 clients `-np 8`", "THREADS=2"):
            self.assertIn(words, text)

    def test_the_best_peer_counts(self):
        r = result({"8": [one(300, 30)]}, {"8": [one(100, 60)]})
        r["servers"]["vLLM"] = copy.deepcopy(r["servers"]["llama.cpp"])
        r["servers"]["vLLM"]["cells"]["8"] = [one(200, 60)]
        self.assertEqual(1.5, round(page.compared(r)[0][2], 3))

    def test_a_cell_that_failed_is_shown_as_failed_and_missed_if_ours(self):
        r = result({"8": [one(300, 30)], "32": [one(300, 30)]}, {"8": [one(100, 60)], "32": [one(100, 60)]})
        r["servers"]["llama.cpp"]["lost"]["8"] = "it fell over"
        r["servers"]["autoglm"]["lost"]["32"] = "it would not start"
        text = page.text(r)
        self.assertIn("llama.cpp with 8 clients failed: it fell over", text)
        self.assertEqual(2, text.count("| **failed** |"))
        self.assertEqual(
            [(8, None), (32, False), (32, False)], [(n, met) for n, _, _, goal, met in page.compared(r) if goal]
        )
        self.assertEqual(2, page.plot(r).count(">failed<"))
        xml.dom.minidom.parseString(page.plot(r))

    def test_a_run_that_was_broken_off_says_how_far_it_came(self):
        r = result({"8": [one(300, 30)]}, {})
        r["rounds"], r["clients"] = 3, [1, 8]
        self.assertIn("autoglm with 8 clients: 1 of 3 rounds so far", page.text(r))
        xml.dom.minidom.parseString(page.plot(r))

    def test_rates_are_medians_and_quantiles_those_of_all_requests(self):
        c = page.cell([one(100, 10), one(300, 20), one(200, 30, last_ms=99)], 2)
        self.assertEqual([200, 20, 99, 30], [round(c["rate"]), c["ttft_p50"], c["ttft_max"], c["requests"]])

    def test_what_spoils_a_measurement_is_said(self):
        r = result({"8": [one(300, 30)]}, {"8": [one(100, 60, prompt_tokens=1010, requests={"ok": 9, "failed": 1})]})
        r["others"] = 0.2
        text = page.text(r)
        for words in ("was not quiet: other work took 20 %", "failed 1 of 10 requests", "different lengths of prompt"):
            self.assertIn(words, text)

    def test_the_plot_is_xml_and_the_page_takes_both(self):
        r = result({"1": [one(300, 30)]}, {"1": [one(200, 60)]})
        xml.dom.minidom.parseString(page.plot(r))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "page.md"
            path.write_text("before\n")
            with self.assertRaises(SystemExit):
                page.PLACE.check(path)
            path.write_text(f"before\n{page.PLACE.begin}\nold\n{page.PLACE.end}\nafter\n")
            page.PLACE.check(path)
            page.put(path, r)
            text = path.read_text()
            self.assertTrue(text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text)
            self.assertTrue((pathlib.Path(folder) / "page.svg").exists())


class Run(unittest.TestCase):
    def run_it(self, *args, want=0):
        done = subprocess.run(
            [sys.executable, str(HERE / "run"), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
        self.assertEqual(want, done.returncode, done.stderr)
        return done

    def test_our_server_is_measured_and_shown_again_without_measuring(self):
        with tempfile.TemporaryDirectory() as folder:
            model = tiny_models.write(folder, "llama") or os.path.join(folder, "tiny-llama-F32.gguf")
            kept = os.path.join(folder, "kept.json")
            args = [
                "--quick",
                "--binary",
                BIN,
                "--model",
                model,
                "--json",
                kept,
                "--without",
                "llama.cpp",
                "--vllm-python",
                "/nowhere/python",
            ]
            text = self.run_it(*args).stdout
            r = json.loads(pathlib.Path(kept).read_text())
            self.assertEqual(["autoglm"], list(r["servers"]))
            self.assertIn("vLLM", r["missing"])
            self.assertNotIn(str(HERE.parent.parent), text)
            for clients, requests in (("1", 2), ("2", 4)):
                got = r["servers"]["autoglm"]["cells"][clients][0]
                self.assertEqual([requests, 0], [got["requests"]["ok"], got["requests"]["failed"]])
                self.assertEqual(requests, sum(n for _, n in got["ttft_ms"]["buckets_us"]))
            self.assertIn("only show that the measurement works", text)
            self.assertEqual(text, self.run_it("--render", "--json", kept).stdout)
            again = self.run_it(*args)  # nothing is left to measure
            self.assertEqual((text, ""), (again.stdout, "".join(x for x in again.stderr.splitlines() if "round" in x)))

    def test_a_server_that_fails_does_not_end_the_run(self):
        with tempfile.TemporaryDirectory() as folder:
            model = tiny_models.write(folder, "llama") or os.path.join(folder, "tiny-llama-F32.gguf")
            broken = os.path.join(folder, "llama-server")
            pathlib.Path(broken).write_text("#!/bin/sh\necho it would not run >&2\nexit 3\n")
            os.chmod(broken, 0o755)
            kept = os.path.join(folder, "kept.json")
            args = ["--quick", "--binary", BIN, "--model", model, "--json", kept, "--without", "vLLM"]
            text = self.run_it(*args, "--llama-server", broken).stdout
            self.assertEqual(2, text.count("| **failed** |"))
            self.assertIn("llama.cpp with 2 clients failed: it did not start: it would not run", text)
            self.assertEqual({"1", "2"}, set(json.loads(pathlib.Path(kept).read_text())["servers"]["autoglm"]["cells"]))

    def test_a_page_that_cannot_take_the_result_is_refused_before_measuring(self):
        with tempfile.NamedTemporaryFile(suffix=".md") as f:
            self.assertIn("there should be one line", self.run_it("--render", "--out", f.name, want=1).stderr)


if __name__ == "__main__":
    unittest.main()
