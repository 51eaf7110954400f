"""What bench/queue/run does to a server, and the figures that come of it.

An experiment is a function of a Bench (start a server, load it) and gives {figure: value}; GOALS says which figures
have a bound. Peers know no bands, deadlines and tenants: what they are asked is the same without them, and a deadline
is then their client's, who leaves."""

import collections
import contextlib
import http.client
import json
import pathlib
import random
import re
import threading

import servers as m


class Bench:
    """One engine under test. `size`: how long things take, "full" or "quick"."""

    def __init__(self, engine, binary, size, run=None):
        self.engine, self.binary, self.size = engine, binary, size
        self.ours = engine.name == "autoglm"
        self.run = run or m.run_counted

    def command(self, slots, ctx, reuse, flags):
        """`slots` sequences of `ctx` tokens at once."""
        c = list(self.engine.command)
        if self.ours:
            return [*c, *flags, *([] if reuse else ["--prefix-cache=no"])]
        if self.engine.name == "llama.cpp":
            if reuse:
                c.remove("--no-cache-prompt")
            return [*c, "-np", str(slots), "-c", str(slots * ctx)]
        c[c.index("--max-model-len") + 1] = str(ctx)
        if reuse:
            c.remove("--no-enable-prefix-caching")
        return c

    @contextlib.contextmanager
    def server(self, slots, ctx, reuse=False, flags=()):
        e = self.engine
        self.extra = {**e.extra, **({"cache_prompt": reuse} if "cache_prompt" in e.extra else {})}
        with m.server(e.name, self.command(slots, ctx, reuse, flags), e.path, e.ready_s, e.environment) as (url, process):
            self.load(url, "-n", 2, "-c", 1, "-p", 16, "--max-tokens", 4, "--seed", 10**6)  # the first steps are slower
            yield url, process

    def load(self, url, *options):
        command = [self.binary, "bench", "http", url, "--json", "--buckets", "--timeout", "1h", "--extra", json.dumps(self.extra)]
        status, out, _ = self.run([*command, *map(str, options)])
        if not out:
            raise SystemExit(f"{self.engine.name}: the load generator ended with status {status}")
        return json.loads(out)

    def classes(self, url, *options, **classes):
        """load, of classes given as name={"key": value}; peers are not told what only we know."""
        told = {
            name: ":".join([name, *(f"{k}={v}" for k, v in c.items() if self.ours or k not in ("band", "timeout", "tenant"))])
            for name, c in classes.items()
        }
        return self.load(url, "--classes", ",".join(told.values()), *options)["classes"]

    def pick(self, full, quick):
        return full if self.size == "full" else quick


def p(result, kind, q):
    return result[kind].get(q, 0.0)


def rate(result):
    return result["output_tokens"] / result["elapsed_s"]


def ratio(a, b):
    return a / b if b else 0.0


def long_prompt(b):
    """Four streams run when a prompt of 6,000 tokens arrives."""
    tokens, words, start = b.pick((600, 6000, "2s"), (40, 100, "1ms"))
    streams = {"clients": 4, "requests": 4, "max-tokens": tokens, "prompt": 64}
    late = {"requests": 1, "clients": 1, "prompt": words, "max-tokens": 4, "start": start}
    with b.server(8, 8192) as (url, _):
        alone = b.classes(url, streams=streams)["streams"]
        by_itself = b.classes(url, late={**late, "start": "0s"})["late"]
        both = b.classes(url, streams=streams, late=late)
    return {
        "gap p99 alone, ms": p(alone, "gap_ms", "p99"),
        "gap p99, ms": p(both["streams"], "gap_ms", "p99"),
        "gap p99 over alone": ratio(p(both["streams"], "gap_ms", "p99"), p(alone, "gap_ms", "p99")),
        "largest gap alone, ms": p(alone, "gap_ms", "max"),
        "largest gap, ms": p(both["streams"], "gap_ms", "max"),
        "largest gap over alone": ratio(p(both["streams"], "gap_ms", "max"), p(alone, "gap_ms", "max")),
        "the long prompt's first token alone, ms": p(by_itself, "ttft_ms", "max"),
        "the long prompt's first token, ms": p(both["late"], "ttft_ms", "max"),
    }


