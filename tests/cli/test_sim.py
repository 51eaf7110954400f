"""`autoglm sim` from outside: what it prints of the scenarios that come with it, and what it says of wrong ones."""
import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

from server import tiny_model

BIN = os.environ["AUTOGLM_TEST_BIN"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
SCENARIOS = ROOT / "docs" / "scenarios"
SMALL = """\
name: a <small> & quick one
seconds: 20
machines: {count: 2, step: {rows: {1: 10, 64: 14, 512: 60}}, pages: 256}
tenants: {left: {count: 2}, right: {weight: 3}}
classes:
  ask: {tenants: left, band: 1, arrive: {rate: 5}, prompt: {mean: 100}, answer: 20}
  batch: {tenants: right, band: 3, arrive: {callers: 4}, prompt: {from: 50, to: 500}, answer: {mean: 40}}
"""


def sim(*args, want=0):
    done = subprocess.run([BIN, "sim", *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=300)
    assert done.returncode == want, (args, done.returncode, done.stdout[-2000:], done.stderr)
    return done


class Sim(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="autoglm-sim-")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def scenario(self, text, name="s.yaml"):
        path = self.dir / name
        path.write_text(text)
        return path

    def test_json(self):
        path = self.scenario(SMALL)
        done = sim(path, "--json")
        self.assertEqual(done.stderr, "")  # no bar where nobody looks
        o = json.loads(done.stdout)
        self.assertEqual((o["name"], o["seed"], o["seconds"]), ("a <small> & quick one", 1, 20.0))
        self.assertEqual(set(o["classes"]), {"ask", "batch"})
        self.assertEqual(set(o["tenants"]), {"left", "right"})
        ways = ["done", "refused_full", "refused_late", "refused_other", "displaced", "expired", "timed_out", "cancelled", "unfinished"]
        for part in [o["all"], *o["classes"].values(), *o["tenants"].values()]:
            self.assertEqual(part["asked"], sum(part[w] for w in ways))
            for times in ("wait_ms", "ttft_ms", "gap_ms", "latency_ms"):
                t = part[times]
                self.assertLessEqual(t["p50"], t["p99"])
                self.assertLessEqual(t["p99"], t["max"])
        self.assertEqual(o["all"]["asked"], sum(c["asked"] for c in o["classes"].values()))
        self.assertAlmostEqual(o["classes"]["ask"]["asked"], 100, delta=35)
        self.assertEqual(o["classes"]["ask"]["output_tokens"], 20 * o["classes"]["ask"]["done"])
        self.assertGreater(o["classes"]["ask"]["ttft_ms"]["p50"], 10)  # a step takes that long
        over = o["over_time"]
        self.assertEqual({len(over[k]) for k in ("waiting", "running", "busy")}, {80})
        self.assertEqual(len(over["ttft_ms"]["ask"]["p95"]), 80)
        self.assertLessEqual(o["machines"]["busy"], 1)

    def test_same_seed_same_result(self):
        path = self.scenario(SMALL)
        first, again, other = sim(path, "--json"), sim(path, "--json", "--seed", 1), sim(path, "--json", "--seed", 2)
        self.assertEqual(first.stdout, again.stdout)
        self.assertNotEqual(json.loads(first.stdout)["all"], json.loads(other.stdout)["all"])

    def test_more_machines(self):
        path = self.scenario(SMALL)
        two, eight = (json.loads(sim(path, "--json", *more).stdout) for more in ([], ["--machines", 8]))
        self.assertEqual((two["machines"]["count"], eight["machines"]["count"]), (2, 8))
        self.assertLess(eight["machines"]["busy"], two["machines"]["busy"])
        sim(path, "--machines", 0, want=2)
        sim(path, "--machines", 10001, want=2)

    def test_table(self):
        out = sim(self.scenario(SMALL)).stdout
        lines = out.splitlines()
        self.assertEqual(lines[0], "a <small> & quick one")
        rows = {line.split()[0]: line.split()[1:] for line in lines if line and line.split()[0] in ("ask", "batch", "all", "left", "right")}
        self.assertEqual(set(rows), {"ask", "batch", "all", "left", "right"})
        heads = [line for line in lines if " asked " in line]
        for name, cells in rows.items():
            self.assertEqual(len(cells), 14, name)
            self.assertEqual(int(cells[0]), sum(map(int, cells[1:7])), name)
        self.assertEqual({len(line) for line in heads} | {len(line) for line in lines if line.startswith(("ask", "left"))}, {len(heads[0])})
        self.assertIn("; all served after ", lines[1])
        cut = sim(self.scenario(SMALL.replace("seconds: 20", "seconds: 20\ndrain: 0"))).stdout.splitlines()[1]
        self.assertIn("; played for ", cut)
        self.assertRegex(out, r"machines were busy \d+\.\d % of the time, in \d+ steps")

    def test_svg(self):
        path, svg = self.scenario(SMALL), self.dir / "plot.svg"
        sim(path, "--svg", svg)
        root = xml.etree.ElementTree.fromstring(svg.read_text())
        texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
        for wanted in ("a <small> & quick one", "ask", "batch", "left", "right", "waiting", "running", "Machines busy"):
            self.assertIn(wanted, texts)
        self.assertIn("prefers-color-scheme:dark", svg.read_text())
        self.assertNotRegex(svg.read_text(), r"(href|src)=|url\(|\bnan\b|\binf\b")  # whole in itself
        done = sim(path, "--svg", self.dir / "no" / "plot.svg", want=1)
        self.assertIn("cannot be written", done.stderr)

    def test_scenarios_that_come_with_it(self):
        """Each of them, shortened, the fleets with a tenth or a hundredth of their machines and callers."""
        names = sorted(p.name for p in SCENARIOS.glob("*.yaml"))
        self.assertEqual(len(names), 6)
        for name in names:
            with self.subTest(name):
                text = (SCENARIOS / name).read_text()
                part = 100 if name.startswith("100000-") else 10 if name.startswith("1000-") else 1
                seconds, warmup = ("2", "1") if part == 100 else ("10", "2") if part == 10 else ("20", "5")
                text = re.sub(r"^seconds: .*", f"seconds: {seconds}", text, flags=re.M)
                text = re.sub(r"^warmup: .*", f"warmup: {warmup}", text, flags=re.M)
                text = re.sub(r"(^  count|rate|burst): (\d+)", lambda m: f"{m[1]}: {max(int(m[2]) // part, 1)}", text, flags=re.M)
                o = json.loads(sim(self.scenario(text, name), "--json").stdout)
                self.assertGreater(o["all"]["done"], 0)
                self.assertIn(f"scenarios/{name}", (ROOT / "docs" / "sim.md").read_text())

    def test_documented_scenario_is_one(self):
        block = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "sim.md").read_text(), re.S).group(1)
        o = json.loads(sim(self.scenario(block.replace("seconds: 600 ", "seconds: 70 ")), "--json").stdout)
        self.assertGreater(o["classes"]["chat"]["done"], 0)

    def test_times_of_a_bench(self):
        bench = {"decode": [{"batch": b, "context": 128, "step_ms": 10 + b} for b in (1, 8, 64)],
                 "prefill": [{"tokens": 512, "tok_s": 512 / 0.522, "step_ms": 522}], "mixed": []}
        (self.dir / "machine.json").write_text(json.dumps(bench))
        text = SMALL.replace("step: {rows: {1: 10, 64: 14, 512: 60}}", "bench: machine.json")
        o = json.loads(sim(self.scenario(text), "--json").stdout)
        self.assertGreater(o["all"]["gap_ms"]["p50"], 11)
        (self.dir / "machine.json").write_text("{}")
        self.assertIn("machine.json: no step times", sim(self.scenario(text), want=2).stderr)

    def test_times_as_bench_prints_them(self):
        command = [BIN, "bench", "-m", tiny_model(), "-p", "16", "-n", "2", "-b", "1,2", "--context", "8", "--mixed", "8", "-r", "1",
                   "--threads", "1", "--json"]
        (self.dir / "machine.json").write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300).stdout)
        text = SMALL.replace("step: {rows: {1: 10, 64: 14, 512: 60}}", "bench: machine.json")
        o = json.loads(sim(self.scenario(text), "--json").stdout)
        self.assertGreater(o["all"]["gap_ms"]["p50"], 0)

    def test_what_is_wrong_is_said(self):
        for text, sentence in ((SMALL.replace("rate: 5", "rate: -5"), "s.yaml:6: classes.ask.arrive.rate: -5 should be a number from"),
                               (SMALL.replace("band: 1", "bnad: 1"), "s.yaml:6: classes.ask.bnad: there is no such word here; did you"),
                               ("", "s.yaml: is empty")):
            done = sim(self.scenario(text), want=2)
            self.assertIn(sentence, done.stderr)
            self.assertEqual(done.stdout, "")
        self.assertIn("cannot be opened", sim(self.dir / "none.yaml", want=1).stderr)
        sim(want=2)
        sim(self.scenario(SMALL), "--seed", "x", want=2)


if __name__ == "__main__":
    unittest.main()
