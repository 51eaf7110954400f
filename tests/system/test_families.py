"""Every model family and tensor type on numbers: `autoglm logits` against the float64 reference in tests/lib/ref_model.py.

Where the tolerance comes from: the engine rounds K and V to float16, and what it multiplies with quantized weights to int8 in
blocks of 32. The reference can do both; how far this moves its own logits is measured for each model, and the engine may be
half as far again from the exact ones. Float weights leave only K and V to round, which falls nearly always as in the
reference: there the engine must be within a quarter of that from the rounded ones. A wrong rotation, norm, scale or mask is
ten to a thousand times as far. Where the best instruction set rounds to bfloat16 too, it may be half as far again as that
moves the reference, and AVX-512 alone, which does not, is held to the rest.
"""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import numpy as np

import gguf_writer
import ref_model
import tiny_models

BIN = os.environ.get("AUTOGLM_TEST_BIN")
FAST = os.environ.get("AUTOGLM_TEST_BIN_RELEASE") or BIN
MODEL = os.environ.get("AUTOGLM_TEST_MODEL")
DATA = pathlib.Path(os.environ.get("AUTOGLM_TEST_DATA") or pathlib.Path(__file__).parents[3] / "shared/data") / "models"
STORY = """Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, \
red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, "I want to play with your \
ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she"""
QUANTIZED = [kind for kind in gguf_writer.TYPES if kind not in ("F32", "F16", "BF16")]
# Float additions in another order, exp and tanh by polynomials.
FLOAT_NOISE = 2e-5


def sequence(vocab, n=40, seed=5):
    """Ids from the ordinary part of a tiny vocabulary; the window of the windowed variants is 8."""
    return [int(t) for t in np.random.default_rng(seed).integers(3, vocab, n)]


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


class Commands(unittest.TestCase):
    """What the tests below share: a folder of models and the command's answers as arrays."""

    program = BIN

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="autoglm-families-")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def call(self, *args):
        command = [self.program, *map(str, args)]
        done = subprocess.run(command, capture_output=True, timeout=300)
        self.assertEqual(done.returncode, 0, f"{' '.join(command)[:300]}\n{done.stderr.decode(errors='replace')[-3000:]}")
        return done.stdout

    def logits(self, model, tokens, *more):
        raw = self.dir / "rows.f32"
        self.call("logits", "-m", model, "--tokens", ",".join(map(str, tokens)), "--raw", raw, *more)
        rows = np.fromfile(raw, "<f4")
        self.assertEqual(rows.size % len(tokens), 0, f"{rows.size} floats for {len(tokens)} positions")
        return rows.reshape(len(tokens), -1).astype(np.float64)

    def ids(self, model, text):
        return json.loads(self.call("tokenize", "-m", model, "--json", text))["ids"]

    def options(self):
        done = subprocess.run([self.program, "logits", "--help"], capture_output=True, timeout=60)
        return done.stdout.decode(errors="replace")

    def best(self):
        """What this machine's instruction set is called where none is asked for."""
        lines = self.call("--version").decode().splitlines()
        return next(line.split()[2] for line in lines if line.startswith("instruction set: ") and line.endswith(")"))

    def plain(self):
        """Options for the best instruction set that rounds nothing to bfloat16."""
        return ["--isa", "avx512"] if self.best() == "avx512bf16" else []

    def check(self, path, tokens, *more):
        """The engine's rows for a model are as near the exact ones as rounding allows."""
        model = ref_model.Model(str(path))
        exact = model.logits(tokens)
        if self.plain():
            self.check_pairs(path, tokens, exact, *more)
            more = (*more, *self.plain())
        rounded = ref_model.Model(str(path), rounded=True).logits(tokens)
        got = self.logits(path, tokens, *more)
        self.assertEqual(got.shape, exact.shape)
        self.assertTrue(np.isfinite(got).all(), f"{path.name}: a logit is not a number")
        want, share = (exact, 1.5) if any(kind in QUANTIZED for kind, _, _ in model.g.index.values()) else (rounded, 0.25)
        worst = int(np.abs(got - want).max(axis=1).argmax())
        self.assertLessEqual(rms(got - want), share * rms(rounded - exact) + FLOAT_NOISE * rms(exact),
                             f"{path.name}: logits (rms {rms(exact):.2f}) are too far off, most at position {worst}")

    def check_pairs(self, path, tokens, exact, *more):
        moved = rms(ref_model.Model(str(path), rounded=True, pairs=True).logits(tokens) - exact)
        self.assertLessEqual(rms(self.logits(path, tokens, *more) - exact), 1.5 * moved, f"{path.name}: with bfloat16")


