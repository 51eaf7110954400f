"""What the peers' workers share: JSON lines on stdin and stdout. Runs in every peer's venv, so it needs no package.

    worker_X.py MODEL THREADS LOAD-FLAGS
    -> {"version": ..., "features": ...}                                                          once, when the model is there
    {"do": "prefill", "tokens": 512, "flags": {...}, "repeats": 2}                   -> {"tok_s": ...}
    {"do": "decode", "batch": 8, "context": 128, "steps": 32, "flags": {...}, ...}   -> {"tok_s": ...}
    {"do": "memory"}                                                                 -> {"peak_bytes": ...}
    {"do": "drop", "flags": {...}}                                                   -> {}: free what these flags hold

A peer that cannot do something answers {"error": "why"}. Whatever its libraries print on stdout goes to stderr.
"""
import json
import os
import statistics
import sys
import time

LONG_S = 2  # what takes so long is not repeated


def token(i, vocab):
    """Tokens without meaning, the same as `autoglm bench` takes."""
    return (i * 7919 + 13) % vocab


def round_up(n, grain):
    return -(-n // grain) * grain


def peak_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def answer(peer, ask):
    if ask["do"] == "memory":
        return {"peak_bytes": peak_bytes()}
    if ask["do"] == "drop":
        peer.drop(ask["flags"])
        return {}
    rates, began = [], time.perf_counter()
    for _ in range(ask["repeats"]):
        if rates and time.perf_counter() - began > LONG_S:
            break
        if ask["do"] == "prefill":
            rates.append(peer.prefill(ask["tokens"], ask["flags"]))
        else:
            rates.append(peer.generate(ask["batch"], ask["context"], ask["steps"], ask["flags"]))
    return {"tok_s": statistics.median(rates)}


def reason(e):
    """The last line of what a library says: those before it name its own source files."""
    return f"{type(e).__name__}: {([x for x in str(e).splitlines() if x.strip()] or [''])[-1].strip()}"


def serve(kind):
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries talk on stdout

    def say(thing):
        out.write(json.dumps(thing) + "\n")
        out.flush()
    try:
        peer = kind(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
    except Exception as e:  # whatever a library throws is the answer
        say({"error": reason(e)})
        return
    say(peer.about())
    for line in sys.stdin:
        try:
            say(answer(peer, json.loads(line)))
        except Exception as e:
            say({"error": reason(e)})
    out.flush()
    os._exit(0)  # some libraries hang or crash when they are taken down
