"""bench/peers and bench/hf_folder.py: what becomes of samples, and of weights. Nothing is measured here."""
import json
import os
import pathlib
import struct
import sys
import tempfile
import unittest
import xml.etree.ElementTree

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bench/peers")]
import cases  # noqa: E402
import hf_folder  # noqa: E402
import page  # noqa: E402
import ref_model  # noqa: E402
import rows  # noqa: E402
import tiny_models  # noqa: E402


def result(**changes):
    """A whole run in which everybody does 100 tokens a second and we do 130."""
    r = {"quick": False, "rounds": 5, "threads": 2, "date": "2026-01-01", "small": "small.gguf", "others": 0.0,
         "machine": {"processor": "A <processor>", "cores": 2, "memory_gib": 8.0, "kernel": "6.0", "flags": ["avx2"], "amx": False},
         "ours": {"version": "autoglm 1", "revision": None, "isa": "avx2", "flags": [], "bytes": {}},
         "peers": {"llama.cpp": {"version": "1", "built": "built here", "features": "AVX2"},
                   "OpenVINO": {"version": "2", "built": "wheel", "features": "FP32"}},
         "lost": {"vLLM": {"all": f"no torch\nin {ROOT}/x"}}, "flags": {"llama.cpp": {}}, "models": {}, "samples": {}, "starts": {},
         "peaks": {"m": [{"read_gb_s": 20.0, "int8_gop_s": 1000.0}]}}
    for case in cases.cases(False):
        r["models"][case["model"]] = {"bytes": 10**9, "vocab": 1000, "product_weights": 10**9, "kv_bytes_per_token": 10**5}
        r["ours"]["bytes"][case["model"]] = 10**8
        for engine, rate in (("autoglm", 130.0), ("llama.cpp", 100.0), ("OpenVINO", 90.0)):
            if case.get("peers", True) or engine == "autoglm":
                r["samples"].setdefault(engine, {})[case["id"]] = [rate * k for k in (0.1, 1, 1, 1, 9)]
    r.update(changes)
    return r


def rows_by_name(r):
    return {row["name"]: row for row in rows.table(r)}