class Reference(unittest.TestCase):
    """The reference itself, held against numbers that others published."""

    def test_glm4_layer(self):
        data = DATA / "glm4_model.data"
        if not data.exists():
            self.skipTest(f"{data.name} is not there")
        with tempfile.TemporaryDirectory(prefix="autoglm-families-") as folder:
            path = os.path.join(folder, "glm4.gguf")
            for tokens, rows in tiny_models.write_glm4_layer(data, path):
                got = ref_model.Model(path).logits(tokens)[-len(rows):]
                self.assertLess(np.abs(got - rows).max(), 1e-6)

    def test_story(self):
        path = DATA / "stories260K-F32.gguf"
        if not path.exists():
            self.skipTest(f"{path.name} is not there")
        model = ref_model.Model(str(path))
        pieces = model.g.keys["tokenizer.ggml.tokens"]
        text = "".join(pieces[t] for t in model.greedy([1], 30)).replace("\u2581", " ").strip()
        self.assertEqual(text, STORY[:len(text)])

    def test_quantizers(self):
        """Each type comes back within half a step of what went in."""
        x = np.random.default_rng(2).normal(0, 1, 3200)
        spread = np.ptp(x.reshape(-1, 32), axis=1).max()
        peak = np.abs(x).max()
        steps = {"F32": 1e-6, "F16": 4e-3, "BF16": 0.04, "Q8_0": peak / 127, "Q4_0": 2 * peak / 8, "Q5_0": 2 * peak / 16,
                 "Q4_1": 1.05 * spread / 15, "Q5_1": 1.05 * spread / 31}
        for kind, step in steps.items():
            back = gguf_writer.dequantize(kind, gguf_writer.quantize(kind, x))
            self.assertLess(np.abs(back - x).max(), step / 2 * 1.01, kind)


@unittest.skipUnless(BIN, "AUTOGLM_TEST_BIN is not set")
class Families(Commands):
    """One test a variant (added below): all weights F32, so only K and V are rounded."""


@unittest.skipUnless(BIN, "AUTOGLM_TEST_BIN is not set")
class FamiliesQuantized(Commands):
    """One test a variant (added below), with weights of a type whose scales and minima are packed."""


@unittest.skipUnless(BIN, "AUTOGLM_TEST_BIN is not set")
class Types(Commands):
    """One test a tensor type (added below)."""


def add_tests():
    def variant(name, kind):
        def test(self):
            path = pathlib.Path(tiny_models.write(self.dir, name, kind))
            self.check(path, sequence(250))
        return test

    def tensor_type(kind):
        def test(self):
            for name in ("llama", "glm4"):
                path = pathlib.Path(tiny_models.write(self.dir, name, kind))
                self.check(path, sequence(250))
        return test

    for name in tiny_models.VARIANTS:
        setattr(Families, "test_" + name.replace("-", "_"), variant(name, "F32"))
    for name in tiny_models.variants("Q4_K"):
        setattr(FamiliesQuantized, "test_" + name.replace("-", "_"), variant(name, "Q4_K"))
    for kind in gguf_writer.TYPES:
        setattr(Types, "test_" + kind, tensor_type(kind))


add_tests()