def urgent(b):
    """64 batch requests saturate; an urgent one arrives each second."""
    n, seconds, clients = b.pick((60, 60, 64), (3, 2, 4))
    with b.server(64, 256) as (url, _):
        idle = b.load(url, "-n", n, "-c", 1, "-p", 64, "--max-tokens", 16)
        got = b.classes(
            url, "--duration", f"{seconds}s", "-p", 64,
            batch={"band": 3, "clients": clients, "max-tokens": 128},
            urgent={"band": 0, "rate": 1, "max-tokens": 16},
        )
    first, step = p(got["urgent"], "ttft_ms", "p99"), p(got["batch"], "gap_ms", "p50")
    return {
        "first token p99 idle, ms": p(idle, "ttft_ms", "p99"),
        "first token p99, ms": first,
        "a step of the batch, ms": step,
        "first token p99 over idle plus a step": ratio(first, p(idle, "ttft_ms", "p99") + step),
        "batch, tokens/s": rate(got["batch"]),
    }


def fair(b):
    """Tenant A floods with 100 at once, tenant B has one at a time; then two floods with weights 3 and 1."""
    n, seconds, flood = b.pick((40, 45, 100), (3, 2, 6))
    common = ["-p", 64, "--max-tokens", 48]
    with b.server(100, 256) as (url, _):
        alone = b.load(url, "-n", n, "-c", 1, *common)
        got = b.classes(
            url, "--duration", f"{seconds}s", *common,
            a={"tenant": "a", "clients": flood}, b={"tenant": "b", "clients": 1},
        )
    with b.server(100, 256, flags=["--tenant-weights", "gold=3,free=1", "--max-running", "16"]) as (url, _):
        shares = b.classes(
            url, "--duration", f"{seconds}s", *common,
            gold={"tenant": "gold", "clients": flood // 2}, free={"tenant": "free", "clients": flood // 2},
        )
    gold, free = rate(shares["gold"]), rate(shares["free"])
    return {
        "B's first token p99 alone, ms": p(alone, "ttft_ms", "p99"),
        "B's first token p99, ms": p(got["b"], "ttft_ms", "p99"),
        "B's first token p99 over alone": ratio(p(got["b"], "ttft_ms", "p99"), p(alone, "ttft_ms", "p99")),
        "share of weight 3 of 4": ratio(gold, gold + free),
        "share over the weights'": ratio(ratio(gold, gold + free), 0.75),
    }


def overload(b):
    """Three times the load that can be answered, each with a deadline."""
    seconds, warm, clients = b.pick((60, 20, 32), (2, 1, 2))
    tokens = 32
    common = ["-p", 64, "--max-tokens", tokens]
    with b.server(64, 256) as (url, _):
        full = b.load(url, "-c", clients, "--duration", f"{warm}s", *common)
        possible = full["requests_per_s"]
        timeout = f"{max(2 * p(full, 'latency_ms', 'p50'), 50):.0f}ms"
        offered = max(3 * possible, 0.1)
        late = [] if b.ours else ["--timeout", timeout]
        got = b.classes(url, "--duration", f"{seconds}s", *common, *late, x={"rate": f"{offered:.4f}", "timeout": timeout})["x"]
    whole = got["requests"]["ok"] - got["cut"]["requests"]
    return {
        "possible, requests/s": possible,
        "offered, requests/s": offered,
        "deadline, ms": float(timeout[:-2]),
        "answered in time, requests/s": whole / got["elapsed_s"],
        "answered in time over possible": ratio(whole / got["elapsed_s"], possible),
        "tokens in vain": max(0.0, ratio(got["output_tokens"] - whole * tokens, got["output_tokens"])),
    }


def shared_prefix(b):
    """50 callers share a prefix of 2,000 tokens."""
    shared, callers = b.pick((2000, 50), (80, 4))
    ask = ["-p", shared + 32, "--shared-prefix", shared, "--max-tokens", 16]
    with b.server(callers, 2304, reuse=True) as (url, _):
        two = b.load(url, "-n", 2, "-c", 1, "--seed", 7, *ask)
        reuse = b.load(url, "-n", callers, "-c", callers, "--seed", 8, *ask)
    with b.server(callers, 2304, reuse=False) as (url, _):
        without = b.load(url, "-n", callers, "-c", callers, "--seed", 8, *ask)
    times = [us for us, n in two["ttft_ms"].get("buckets_us", []) for _ in range(n)] or [0]
    return {
        "first caller's first token, ms": max(times) / 1e3,
        "second caller's first token, ms": min(times) / 1e3,
        "second over first": ratio(min(times), max(times)),
        "all of them, s": reuse["elapsed_s"],
        "without reuse, s": without["elapsed_s"],
        "rate over that without reuse": ratio(without["elapsed_s"], reuse["elapsed_s"]),
    }


def metric(port, name):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    c.request("GET", "/metrics")
    text = c.getresponse().read().decode()
    c.close()
    found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)
    return sum(map(float, found))


