"""bench/queue: what the page says of given samples, how a client reads, and that a run of it measures our server."""
import asyncio
import copy
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock
import xml.dom.minidom

import server

BIN = os.environ["AUTOGLM_TEST_BIN"]
CALLS = pathlib.Path(BIN).parent / "bench/queue_ops/bench_queue"
HERE = pathlib.Path(__file__).resolve().parent.parent.parent / "bench/queue"
sys.path += [str(HERE.parent), str(HERE.parent / "serving")]  # what pages share; servers.py


def load(name, **known):
    """A module under a name of its own, since other benchmarks have a page too; `known`: what it imports."""
    spec = importlib.util.spec_from_file_location("queue_" + name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with unittest.mock.patch.dict(sys.modules, {spec.name: module, **known}):
        spec.loader.exec_module(module)
    return module


page, client = load("page"), load("client")
scene = load("scene", servers=types.ModuleType("servers"), client=client)


def seen(ok=100, first=50.0, gap=20.0, tokens=1000, **more):
    """What the load generator says of a class."""
    return {"requests": {"started": ok, "ok": ok, "failed": 0}, "cut": {"requests": 0, "tokens": 0}, "elapsed_s": 10.0,
            "prompt_tokens": 10 * ok, "output_tokens": tokens, "ttft_ms": {"p50": first / 2, "p99": first},
            "gap_ms": {"p50": gap, "p99": gap}, "latency_ms": {"p50": 500, "p99": 900, "buckets_us": [[500_000, ok]]}, **more}


def samples():
    """Of a server that meets every goal."""
    held = {"descriptors": 9, "rss": 100 << 20, "pages_lost": 0, "pages_used": 0, "queue_bytes": 0}
    counts = {"witnesses": 30, "different": 0, "failed": 0, "whole": 20, "early": 20, "amid": 20, "by id": 10}
    return {
        "stall": {"alone_ms": [1000, 1100, 3000],
                  "rounds": [{"quiet": [10.0] * 99 + [20.0], "during": [12.0] * 99 + [30.0], "first_ms": 2200}]},
        "urgent": {"idle": seen(first=40.0), "batch_alone": seen(), "batch": seen(), "urgent": seen(first=55.0)},
        "fair": {"alone": seen(first=40.0), "flood": seen(), "single": seen(first=70.0),
                 "shares": {"a": seen(), "b": seen(tokens=1100)}},
        "overload": {"capacity": seen(), "rate": 10.0, "deadline_ms": 1000, "loaded": seen(ok=95), "computed": 2000, "evicted": [1, 200]},
        "prefix": {"first_ms": [1000, 1200], "second_ms": [50, 60], "reused": seen(ok=50, elapsed_s=5.0),
                   "plain": seen(ok=50, elapsed_s=50.0)},
        "cancel": {"requests": 100, "counts": counts, "before": held, "after": {**held, "rss": held["rss"] + 1000}},
    }


def result(**changes):
    ours, theirs, ours_and_theirs = samples(), samples(), ("autoglm", "llama.cpp")
    r = {"date": "2026-01-01", "quick": False, "threads": 2, "model": "m<1>.gguf", "others": 0.0, "revision": "r",
         "machine": {"processor": "p & q", "cores": 2, "memory_gib": 8.0, "kernel": "k"}, "lost": {},
         "missing": {"vLLM": "it cannot be had"}, "took": {e: {n: {"seconds": 60.0, "repeats": 3} for n in ours_and_theirs} for e in ours},
         "servers": {n: {"version": "1", "flags": ["-x"], "environment": {"THREADS": "2"}} for n in ours_and_theirs},
         "samples": {e: {"autoglm": ours[e], "llama.cpp": theirs[e]} for e in ours}}
    r.update(changes)
    return r


def value(r, experiment, key):
    return next((values["autoglm"], met) for g, values, met in page.compared(r) if (g.experiment, g.key) == (experiment, key))


class Page(unittest.TestCase):
    def changed(self, experiment, change):
        r = result()
        change(r["samples"][experiment]["autoglm"])
        return r

    def test_each_goal_can_be_met_and_missed(self):
        self.assertEqual({True}, {met for _, _, met in page.compared(result())})
        for experiment, key, change in (
            ("stall", "p99_ratio", lambda x: x["rounds"][0].update(during=[13.1] * 100)),
            ("stall", "max_ratio", lambda x: x["rounds"][0].update(during=[12.0] * 99 + [41.0])),
            ("urgent", "steps_late", lambda x: x["urgent"]["ttft_ms"].update(p99=61.0)),
            ("urgent", "failed", lambda x: x["urgent"]["requests"].update(failed=1)),
            ("fair", "ratio", lambda x: x["single"]["ttft_ms"].update(p99=81.0)),
            ("fair", "off", lambda x: x["shares"]["b"].update(output_tokens=1400)),
            ("overload", "in_time", lambda x: (x["loaded"]["latency_ms"].update(buckets_us=[[500_000, 89], [1_020_000, 6]]),
                                               x.update(computed=1800))),
            ("overload", "vain", lambda x: x.update(computed=2200)),
            ("prefix", "second", lambda x: x.update(second_ms=[130, 140])),
            ("prefix", "rate_ratio", lambda x: x["plain"].update(elapsed_s=24.0)),
            ("cancel", "pages", lambda x: x["after"].update(pages_lost=-1)),
            ("cancel", "descriptors", lambda x: x["after"].update(descriptors=10)),
            ("cancel", "rss_mib", lambda x: x["after"].update(rss=(109 << 20))),
            ("cancel", "different", lambda x: x["counts"].update(different=1)),
            ("cancel", "failed", lambda x: x["counts"].update(failed=1)),
        ):
            r = self.changed(experiment, copy.deepcopy(change))
            self.assertEqual([(experiment, key)], [(g.experiment, g.key) for g, _, met in page.compared(r) if not met], key)
            self.assertEqual(1, page.text(r).count("**missed**"))

    def test_who_is_put_out_late_is_counted(self):
        self.assertEqual(0.5, page.figures(result())["overload"]["autoglm"]["behind"])
        r = self.changed("overload", lambda x: x.update(evicted=[0, 0]))
        self.assertIsNone(page.figures(r)["overload"]["autoglm"]["behind"], "of nobody")

    def test_answers_cut_off_are_computed_in_vain(self):
        def cut(x):
            x["loaded"].update(ok=95, cut={"requests": 19, "tokens": 50}, latency_ms={"p50": 500, "buckets_us": [[500_000, 76]]})
        r = self.changed("overload", cut)
        self.assertAlmostEqual(0.76, value(r, "overload", "in_time")[0])
        self.assertAlmostEqual(100 * (1 - (760 + 950) / 2000), value(r, "overload", "vain")[0])

    def test_figures_are_of_all_rounds_and_say_what_it_cost(self):
        f = page.figures(result())["stall"]["autoglm"]
        self.assertEqual((2.0, 1100, 12.0, 30.0), (f["price"], f["alone"], f["during_p99"], f["during_max"]))

    def test_one_slow_round_of_three_decides_nothing(self):
        def slow(x):
            one = x["rounds"][0]
            x["rounds"] = [one, {**one, "during": [24.0] * 100}, {**one, "during": [12.5] * 100}]
        r = self.changed("stall", slow)
        self.assertEqual((1.25, True), value(r, "stall", "p99_ratio"))
        self.assertEqual(30.0, page.figures(r)["stall"]["autoglm"]["during_max"])

    def test_what_is_missing_or_failed_is_said(self):
        r = result(quick=True, others=0.2)
        del r["samples"]["fair"], r["samples"]["prefix"]["autoglm"]
        r["lost"] = {"prefix": {"autoglm": "it fell over"}}
        for x in (r["samples"]["cancel"]["llama.cpp"][k] for k in ("before", "after")):
            del x["pages_lost"], x["pages_used"]
        text = page.text(r)
        for words in ("vLLM: unavailable. it cannot be had", "THREADS=2", "a quick run", "was not quiet: other work took 20 %",
                      "autoglm failed in \"Callers share the beginning of their prompts\"**: it fell over"):
            self.assertIn(words.lower(), text.lower())
        self.assertEqual([False, False], [met for g, _, met in page.compared(r) if g.experiment == "prefix"])
        self.assertNotIn("floods", text)
        self.assertIn("| pages of the cache lost | none | 0 | – | met |", text)
        xml.dom.minidom.parseString(page.plot(r))

    def test_who_was_measured_with_other_sizes_is_named(self):
        r = result()
        r["took"]["stall"]["llama.cpp"] = {"seconds": 60.0, "repeats": 1}
        r["samples"]["fair"]["autoglm"]["others"] = 0.156
        text = page.text(r)
        self.assertIn("stall `--seconds 60 --repeats 3` (llama.cpp `--seconds 60 --repeats 1`); urgent `--seconds 60 --repeats 3`;", text)
        self.assertRegex(text, r"\| other work, % \|[^*]*\| autoglm \|.*\| 16 \|\n")

    def test_a_variant_may_be_all_that_was_measured(self):
        r = result()
        r["samples"]["stall"] = {"autoglm, --step-ratio=300": samples()["stall"]}
        self.assertIn("stall `--seconds 60 --repeats 3`; urgent", page.text(r))

    def test_a_variant_of_a_peer_has_a_line_of_its_own(self):
        r = result()
        r["samples"]["stall"]["llama.cpp, -ub 256"] = samples()["stall"]
        self.assertIn("\n| llama.cpp, -ub 256 |", page.text(r))

    def test_the_plot_has_a_bar_for_each_goal_and_server_and_the_page_takes_both(self):
        plot = xml.dom.minidom.parseString(page.plot(result()))
        bars = [e for e in plot.getElementsByTagName("rect") if e.getAttribute("height") == str(page.STEP - 5)]
        self.assertEqual(2 * len(page.GOALS), len(bars))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "page.md"
            path.write_text(f"before\n{page.PLACE.begin}\nold\n{page.PLACE.end}\nafter\n")
            page.put(path, result())
            text = path.read_text()
            self.assertTrue(text.startswith("before\n") and text.endswith("\nafter\n") and "\nold\n" not in text)
            self.assertTrue((pathlib.Path(folder) / "page.svg").exists())


class Client(unittest.TestCase):
    def ask(self, *parts, **more):
        """What becomes of an answer that comes in these parts."""
        async def go():
            async def serve(reader, writer):
                await reader.readuntil(b"\r\n\r\n")
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                writer.close()
            listening = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = listening.sockets[0].getsockname()[1]
            async with listening:
                return await client.ask(f"http://127.0.0.1:{port}", {"prompt": "x"}, **more)
        return asyncio.run(go())

    def test_events_may_be_cut_anywhere(self):
        events = ({"choices": [{"text": "one "}]}, {"choices": [{"text": "zwölf", "finish_reason": "length"}]},
                  {"choices": [], "usage": {"prompt_tokens": 3}})
        body = ("".join(f"data: {json.dumps(e, ensure_ascii=False)}\r\n\r\n" for e in events) + "data: [DONE]\n\n").encode()
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + 7]), body[i:i + 7]) for i in range(0, len(body), 7)) + b"0\r\n\r\n"
        for head, sent in ((b"Transfer-Encoding: chunked", chunks), (b"Content-Length: %d" % len(body), body),
                           (b"Connection: close", body)):
            a = self.ask(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n", sent)
            self.assertEqual(("one zwölf", 2, {"prompt_tokens": 3}, True), (a.text, len(a.times), a.usage, a.whole()), a.error)

    def test_what_is_no_whole_answer_is_none(self):
        event = b'data: {"choices": [{"text": "one"}]}\n'
        half = self.ask(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"%x\r\n%s\r\n" % (len(event), event))
        self.assertEqual((False, 1, True), (half.whole(), len(half.times), bool(half.error)))
        refused = self.ask(b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nfull")
        self.assertEqual((False, 503, "full"), (refused.whole(), refused.status, refused.error))
        left = self.ask(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n", event * 20, enough=1)
        self.assertFalse(left.whole())


class Commands(unittest.TestCase):
    def test_a_server_is_started_for_what_is_asked_of_it(self):
        def command(name, words, **more):
            engine = types.SimpleNamespace(name=name, command=words.split(), extra={"cache_prompt": False}, environment=None)
            command, extra, _ = scene.prepared(engine, 8, 512, **more)
            return " ".join(command), extra["cache_prompt"]
        self.assertEqual(("a serve", False), command("autoglm", "a serve"))
        self.assertEqual(("a serve --prefix-cache=no", False), command("autoglm", "a serve", reuse=False))
        llama = "l --no-cache-prompt -cram 0 -fa on"
        self.assertEqual(("l -fa on -np 8 -c 4096 --metrics", True), command("llama.cpp", llama, reuse=True))
        self.assertEqual((llama + " -np 8 -c 4096 --metrics", False), command("llama.cpp", llama))
        vllm, limits = "v --max-model-len 256 --max-num-seqs 64 --no-enable-prefix-caching", "--max-model-len 512 --max-num-seqs 8"
        self.assertEqual((f"v {limits}", False), command("vLLM", vllm, reuse=True))
        self.assertEqual((f"v --no-enable-prefix-caching {limits} --scheduling-policy priority --x", False),
                         command("vLLM", vllm, urgency=True, more=["--x"]))

    def test_peers_are_not_told_what_only_we_know(self):
        c = {"tenant": "t", "timeout": "1s", "clients": 2}
        self.assertEqual("x:tenant=t:timeout=1s:clients=2", scene.kind("autoglm", "x", **c))
        self.assertEqual("x:clients=2", scene.kind("vLLM", "x", **c))


class Run(unittest.TestCase):
    def run_it(self, *args, want=0):
        done = subprocess.run([sys.executable, str(HERE / "run"), *args], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=300)
        self.assertEqual(want, done.returncode, done.stderr)
        return done

    def test_our_server_is_measured_and_shown_again_without_measuring(self):
        with tempfile.TemporaryDirectory() as folder:
            kept = os.path.join(folder, "kept.json")
            args = ["--quick", "--seconds", "4", "--binary", BIN, "--model", server.long_model(), "--json", kept,
                    "--without", "llama.cpp", "--vllm-python", "/nowhere/python"]
            done = self.run_it(*args)
            r = json.loads(pathlib.Path(kept).read_text())
            self.assertEqual(({}, set(page.TITLES)), (r["lost"], set(r["samples"])), done.stderr)
            self.assertEqual(["autoglm"], list(r["servers"]))
            self.assertIn("vLLM", r["missing"])
            self.assertNotIn(str(HERE.parent.parent), done.stdout)
            for key in ("pages", "descriptors", "different", "failed"):
                self.assertEqual((0, True), value(r, "cancel", key), key)
            self.assertEqual(40, r["samples"]["cancel"]["autoglm"]["requests"])
            self.assertEqual(done.stdout, self.run_it("--render", "--json", kept).stdout)
            longer = [*args, "--only", "prefix", "--repeats", "2"]
            self.assertIn("prefix, autoglm: was measured with other sizes", self.run_it(*longer).stderr)
            new = json.loads(pathlib.Path(kept).read_text())
            self.assertEqual(2, len(new["samples"]["prefix"]["autoglm"]["first_ms"]))
            self.assertEqual(r["samples"]["cancel"], new["samples"]["cancel"])
            args = longer
            done = self.run_it(*args)
            again = self.run_it(*args)  # nothing is left to measure
            self.assertEqual((done.stdout, ""), (again.stdout, "".join(x for x in again.stderr.splitlines() if "autoglm:" in x)))

    def test_a_server_that_fails_does_not_end_the_run(self):
        with tempfile.TemporaryDirectory() as folder:
            broken = os.path.join(folder, "llama-server")
            pathlib.Path(broken).write_text("#!/bin/sh\necho it would not run >&2\nexit 3\n")
            os.chmod(broken, 0o755)
            args = ["--quick", "--only", "prefix", "--binary", BIN, "--model", server.long_model(), "--without", "vLLM",
                    "--json", os.path.join(folder, "kept.json"), "--llama-server", broken]
            self.assertIn("it did not start: it would not run", self.run_it(*args).stdout)

    def test_wrong_use_is_refused_before_measuring(self):
        self.assertIn("'nothing' is none of stall", self.run_it("--only", "nothing", want=2).stderr)
        with tempfile.NamedTemporaryFile(suffix=".md") as f:
            self.assertIn("there should be one line", self.run_it("--render", "--out", f.name, want=1).stderr)


@unittest.skipUnless(CALLS.exists(), "bench_queue was not built")
class Calls(unittest.TestCase):
    def test_calls_of_a_long_queue_are_timed_and_put_into_a_page(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "page.md"
            path.write_text("before\n<!-- measured: begin (bench/queue_ops/run) -->\nold\n<!-- measured: end -->\nafter\n")
            command = [sys.executable, str(HERE.parent / "queue_ops/run"), "--quick", "--binary", str(CALLS), "--out", str(path)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
            self.assertEqual(0, done.returncode, done.stderr)
            text = path.read_text()
            for words in ("20,000 requests of 200 tenants wait", "| insert | ", "| pop: the next one, taken | ", "| cancel | ", "| expire | "):
                self.assertIn(words, text)
            self.assertNotIn("\nold\n", text)


if __name__ == "__main__":
    unittest.main()
