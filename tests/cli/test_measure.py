"""The commands that measure a model: what they refuse, and what they print is JSON that can be read."""
import json
import os
import pathlib
import struct
import subprocess
import tempfile
import unittest

import tiny_models

BIN = os.environ["AUTOGLM_TEST_BIN"]


def run(*args, want=0):
    done = subprocess.run([BIN, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=120)
    assert done.returncode == want, (args, done.returncode, done.stdout, done.stderr)
    return done


class Measure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.model = tiny_models.write(cls.folder.name, "llama") or os.path.join(cls.folder.name, "tiny-llama-F32.gguf")
        cls.text = os.path.join(cls.folder.name, "text")
        pathlib.Path(cls.text).write_text("the little house in the forest " * 20, encoding="utf-8")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def refused(self, sentence, *args):
        with self.subTest(args=args):
            self.assertIn(sentence, run(*args, want=2).stderr)

    def test_arguments_are_refused_with_the_reason(self):
        m = ("-m", self.model)
        self.refused("--tokens is needed", "logits", *m)
        for ids in ("", "1,", ",1", "1;2", "-1", "99999999999"):
            self.refused("ids with commas between", "logits", *m, "--tokens", ids)
        self.refused("not in the vocabulary", "logits", *m, "--tokens", "1,999999")
        self.refused("from 1 to 64", "logits", *m, "--tokens", "1", "--chunk", "65")
        self.refused("not known or does not run here", "logits", *m, "--tokens", "1", "--isa", "mmx")
        self.refused("`autoglm compile --passes` lists them", "logits", *m, "--tokens", "1", "--no-pass", "no_such")
        self.refused("cannot be left out", "compile", self.model, "--no-pass", "memory")
        self.refused("a text is needed", "perplexity", *m)
        self.refused("more than the model's context", "perplexity", *m, "-f", self.text, "-c", "100000")
        self.refused("one window of 512 is needed", "perplexity", *m, "-f", "/dev/null")
        for flag in ("-p", "-b", "--context"):
            self.refused("with commas between", "bench", *m, flag, "1,,2")
            self.refused("with commas between", "bench", *m, flag, ",".join("1" * 17))
        self.refused("a model is needed", "compile")
        self.refused("-p 100000 is more than the model's context of", "bench", *m, "-p", "100000")
        self.refused("is more than the model's context of", "bench", *m, "--context", "100000")
        self.refused("a step has at most 512 rows", "bench", *m, "--mixed", "500", "-b", "32")
        self.refused("nothing to measure", "bench", *m, "-p", "0", "-n", "0")
        self.refused("one of them at a time", "bench", *m, "--passes", "--isa", "all")

    def test_what_is_printed_as_json_is_json(self):
        for isa in ("auto", "all"):
            out = json.loads(run("bench", "-m", self.model, "-p", "1,16", "-n", "1", "-b", "1,3", "--context", "0,5", "-r", "1",
                                 "--isa", isa, "--json").stdout)
            for one in out if isa == "all" else [out]:
                self.assertEqual([2, 4], [len(one["prefill"]), len(one["decode"])])
                self.assertTrue(all(0 < x["tok_s"] < 1e12 for x in one["prefill"] + one["decode"]))
        self.assertGreater(json.loads(run("compile", self.model, "--json").stdout)["operations"], 10)
        self.assertGreater(json.loads(run("perplexity", "-m", self.model, "-f", self.text, "-c", "16", "--json").stdout)["perplexity"], 1)

    def bench(self, *args):
        return json.loads(run("bench", "-m", self.model, "-r", "1", "--json", *args).stdout)

    def test_bench_counts_bytes_and_operations(self):
        got = self.bench("-p", "1,16", "-n", "1", "-b", "1,4", "--context", "0,5", "--mixed", "3", "--peak")
        weights, one, four = got["weight_bytes"], got["prefill"][0]["per_token"], got["prefill"][1]["per_token"]
        self.assertEqual(weights, one["weight_bytes"])
        self.assertAlmostEqual(weights / 16, four["weight_bytes"], delta=1)
        decode = {(d["batch"], d["context"]): d["per_token"] for d in got["decode"]}
        self.assertAlmostEqual(weights / 4, decode[4, 0]["weight_bytes"], delta=1)
        # The timed step stands at context + 1 and attends to itself as well: 2 and 7 tokens.
        self.assertEqual(decode[1, 0]["kv_bytes"] * 7, decode[1, 5]["kv_bytes"] * 2)
        self.assertEqual(decode[1, 0], {**decode[4, 0], "weight_bytes": weights})
        # What attention adds for 5 tokens more, it adds 5 times for one.
        more = decode[1, 5]["float_ops"] - decode[1, 0]["float_ops"]
        self.assertGreater(more, 0)
        self.assertEqual(0, more % 5)
        ops = [c["int8_ops"] + c["float_ops"] for c in (one, decode[1, 0])]
        self.assertEqual(ops[0] + more / 5, ops[1])
        mixed = got["mixed"]
        self.assertEqual([(3, 1, 0), (3, 4, 0)], [(x["tokens"], x["batch"], x["context"]) for x in mixed])
        self.assertAlmostEqual(weights / 7, mixed[1]["per_token"]["weight_bytes"], delta=1)
        for line in got["prefill"] + got["decode"] + mixed:
            for share in ("share_of_read_peak", "share_of_int8_peak"):
                self.assertGreaterEqual(line[share], 0)
            self.assertGreater(line["step_ms"], 0)

    def test_bench_reads_keys_and_values_from_memory(self):
        b = tiny_models.Builder("llama", "F32")
        b.v = {**b.v, "context": 60000}
        model = b.build("llama").write(pathlib.Path(self.folder.name) / "long.gguf")
        peaks = []
        for context in (0, 59000):
            with subprocess.Popen([BIN, "bench", "-m", model, "-r", "1", "-p", "0", "-n", "1", "-b", "1", "--kv", "f32",
                                   "--context", str(context), "--json"], stdout=subprocess.PIPE) as p:
                told = json.load(p.stdout)
                _, status, used = os.wait4(p.pid, 0)
                p.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(0, p.returncode)
            peaks.append(used.ru_maxrss * 1024)
        self.assertGreater(peaks[1] - peaks[0], 0.5 * told["decode"][0]["per_token"]["kv_bytes"])

    def test_a_piece_of_a_prompt_that_was_asked_for_is_measured_without_prompts_too(self):
        args = ("-p", "0", "-n", "1", "-b", "1")
        self.assertEqual([], self.bench(*args)["mixed"])
        self.assertEqual([3], [x["tokens"] for x in self.bench(*args, "--mixed", "3")["mixed"]])

    def test_one_that_was_not_asked_for_is_left_out_where_it_does_not_fit(self):
        got = self.bench("-p", "1", "-n", "1", "-b", "4,480")
        self.assertEqual([4, 480], [x["batch"] for x in got["decode"]])
        self.assertEqual([4], [x["batch"] for x in got["mixed"]])

    def test_bench_shows_what_each_pass_brings(self):
        rows = run("compile", "--passes").stdout.splitlines()
        listed = [row.split()[0] for row in rows if not row.endswith("(needed)")]
        passes = self.bench("--passes", "-p", "8", "-n", "2")["passes"]
        self.assertEqual(["none", *listed, "all of these"], [p["left_out"] for p in passes])
        for p in passes:
            self.assertEqual(["prefill 8 tokens", "decode 1 sequence at 128"], [line["work"] for line in p["lines"]])
            self.assertTrue(all(line["us_per_token"] > 0 and line["ratio"] > 0 for line in p["lines"]))
        self.assertLess(passes[0]["operations"], passes[-1]["operations"])
        alone = json.loads(run("compile", self.model, "--no-pass", listed[-1], "--json").stdout)
        self.assertEqual([alone["operations"], alone["stages"]], [passes[-2]["operations"], passes[-2]["stages"]])
        text = run("bench", "-m", self.model, "-r", "1", "--passes", "-p", "0", "-n", "1").stdout
        self.assertEqual(len(listed) + 5, len(text.splitlines()), text)

    def test_bench_counts_products_whose_result_is_int8_alone(self):
        model = tiny_models.build("llama", "Q8_0").write(pathlib.Path(self.folder.name) / "q8.gguf")
        got = json.loads(run("bench", "-m", str(model), "-r", "1", "-p", "4", "-n", "0", "--mixed", "0", "--json").stdout)
        self.assertGreater(got["prefill"][0]["per_token"]["int8_ops"], 0)

    def test_bench_compares_instruction_sets_in_a_table(self):
        text = run("bench", "-m", self.model, "-r", "1", "-p", "4", "-n", "1", "-b", "2", "--isa", "all",
                   "--mixed", "0").stdout
        table = text[text.index("tokens/s (of the first)"):].splitlines()
        self.assertIn("scalar", table[0])
        self.assertEqual(["prefill 4 tokens", "decode 2 sequences at 128"], [line[:40].strip() for line in table[1:]])
        self.assertTrue(all("(1.000)" in line for line in table[1:]), text)

    def test_bench_shows_on_a_terminal_how_far_it_is(self):
        ours, theirs = os.openpty()
        try:
            done = subprocess.run([BIN, "bench", "-m", self.model, "-r", "1", "-p", "4", "-n", "1", "-b", "1"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, timeout=120)
            os.close(theirs)
            shown = os.read(ours, 1 << 16).decode()
        finally:
            os.close(ours)
        self.assertEqual(0, done.returncode)
        self.assertIn("decode 1 sequence at 128 ", shown)
        self.assertTrue(shown.endswith("\r\x1b[K"), "the line goes away")

    def test_a_model_without_numbers_has_no_perplexity(self):
        damaged = os.path.join(self.folder.name, "damaged.gguf")
        data = bytearray(pathlib.Path(self.model).read_bytes())
        data[-4 * 64:] = struct.pack("<f", float("nan")) * 64
        pathlib.Path(damaged).write_bytes(data)
        done = run("perplexity", "-m", damaged, "-f", self.text, "-c", "16", "--json", want=1)
        self.assertIn("logits that are not numbers", done.stderr)
        self.assertEqual("", done.stdout)


if __name__ == "__main__":
    unittest.main()
