"""What bench/serving/run measured, as tables in Markdown, as a plot, and as the generated part of a page."""

import html
import statistics

import results
from results import table

PLACE = results.Place("bench/serving/run")
OURS = "autoglm"
# By number of clients: tokens/s at least so many times the best peer's; a first-token quantile at most so many times
# the best peer's p50.
GOALS = {1: {"rate": 1.5, "ttft": (0.5, 0.5)}, 8: {"rate": 2.0}, 32: {"rate": 2.0, "ttft": (0.99, 1.5)}}


def put(path, r):
    PLACE.put(path, text(r), plot(r), "tokens a second and first tokens by server")


def quantile(rounds, kind, q):
    """Over the requests (or gaps) of all rounds together; None: there was none."""
    counts = sorted(pair for r in rounds for pair in r[kind].get("buckets_us", []))
    left = q * sum(n for _, n in counts)
    for us, n in counts:
        left -= n
        if left <= 0:
            return us / 1e3
    return None


def cell(rounds, cores):
    """One server with one number of clients, over all rounds."""
    ok = sum(r["requests"]["ok"] for r in rounds)
    took = sum(r["elapsed_s"] for r in rounds)
    rates = [r["output_tokens"] / r["elapsed_s"] for r in rounds]
    c = {
        "rounds": len(rounds),
        "requests": ok,
        "failed": sum(r["requests"]["failed"] for r in rounds),
        "rate": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "prompt": sum(r["prompt_tokens"] for r in rounds) / max(ok, 1),
        "answer": sum(r["output_tokens"] for r in rounds) / max(ok, 1),
        "load": sum(r["load_cpu_s"] for r in rounds) / took / cores,
        "server": sum(r["server_cpu_s"] for r in rounds) / took / cores,
        "no_usage": sum(r["answers_without_usage"] for r in rounds),
    }
    for kind in ("ttft", "gap"):
        for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            c[f"{kind}_{name}"] = quantile(rounds, kind + "_ms", q)
    return c


def cells(r):
    """{clients: {server: cell, None where it failed}}; what has not been measured yet is not there."""
    found = {}
    for clients in r["clients"]:
        by = found[clients] = {}
        for name, s in r["servers"].items():
            if str(clients) in s["lost"]:
                by[name] = None
            elif s["cells"].get(str(clients)):
                by[name] = cell(s["cells"][str(clients)], r["machine"]["cores"])
    return found


def over(ours, key, theirs, best, their_key):
    """Ours over the best of theirs; None where one is missing."""
    values = [c[their_key] for c in theirs if c[their_key]]
    return ours[key] / best(values) if ours and ours[key] and values else None


def compared(r):
    """[(clients, words, ratio or None, goal or "", met, missed or not known)]; a server of ours that failed missed its goals."""
    found = []
    for clients, by in cells(r).items():
        ours, theirs = by.get(OURS), [c for name, c in by.items() if name != OURS and c]
        goal = GOALS.get(clients, {})
        rows = [("tokens/s over the best peer's", over(ours, "rate", theirs, max, "rate"), goal.get("rate"), True)]
        wanted = goal.get("ttft")
        for name, q, their in (("p50", 0.5, "p50"), ("p99", 0.99, "p99"), ("p99", 0.99, "p50")):
            most = wanted[1] if wanted and wanted[0] == q and their == "p50" else None
            if most is None and name != their:
                continue
            ratio = over(ours, f"ttft_{name}", theirs, min, f"ttft_{their}")
            rows.append((f"first token: {name} over the best peer's {their}", ratio, most, False))
        for words, ratio, bound, least in rows:
            met = None if bound is None or ratio is None else (ratio >= bound if least else ratio <= bound)
            if bound is not None and OURS in by and ours is None:
                met = False
            said = "" if bound is None else f"at {'least' if least else 'most'} {bound:g}"
            found.append((clients, words, ratio, said, met))
    return found


def number(clients):
    return "one client" if clients == 1 else f"{clients} clients"


def ms(v):
    return "–" if v is None else f"{v:,.0f}" if v >= 100 else f"{v:.1f}"


def warnings(r, by):
    found = results.warnings(r)
    for clients, servers in by.items():
        measured = {name: c for name, c in servers.items() if c}
        for what in ("prompt", "answer"):
            counts = {f"{c[what]:.2f}" for c in measured.values()}
            if len(counts) > 1:
                found.append(
                    f"**With {number(clients)} the servers counted different lengths of {what}: "
                    f"{', '.join(sorted(counts))} tokens.**"
                )
        for name, c in servers.items():
            if c is None:
                found.append(f"**{name} with {number(clients)} failed: {r['servers'][name]['lost'][str(clients)]}**")
                continue
            if c["rounds"] < r["rounds"]:
                found.append(f"**{name} with {number(clients)}: {c['rounds']} of {r['rounds']} rounds so far.**")
            if c["failed"]:
                found.append(
                    f"**{name} with {number(clients)} failed {c['failed']} of {c['failed'] + c['requests']} requests.**"
                )
            if c["no_usage"]:
                found.append(
                    f"**{name} with {number(clients)} told no usage for {c['no_usage']} answers: "
                    "events are counted as tokens.**"
                )
    return found


def started(name, s, r):
    """How a server was started, as one line."""
    version = s["version"] + (f" ({r['revision']})" if name == OURS and r["revision"] else "")
    line = f"- {version if name == OURS else name + ' ' + version}: `{' '.join(s['flags'])}`"
    by = {n: " ".join(f) for n, f in s["clients_flags"].items() if f}
    if by:
        line += ", and for " + "; ".join(f"{number(int(n))} `{f}`" for n, f in by.items())
    if s["environment"]:
        line += f"; environment `{' '.join(f'{k}={v}' for k, v in s['environment'].items())}`"
    return line + "."


