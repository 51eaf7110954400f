"""A model whose weights hold what is no number: its answers end with a sentence, wherever that stands, and the server goes on."""
import pathlib
import tempfile
import unittest

import tiny_models
from gguf_reader import Reader
from server import Server

NAN = b"\x00\x00\xc0\x7f"
SENTENCE = "the model computed values that are not finite"


class OddWeights(unittest.TestCase):
    def damaged(self, folder, row):
        """tiny-llama with a NaN in this row of its output matrix, so that one token's logit is none."""
        path = pathlib.Path(tiny_models.write(folder, "llama") or pathlib.Path(folder) / "tiny-llama-F32.gguf")
        reader = Reader(str(path))
        (width, rows), kind, data = reader.tensors["output.weight"]
        self.assertEqual("F32", kind)
        at = reader.raw.index(data) + 4 * width * (row % rows)
        path.write_bytes(reader.raw[:at] + NAN + reader.raw[at + 4:])
        return str(path)

    def test_a_logit_that_is_no_number_ends_the_answer(self):
        for row in (0, 40, -1):
            with self.subTest(row=row), tempfile.TemporaryDirectory() as folder:
                with Server(model=self.damaged(folder, row)) as s:
                    for fields in ({"temperature": 0}, {"temperature": 1, "top_p": 0.9}, {"temperature": 0, "logprobs": 1}):
                        r = s.post("/v1/completions", {"prompt": "Once", "max_tokens": 4, **fields})
                        self.assertEqual((500, "internal_error"), (r.status_code, r.json()["error"]["code"]), r.text)
                        self.assertIn(SENTENCE, r.json()["error"]["message"])
                    self.assertEqual(200, s.get("/readyz").status_code)
                    self.assertEqual(3, s.metric("autoglm_errors_total", code="internal_error"))


if __name__ == "__main__":
    unittest.main()
