"""From samples to the rows of the table: medians, ratios, goals, marks. Nothing here is typed in but the goals."""
import statistics

import cases

GIB = 1 << 30
# Of the int8 peak, what blocks of 32 weights with a scale each can reach: docs/performance.md derives it.
BLOCK_CEILING = 0.73


def median(samples):
    return statistics.median(samples) if samples else None


class Run:
    """Samples with names: rate(engine, case)."""

    def __init__(self, r):
        self.r, self.peers = r, r["peers"]
        self.by_id = {c["id"]: c for c in cases.cases(r["quick"])}

    def rate(self, engine, case):
        return median(self.r["samples"].get(engine, {}).get(case))

    def ours(self, case):
        return self.rate("autoglm", case)

    def best(self, case):
        found = [(self.rate(p, case), p) for p in self.peers if self.rate(p, case)]
        return max(found) if found else (None, None)

    def fact(self, model, key):
        """0 for a model that was not measured."""
        return self.r["models"].get(model, {}).get(key, 0)

    def peak(self, key):
        return median([p[key] for found in self.r["peaks"].values() for p in found])


def row(name, unit, run, case=None, ours=None, peers=None, goals=(), digits=1):
    """goals: (words, value reached or None, least or most, is it a least). Met only if every one is."""
    ours = run.ours(case) if case else ours
    peers = {p: run.rate(p, case) for p in run.peers} if case else peers or {}
    marks = []
    for words, value, limit, least in goals:
        met = None if value is None or limit is None else (value >= limit if least else value <= limit)
        marks.append({"words": words, "value": value, "limit": limit, "met": met})
    best = max([v for v in peers.values() if v], default=None)
    return {"name": name, "unit": unit, "ours": ours, "peers": peers, "ratio": ours / best if ours and best else None,
            "digits": digits, "goals": marks}


def divide(a, b):
    return a / b if a and b else None


def against(run, case, factor):
    return (f"{factor:g}x the best peer", divide(run.ours(case), run.best(case)[0]), factor, True)


def of_read_peak(run, model, case):
    size, rate, peak = run.r["ours"]["bytes"].get(model), run.ours(case), run.peak("read_gb_s")
    return ("90 % of the read peak", size * rate / peak / 1e9 if size and rate and peak else None, 0.9, True)


def of_ceiling(run, model, case):
    rate, peak = run.ours(case), run.peak("int8_gop_s")
    ops = 2 * run.fact(model, "product_weights")
    return (f"80 % of the format's ceiling ({100 * BLOCK_CEILING:.0f} % of the int8 peak)",
            ops * rate / 1e9 / (BLOCK_CEILING * peak) if ops and rate and peak else None, 0.8, True)


def big_rows(run):
    """The 1B shape, a block of rows for each type."""
    for case in run.by_id.values():
        model = case["model"]
        if model == cases.SMALL:
            continue
        kind, one = model.rsplit("-", 1)[1], f"{model} decode 1 at 128"
        if case["do"] == "prefill":
            goals = [against(run, case["id"], 1.5 if run.r["machine"]["amx"] else 1.2)]
            if not run.r["machine"]["amx"]:
                goals.append(of_ceiling(run, model, case["id"]))
            yield row(f"1B {kind}: prefill of {case['tokens']}", "tokens/s", run, case["id"], goals=goals)
        elif case["context"] == 128:
            n = case["batch"]
            if n == 1:
                goals = [against(run, case["id"], 1.2), of_read_peak(run, model, case["id"])]
            else:
                goals = [against(run, case["id"], 2), ("5x the rate of one", divide(run.ours(case["id"]), run.ours(one)), 5, True)]
            yield row(f"1B {kind}: decode, {n} at once" if n > 1 else f"1B {kind}: decode, one", "tokens/s", run, case["id"], goals=goals)
        else:
            yield row(f"1B {kind}: decode at {case['context']:,} over at 128", "share", run, digits=2,
                      ours=divide(run.ours(case["id"]), run.ours(one)),
                      peers={p: divide(run.rate(p, case["id"]), run.rate(p, one)) for p in run.peers},
                      goals=[("60 %", divide(run.ours(case["id"]), run.ours(one)), 0.6, True)])


def small_rows(run):
    for case in run.by_id.values():
        if case["model"] != cases.SMALL:
            continue
        name = f"{cases.SMALL}: "
        if case["do"] == "prefill":
            yield row(f"{name}prefill of {case['tokens']:,}", "tokens/s", run, case["id"], goals=[against(run, case["id"], 1.5)])
        elif case["context"] == 128:
            yield row(f"{name}decode, {'one' if case['batch'] == 1 else str(case['batch']) + ' at once'}", "tokens/s", run, case["id"],
                      goals=[against(run, case["id"], 1.5)])
        else:
            reached = divide(run.ours(case["id"]), run.ours(f"{cases.SMALL} decode 1 at 128"))
            size = run.r["ours"]["bytes"].get(cases.SMALL)
            limit = 0.85 * size / (size + run.fact(cases.SMALL, "kv_bytes_per_token") * case["context"]) if size else None
            yield row(f"{name}decode at {case['context']:,} over at 128", "share", run, ours=reached, digits=2,
                      goals=[("85 % of bytes(weights) / bytes(weights + KV)", reached, limit, True)])


def start_rows(run):
    starts, facts = run.r["starts"], cases.starts(run.r["quick"])
    model = facts["model"]
    kind = facts["model"].rsplit("-", 1)[1]
    first = {p: median(v["first"]) for p, v in starts.items()}
    ours = first.pop("autoglm", None)
    yield row(f"1B {kind}: first token, repacking", "s", run, ours=ours, peers=first, digits=2, goals=[("under 1 s", ours, 1.0, False)])
    stored = median(starts.get("autoglm", {}).get("stored", []))
    yield row(f"1B {kind}: first token, stored image", "s", run, ours=stored, digits=2, goals=[("under 0.2 s", stored, 0.2, False)])
    memory = {p: (median(v["memory"]) or 0) / GIB or None for p, v in starts.items()}
    ours = memory.pop("autoglm", None)
    kv = facts["tokens"] * run.fact(model, "kv_bytes_per_token")
    limit = (1.1 * (run.fact(model, "bytes") + kv) + (64 << 20)) / GIB
    yield row(f"1B {kind}: memory at the peak, {facts['tokens']:,} tokens", "GiB", run, ours=ours, peers=memory, digits=2,
              goals=[(f"file + KV + 10 % + 64 MiB: {limit:.2f} GiB", ours, limit, False)])


def table(r):
    run = Run(r)
    return [*small_rows(run), *big_rows(run), *start_rows(run)]
