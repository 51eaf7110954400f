"""What bench/headline/run puts side by side, and how each is started."""
import contextlib
import os
import pathlib
import subprocess

import peers
import servers as m
import stacks

HERE = pathlib.Path(__file__).resolve().parent
SYNC, SERIAL, PEER, OURS = "llama.cpp behind gunicorn", "autoglm, one at a time", "llama.cpp, parallel slots", "autoglm"
SLOTS = 32
SLOT_TOKENS = 512

# What is left out: the flags that do it. Each is ours but for this one part.
CACHE_OFF = ("--cache-bytes=0",)
WITHOUT = {
    "warm-up": (),
    "response cache": CACHE_OFF,
    "response cache and prefix reuse": (*CACHE_OFF, "--prefix-cache=no"),
    "batching": ("--max-running=1",),
    "step budget of the queue": ("--step-ratio=10000", "--step-gap=60s"),
}


class Setup:
    """`warm`: it starts from the history of an earlier run. `rated`: its latency is taken at the traditional rates too."""

    def __init__(self, name, make, warm=False, rated=True):
        self.name, self.make, self.warm, self.rated = name, make, warm, rated


def autoglm(args, *flags):
    @contextlib.contextmanager
    def start(more=()):
        command = [args.binary, "serve", "-m", args.model, "--host", "127.0.0.1", "--threads", str(args.threads), "--log-level", "warn",
                   *flags, *more]
        with m.server(command, "/readyz", 600) as (url, process):
            yield url, process.pid
    start.words = " ".join(["serve", "-m", pathlib.Path(args.model).name, "--threads", str(args.threads), "--log-level warn", *flags])
    return start


def llama(args, *flags):
    @contextlib.contextmanager
    def start(more=()):
        command = [peers.llama_server(), "-m", args.model, "--host", "127.0.0.1", "-t", str(args.threads), "-tb", str(args.threads),
                   "-fa", "on", "--log-disable", *flags, *more]
        with m.server(command, "/health", 120) as (url, process):
            yield url, process.pid
    start.words = " ".join(["llama-server", "-t", str(args.threads), "-tb", str(args.threads), "-fa on", *flags])
    return start


def synchronous(args):
    """A WSGI application in front of llama.cpp's server with one slot, which keeps nothing between requests."""
    behind = llama(args, "-np", "1", "-c", str(SLOT_TOKENS), "--no-cache-prompt", "-cram", "0")

    @contextlib.contextmanager
    def start(more=()):
        python = stacks.venv()
        with behind(more) as (backend, pid):
            port = m.free_port()
            command = [python, "-m", "gunicorn", "--worker-class", "sync", "--workers", str(2 * os.cpu_count() + 1), "--timeout", "600",
                       "--backlog", "2048", "--chdir", str(HERE.parent / "gateway"), "--bind", f"127.0.0.1:{port}", "sync_app:app"]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       env={**os.environ, "BACKEND": backend})
            try:
                m.await_url(f"http://127.0.0.1:{port}/health", process, 60)
                yield f"http://127.0.0.1:{port}", pid
            finally:
                process.terminate()
                process.wait()
    start.words = f"{behind.words}, behind gunicorn --worker-class sync --workers {2 * os.cpu_count() + 1}"
    return start


def all_of(args):
    found = [
        Setup(SYNC, synchronous(args)),
        Setup(SERIAL, autoglm(args, "--max-running=1", *CACHE_OFF, "--prefix-cache=no")),
        Setup(PEER, llama(args, "-np", str(SLOTS), "-c", str(SLOTS * SLOT_TOKENS))),
        Setup(OURS, autoglm(args), warm=True),
    ]
    return found + [Setup(f"{OURS}, without {what}", autoglm(args, *flags), warm=what != "warm-up" and CACHE_OFF[0] not in flags,
                          rated=False)
                    for what, flags in WITHOUT.items()]
