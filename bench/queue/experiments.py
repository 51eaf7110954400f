"""The six experiments: each takes a scene, loads its server, and gives back what was measured, as plain numbers."""
import asyncio
import contextlib
import random
import time

import client
from scene import OURS, Failed, kind


def rounded(values):
    return [round(v, 3) for v in values]


async def gone(tasks):
    for t in tasks:
        t.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# 1. Streams run while a long prompt arrives.

def touched(times, begin, end):
    """Numbers of the pieces whose gap to the one before touches [begin, end]."""
    return [k for k in range(1, len(times)) if times[k] > begin and times[k - 1] < end]


def gaps(answers, pieces):
    """Milliseconds before each of those pieces of each answer."""
    return rounded(1e3 * (a.times[k] - a.times[k - 1]) for a, which in zip(answers, pieces) for k in which)


async def long_prompt(r, s, number):
    body = {**r.extra, "prompt": client.words(("long", number), s.long_prompt), "max_tokens": 1}
    answer = await client.ask(r.url, body)
    if not answer.whole():
        raise Failed(f"the long prompt was not answered: {answer.error}")
    return answer


@contextlib.asynccontextmanager
async def streams(r, s, number):
    """Answers that grow, and that are all alike for the same number; they have begun."""
    most = s.long_ctx - 3 * s.prompt
    answers = [client.Answer() for _ in range(s.streams)]
    body = {**r.extra, "max_tokens": most, "ignore_eos": True, "min_tokens": most}
    tasks = [asyncio.create_task(client.ask(r.url, {**body, "prompt": client.words((number, i), s.prompt)}, a))
             for i, a in enumerate(answers)]
    try:
        for a in answers:
            await a.first.wait()
        yield answers, tasks
    finally:
        await gone(tasks)


async def reach(answers, tasks, long_enough):
    """Waits until every answer is."""
    while not all(long_enough(i, a) for i, a in enumerate(answers)):
        if any(t.done() for t in tasks):
            raise Failed(f"a stream ended too early: {next((a.error for a in answers if a.error), 'it was too short')}")
        await asyncio.sleep(0.01)


async def stall_round(r, s, number):
    async with streams(r, s, number) as (answers, tasks):
        await reach(answers, tasks, lambda _, a: a.times)
        await asyncio.sleep(s.seconds / 6)
        long = await long_prompt(r, s, number)
        # A gap is known when it has ended.
        await reach(answers, tasks, lambda _, a: a.times[-1] > long.times[0])
        pieces = [touched(a.times, long.begun, long.times[0]) for a in answers]
        during = gaps(answers, pieces)
    r.settle()
    # Contexts grow, and gaps with them: the same pieces of the same streams, without the long prompt.
    async with streams(r, s, number) as (answers, tasks):
        await reach(answers, tasks, lambda i, a: len(a.times) > max(pieces[i], default=0))
        return {"quiet": gaps(answers, pieces), "during": during, "first_ms": long.first_ms(),
                "prompt_tokens": (long.usage or {}).get("prompt_tokens")}


def stall(scene):
    s = scene.sizes
    with scene.start(s.streams + 1, s.long_ctx) as r:
        r.warm_up(s.prompt, 32, s.streams)
        alone = [asyncio.run(long_prompt(r, s, 1000 + i)).first_ms() for i in range(s.repeats)]
        rounds = []
        for i in range(s.repeats):
            rounds.append(asyncio.run(stall_round(r, s, i)))
            r.settle()
    return {"alone_ms": alone, "rounds": rounds}


def ms(seconds):
    return f"{round(1e3 * seconds)}ms"


# 2. Urgent requests arrive while a batch saturates the server.

def urgent(scene):
    s = scene.sizes
    one = {"band": 0, "every": ms(s.every), "prompt": s.brief_prompt, "max-tokens": s.urgent_answer}
    urgents = kind(scene.server.name, "urgent", **one)
    late = kind(scene.server.name, "urgent", **one, start=ms(s.lead))
    batch = kind(scene.server.name, "batch", band=3, clients=s.batch, prompt=s.busy_prompt, **{"max-tokens": s.busy_answer})
    with scene.start(s.batch, s.slot(), urgency=True) as r:
        r.warm_up(s.prompt, s.answer, s.batch)
        idle = r.bench("--classes", urgents, "--duration", ms(s.seconds))["urgent"]
        r.settle()
        alone = r.bench("--classes", batch, "--duration", ms(s.lead + s.seconds / 2), fails=True)["batch"]
        r.settle()
        both = r.bench("--classes", f"{batch},{late}", "--duration", ms(s.lead + s.seconds), fails=True)
        r.settle()
    return {"idle": idle, "batch_alone": alone, "batch": both["batch"], "urgent": both["urgent"]}


