"""autoglm's side: each sample is a process of its own, as users start it."""
import json
import os
import subprocess
import time


def facts(binary, path):
    """What the rows need of a model: sizes, from its head."""
    done = subprocess.run([binary, "inspect", path, "--json", "--tensors"], check=True, stdout=subprocess.PIPE)
    file = json.loads(done.stdout)
    family = file["family"] + "."
    keys = {k["key"].removeprefix(family): k.get("value") for k in file["keys"] if k["key"].startswith(family)}
    shapes = {t["name"]: t["dimensions"] for t in file["tensors"]}
    heads = keys["attention.head_count"]
    head = keys.get("attention.key_length") or keys["embedding_length"] // heads
    return {"bytes": file["bytes"], "vocab": shapes["token_embd.weight"][1],
            "product_weights": sum(d[0] * d[1] for n, d in shapes.items() if n.startswith("blk.") and len(d) == 2),
            "kv_bytes_per_token": 2 * 2 * keys["block_count"] * (keys.get("attention.head_count_kv") or heads) * head}


class Ours:
    name = "autoglm"

    def __init__(self, binary, models, threads, flags):
        self.binary, self.models, self.threads, self.flags, self.isa = binary, models, threads, flags, None
        self.bytes = {}  # of weights read per token, by model
        said = subprocess.run([binary, "run", "--help"], check=True, stdout=subprocess.PIPE, text=True).stdout
        self.has_images = "--weights-image " in said

    def image(self, word):
        """Flags for a stored image of the repacked weights: off, on (it is written) or read."""
        return ["--weights-image", word] if self.has_images else []

    def ask(self, model, *flags):
        done = subprocess.run([self.binary, "bench", "-m", self.models.gguf(model), "--threads", str(self.threads),
                               "--json", *self.image("off"), *self.flags, *flags], check=True, stdout=subprocess.PIPE)
        got = json.loads(done.stdout)
        self.isa = got["isa"]
        self.bytes[model] = got["weight_bytes"]
        return got

    def measure(self, case, flags=None, repeats=None):
        if case["do"] == "prefill":
            ask = ["-p", str(case["tokens"]), "-n", "0"]
        else:
            ask = ["-p", "0", "-n", str(case["steps"]), "-b", str(case["batch"]), "--context", str(case["context"])]
        # A fresh process: the first of three is cold, and their median is what a warm worker's samples are.
        got = self.ask(case["model"], *ask, "-r", "3")
        return got[case["do"]][0]["tok_s"]

    def peak(self, model):
        return self.ask(model, "-p", "0", "-n", "1", "-b", "1", "--context", "0", "-r", "1", "--peak")["peak"]

    def store_image(self, start):
        """A process that only answers ends before an image is written; this one waits for it."""
        subprocess.run([self.binary, "compile", self.models.gguf(start["model"]), "--threads", str(self.threads),
                        *self.image("on"), *self.flags], check=True, stdout=subprocess.DEVNULL)

    def first_token(self, start, image):
        """Seconds from the start of a process to the first byte of its answer; the process has ended on return."""
        command = [self.binary, "run", self.models.gguf(start["model"]), "a " * (start["prompt"] // 2), "--raw",
                   "-n", "1", "-t", "0", "--ctx", "512", "--threads", str(self.threads), "--no-history",
                   *self.image(image), *self.flags]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.read(1)
        took = time.perf_counter() - began
        process.stdout.read()
        if process.wait():
            raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
        return took

    def peak_memory(self, start):
        """The most memory that a process had which computed a prompt of so many tokens."""
        command = [self.binary, "bench", "-m", self.models.gguf(start["model"]), "--threads", str(self.threads), "-p",
                   str(start["tokens"]), "-n", "0", "-b", "1", "--context", "0", "-r", "1",
                   *self.image("off"), *self.flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
        return used.ru_maxrss * 1024

    def about(self, revision):
        said = subprocess.run([self.binary, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
        return {"version": said.splitlines()[0], "revision": revision, "isa": self.isa, "flags": self.flags,
                "bytes": self.bytes}