def cancels(b):
    """Random cancels: whoever stays gets what an idle server answers, and nothing of the others is left."""
    total, clients = b.pick((10000, 64), (60, 6))
    prompts = [f"{w} and then the" for w in ("Once upon a time", "One day", "The dog", "Her house", "All of it")]
    with b.server(clients, 256) as (url, process):
        port, lock, dice = int(url.rsplit(":", 1)[1]), threading.Lock(), random.Random(1)
        count = collections.Counter()

        def ask(i, leave_after):
            body = json.dumps({**b.extra, "prompt": prompts[i % len(prompts)], "max_tokens": 24, "temperature": 0,
                               "ignore_eos": True, "stream": True})
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
            text = b""
            c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            if leave_after == 0:
                c.close()
                return None
            r = c.getresponse()
            while piece := r.readline():
                text += piece if b'"text"' in piece else b""
                leave_after -= 1
                if leave_after == 0:
                    c.close()
                    return None
            c.close()
            return "".join(json.loads(line[6:])["choices"][0]["text"] for line in text.splitlines())

        def worker():
            while True:
                with lock:
                    i = count["asked"]
                    if i >= total:
                        return
                    count["asked"] += 1
                    leave = dice.choice([-1, 0, 1, 3, 9, 20])
                got = ask(i, leave)
                with lock:
                    count["stayed"] += got is not None
                    count["other text"] += got is not None and got != alone[i % len(prompts)]

        def descriptors():
            return len(list(pathlib.Path(f"/proc/{process.pid}/fd").iterdir()))

        alone = [ask(i, -1) for i in range(len(prompts))]
        before = descriptors()
        threads = [threading.Thread(target=worker) for _ in range(clients)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        figures = {"asked": total, "stayed": count["stayed"], "of them with another text": count["other text"]}
        if b.ours:
            names = [f"autoglm_{n}" for n in ("generations_running", "generations_waiting", "kv_pages_used", "connections_open")]
            for _ in range(1000):
                left = {n: metric(port, n) for n in names}
                left[names[3]] -= 1  # the one that asks
                if not any(left.values()):
                    break
            figures |= {
                "generations left": left[names[0]] + left[names[1]],
                "pages left": left[names[2]],
                "descriptors more than before": max(0, descriptors() - before),
            }
    return figures


EXPERIMENTS = {
    "long": (long_prompt, "Four streams run, and a prompt of 6,000 tokens arrives"),
    "urgent": (urgent, "64 batch requests saturate; an urgent one arrives each second"),
    "fair": (fair, "Tenant A floods with 100 at once, tenant B has one at a time"),
    "overload": (overload, "Three times the load that can be answered, with deadlines"),
    "prefix": (shared_prefix, "50 callers share a prefix of 2,000 tokens"),
    "cancels": (cancels, "Random cancels, 10,000 requests"),
}

# figure: (least, most), either None
GOALS = {
    "gap p99 over alone": (None, 1.3),
    "largest gap over alone": (None, 2),
    "first token p99 over idle plus a step": (None, 1),
    "B's first token p99 over alone": (None, 2),
    "share over the weights'": (0.9, 1.1),
    "answered in time over possible": (0.9, None),
    "tokens in vain": (None, 0.05),
    "second over first": (None, 0.1),
    "rate over that without reuse": (5, None),
    "of them with another text": (None, 0),
    "generations left": (None, 0),
    "pages left": (None, 0),
    "descriptors more than before": (None, 0),
}
# What means nothing for servers that know no tenants.
OURS_ONLY = {"share of weight 3 of 4", "share over the weights'"}