class Table(unittest.TestCase):
    def test_a_figure_is_the_median_and_its_goal_is_computed(self):
        row = rows_by_name(result())["1B Q8_0: decode, one"]
        self.assertEqual((130.0, 100.0), (row["ours"], row["peers"]["llama.cpp"]))
        best, share = row["goals"]
        self.assertEqual((1.3, True), (best["value"], best["met"]))
        self.assertEqual((0.65, False), (round(share["value"], 6), share["met"]))  # 1e8 bytes x 130 of 20 GB/s
        at_once = rows_by_name(result())["1B Q8_0: decode, 16 at once"]["goals"]
        self.assertEqual([False, False], [g["met"] for g in at_once])

    def test_amx_raises_the_goal_of_prefill_and_has_no_block_ceiling(self):
        plain, amx = result(), result()
        amx["machine"]["amx"] = True
        goals = [[g["limit"] for g in rows_by_name(r)["1B Q4_0: prefill of 512"]["goals"]] for r in (plain, amx)]
        self.assertEqual([[1.2, 0.8], [1.5]], goals)

    def test_a_limit_from_above_is_met_from_below(self):
        gib = 1 << 30
        for used, met in ((1.0 * gib, True), (2.0 * gib, False)):
            r = result(starts={"autoglm": {"first": [0.9], "stored": [], "memory": [used]}})
            row = next(row for name, row in rows_by_name(r).items() if "memory" in name)
            self.assertEqual(met, row["goals"][0]["met"])

    def test_what_is_missing_is_said(self):
        r = result()
        del r["samples"]["autoglm"][f"{cases.SMALL} prefill 512"]
        words = page.text(r)
        self.assertIn("vLLM: **unavailable**: no torch in x.", words)
        self.assertIn("1.5x the best peer, not measured", words)
        self.assertIn("| SmolLM2-135M: prefill of 512 | tokens/s |  | 100.0 | 90.0 |", words)
        self.assertIn("**missed**", words)
        self.assertNotIn("quick run", words)
        self.assertIn("quick run", page.text(result(quick=True)))
        self.assertNotIn("not quiet", words)
        self.assertIn("not quiet: other work took 20 %", page.text(result(others=0.2)))

    def test_the_plot_is_xml_with_a_bar_per_measured_row(self):
        tree = xml.etree.ElementTree.fromstring(page.plot(result()))
        bars = [e for e in tree.iter() if e.tag.endswith("rect") and e.get("class") in ("ok", "low")]
        ratios = [row for row in rows.table(result()) if row["unit"] == "tokens/s" and row["ratio"]]
        self.assertEqual(len(ratios), len(bars))
        self.assertEqual({"ok", "low"}, {e.get("class") for e in bars})

    def test_a_page_keeps_what_is_around_the_tables(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "page.md"
            path.write_text(f"before\n{page.PLACE.begin}\nold\n{page.PLACE.end}\nafter\n")
            page.put(path, result())
            words = path.read_text()
            self.assertTrue(words.startswith("before\n") and words.endswith("after\n"), words)
            self.assertNotIn("old", words)
            self.assertTrue((pathlib.Path(folder) / "page.svg").exists())
            path.write_text("no marks")
            with self.assertRaises(SystemExit):
                page.PLACE.check(path)


class Flags(unittest.TestCase):
    def test_no_peer_gets_fewer_bits_than_the_file_has(self):
        self.assertEqual({"bf16", "int8"}, {x["form"] for x in cases.loads("vLLM", False)})

    def test_only_what_can_matter_is_tried(self):
        one = cases.decode("m", 1, 128, 4)
        self.assertEqual([True], cases.call_flags("llama.cpp", one, 2)["unified"])
        self.assertEqual([2, 1], cases.call_flags("llama.cpp", one, 2)["threads"])
        self.assertEqual([1], cases.call_flags("llama.cpp", one, 1)["threads"])
        self.assertEqual({}, cases.call_flags("vLLM", one, 2))


class HfFolder(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.model = tiny_models.write(cls.folder.name, "llama-headdim", "Q4_0") or os.path.join(cls.folder.name, "tiny-llama-headdim-Q4_0.gguf")
        cls.gguf = ref_model.Gguf(cls.model)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def read(self, form):
        out = pathlib.Path(self.folder.name) / form
        hf_folder.write(self.model, str(out), form)
        raw = (out / "model.safetensors").read_bytes()
        size = struct.unpack_from("<Q", raw)[0]
        head, found = json.loads(raw[8:8 + size]), {}
        kinds = {"BF16": np.uint16, "I8": np.int8, "I32": np.int32, "I64": np.int64}
        for name, t in head.items():
            if name != "__metadata__":
                begin, end = t["data_offsets"]
                a = np.frombuffer(raw[8 + size + begin:8 + size + end], dtype=kinds[t["dtype"]]).reshape(t["shape"])
                found[name] = (a.astype(np.uint32) << 16).view(np.float32) if t["dtype"] == "BF16" else a
        return found, json.loads((out / "config.json").read_text())

    def up(self):
        return self.gguf.weight("blk.0.ffn_up.weight")

    def test_bf16_is_the_same_within_its_rounding(self):
        found, config = self.read("bf16")
        self.assertLess(np.abs(found["model.layers.0.mlp.up_proj.weight"] - self.up()).max(), np.abs(self.up()).max() / 200)
        self.assertEqual(config["vocab_size"], found["model.embed_tokens.weight"].shape[0])
        self.assertNotIn("quantization_config", config)

    def test_heads_are_put_into_the_order_of_halves(self):
        found, config = self.read("bf16")
        q, head = self.gguf.weight("blk.0.attn_q.weight"), config["head_dim"]
        got = found["model.layers.0.self_attn.q_proj.weight"]
        self.assertLess(np.abs(got[1] - q[2]).max(), 1e-2 * np.abs(q).max())
        self.assertLess(np.abs(got[head // 2] - q[1]).max(), 1e-2 * np.abs(q).max())

    def test_int8_has_a_scale_per_row(self):
        found, _ = self.read("int8")
        name = "model.layers.0.mlp.up_proj.weight"
        back = found[name] * found[name + "_scale"]
        self.assertLess(np.abs(back - self.up()).max(), np.abs(self.up()).max() / 60)

    def test_int4_of_a_q4_0_file_is_the_files_own_numbers(self):
        found, config = self.read("int4")
        name = "model.layers.0.mlp.up_proj."
        words = found[name + "weight_packed"].view(np.uint32)
        q = (words[..., None] >> (4 * np.arange(8, dtype=np.uint32)) & 15).reshape(len(words), -1).astype(np.float64) - 8
        back = q * np.repeat(found[name + "weight_scale"], hf_folder.GROUP, axis=1)
        self.assertEqual(list(self.up().shape), found[name + "weight_shape"].tolist())
        self.assertLess(np.abs(back - self.up()).max(), np.abs(self.up()).max() / 200)
        self.assertEqual("pack-quantized", config["quantization_config"]["format"])


if __name__ == "__main__":
    unittest.main()