def about(r):
    m = r["machine"]
    lines = [
        f"{r['date']}, {r['model']}, prompts of {r['prompt']} tokens, answers of {r['answer']}, {r['threads']} threads "
        f"for each server, {r['rounds']} rounds.\n",
        f"- Machine: {m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, Linux {m['kernel']}; other work took "
        f"{100 * r['others']:.0f} % of it.",
    ]
    lines += [started(name, s, r) for name, s in r["servers"].items()]
    lines += [f"- {name}: unavailable. {why}" for name, why in r["missing"].items()]
    return "\n".join(lines)


HEAD = (
    "clients ",
    "server",
    "requests ",
    "tokens/s (rounds) ",
    "first token p50, ms ",
    "p99 ",
    "gap p50, ms ",
    "p99 ",
    "max ",
    "tokens counted ",
    "server's CPU ",
    "load's CPU ",
)


def line(clients, name, c):
    if c is None:
        return [str(clients), name, "**failed**", *[""] * (len(HEAD) - 3)]
    return [
        str(clients),
        name,
        str(c["requests"]),
        f"{c['rate']:,.1f} ({c['lowest']:,.0f}–{c['highest']:,.0f})",
        *(ms(c[key]) for key in ("ttft_p50", "ttft_p99", "gap_p50", "gap_p99", "gap_max")),
        f"{c['prompt']:.0f} + {c['answer']:.1f}",
        f"{100 * c['server']:.0f} %",
        f"{100 * c['load']:.1f} %",
    ]


def text(r):
    by = cells(r)
    lines = [line(clients, name, c) for clients, servers in by.items() for name, c in servers.items()]
    words = {True: "met", False: "**missed**"}
    ratios = [
        [str(n), what, "–" if ratio is None else f"{ratio:.2f}", goal, words.get(met, "not measured" if goal else "")]
        for n, what, ratio, goal, met in compared(r)
    ]
    parts = [*warnings(r, by), about(r), table(HEAD, lines), table(("clients ", "ours", "ratio ", "goal", ""), ratios)]
    return "\n\n".join(parts) + "\n"


LEFT, WIDTH, GAP, STEP, BETWEEN, TOP = 190, 290, 90, 24, 10, 84


def bars(r, clients, by, y, most_rate):
    """A number of clients: a bar of tokens/s and one of first tokens for each server, ticks at our goals."""
    out, right = [], LEFT + WIDTH + GAP
    measured = [c for c in by.values() if c]
    most = max([c["ttft_p99"] or 0 for c in measured], default=0) or 1
    theirs = [c for name, c in by.items() if name != OURS and c]
    goal = GOALS.get(clients, {})
    for name, c in by.items():
        k = list(r["servers"]).index(name)
        label = f"{number(clients)}, {name}"
        out.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{html.escape(label)}</text>')
        if c is None:
            out.append(f'<text class="s" x="{LEFT + 5}" y="{y + 14}">failed</text>')
            y += STEP
            continue
        a, b, d = WIDTH * c["rate"] / most_rate, WIDTH * (c["ttft_p50"] or 0) / most, WIDTH * (c["ttft_p99"] or 0) / most
        end = a
        out.append(
            f'<rect class="k{k}" x="{LEFT}" y="{y + 3}" width="{a:.1f}" height="{STEP - 9}" rx="2"/>'
            f'<rect class="k{k}" x="{right}" y="{y + 3}" width="{b:.1f}" height="{STEP - 9}" rx="2"/>'
            f'<path class="goal" style="stroke-width:1.2" d="M{right + b:.1f} {y + 10}H{right + d:.1f}m0 -4v8"/>'
        )
        if name == OURS and theirs and "rate" in goal:
            tick = WIDTH * goal["rate"] * max(t["rate"] for t in theirs) / most_rate
            if tick <= WIDTH + 30:
                out.append(f'<path class="goal" d="M{LEFT + tick:.1f} {y + 1}v{STEP - 5}"/>')
                end = tick if 0 <= tick - a < 40 else a
        out.append(
            f'<text x="{LEFT + end + 5:.1f}" y="{y + 14}">{c["rate"]:,.0f}</text>'
            f'<text x="{right + max(b, d) + 5:.1f}" y="{y + 14}">{ms(c["ttft_p50"])} / {ms(c["ttft_p99"])}</text>'
        )
        y += STEP
    return "".join(out), y + BETWEEN


def plot(r):
    """Tokens a second on the left; on the right the first token's p50 with a line to its p99."""
    y, drawn, by = TOP, [], cells(r)
    most_rate = max([c["rate"] for servers in by.values() for c in servers.values() if c], default=1)
    for clients, servers in by.items():
        part, y = bars(r, clients, servers, y, most_rate)
        drawn.append(part)
    note = "; a quick run, means nothing" if r["quick"] else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {y + 14}" role="img">'
        f"<title>servers side by side</title><style>{results.STYLE}</style>"
        f'<rect class="b" width="960" height="{y + 14}"/>'
        '<text class="t" x="20" y="26">Servers side by side</text>'
        f'<text class="s" x="20" y="46">{html.escape(r["model"])}, {r["threads"]} threads, '
        f'{html.escape(r["machine"]["processor"])}, {r["date"]}{note}</text>'
        f'<text x="{LEFT}" y="{TOP - 10}">tokens/s; the tick is our goal</text>'
        f'<text x="{LEFT + WIDTH + GAP}" y="{TOP - 10}">first token: p50, line to p99, ms; a scale for each load</text>'
        f"{''.join(drawn)}</svg>\n"
    )
