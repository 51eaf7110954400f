"""`autoglm inspect` as a shell sees it: results, notes, exit status; nothing of a file reaches the terminal unescaped."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import numpy as np

import gguf_writer as gw

BIN = os.environ.get("AUTOGLM_TEST_BIN")
HOSTILE = "red \x1b[31m bell \x07 line\nback\\slash \u202eturned \u009b1m"


def inspect(*args):
    done = subprocess.run([BIN, "inspect", *map(str, args)], capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def sample():
    w = gw.Writer()
    w.add("general.architecture", "llama")
    w.add("general.name", HOSTILE)
    w.add("t.u64", 2**64 - 1, gw.U64)
    w.add("t.i64", -2**63, gw.I64)
    w.add("t.f32", 0.1, gw.F32)
    w.add("t.f64", 0.1, gw.F64)
    w.add("t.nan", float("nan"), gw.F32)
    w.add("t.bool", True)
    w.add("a.ints", list(range(1000)))
    w.add("a.words", ["a", "\x1b[2J", "c"])
    w.tensor("token_embd.weight", (64, 4), "F32", bytes(64 * 4 * 4))
    w.tensor("blk.0.q\u202e.weight", (256, 3), "Q4_K", bytes(144 * 3))
    w.tensor("blk.0.k.weight", (256, 1), "Q4_K", bytes(144))
    return w


@unittest.skipUnless(BIN, "AUTOGLM_TEST_BIN is not set")
class Inspect(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="autoglm-inspect-")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def test_text(self):
        path = sample().write(self.dir / "m.gguf")
        code, out, err = inspect(path, "--tensors")
        self.assertEqual((code, err), (0, ""))
        rows = [line.split() for line in out.splitlines()]
        self.assertIn(["family", "llama"], rows)
        self.assertIn(["parameters", str(64 * 4 + 256 * 4)], rows)
        self.assertIn(["Q4_K", "2", "1024", "576"], rows)
        self.assertIn(["t.u64", "u64", str(2**64 - 1)], rows)
        self.assertIn(["t.f32", "f32", "0.1"], rows)
        self.assertIn(["a.ints", "u32[1000]"] + [f"{i}," for i in range(8)] + ["..."], rows)
        self.assertIn(["blk.0.q\\u202e.weight", "Q4_K", "432", "256", "x", "3"], rows)
        self.assertTrue(all(c == "\n" or c.isprintable() for c in out), "a control character came through")
        self.assertIn("red \\u001b[31m bell \\u0007 line\\nback\\\\slash \\u202eturned \\u009b1m", out)
        self.assertNotIn("blk.0.k.weight", inspect(path)[1])

    def test_json(self):
        path = sample().write(self.dir / "m.gguf")
        code, out, err = inspect("--json", "--tensors", path)
        self.assertEqual((code, err), (0, ""))
        got = json.loads(out)
        self.assertEqual((got["version"], got["parts"], got["bytes"]), (3, 1, os.path.getsize(path)))
        self.assertEqual((got["family"], got["parameters"], got["tensor_count"]), ("llama", 64 * 4 + 256 * 4, 3))
        self.assertEqual(got["types"][1], {"type": "Q4_K", "tensors": 2, "parameters": 1024, "bytes": 576})
        keys = {k["key"]: k for k in got["keys"]}
        self.assertEqual(keys["general.name"]["value"], HOSTILE)
        self.assertEqual((keys["t.u64"]["value"], keys["t.i64"]["value"]), (2**64 - 1, -2**63))
        self.assertEqual(np.float32(keys["t.f32"]["value"]), np.float32(0.1))
        self.assertEqual((keys["t.f64"]["value"], keys["t.nan"]["value"], keys["t.bool"]["value"]), (0.1, None, True))
        self.assertEqual(keys["a.ints"], {"key": "a.ints", "type": "array", "item": "u32", "count": 1000,
                                          "first": list(range(64))})
        self.assertEqual(keys["a.words"]["first"], ["a", "\x1b[2J", "c"])
        self.assertEqual([t["dimensions"] for t in got["tensors"]], [[64, 4], [256, 3], [256, 1]])
        self.assertNotIn("tensors", json.loads(inspect("--json", path)[1]))

    def test_split(self):
        paths = sample().write_split(str(self.dir / "m"), 3)
        code, out, _ = inspect(paths[0], "--json")
        got = json.loads(out)
        self.assertEqual((code, got["parts"], got["tensor_count"]), (0, 3, 3))
        self.assertEqual(got["bytes"], sum(map(os.path.getsize, paths)))
        code, out, err = inspect(paths[1])
        self.assertEqual((code, out), (1, ""))
        self.assertIn(f"open the first, {paths[0]}", err)

    def test_bad_files(self):
        whole = sample().write(self.dir / "m.gguf").read_bytes()
        for what, data, says in (("cut", whole[:200], "the file ends inside key 4"), ("empty", b"", "is empty"),
                                 ("text", b"hello, world", "is not a GGUF file"),
                                 ("big", b"GGUF\0\0\0\3" + bytes(16), "big-endian")):
            with self.subTest(what):
                path = self.dir / f"{what}.gguf"
                path.write_bytes(data)
                code, out, err = inspect(path)
                self.assertEqual((code, out, err.count("\n")), (1, "", 1))
                self.assertIn(says, err)
                self.assertIn(str(path), err)
        fifo = self.dir / "fifo.gguf"
        os.mkfifo(fifo)
        for path in (fifo, self.dir, self.dir / "none.gguf", "/dev/zero"):
            with self.subTest(str(path)):
                code, out, err = inspect(path)
                self.assertEqual((code, out, err.count("\n")), (1, "", 1))
                self.assertIn(str(path), err)

    def test_mistyped_family_is_a_note(self):
        w = gw.Writer()
        w.add("general.architecture", 7)
        code, out, err = inspect(w.write(self.dir / "m.gguf"), "--json")
        self.assertEqual((code, json.loads(out)["family"]), (0, None))
        self.assertIn("general.architecture is of type u32", err)

    def test_usage(self):
        code, out, err = inspect("--help")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("--tensors", out)
        for args in ((), ("a", "b"), ("--colour", "a"), ("--json=1", "a")):
            with self.subTest(args):
                code, out, err = inspect(*args)
                self.assertEqual((code, out), (2, ""))
                self.assertTrue(err.startswith("autoglm inspect: "))

    def test_output_cannot_be_written(self):
        path = sample().write(self.dir / "m.gguf")
        with open("/dev/full", "wb") as full:
            done = subprocess.run([BIN, "inspect", path], stdout=full, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot write", done.stderr)


if __name__ == "__main__":
    unittest.main()