# 3. One tenant floods, another asks for one answer at a time; then both want more than there is.

def fair(scene):
    s = scene.sizes
    one = {"tenant": "b", "clients": 1, "prompt": s.brief_prompt, "max-tokens": s.single_answer}
    busy = {"prompt": s.busy_prompt, "max-tokens": s.busy_answer}
    single, later = (kind(scene.server.name, "b", **one, **x) for x in ({}, {"start": ms(s.lead)}))
    flood = kind(scene.server.name, "a", tenant="a", clients=s.flood, **busy)
    second = kind(scene.server.name, "b", tenant="b", clients=s.both, **busy)
    with scene.start(s.batch, s.slot()) as r:
        r.warm_up(s.prompt, s.answer, s.batch)
        alone = r.bench("--classes", single, "--duration", ms(s.seconds / 2))["b"]
        r.settle()
        flooded = r.bench("--classes", f"{flood},{later}", "--duration", ms(s.lead + s.seconds), fails=True)
        r.settle()
        shares = r.bench("--classes", f"{flood},{second}", "--duration", ms(2 * s.seconds), fails=True)
        r.settle()
    return {"alone": alone, "flood": flooded["a"], "single": flooded["b"], "shares": {n: shares[n] for n in ("a", "b")}}


# 4. Three times as many requests as can be answered, each with a deadline.

def overload(scene):
    """Capacity is measured first, on the same server; a deadline is twice the usual time of an answer at capacity. Servers
    that know no deadlines get clients that go away when theirs has passed."""
    s = scene.sizes
    common = ("-p", s.prompt, "--max-tokens", s.answer)
    with scene.start(s.batch, s.slot()) as r:
        r.warm_up(s.prompt, s.answer, s.batch)
        probe = r.bench("-c", s.batch, "-n", 2 * s.batch, *common)
        usual = probe["requests"]["ok"] / probe["elapsed_s"]
        capacity = r.bench("-c", s.batch, "-n", max(3 * s.batch, int(usual * s.seconds)), *common)
        rate, deadline_ms = capacity["requests"]["ok"] / capacity["elapsed_s"], round(2 * capacity["latency_ms"]["p50"])
        r.settle()
        before = r.computed()
        load = kind(r.name, "all", rate=f"{3 * rate:.4f}", clients=2000, requests=max(int(3 * rate * s.seconds), 20),
                    timeout=f"{deadline_ms}ms")
        patience = "5m" if r.name == OURS else f"{deadline_ms}ms"
        loaded = r.bench("--classes", load, "--buckets", *common, timeout=patience, fails=True)["all"]
        r.settle()
        computed = r.computed() - before
        evicted = client.over(r.url, "autoglm_evicted_after_deadline_seconds", "0.01") if r.name == OURS else None
    return {"capacity": capacity, "rate": rate, "deadline_ms": deadline_ms, "loaded": loaded, "computed": computed,
            "evicted": evicted}


# 5. Many callers share the beginning of their prompts.

def prefix(scene):
    s = scene.sizes
    ctx = s.shared + s.tail + s.shared_answer + 236

    async def ask(r, number, tail):
        prompt = client.words(("shared", number), s.shared) + " " + client.words((number, tail), s.tail)
        answer = await client.ask(r.url, {**r.extra, "prompt": prompt, "max_tokens": s.shared_answer, "ignore_eos": True})
        if not answer.whole():
            raise Failed(f"a request was not answered: {answer.error}")
        return answer.first_ms()

    def rate(r, requests):
        got = r.bench("-c", s.callers, "-n", requests, "-p", s.shared + s.tail, "--shared-prefix", s.shared,
                      "--max-tokens", s.shared_answer)
        return {"requests": got["requests"], "elapsed_s": got["elapsed_s"], "ttft_ms": got["ttft_ms"]}

    with scene.start(s.callers, ctx, reuse=True) as r:
        r.warm_up(s.prompt, s.shared_answer, 2)
        firsts = [[asyncio.run(ask(r, number, tail)) for tail in range(2)] for number in range(s.repeats)]
        r.settle()
        reused = rate(r, s.callers)
    with scene.start(s.callers, ctx, reuse=False) as r:
        r.warm_up(s.prompt, s.shared_answer, 2)
        # As many as a minute or so computes: the rate does not depend on it.
        fit = max(8, min(s.callers, int(s.seconds * 1e3 / firsts[0][0])))
        plain = rate(r, fit)
    return {"first_ms": [a for a, _ in firsts], "second_ms": [b for _, b in firsts], "reused": reused, "plain": plain}


# 6. Thousands of requests, half of which are given up in every state they can be in.

