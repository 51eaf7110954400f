"""The servers that bench/serving/run compares: where they come from and how they are started.

llama.cpp's server is built from the source that its PyPI package carries, so that it is the same llama.cpp that
bench/peers measures. vLLM is taken as bench/peers has installed it; without it the table says so.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache/peers"
PACKAGE = "llama-cpp-python==0.3.36"
OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
]
CTX = 256  # tokens that one conversation needs: prompt and answer, with room


class Missing(Exception):
    """A server that cannot be had here; the text says why."""


def unpack(package, to):
    """The folder vendor/llama.cpp of the source package."""
    with tarfile.open(package) as tar:
        for member in tar:
            name = pathlib.PurePosixPath(member.name)
            if name.parts[1:3] == ("vendor", "llama.cpp") and (member.isfile() or member.isdir()):
                member.name = str(pathlib.PurePosixPath(*name.parts[3:]))
                tar.extract(member, to, filter="data")


def llama_server():
    """Built once; a stamp tells that it was finished, and with which options."""
    home = CACHE / "llama-server"
    stamp, binary = home / "built.txt", home / "build/bin/llama-server"
    wanted = "\n".join([PACKAGE, *OPTIONS]) + "\n"
    if not (stamp.exists() and stamp.read_text() == wanted and binary.exists()):
        print(f"building llama.cpp's server in {home.relative_to(ROOT)} (some minutes)", file=sys.stderr, flush=True)
        shutil.rmtree(home, ignore_errors=True)
        (home / "src").mkdir(parents=True)
        try:
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--disable-pip-version-check",
                    "--quiet",
                    "--no-deps",
                    "--no-binary",
                    ":all:",
                    "-d",
                    str(home),
                    PACKAGE,
                ],
                check=True,
            )
            unpack(next(home.glob("llama_cpp_python-*.tar.gz")), home / "src")
            subprocess.run(
                ["cmake", "-S", str(home / "src"), "-B", str(home / "build"), *OPTIONS],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            subprocess.run(
                ["cmake", "--build", str(home / "build"), "--target", "llama-server", "-j", str(os.cpu_count())],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        except (OSError, StopIteration, subprocess.CalledProcessError) as e:
            raise Missing(f"llama.cpp's server could not be built: {e}") from e
        stamp.write_text(wanted)
    return str(binary)


class Server:
    """`flags(clients)`: what it is started with; where they are the same for all numbers of clients, only once."""

    def __init__(self, name, command, path, flags, extra=None, environment=None, version="", ready_s=120):
        self.name, self.command, self.path, self.flags = name, command, path, flags
        self.extra, self.environment, self.version, self.ready_s = extra or {}, environment, version, ready_s


def ours(binary, model, threads, flags, version):
    if not any(str(f).split("=")[0] == "--cache-bytes" for f in flags):
        flags = ["--cache-bytes", "0", *flags]  # what is measured is computing: equal requests are computed each
    return Server(
        "autoglm",
        [binary, "serve", "-m", model, "--host", "127.0.0.1", "--threads", str(threads), *flags],
        "/readyz",
        lambda clients: [],
        version=version,
    )


def llama(model, threads, binary=None):
    binary = binary or llama_server()
    said = subprocess.run([binary, "--version"], capture_output=True, text=True)
    found = re.search(r"version: *(\S+.*)", said.stdout + said.stderr)
    command = [
        binary,
        "-m",
        model,
        "--host",
        "127.0.0.1",
        "-t",
        str(threads),
        "-tb",
        str(threads),
        "-fa",
        "on",
        "--no-cache-prompt",
        "-cram",
        "0",
        "--log-disable",
    ]
    return Server(
        "llama.cpp",
        command,
        "/health",
        lambda clients: ["-np", str(clients), "-c", str(clients * CTX)],
        extra={"cache_prompt": False},
        version=f"{found.group(1) if found else '?'} of {PACKAGE}",
    )


def vllm_folder(python, model, form):
    """vLLM reads no GGUF on the CPU: the same weights in a folder that it reads, made once."""
    folder = CACHE / "models" / f"{pathlib.Path(model).stem}-{form}"
    if not (folder / "config.json").exists():
        done = subprocess.run(
            [python, str(ROOT / "bench/hf_folder.py"), model, "--out", str(folder), "--as", form],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Missing(f"the model in vLLM's form could not be made: {done.stderr.strip()[-300:]}")
    return str(folder)


def vllm(python, model, form, threads):
    python = python or str(CACHE / "vllm/bin/python")
    if not pathlib.Path(python).exists():
        raise Missing("vLLM is not installed: bench/peers/run installs it where it can, or give --vllm-python")
    said = subprocess.run([python, "-c", "import vllm; print(vllm.__version__)"], capture_output=True, text=True)
    if said.returncode:
        raise Missing(
            f"vLLM does not load here: {said.stderr.strip().splitlines()[-1] if said.stderr.strip() else '?'}"
        )
    command = [
        python,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        vllm_folder(python, model, form),
        "--served-model-name",
        "model",
        "--host",
        "127.0.0.1",
        "--max-model-len",
        str(CTX),
        "--max-num-seqs",
        "64",
        "--no-enable-prefix-caching",
        "--disable-log-stats",
    ]
    return Server(
        "vLLM",
        command,
        "/health",
        lambda clients: [],
        extra={"model": "model"},
        version=said.stdout.strip().splitlines()[-1],
        environment={
            "OMP_NUM_THREADS": str(threads),
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}" if threads > 1 else "0",
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        ready_s=600,
    )
