"""What bench/queue/run measured, as tables in Markdown, as a plot, and as the generated part of a page."""
import html
import math
import statistics

import results
from results import table

PLACE = results.Place("bench/queue/run")
OURS = "autoglm"
MIB = 1 << 20
TITLES = {
    "stall": "Streams run, a long prompt arrives",
    "urgent": "An urgent request arrives while a batch saturates the server",
    "fair": "One tenant floods, another has one request at a time",
    "overload": "Three times what can be answered is asked, with deadlines",
    "prefix": "Callers share the beginning of their prompts",
    "cancel": "Half of all requests are given up",
}


class Goal:
    """`key` of an experiment's figures is at `most` or at `least` a bound."""

    def __init__(self, experiment, key, words, most=None, least=None):
        self.experiment, self.key, self.words, self.most, self.least = experiment, key, words, most, least

    def bound(self):
        return f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}" if self.most else "none"

    def met(self, value):
        """None: not known."""
        if value is None:
            return None
        return value >= self.least if self.most is None else value <= self.most

    def distance(self, value):
        """1 at the goal, less where it is met."""
        if self.most is None:
            return self.least / value if value > 0 else math.inf
        return value / self.most if self.most else math.inf if value > 0 else 0.0


GOALS = [
    Goal("stall", "p99_ratio", "gap p99 of the streams, over the same without the prompt", most=1.3),
    Goal("stall", "max_ratio", "their largest gap, over the same without it", most=2),
    Goal("urgent", "steps_late", "urgent first token p99 above the idle server's, in steps of the batch", most=1),
    Goal("urgent", "failed", "urgent requests that failed", most=0),
    Goal("fair", "ratio", "first token p99 beside the flood, over alone", most=2),
    Goal("fair", "off", "shares of tokens while both want it: off the weights, %", most=10),
    Goal("overload", "in_time", "answers in time, over what was possible", least=0.9),
    Goal("overload", "vain", "computed in vain, % of all tokens", most=5),
    Goal("prefix", "second", "second first token, % of the first", most=10),
    Goal("prefix", "rate_ratio", "requests/s, over those without reuse", least=5),
    Goal("cancel", "pages", "pages of the cache lost", most=0),
    Goal("cancel", "descriptors", "descriptors lost", most=0),
    Goal("cancel", "rss_mib", "memory grown, MiB", most=8),
    Goal("cancel", "different", "answers of others that changed", most=0),
    Goal("cancel", "failed", "requests of others that failed", most=0),
]


