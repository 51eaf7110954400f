"""bench/kernels on tiny sizes: every kernel of every instruction set is there, with numbers. How large they are is not asked."""
import json
import math
import os
import pathlib
import subprocess
import unittest

BENCH = pathlib.Path(os.environ["AUTOGLM_TEST_BIN"]).parent / "bench/kernels/bench_kernels"
FLOATS = {"F32", "F16", "BF16"}
TYPES = FLOATS | {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"}
OTHERS = ["attention"] * 8 + [  # two shapes, one token and a tile of them, f16 and q8_0
    "rms_norm", "quantize", "glu", "glu", "rope", "rope"]


def run(*args, want=0):
    done = subprocess.run([BENCH, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == want, (args, done.returncode, done.stdout, done.stderr)
    return done


@unittest.skipUnless(BENCH.exists(), "bench_kernels was not built")
class BenchKernels(unittest.TestCase):
    def test_json_holds_every_kernel_of_every_instruction_set(self):
        got = json.loads(run("--quick", "1", "--json", "1", "--threads", "2").stdout)
        self.assertEqual((2, 256), (got["threads"], got["k"]))
        self.assertEqual("scalar", got["isas"][-1]["isa"])
        for one in got["isas"]:
            with self.subTest(isa=one["isa"]):
                self.assertEqual({"read_gb_s", "int8_gop_s", "float_gop_s"}, set(one["peaks"]))
                self.assertTrue(all(0 < v < math.inf for v in one["peaks"].values()))
                products = [k for k in one["kernels"] if k["kernel"] == "matmul"]
                self.assertEqual({(t, c) for t in TYPES for c in (1, 4, 16, 512)}, {(k["type"], k["columns"]) for k in products})
                self.assertTrue(all(k["peak"] == ("float" if k["type"] in FLOATS else "int8") for k in products))
                self.assertEqual(TYPES, {k["type"] for k in one["kernels"] if k["kernel"] == "repack"})
                self.assertEqual(OTHERS, [k["kernel"] for k in one["kernels"] if k["kernel"] not in ("matmul", "repack")])
                tokens = [k["columns"] for k in one["kernels"] if k["kernel"] == "attention"]
                self.assertEqual(([1] * 4, True), (tokens[::2], min(tokens[1::2]) > 1))
                for k in one["kernels"]:
                    self.assertTrue(0 < k["us"] < math.inf and k["gb_s"] > 0 and k["share_of_read"] >= 0, k)
                    self.assertEqual(k["kernel"] != "repack", k["gop_s"] > 0, k)

    def test_a_table_of_one_kernel_and_type(self):
        lines = run("--quick", "1", "--isa", "scalar", "--kernel", "matmul", "--type", "q4_k").stdout.splitlines()
        self.assertEqual(["scalar", "matmul", "Q4_K"], lines[-1].split()[:3])
        self.assertEqual(3 + 4, len(lines))

    def test_what_is_not_understood_is_refused(self):
        for args in (["--isa", "mmx"], ["--k", "100"], ["--ms"], ["--speed", "1"], ["--threads", "0"]):
            with self.subTest(args=args):
                self.assertIn("usage:", run(*args, want=2).stderr)


if __name__ == "__main__":
    unittest.main()
