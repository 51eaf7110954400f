"""`autoglm quantize` from outside: what is in the file, what is refused, and that a failure leaves nothing behind."""
import fcntl
import json
import os
import pathlib
import re
import resource
import signal
import struct
import subprocess
import tempfile
import unittest

import numpy as np

import gguf_writer as gw
import tiny_models
from gguf_reader import Reader

BIN = os.environ["AUTOGLM_TEST_BIN"]
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_S", "Q4_K_M", "Q4_K", "Q5_K_S", "Q5_K_M", "Q5_K", "Q6_K"]
# Relative RMS error on the models' random weights, at most.
ERRORS = {"F32": 1e-7, "F16": 3e-4, "BF16": 2e-3, "Q8_0": 0.006, "Q4_0": 0.09, "Q4_1": 0.08, "Q5_0": 0.045, "Q5_1": 0.04, "Q4_K": 0.08,
          "Q5_K": 0.04, "Q6_K": 0.019}
MISFIT = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def widest():
    """A small model whose rows are whole blocks of 256."""
    b = tiny_models.Builder("llama", "F32")
    b.v = tiny_models.widen(b.v)
    b.hd = b.v["head_dim"]
    return b.build("llama")


def run(*args, want=0, **more):
    done = subprocess.run([BIN, "quantize", *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=120, **more)
    assert done.returncode == want, (args, done.returncode, done.stdout, done.stderr)
    return done


class Quantize(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.made = tempfile.TemporaryDirectory(prefix="autoglm-quantize-")
        cls.addClassCleanup(cls.made.cleanup)
        cls.models = pathlib.Path(cls.made.name)
        cls.wide = widest().write(cls.models / "wide.gguf")
        cls.narrow = tiny_models.build("llama-tied").write(cls.models / "narrow.gguf")

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="autoglm-quantize-")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)
        self.out = self.dir / "out.gguf"

    def refused(self, sentence, *args, want=2, **more):
        with self.subTest(args=args):
            before = sorted(self.dir.iterdir())
            done = run(*args, want=want, **more)
            self.assertIn(sentence, done.stderr)
            self.assertEqual(before, sorted(self.dir.iterdir()))

    def model(self, data, kind="F32", shape=(32, 4), name="blk.0.attn_q.weight", **more):
        w = gw.Writer(**more)
        w.add("general.architecture", "llama")
        w.tensor(name, shape, kind, data)
        return w

    def test_every_type_and_source(self):
        ids = dict(zip(TYPES, [0, 1, 32, 7, 2, 3, 8, 9, 14, 15, 15, 16, 17, 17, 18]))
        for model in (self.wide, self.narrow):
            source = Reader(model)
            for kind in TYPES:
                with self.subTest(model=model.name, kind=kind):
                    told = json.loads(run(model, self.out, kind.lower(), "--json", "--force").stdout)
                    made = Reader(self.out)
                    self.assertEqual((3, ids[kind], 2), (made.version, made.u32("general.file_type"), made.u32("general.quantization_version")))
                    for key, value in source.keys.items():
                        self.assertEqual(value, made.keys[key], key)
                    self.assertEqual(list(source.tensors), list(made.tensors))
                    self.assertEqual([t["name"] for t in told["tensors"]], list(made.tensors))
                    self.assertTrue(all(o % 32 == 0 for o in made.offsets))
                    for row in told["tensors"]:
                        shape, was, data = source.tensors[row["name"]]
                        x, (_, now, blocks) = gw.dequantize(was, data), made.tensors[row["name"]]
                        self.assertEqual(shape, made.tensors[row["name"]][0])
                        y = gw.dequantize(now, blocks)
                        error = np.sqrt(((y - x) ** 2).sum() / (x ** 2).sum())
                        self.assertLess(error, ERRORS[now] + 1e-12, row)
                        self.assertAlmostEqual(error, row["error"], delta=1e-6 + error * 1e-3)
                        self.assertEqual((was, now, len(data), len(blocks)), (row["from"], row["to"], row["bytes_before"], row["bytes_after"]))
                        if len(shape) == 1:
                            self.assertEqual("F32", now)
                        elif row["name"] in ("output.weight", "token_embd.weight") and ("output.weight" == row["name"]) == (model is self.wide):
                            best = "Q6_K" if kind[0] == "Q" and kind != "Q8_0" else kind
                            self.assertEqual(best if shape[0] % 256 == 0 else MISFIT.get(best, best), now)
                        elif "attn_q." in row["name"]:
                            base = kind if kind == "Q6_K" else re.sub("_K_.", "_K", kind)
                            self.assertEqual(base if shape[0] % 256 == 0 else MISFIT.get(base, base), now)
                    self.assertEqual(sum(len(t[2]) for t in made.tensors.values()), told["bytes_after"])

    def test_sources_threads_and_splits_give_the_same_bytes(self):
        w, want = widest(), None
        run(self.wide, self.dir / "f16.gguf", "F16")
        run(self.wide, self.dir / "f32.gguf", "F32")
        self.assertEqual({n: t for n, t in Reader(self.wide).tensors.items()}, Reader(self.dir / "f32.gguf").tensors)
        for n in (1, 2, 5):
            run(self.wide, self.out, "Q4_K_M", "--force", "--threads", n)
            want = want or self.out.read_bytes()
            self.assertEqual(want, self.out.read_bytes())
        first = w.write_split(str(self.dir / "split"), 3)[0]
        run(first, self.out, "Q4_K_M", "--force")
        self.assertEqual(want, self.out.read_bytes())
        self.refused("is the file that is read", first, self.dir / "split-00002-of-00003.gguf", "Q4_K_M", "--force")
        self.refused("one part of many", first, self.dir / "new-00001-of-00003.gguf", "Q4_K_M")

    def test_alignment_shapes_and_names_stay(self):
        w = gw.Writer(version=2, alignment=256)
        w.add("general.architecture", "llama")
        w.add("general.file_type", 1)
        w.add("t.words", ["a", "", "\u00e9"])
        rng = np.random.default_rng(1)
        for i, (name, shape, kind) in enumerate([
                ("blk.0.ffn_down_exps.weight", (256, 3, 2), "F16"), ("blk.0.ffn_gate_inp.weight", (256, 3), "F32"), ("rope_freqs.weight", (5,), "F32"),
                ("blk.0.attn_q_norm.weight", (32, 2), "F16"), ("output_norm.weight", (7,), "BF16"), ("blk.0.ffn_up.weight", (31, 3), "BF16"),
                ("blk.0.attn_k.weight", (32, 1, 1, 5), "F32"), ("other", (32, 2), "F16")]):
            w.tensor(name, shape, kind, gw.quantize(kind, rng.normal(0, 1 + i, int(np.prod(shape)))))
        source = Reader(w.write(self.dir / "in.gguf"))
        done = run(self.dir / "in.gguf", self.out, "Q4_K", "--pure")
        made = Reader(self.out)
        self.assertEqual(256, made.alignment)
        self.assertTrue(all(o % 256 == 0 for o in made.offsets))
        self.assertEqual({n: t[0] for n, t in source.tensors.items()}, {n: t[0] for n, t in made.tensors.items()})
        self.assertEqual(["Q4_K", "F32", "F32", "F16", "F32", "F16", "Q5_0", "F16"], [t[1] for t in made.tensors.values()])
        self.assertEqual(source.keys["t.words"], made.keys["t.words"])
        self.assertEqual(source.tensors["other"], made.tensors["other"])
        self.assertIn("1 tensors are F16 in place of Q4_K, whose blocks of 256 do not divide their rows (blk.0.ffn_up.weight: 31)", done.stderr)
        self.assertIn("1 tensors are Q5_0 in place of Q4_K", done.stderr)

    def test_what_is_printed(self):
        done = run(self.wide, self.out, "Q8_0")
        lines = done.stdout.splitlines()
        self.assertEqual(len(Reader(self.out).tensors) + 1, len(lines))
        self.assertRegex(lines[1], r"^output\.weight +256 x \d+ +F32 -> Q8_0 +\d+\.\d+ MiB +error 0\.00[45]\d+$")
        self.assertRegex(lines[-1], r"out\.gguf: \d+\.\d MiB -> \d+\.\d MiB, 8\.\d+ bits a weight, error 0\.00\d+, \d+\.\d s$")
        self.assertEqual("", done.stderr)

    def test_check_tells_perplexity_before_and_after(self):
        text = self.dir / "text"
        text.write_text("the little house in the forest " * 20, encoding="utf-8")
        told = json.loads(run(self.narrow, self.out, "Q8_0", "--check", text, "--window", 16, "--json").stdout)
        for when, model in (("before", self.narrow), ("after", self.out)):
            alone = subprocess.run([BIN, "perplexity", "-m", model, "-f", text, "-c", "16", "--json"], capture_output=True, timeout=120, check=True)
            self.assertEqual(json.loads(alone.stdout)["perplexity"], told[f"perplexity_{when}"])
        self.assertLess(abs(told["perplexity_after"] / told["perplexity_before"] - 1), 0.1)
        self.assertRegex(run(self.narrow, self.out, "Q8_0", "--check", text, "-c", "16", "--force").stdout.splitlines()[-1],
                         r"^perplexity [\d.]+ \+/- [\d.]+ before, [\d.]+ \+/- [\d.]+ after \([+-][\d.]+ %\)$")
        self.out.unlink()
        self.refused("one window of 512 is needed", self.narrow, self.out, "Q8_0", "--check", "/dev/null")
        self.refused("cannot be opened", self.narrow, self.out, "Q8_0", "--check", self.dir / "none", want=1)

    def test_refusals(self):
        out = self.out
        self.refused("an argument is missing", self.wide, out)
        self.refused("'Q3_K' is not a type that can be written; these are: F32, F16, BF16, Q8_0", self.wide, out, "Q3_K")
        self.refused("cannot be opened", self.dir / "none.gguf", out, "Q8_0", want=1)
        self.refused("is the file that is read", self.wide, self.wide, "Q8_0", "--force")
        os.symlink(self.wide, self.dir / "link.gguf")
        self.refused("is the file that is read", self.wide, self.dir / "link.gguf", "Q8_0", "--force")
        self.refused("is there and is not a file", self.wide, self.dir, "Q8_0", "--force")
        self.refused("cannot be written: No such file", self.wide, self.dir / "no" / "out.gguf", "Q8_0", want=1)
        out.write_bytes(b"mine")
        self.refused("is there already; --force replaces it", self.wide, out, "Q8_0")
        self.assertEqual(b"mine", out.read_bytes())

    def test_quantized_weights_are_only_taken_when_told(self):
        run(self.wide, self.dir / "q8.gguf", "Q8_0")
        self.refused("is Q8_0 already", self.dir / "q8.gguf", self.out, "Q4_0")
        run(self.dir / "q8.gguf", self.out, "Q4_0", "--allow-requantize")
        run(self.dir / "q8.gguf", self.out, "Q8_0", "--allow-requantize", "--force")
        self.assertEqual((self.dir / "q8.gguf").read_bytes(), self.out.read_bytes())  # nothing is rounded twice into one type

    def test_weights_that_are_no_numbers(self):
        rng = np.random.default_rng(1)
        for at, value, says in ((0, np.nan, "weight 0 of row 0 is NaN"), (19999 * 256 + 255, np.inf, "weight 255 of row 19999 is infinite"),
                                (77 * 256 + 5, -np.inf, "weight 5 of row 77 is infinite"), (256, 1e30, "row 1")):
            x = rng.normal(0, 1, 20000 * 256).astype("<f4")
            x[at] = value
            path = self.model(x.tobytes(), shape=(256, 20000)).write(self.dir / "in.gguf")
            for kind in ("Q8_0", "Q4_K"):
                self.refused(f"tensor blk.0.attn_q.weight: {'weight' if value == 1e30 else ''}", path, self.out, kind, want=1)
                self.refused(says, path, self.out, kind, want=1)
        self.refused("too large for F16", self.model(struct.pack("<f", 70000) * 128).write(self.dir / "in.gguf"), self.out, "F16", want=1)

    def test_a_full_disk_leaves_nothing(self):
        def small_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
        self.refused("out.gguf: cannot be written: File too large", self.wide, self.out, "Q8_0", want=1, preexec_fn=small_files)

    def test_a_signal_leaves_nothing(self):
        w = gw.Writer()
        for i in range(400):
            w.tensor(f"blk.{i}.attn_output.weight", (32, 2), "F32", gw.quantize("F32", np.ones(64)))
        path = w.write(self.dir / "in.gguf")
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(sig=sig):
                # What it prints does not fit the pipe, so it cannot be done before we have sent the signal.
                # Whoever runs us in the background may have it ignored, which quantize respects.
                with subprocess.Popen([BIN, "quantize", path, self.out, "Q8_0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      preexec_fn=lambda: signal.signal(sig, signal.SIG_DFL)) as p:
                    fcntl.fcntl(p.stdout, fcntl.F_SETPIPE_SZ, 4096)
                    self.assertIn(b"blk.0.", p.stdout.readline())
                    self.assertEqual(2, len(list(self.dir.iterdir())))
                    p.send_signal(sig)
                    _, err = p.communicate(timeout=120)
                self.assertEqual(-sig, p.returncode)
                self.assertIn(b"stopped by a signal", err)
                self.assertEqual([path], list(self.dir.iterdir()))

    def test_a_reader_that_leaves_costs_nothing(self):
        with subprocess.Popen([BIN, "quantize", self.wide, self.out, "Q8_0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as p:
            p.stdout.close()
            p.wait(timeout=120)
        self.assertIn(p.returncode, (1, -signal.SIGPIPE))  # the table could not be printed, but the file is there
        self.assertEqual([self.out], list(self.dir.iterdir()))
        Reader(self.out)

    def test_failures_leave_nothing(self):
        path = self.model(gw.quantize("F32", np.ones(128))).write(self.dir / "in.gguf")
        done = run(path, self.out, "Q8_0", env={**os.environ, "AUTOGLM_FAULT": "alloc:1000000"})
        if "fault:" not in done.stderr:
            self.skipTest("built without fault points")
        want = self.out.read_bytes()
        for kind in ("alloc", "open", "write", "sync", "rename", "mmap", "thread"):
            n, fired = 1, True
            while fired:
                self.out.unlink(missing_ok=True)
                done = subprocess.run([BIN, "quantize", path, self.out, "Q8_0", "--threads", "2", "--json"], stdin=subprocess.DEVNULL,
                                      capture_output=True, text=True, timeout=120, env={**os.environ, "AUTOGLM_FAULT": f"{kind}:{n}"})
                fired = "fault: fired" in done.stderr
                with self.subTest(kind=kind, n=n):
                    self.assertIn(done.returncode, (0, 1) if fired else (0,), done.stderr)
                    if done.returncode:
                        self.assertRegex(done.stderr, r"autoglm[ :]")
                        self.assertEqual("", done.stdout)
                        self.assertEqual([path], list(self.dir.iterdir()))
                    else:
                        self.assertEqual(want, self.out.read_bytes())
                        json.loads(done.stdout)
                n += 1
            self.assertGreater(n, 2, kind)


if __name__ == "__main__":
    unittest.main()
