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

    def test_what_is_printed_as_json_is_json(self):
        for isa in ("auto", "all"):
            out = json.loads(run("bench", "-m", self.model, "-p", "1,16", "-n", "1", "-b", "1,3", "--context", "0,5", "-r", "1",
                                 "--isa", isa, "--json").stdout)
            for one in out if isa == "all" else [out]:
                self.assertEqual([2, 4], [len(one["prefill"]), len(one["decode"])])
                self.assertTrue(all(0 < x["tok_s"] < 1e12 for x in one["prefill"] + one["decode"]))
        self.assertGreater(json.loads(run("compile", self.model, "--json").stdout)["operations"], 10)
        self.assertGreater(json.loads(run("perplexity", "-m", self.model, "-f", self.text, "-c", "16", "--json").stdout)["perplexity"], 1)

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
