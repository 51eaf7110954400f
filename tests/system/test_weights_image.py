"""Repacked weights stored beside the model: written once, used by the next start, never in the way."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from server import LIMIT_S, Server, binary, tiny_model, wait_for


def notes(s):
    return [line["note"] for line in s.lines() if line.get("msg") == "weights"]


def noted(s, text):
    return wait_for(text, lambda: any(text in n for n in notes(s)))


class WeightsImage(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="autoglm-image-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.model = str(self.folder / "model.gguf")
        self.image = self.folder / "model.gguf.agimg"
        shutil.copy(tiny_model(), self.model)

    def answer(self, s):
        return s.complete(temperature=0, max_tokens=24)["choices"][0]["text"]

    def server(self, *flags):
        return Server("--threads", "2", "--ctx", "512", *flags, model=self.model)

    def test_the_second_start_uses_it(self):
        with self.server("--weights-image", "on") as s:
            fresh = self.answer(s)
            noted(s, "are stored in")
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["model.gguf", "model.gguf.agimg"])
        with self.server() as s:
            self.assertEqual(self.answer(s), fresh)
            noted(s, "weights come from")
            noted(s, "are checked")
            self.assertEqual(self.answer(s), fresh)
        os.utime(self.model, (1, 1))  # another file, for all that one can tell
        with self.server() as s:
            self.assertEqual(self.answer(s), fresh)
            noted(s, "another model file")
            noted(s, "are stored in")
        with self.server("--weights-image", "off") as s:
            self.assertEqual(self.answer(s), fresh)
            self.assertEqual(notes(s), [])

    def test_none_is_written_unasked_for_a_small_model(self):
        with self.server() as s:
            self.answer(s)
        self.assertFalse(self.image.exists())

    def test_damage_is_found_mended_and_written_anew(self):
        with self.server("--weights-image", "on") as s:
            fresh = self.answer(s)
            noted(s, "are stored in")
        whole = self.image.read_bytes()
        self.image.write_bytes(whole[:-5000] + bytes(b ^ 255 for b in whole[-5000:-4900]) + whole[-4900:])
        with self.server() as s:
            # From the weights as they lie there, which are checked then, or at the same time: that would end it.
            s.post("/v1/completions", {"prompt": "Once", "temperature": 0, "max_tokens": 1})
            noted(s, "does not have its checksum")
            noted(s, "are stored in")
            self.assertEqual(self.answer(s), fresh)
        self.assertEqual(self.image.read_bytes(), whole)

    def test_many_start_at_once(self):
        servers = [self.server("--weights-image", "on") for _ in range(3)]
        try:
            answers = {self.answer(s) for s in servers}
            self.assertEqual(len(answers), 1)
            for s in servers:
                wait_for("a note", lambda s=s: notes(s))
        finally:
            for s in servers:
                s.__exit__(None, None, None)
        with self.server("--weights-image", "read") as s:
            self.assertEqual({self.answer(s)}, answers)
            noted(s, "are checked")
            self.assertEqual({self.answer(s)}, answers)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["model.gguf", "model.gguf.agimg"])

    def test_a_folder_that_cannot_be_written(self):
        with self.server("--weights-image", "on", "--weights-image-dir", str(self.folder / "none")) as s:
            self.assertTrue(self.answer(s))
            noted(s, "are not stored")

    def test_compile_makes_one(self):
        made = self.folder / "images"
        made.mkdir()
        command = [binary(), "compile", self.model, "--weights-image", "on", "--weights-image-dir"]
        done = subprocess.run([*command, str(made)], capture_output=True, text=True, timeout=LIMIT_S)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(list(made.glob("model.gguf-*.agimg"))), 1)
        done = subprocess.run([*command, str(made / "none")], capture_output=True, text=True, timeout=LIMIT_S)
        self.assertEqual(done.returncode, 1)
        self.assertIn("not stored", done.stderr)
        with self.server("--weights-image-dir", str(made)) as s:
            noted(s, "are checked")


if __name__ == "__main__":
    unittest.main()