def quantile(values, q):
    """The smallest that q of all do not exceed; None of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else None


def over(a, b):
    return a / b if a is not None and b else None


# Figures: {key: number or None} of a sample. Those in COLUMNS are shown.

def stall(x):
    quiet, during = ([g for r in x["rounds"] for g in r[k]] for k in ("quiet", "during"))
    f = {"alone": statistics.median(x["alone_ms"]), "first": statistics.median(r["first_ms"] for r in x["rounds"])}
    for name, values in (("quiet", quiet), ("during", during)):
        f |= {f"{name}_{k}": quantile(values, q) for k, q in (("p50", 0.5), ("p99", 0.99), ("max", 1))}
    # Of each round, whose two runs follow each other, and then the median: machines have slow minutes.
    ratios = [over(quantile(r["during"], 0.99), quantile(r["quiet"], 0.99)) for r in x["rounds"]]
    return f | {
        "p99_ratio": statistics.median(ratios) if None not in ratios else None, "max_ratio": over(f["during_max"], f["quiet_max"]),
        "price": over(f["first"], f["alone"]),
    }


def urgent(x):
    first, gap = x["urgent"]["ttft_ms"], x["batch_alone"]["gap_ms"]
    idle, loaded, step = x["idle"]["ttft_ms"].get("p99"), first.get("p99"), gap.get("p99")
    return {
        "idle_p99": idle, "loaded_p50": first.get("p50"), "loaded_p99": loaded, "step_p50": gap.get("p50"), "step": step,
        "steps_late": None if None in (idle, loaded, step) else (loaded - idle) / step,
        "asked": x["urgent"]["requests"]["started"], "failed": x["urgent"]["requests"]["failed"],
        "batch_alone": rate(x["batch_alone"]), "batch": rate(x["batch"]),
    }


def rate(got):
    return got["output_tokens"] / got["elapsed_s"]


def fair(x):
    a, b = (x["shares"][n]["prompt_tokens"] + 4 * x["shares"][n]["output_tokens"] for n in ("a", "b"))
    share = over(b, a + b)
    alone, single = x["alone"]["ttft_ms"].get("p99"), x["single"]["ttft_ms"].get("p99")
    return {
        "alone": alone, "single_p50": x["single"]["ttft_ms"].get("p50"), "single": single, "ratio": over(single, alone),
        "answers": x["single"]["requests"]["ok"], "flood": rate(x["flood"]),
        "share": None if share is None else 100 * share, "off": None if share is None else 100 * abs(share - 0.5) / 0.5,
    }


def overload(x):
    got = x["loaded"]
    ok, cut = got["requests"]["ok"], got["cut"]
    # A bucket's time is true to 1/256; the client sees an end a little after the server has seen it.
    late = sum(n for us, n in got["latency_ms"].get("buckets_us", []) if us > 1010 * x["deadline_ms"])
    whole = ok - cut["requests"]
    good = max(whole - late, 0)
    useful = 0.0  # prompts are of one length, whole answers of one mean
    if good:
        useful = good * (got["prompt_tokens"] / ok + (got["output_tokens"] - cut["tokens"]) / whole)
    return {
        "capacity": x["rate"], "deadline": x["deadline_ms"], "asked": got["requests"]["started"], "good": good,
        "cut": cut["requests"], "refused": got["requests"]["failed"], "p99": got["latency_ms"].get("p99"),
        "in_time": over(good / got["elapsed_s"], x["rate"]),
        "behind": 100 * x["evicted"][0] / x["evicted"][1] if x.get("evicted") and x["evicted"][1] else None,
        "vain": 100 * max(0.0, 1 - useful / x["computed"]) if x["computed"] else None,
    }


def prefix(x):
    first, again = statistics.median(x["first_ms"]), statistics.median(x["second_ms"])
    reused, plain = (x[k]["requests"]["ok"] / x[k]["elapsed_s"] for k in ("reused", "plain"))
    return {"first": first, "again": again, "second": 100 * again / first, "reused": reused, "plain": plain,
            "rate_ratio": over(reused, plain)}


def cancel(x):
    c, before, after = x["counts"], x["before"], x["after"]
    pages = abs(after["pages_lost"]) + after["pages_used"] if "pages_lost" in after else None
    return {
        "requests": x["requests"], "left": c["early"] + c["amid"] + c["by id"], "pages": pages, "compared": c["witnesses"],
        "different": c["different"], "failed": c["failed"],
        "descriptors": max(0, after["descriptors"] - before["descriptors"]),
        "rss_mib": max(0, after["rss"] - before["rss"]) / MIB, "rss": after["rss"] / MIB,
    }


FIGURES = {"stall": stall, "urgent": urgent, "fair": fair, "overload": overload, "prefix": prefix, "cancel": cancel}
COLUMNS = {
    "stall": {"quiet_p50": "gap without it p50, ms", "quiet_p99": "p99", "quiet_max": "max",
              "during_p50": "during p50, ms", "during_p99": "p99", "during_max": "max",
              "alone": "long prompt's first token alone, ms", "first": "beside the streams, ms", "price": "its price"},
    "urgent": {"idle_p99": "idle first token p99, ms", "loaded_p50": "loaded p50, ms", "loaded_p99": "p99",
               "step_p50": "step of the batch p50, ms", "step": "p99", "asked": "urgent", "failed": "failed",
               "batch_alone": "batch alone, tokens/s", "batch": "with urgent"},
    "fair": {"alone": "alone first token p99, ms", "single_p50": "beside the flood p50, ms", "single": "p99",
             "answers": "its answers", "flood": "flood, tokens/s", "share": "share of the second, %"},
    "overload": {"capacity": "capacity, answers/s", "deadline": "deadline, ms", "asked": "asked", "good": "in time",
                 "cut": "cut off", "refused": "refused or given up", "p99": "answer p99, ms", "behind": "put out over 10 ms late, %"},
    "prefix": {"first": "first first token, ms", "again": "second, ms", "reused": "requests/s", "plain": "without reuse"},
    "cancel": {"requests": "requests", "left": "given up", "compared": "compared", "rss": "memory, MiB"},
}


def figures(r):
    """{experiment: {server: figures}}, variants of peers beside them."""
    return {e: {name: FIGURES[e](x) for name, x in by.items()} for e in TITLES if (by := r["samples"].get(e))}


def compared(r):
    """[(goal, {server: value}, met)]; a server of ours that failed missed its goals."""
    by, found = figures(r), []
    for goal in GOALS:
        if goal.experiment not in by and goal.experiment not in r["lost"]:
            continue
        values = {name: f.get(goal.key) for name, f in by.get(goal.experiment, {}).items()}
        met = goal.met(values.get(OURS))
        found.append((goal, values, False if OURS in r["lost"].get(goal.experiment, {}) else met))
    return found


def number(v):
    if v is None:
        return "–"
    return f"{v:,.0f}" if float(v).is_integer() or abs(v) >= 1000 else f"{v:.1f}" if abs(v) >= 10 else f"{v:.2f}"


WORDS = {True: "met", False: "**missed**", None: "not measured"}


def started(name, s, r):
    version = s["version"] + (f" ({r['revision']})" if name == OURS and r["revision"] else "")
    line = f"- {version if name == OURS else name + ' ' + version}: `{' '.join(s['flags'])}`"
    if s["environment"]:
        line += f"; environment `{' '.join(f'{k}={v}' for k, v in s['environment'].items())}`"
    return line + "."


def others(sample):
    return f"{100 * sample['others']:.0f}" if "others" in sample else number(None)


def took(experiment, r):
    """With which sizes it was measured, and who with others."""
    measured = {n.split(",")[0] for n in r["samples"][experiment]}
    by = {name: " ".join(f"--{k} {v:g}" for k, v in sizes.items()) for name, sizes in r["took"][experiment].items()
          if name in measured}
    usual = by.get(OURS) or next(iter(by.values()))
    return f"{experiment} `{usual}`" + "".join(f" ({name} `{words}`)" for name, words in by.items() if words != usual)


def about(r):
    m = r["machine"]
    lines = [f"{r['date']}, {r['model']}, {r['threads']} threads for each server.\n",
             f"- Machine: {m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, Linux {m['kernel']}; other work took "
             f"{100 * r['others']:.0f} % of it."]
    lines += [f"- Sizes: {'; '.join(took(e, r) for e in TITLES if r['samples'].get(e))}."]
    lines += [started(name, s, r) for name, s in r["servers"].items()]
    lines += [f"- {name}: unavailable. {why}" for name, why in r["missing"].items()]
    lines += [f"- **{name} failed in \"{TITLES[e]}\"**: {why}" for e in TITLES for name, why in r["lost"].get(e, {}).items()]
    return "\n".join(lines)


def text(r):
    names = list(r["servers"])
    lines = [[TITLES[g.experiment], g.words, g.bound(), *(number(values.get(n)) for n in names), WORDS[met]]
             for g, values, met in compared(r)]
    for one, two in reversed(list(zip(lines, lines[1:]))):
        two[0] = "" if one[0] == two[0] else two[0]
    parts = [*results.warnings(r), about(r), table(("", "", "goal", *(n + " " for n in names), "ours"), lines)]
    for e, by in figures(r).items():
        columns = COLUMNS[e]
        rows = [[name, *(number(f[k]) for k in columns), others(r["samples"][e][name])]
                for name, f in by.items()]
        parts += [f"**{TITLES[e]}**", table(("server", *(c + " " for c in (*columns.values(), "other work, %"))), rows)]
    return "\n\n".join(parts) + "\n"


LEFT, WIDTH, STEP, BETWEEN, TOP = 420, 400, 17, 9, 84
LEAST, MOST = 0.01, 1000.0  # of the scale


def x_of(distance):
    at = min(max(distance, LEAST), MOST)
    return LEFT + WIDTH * math.log(at / LEAST) / math.log(MOST / LEAST)


def plot(r):
    """A bar per goal and server on a scale of tens: left of the line it is met."""
    names, y, out = list(r["servers"]), TOP, []
    for goal, values, _ in compared(r):
        shown = [n for n in names if values.get(n) is not None]
        out.append(f'<text x="{LEFT - 10}" y="{y + 12}" text-anchor="end">{html.escape(goal.words)}</text>')
        for n in shown:
            end = x_of(goal.distance(values[n]))
            out.append(f'<rect class="k{names.index(n)}" x="{LEFT}" y="{y + 2}" width="{end - LEFT:.1f}" '
                       f'height="{STEP - 5}" rx="2"/>'
                       f'<text x="{end + 5:.1f}" y="{y + 12}">{number(values[n])}</text>')
            y += STEP
        y += BETWEEN + (0 if shown else STEP)
    legend = "".join(f'<rect class="k{i}" x="{LEFT + 110 * i}" y="{TOP - 25}" width="10" height="10"/>'
                     f'<text x="{LEFT + 110 * i + 15}" y="{TOP - 16}">{html.escape(n)}</text>' for i, n in enumerate(names))
    note = "; a quick run, means nothing" if r["quick"] else ""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 {y + 34}" role="img">'
            f"<title>distance from each goal</title><style>{results.STYLE}</style>"
            f'<rect class="b" width="940" height="{y + 34}"/>'
            '<text class="t" x="20" y="26">In time for everyone: how far from each goal, on a scale of tens</text>'
            f'<text class="s" x="20" y="46">{html.escape(r["model"])}, {r["threads"]} threads, '
            f'{html.escape(r["machine"]["processor"])}, {r["date"]}{note}</text>{legend}{"".join(out)}'
            f'<path class="goal" d="M{x_of(1):.1f} {TOP - 6}V{y + 4}"/>'
            f'<text class="s" x="{x_of(1):.1f}" y="{y + 20}" text-anchor="middle">the goal: met to the left</text></svg>\n')


def put(path, r):
    PLACE.put(path, text(r), plot(r), "how far each server is from each goal")