def witness(s, i):
    """A request whose answer is to be the same whatever goes on around it."""
    return {"prompt": client.words(("witness", i), 10 + 3 * i), "max_tokens": s.witness_answer, "ignore_eos": True,
            "temperature": 0.8, "seed": 1000 + i}


async def one_cancel(r, s, number, rnd, expected, counts):
    """A request that is read to its end, or left: before its head, after some pieces, or taken out by its id."""
    if rnd.random() < 0.1:
        i = rnd.randrange(s.witnesses)
        a = await client.ask(r.url, {**r.extra, **witness(s, i)})
        counts["witnesses"] += 1
        counts["different"] += a.whole() and a.text != expected[i]
        counts["failed"] += not a.whole()
        return
    length = rnd.randint(1, 2 * s.witness_answer)
    body = {**r.extra, "max_tokens": length, "ignore_eos": True,
            "prompt": client.words(("cancel", number), rnd.randint(1, s.prompt))}
    way = rnd.choice(("whole", "whole", "early", "amid", "by id" if r.name == OURS else "amid"))
    counts[way] += 1
    if way == "whole":
        counts["failed"] += not (await client.ask(r.url, body)).whole()
    elif way == "amid":
        await client.ask(r.url, body, enough=rnd.randint(1, length))
    elif way == "early":
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.ask(r.url, body), rnd.expovariate(1 / 0.05))
    else:
        task = asyncio.create_task(client.ask(r.url, body, headers={"x-request-id": f"cancel-{number}"}))
        await asyncio.sleep(rnd.expovariate(1 / 0.05))
        await client.delete(r.url, f"cancel-{number}")
        await task


async def many_cancels(r, s, first, count, expected):
    """`count` requests, twice as many at once as the server runs; what became of them."""
    counts = dict.fromkeys(("witnesses", "different", "failed", "whole", "early", "amid", "by id"), 0)
    numbers = iter(range(first, first + count))

    async def worker():
        for number in numbers:
            await one_cancel(r, s, number, random.Random(number), expected, counts)
    await asyncio.gather(*(worker() for _ in range(2 * s.batch)))
    return counts


def look(r):
    """What an idle server holds."""
    found, looks = r.settle(), []
    for _ in range(10):  # it closes the last connections a moment after their clients
        time.sleep(0.05)
        looks.append(client.taken(r.process.pid))
    held = min(looks, key=lambda x: x["descriptors"])
    if r.name == OURS:
        kept = found["autoglm_kv_pages_kept"]
        held["pages_lost"] = found["autoglm_kv_pages"] - kept - found["autoglm_kv_pages_free"]
        held["pages_used"] = found["autoglm_kv_pages_used"]
        held["queue_bytes"] = found["autoglm_queue_bytes"]
    return held


def cancel(scene):
    s = scene.sizes
    count = s.cancels if scene.server.name == OURS else s.cancels_peer
    # So few pages that the memory of all has been touched before the first look, and that some are set back.
    few = ["--ctx", str(s.batch * (s.prompt + 2 * s.witness_answer) // 2)] if scene.server.name == OURS else []
    with scene.start(s.batch, s.slot(), more=few) as r:
        async def alone():
            return [await client.ask(r.url, {**r.extra, **witness(s, i)}) for i in range(s.witnesses)]
        answers = asyncio.run(alone())
        if not all(a.whole() for a in answers):
            raise Failed(f"a request was not answered: {next(a.error for a in answers if not a.whole())}")
        expected = [a.text for a in answers]
        asyncio.run(many_cancels(r, s, 0, s.warm, expected))
        before = look(r)
        counts = asyncio.run(many_cancels(r, s, s.warm, count, expected))
        after = look(r)
        again = [a.text for a in asyncio.run(alone())]
        counts["different"] += sum(a != b for a, b in zip(again, expected))
        counts["witnesses"] += len(again)
    return {"requests": count, "counts": counts, "before": before, "after": after}


ALL = {"stall": stall, "urgent": urgent, "fair": fair, "overload": overload, "prefix": prefix, "cancel": cancel}
# Sizes that the command line may change, by whose samples hang on them.
USES = {"stall": ("seconds", "repeats"), "urgent": ("seconds", "lead", "every"), "fair": ("seconds", "lead"),
        "overload": ("seconds",), "prefix": ("seconds", "repeats"), "cancel": ("cancels",)}
# The same server once more: peers set up for small steps, ours for a long prompt that comes sooner, or so that those who
# come too late wait for their deadline.
VARIANTS = {"overload": {"autoglm": ["--refuse-late=no"]},
            "stall": {"autoglm": ["--step-ratio=300"], "llama.cpp": ["-b", "256", "-ub", "256"],
                      "vLLM": ["--max-num-batched-tokens", "256"]}}
