"""A server as an experiment wants it: started with its flags, loaded, and looked at."""
import contextlib
import dataclasses
import json
import time

import client
import servers as m

OURS, LLAMA, VLLM = "autoglm", "llama.cpp", "vLLM"
# By server: tokens that it computed, requests that it has now.
COMPUTED = {
    OURS: ("autoglm_prompt_tokens_total", "autoglm_output_tokens_total", "autoglm_again_tokens_total"),
    LLAMA: ("llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total"),
    VLLM: ("vllm:prompt_tokens_total", "vllm:generation_tokens_total"),
}
PRESENT = {
    OURS: ("autoglm_generations_waiting", "autoglm_generations_running"),
    LLAMA: ("llamacpp:requests_deferred", "llamacpp:requests_processing"),
    VLLM: ("vllm:num_requests_waiting", "vllm:num_requests_running"),
}


class Failed(Exception):
    """An experiment came to nothing; the text says why."""


@dataclasses.dataclass
class Sizes:
    """How much is asked in each experiment."""
    seconds: float = 60
    lead: float = 10        # for which a load runs before anybody comes to it
    every: float = 1        # seconds between urgent requests
    repeats: int = 3
    streams: int = 4
    long_prompt: int = 6000
    long_ctx: int = 8192
    prompt: int = 100       # of a common request
    answer: str = "32-96"
    busy_prompt: int = 300  # of one that keeps the server busy
    busy_answer: int = 200
    brief_prompt: int = 200  # of one that is in a hurry
    urgent_answer: int = 16
    single_answer: int = 50
    batch: int = 64
    flood: int = 100
    both: int = 50
    callers: int = 50
    shared: int = 2000
    tail: int = 32
    shared_answer: int = 16
    cancels: int = 10000
    cancels_peer: int = 1000
    warm: int = 500
    witnesses: int = 16
    witness_answer: int = 24

    def slot(self):
        """Tokens that one common conversation needs, with room."""
        return self.busy_prompt + self.busy_answer + 140


QUICK = Sizes(seconds=2, lead=0.3, every=0.05, repeats=1, streams=2, long_prompt=100, long_ctx=8192, prompt=8, answer="2-6",
              busy_prompt=10, busy_answer=6, brief_prompt=8, urgent_answer=2, single_answer=3, batch=4, flood=6, both=4,
              callers=4, shared=40, tail=4, shared_answer=2, cancels=40, cancels_peer=20, warm=10, witnesses=2,
              witness_answer=4)


def without(command, **flags):
    """`command` less these flags and so many words after each."""
    out, skip = [], 0
    for word in command:
        if skip:
            skip -= 1
        elif word.lstrip("-") in flags:
            skip = flags[word.lstrip("-")]
        else:
            out.append(word)
    return out


def prepared(server, slots, ctx, reuse=None, urgency=False, more=()):
    """(command, extra fields, environment) of a server for so many conversations of `ctx` tokens. `reuse` of prefixes:
    None is its default for us and off for the others, whose caches would only cost them."""
    command, extra, environment = list(server.command), dict(server.extra), dict(server.environment or {})
    if server.name == OURS:
        command += ["--prefix-cache=no"] if reuse is False else []
    elif server.name == LLAMA:
        command += ["-np", str(slots), "-c", str(slots * ctx), "--metrics"]
        if reuse:
            command, extra = without(command, **{"no-cache-prompt": 0, "cram": 1}), {**extra, "cache_prompt": True}
    else:
        command = without(command, **{"max-model-len": 1, "max-num-seqs": 1, "disable-log-stats": 0})
        command += ["--max-model-len", str(ctx), "--max-num-seqs", str(slots)]
        command += ["--scheduling-policy", "priority"] if urgency else []
        command = without(command, **{"no-enable-prefix-caching": 0}) if reuse else command
        environment["VLLM_CPU_KVCACHE_SPACE"] = "4"
    return [*command, *more], extra, environment


def kind(name, label, **said):
    """A class of requests for `autoglm bench http`, less what only we know; vLLM knows bands too."""
    ours_only = {OURS: (), VLLM: ("tenant", "timeout")}.get(name, ("tenant", "timeout", "band"))
    return ":".join([label, *(f"{k}={v}" for k, v in said.items() if k not in ours_only)])


class Running:
    """A server that runs."""

    def __init__(self, args, server, url, process, extra):
        self.args, self.name, self.url, self.process, self.extra = args, server.name, url, process, extra
        self.seed = 0

    def bench(self, *flags, timeout="5m", fails=False):
        """What `autoglm bench http` saw. Every call has prompts of its own. `fails`: no answer at all is a result too."""
        self.seed += 10**8
        command = [self.args.binary, "bench", "http", self.url, "--json", "--seed", str(self.seed), "--timeout", timeout]
        status, out, _ = m.run_counted([*command, "--extra", json.dumps(self.extra), *(str(x) for x in flags)])
        if not out:
            raise Failed(f"the load generator ended with status {status}")
        got = json.loads(out)
        if status and not fails:
            said = [c["last_error"] for c in got.get("classes", {"all": got}).values() if c["last_error"]]
            raise Failed(f"no answer: {said[0] if said else 'none was whole in the time given'}")
        return {name: slim(c) for name, c in got["classes"].items()} if "classes" in got else slim(got)

    def warm_up(self, prompt, answer, clients):
        """Also lets a server that learns how long its steps take learn it, for a minute at most."""
        self.bench("-c", clients, "-n", 2 * clients, "--duration", "1m", "-p", prompt, "--max-tokens", answer, fails=True)
        self.settle()

    def metrics(self):
        return client.metrics(self.url)

    def computed(self):
        found = self.metrics()
        return sum(found.get(name, 0.0) for name in COMPUTED[self.name])

    def settle(self):
        """Waits until it has nothing to do; what it says of itself then."""
        end = time.monotonic() + 120
        while True:
            found = self.metrics()
            if not any(found.get(name, 0.0) for name in PRESENT[self.name]):
                return found
            if time.monotonic() > end:
                raise Failed("two minutes after the last request it still says that it works")
            time.sleep(0.1)


def slim(got):
    """Less what no page shows."""
    kept = ("requests", "cut", "prompt_tokens", "output_tokens", "elapsed_s", "ttft_ms", "gap_ms", "latency_ms", "failures",
            "last_error", "answers_without_usage")
    return {k: got[k] for k in kept if k in got}


class Scene:
    """One server in one experiment, which may start it several times."""

    def __init__(self, args, sizes, server, more=()):
        self.args, self.sizes, self.server, self.more = args, sizes, server, more

    @contextlib.contextmanager
    def start(self, slots, ctx, reuse=None, urgency=False, more=()):
        command, extra, environment = prepared(self.server, slots, ctx, reuse, urgency, [*more, *self.more])
        with m.server(command, self.server.path, self.server.ready_s, environment) as (url, process):
            running = Running(self.args, self.server, url, process, extra)
            try:
                yield running
            except Failed:
                if process.poll() is not None:
                    raise Failed(f"the server ended with status {process.poll()}") from None
                raise