@unittest.skipUnless(BIN, "AUTOGLM_TEST_BIN is not set")
class Whole(Commands):
    """What must hold whatever the family: length, pieces, files."""

    def test_long(self):
        """Past several KV pages and prefill chunks, and past the window by far."""
        for name in ("llama-rope3", "gemma3", "phi3-window", "phi3-longrope"):
            with self.subTest(name):
                self.check(pathlib.Path(tiny_models.write(self.dir, name)), sequence(250, 300))

    def test_prefix_is_the_same(self):
        """A row depends on what came before it alone, to the last bit, however much follows."""
        for name, kind in (("llama", "F32"), ("llama", "Q4_K"), ("qwen3", "Q8_0"), ("gemma3", "BF16")):
            with self.subTest(f"{name} {kind}"):
                path = tiny_models.write(self.dir, name, kind)
                tokens = sequence(250, 150)
                whole = self.logits(path, tokens)
                for n in (1, 2, 17, 64, 65, 149):
                    part = self.logits(path, tokens[:n])
                    self.assertTrue((part == whole[:n]).all(), f"the first {n} rows differ")

    def test_chunks_are_the_same(self):
        if "--chunk" not in self.options():
            self.skipTest("logits has no --chunk")
        path = tiny_models.write(self.dir, "gemma3", "Q8_0")
        tokens = sequence(250, 150)
        whole = self.logits(path, tokens)
        for chunk in (1, 7, 64):
            self.assertTrue((self.logits(path, tokens, "--chunk", chunk) == whole).all(), f"chunks of {chunk} differ")

    def test_split_and_old_files(self):
        """The same model in three parts, and as GGUF v2, gives the same bits."""
        tokens = sequence(250)
        model = tiny_models.build("llama", "Q5_K")
        whole = self.logits(model.write(self.dir / "whole.gguf"), tokens)
        parts = model.write_split(str(self.dir / "parts"), 3)
        self.assertTrue((self.logits(parts[0], tokens) == whole).all(), "split")
        model.version = 2
        self.assertTrue((self.logits(model.write(self.dir / "old.gguf"), tokens) == whole).all(), "v2")

    def test_tokenizers(self):
        """The tiny models' own vocabularies carry any text there and back."""
        text = "the little river, K\u00e4se \u6c34!\n\ttwo"
        for name in tiny_models.VARIANTS:
            with self.subTest(name):
                path = tiny_models.write(self.dir, name)
                ids = self.call("tokenize", "-m", path, "--no-bos", text).decode().split()
                self.assertEqual(self.call("detokenize", "-m", path, *ids).decode().strip("\n"), text)

    def test_glm4_layer(self):
        """Published inputs and outputs of one GLM-4 layer, as a prompt of three and two single steps."""
        data = DATA / "glm4_model.data"
        if not data.exists():
            self.skipTest(f"{data.name} is not there")
        path = self.dir / "glm4.gguf"
        for tokens, rows in tiny_models.write_glm4_layer(data, path):
            self.assertLess(np.abs(self.logits(path, tokens, "--kv", "f32")[-len(rows):] - rows).max(), 1e-4)
            # K and V as float16 are 2.0e-4 away and nothing else is: the reference with these two rounded says the same.
            got = self.logits(path, tokens, *self.plain())
            self.assertLess(np.abs(got[-len(rows):] - rows).max(), 3e-4)
            self.assertLess(np.abs(got - ref_model.Model(str(path), rounded=True).logits(tokens)).max(), 2e-5)
            self.check_pairs(path, tokens, ref_model.Model(str(path)).logits(tokens))

    def test_kv_as_float32(self):
        """A cache of float32 gives every instruction set the same bits, and is nearer to the exact rows than float16."""
        path = tiny_models.write(self.dir, "gemma3")
        tokens = [(i * 37 + 5) % 250 + 3 for i in range(150)]
        rows = [self.logits(path, tokens, "--kv", "f32", *more) for more in ([], ["--isa", "scalar"], ["--chunk", "7"])]
        for other in rows[1:]:
            self.assertTrue((rows[0] == other).all())
        exact = ref_model.Model(str(path)).logits(tokens)
        self.assertLess(rms(rows[0] - exact) * 10, rms(self.logits(path, tokens) - exact))

    def test_story(self):
        """stories260K at temperature 0 writes llama2.c's published text: after each token of it the best is the next."""
        path = DATA / "stories260K-F32.gguf"
        if not path.exists():
            self.skipTest(f"{path.name} is not there")
        ids = self.ids(path, STORY)
        best = self.logits(path, ids).argmax(axis=1)
        self.assertEqual(ids[1:], [int(t) for t in best[:-1]])


@unittest.skipUnless(BIN and MODEL, "the default model is not there")
class Real(Commands):
    """SmolLM2-135M-Instruct, with the release build: the sanitizers' would take minutes."""

    program = FAST

    def test_paris(self):
        ids = self.ids(MODEL, "The capital of France is")
        best = int(self.logits(MODEL, ids)[-1].argmax())
        self.assertEqual(self.call("detokenize", "-m", MODEL, best).decode().strip(), "Paris")

    def test_logits(self):
        ids = self.ids(MODEL, "The capital of France is Paris, and the capital of Germany")
        self.check(pathlib.Path(MODEL), ids)


if __name__ == "__main__":
    unittest.main()
