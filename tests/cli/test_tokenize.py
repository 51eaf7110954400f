"""`autoglm tokenize` and `detokenize`: once and as a JSON object a line, on a vocabulary written here."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import gguf_writer as gw

BIN = os.environ.get("AUTOGLM_TEST_BIN")
SPACE = "\u2581"
PIECES = [SPACE, "h", "i", SPACE + "h", SPACE + "hi", "<", "s", ">"]


def vocabulary():
    """SentencePiece with byte fallback: <unk> 0, <s> 1, </s> 2, bytes 3 to 258, then PIECES from 259."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + PIECES
    w = gw.Writer()
    w.add("general.architecture", "llama")
    w.add("tokenizer.ggml.model", "llama")
    w.add("tokenizer.ggml.tokens", tokens)
    w.add("tokenizer.ggml.scores", [0.0] * 259 + [-float(i) for i in range(len(PIECES))], gw.F32)
    w.add("tokenizer.ggml.token_type", [2, 3, 3] + [6] * 256 + [1] * len(PIECES), gw.I32)
    return w


@unittest.skipUnless(BIN, "AUTOGLM_TEST_BIN is not set")
class Tokenize(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="autoglm-tokenize-")
        cls.addClassCleanup(folder.cleanup)
        cls.model = str(vocabulary().write(pathlib.Path(folder.name) / "v.gguf"))

    def call(self, *args, stdin=b""):
        done = subprocess.run([BIN, *args], input=stdin, capture_output=True, timeout=60)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def lines(self, command, rows):
        code, out, _ = self.call(command, "-m", self.model, "--jsonl", stdin="\n".join(rows).encode())
        return code, [json.loads(line) for line in out.splitlines()]

    def test_text(self):
        self.assertEqual(self.call("tokenize", "-m", self.model, "hi"), (0, "1 263\n", ""))
        self.assertEqual(self.call("tokenize", "-m", self.model, stdin=b"hi\n"), (0, "1 263 13\n", ""))
        self.assertEqual(self.call("tokenize", "-m", self.model, "--no-bos", "hi<s>")[1], "263 264 265 266\n")
        self.assertEqual(self.call("tokenize", "-m", self.model, "--no-bos", "--special", "hi<s>")[1], "263 1\n")
        self.assertEqual(self.call("tokenize", "-m", self.model, "--no-bos", "--", "-")[1], "259 48\n")

    def test_json(self):
        code, out, _ = self.call("tokenize", "-m", self.model, "--json", "hi\u00e9")
        self.assertEqual((code, json.loads(out)), (0, {"ids": [1, 263, 198, 172], "pieces": ["<s>", " hi", "\ufffd", "\ufffd"]}))
        code, out, _ = self.call("detokenize", "-m", self.model, "--json", "198", "172", "229", "154")
        self.assertEqual((code, json.loads(out)), (0, {"text": "\u00e9\ufffd"}))  # half a character is one mark

    def test_ids(self):
        for words in (["263", "260"], ["263,260"], ["263, 260"]):
            self.assertEqual(self.call("detokenize", "-m", self.model, *words), (0, "hih\n", ""))
        self.assertEqual(self.call("detokenize", "-m", self.model, stdin=b"1 263\n")[1], "<s> hi\n")
        code, out, err = self.call("detokenize", "-m", self.model, "267")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("267", err)

    def test_lines(self):
        code, answers = self.lines("tokenize", [
            '{"text": "hi"}', '{"text": "hi", "add_special": false}',
            '{"text": "hi</s>", "add_special": false, "parse_special": true, "other": [1]}', '{"text": "a\\u0000"}'])
        self.assertEqual((code, answers), (0, [{"ids": [1, 263]}, {"ids": [263]}, {"ids": [263, 2]},
                                               {"ids": [1, 259, 100, 3]}]))
        code, answers = self.lines("detokenize", ['{"ids": [263]}', '{"ids": []}', '{"ids": [1, 259, 3]}',
                                                  '{"ids": [1, 263], "add_special": true}'])
        self.assertEqual((code, [a["text"] for a in answers]), (0, ["hi", "", "<s> \0", "hi"]))

    def test_bad_lines_do_not_stop_the_others(self):
        bad = ["{", "[]", '"x"', "{}", '{"text": 1}', '{"text": "x", "add_special": 1}', '{"text": "\\ud800"}',
               '{"text": "x"} y']
        code, answers = self.lines("tokenize", [*bad, '{"text": "hi"}'])
        self.assertEqual(code, 1)
        self.assertEqual(answers[-1], {"ids": [1, 263]})
        self.assertEqual(len(answers), len(bad) + 1)
        for line, answer in zip(bad, answers):
            self.assertTrue(answer["error"]["message"], line)
        bad = ['{"ids": 1}', '{"ids": [1.0]}', '{"ids": ["1"]}', '{"ids": [-1]}', '{"ids": [267]}', '{"ids": [4294967296]}']
        code, answers = self.lines("detokenize", [*bad, '{"ids": [263]}'])
        self.assertEqual((code, answers[-1]), (1, {"text": "hi"}))
        self.assertTrue(all(a["error"]["message"] for a in answers[:-1]))

    def test_usage(self):
        for args in (["tokenize", "x"], ["tokenize", "-m"], ["tokenize", "-m", self.model, "a", "b"],
                     ["tokenize", "-m", self.model, "--nope"], ["tokenize", "-m", self.model, "--json", "--jsonl"],
                     ["tokenize", "-m", self.model, "--jsonl", "x"], ["detokenize", "-m", self.model, "--special"],
                     ["detokenize", "-m", self.model, "12x"]):
            code, out, err = self.call(*args)
            self.assertEqual((code, out), (2, ""), args)
            self.assertTrue(err, args)
        for command in ("tokenize", "detokenize"):
            code, out, err = self.call(command, "--help")
            self.assertEqual((code, err), (0, ""))
            self.assertIn("Usage", out)
        code, _, err = self.call("tokenize", "-m", "/nonexistent.gguf", "x")
        self.assertEqual(code, 1)
        self.assertIn("/nonexistent.gguf", err)
        self.assertEqual(self.call("tokenize", "-m", self.model, b"\xff")[0], 1)


if __name__ == "__main__":
    unittest.main()
