"""What bench/serving/run measured, as tables in Markdown, as a plot, and as the generated part of a page."""

import html
import pathlib
import statistics

BEGIN, END = "<!-- measured: begin (bench/serving/run) -->", "<!-- measured: end -->"
OURS = "autoglm"
# By number of clients: tokens/s at least so many times the best peer's; a first-token quantile at most so many times
# the best peer's p50.
GOALS = {1: {"rate": 1.5, "ttft": (0.5, 0.5)}, 8: {"rate": 2.0}, 32: {"rate": 2.0, "ttft": (0.99, 1.5)}}


def check(path):
    """Before minutes of measuring rather than after: the page can take the result."""
    text = pathlib.Path(path).read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"{path}: there should be one line '{BEGIN}' and after it one line '{END}'")


def put(path, result):
    path = pathlib.Path(path)
    before, after = path.read_text().split(BEGIN)[0], path.read_text().split(END)[1]
    svg = path.with_suffix(".svg")
    svg.write_text(plot(result))
    path.write_text(
        f"{before}{BEGIN}\n\n![tokens a second and first tokens by server]({svg.name})\n\n{text(result)}\n{END}{after}"
    )


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
    c = {
        "requests": ok,
        "failed": sum(r["requests"]["failed"] for r in rounds),
        "rate": statistics.median(r["output_tokens"] / r["elapsed_s"] for r in rounds),
        "lowest": min(r["output_tokens"] / r["elapsed_s"] for r in rounds),
        "highest": max(r["output_tokens"] / r["elapsed_s"] for r in rounds),
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


def cells(result):
    """{clients: {server: cell}}"""
    cores = result["machine"]["cores"]
    return {
        c: {name: cell(s["cells"][str(c)], cores) for name, s in result["servers"].items() if s["cells"].get(str(c))}
        for c in result["clients"]
    }


def goals(result):
    """[(clients, words, ratio, bound, met)], for what can be compared."""
    found = []
    for clients, by in cells(result).items():
        theirs, ours = [c for name, c in by.items() if name != OURS], by.get(OURS)
        goal = GOALS.get(clients)
        if not goal or not theirs or not ours:
            continue
        ratio = ours["rate"] / max(c["rate"] for c in theirs)
        found.append(
            (clients, "tokens/s over the best peer's", ratio, f"at least {goal['rate']:g}", ratio >= goal["rate"])
        )
        if "ttft" in goal:
            q, most = goal["ttft"]
            name = f"p{100 * q:g}"
            ratio = ours[f"ttft_{name}"] / min(c["ttft_p50"] for c in theirs)
            found.append(
                (clients, f"first token, {name} over the best peer's p50", ratio, f"at most {most:g}", ratio <= most)
            )
    return found


def table(head, rows):
    lines = [
        "| " + " | ".join(head) + " |",
        "|" + "|".join(" --- " if h in ("server", "what", "", "goal") else " ---: " for h in head) + "|",
    ]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def ms(v):
    return "–" if v is None else f"{v:.0f}" if v >= 100 else f"{v:.1f}"


def warnings(result, by):
    found = []
    if result["quick"]:
        found.append("**A quick run: these figures only show that the measurement works.**")
    if result["others"] > 0.05:
        found.append(
            f"**The machine was not quiet: other work took {100 * result['others']:.0f} % of it. Measure again.**"
        )
    for clients, servers in by.items():
        for what in ("prompt", "answer"):
            counts = {f"{c[what]:.2f}" for c in servers.values()}
            if len(counts) > 1:
                found.append(
                    f"**With {clients} clients the servers counted different lengths of {what}: "
                    f"{', '.join(sorted(counts))} tokens.**"
                )
        for name, c in servers.items():
            if c["failed"]:
                found.append(
                    f"**{name} with {clients} clients failed {c['failed']} of {c['failed'] + c['requests']} requests.**"
                )
            if c["no_usage"]:
                found.append(
                    f"**{name} with {clients} clients told no usage for {c['no_usage']} answers: "
                    "events are counted as tokens.**"
                )
    return found


def text(result):
    by, machine = cells(result), result["machine"]
    parts = warnings(result, by)
    lines = [
        f"{result['date']}, {result['model']}, prompts of {result['prompt']} tokens, answers of {result['answer']}, "
        f"{result['threads']} threads "
        f"for each server, {result['rounds']} rounds.",
        f"- Machine: {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}; "
        f"other work took {100 * result['others']:.0f} % of it.",
        *(
            f"- {name} {s['version']}{' (' + result['revision'] + ')' if name == OURS and result['revision'] else ''}: "
            f"`{' '.join(s['flags'])}`"
            for name, s in result["servers"].items()
        ),
        *(f"- {name}: unavailable. {why}" for name, why in result["missing"].items()),
    ]
    parts.append("\n".join(lines))
    rows = [
        [
            str(clients),
            name,
            str(c["requests"]),
            f"{c['rate']:.1f} ({c['lowest']:.0f}–{c['highest']:.0f})",
            ms(c["ttft_p50"]),
            ms(c["ttft_p99"]),
            ms(c["gap_p50"]),
            ms(c["gap_p99"]),
            ms(c["gap_max"]),
            f"{c['prompt']:.0f} + {c['answer']:.1f}",
            f"{100 * c['server']:.0f} %",
            f"{100 * c['load']:.1f} %",
        ]
        for clients, servers in by.items()
        for name, c in servers.items()
    ]
    parts.append(
        table(
            [
                "clients",
                "server",
                "requests",
                "tokens/s (rounds)",
                "first token p50, ms",
                "p99",
                "gap p50, ms",
                "p99",
                "max",
                "tokens counted",
                "server's CPU",
                "load's CPU",
            ],
            rows,
        )
    )
    reached = goals(result)
    if reached:
        parts.append(
            table(
                ["clients", "what", "ratio", "goal", ""],
                [
                    [str(n), words, f"{ratio:.2f}", bound, "met" if met else "**missed**"]
                    for n, words, ratio, bound, met in reached
                ],
            )
        )
    return "\n\n".join(parts) + "\n"


def plot(result):
    """Bars: tokens a second on the left, the first token's p50 with a line to its p99 on the right."""
    rows = [
        (f"{n} client{'s' if n > 1 else ''}, {name}", c, list(result["servers"]).index(name))
        for n, by in cells(result).items()
        for name, c in by.items()
    ]
    left, width, gap, step, top = 170, 300, 90, 24, 84
    height = top + step * len(rows) + 24
    rate, ttft = max(c["rate"] for _, c, _ in rows) or 1, max(c["ttft_p99"] or 0 for _, c, _ in rows) or 1
    right = left + width + gap
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {height}" role="img">'
        "<title>servers side by side</title><style>"
        "text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:15px;font-weight:600}"
        ".s{fill:#656d76}.b{fill:#fff}"
        ".k0{fill:#0969da}.k1{fill:#bc4c00}.k2{fill:#1a7f37}.g{stroke:#1f2328;stroke-width:1.5;fill:none}"
        "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#8d96a0}.b{fill:#0d1117}"
        ".k0{fill:#58a6ff}.k1{fill:#f0883e}.k2{fill:#3fb950}"
        ".g{stroke:#e6edf3}}"
        f'</style><rect class="b" width="960" height="{height}"/>'
        '<text class="t" x="20" y="26">Servers side by side</text>'
        f'<text class="s" x="20" y="46">{html.escape(result["model"])}, {result["threads"]} threads, '
        f'{html.escape(result["machine"]["processor"])}, '
        f'{result["date"]}{"; a quick run, means nothing" if result["quick"] else ""}</text>'
        f'<text x="{left}" y="{top - 8}">tokens/s</text>'
        f'<text x="{right}" y="{top - 8}">first token, p50 and p99, ms</text>'
    ]
    for i, (name, c, colour) in enumerate(rows):
        y, p50, p99 = top + step * i, c["ttft_p50"] or 0, c["ttft_p99"] or 0
        a, b, d = width * c["rate"] / rate, width * p50 / ttft, width * p99 / ttft
        out.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect class="k{colour}" x="{left}" y="{y + 3}" width="{a:.1f}" height="{step - 9}" rx="2"/>'
            f'<text x="{left + a + 5:.1f}" y="{y + 14}">{c["rate"]:.0f}</text>'
            f'<rect class="k{colour}" x="{right}" y="{y + 3}" width="{b:.1f}" height="{step - 9}" rx="2"/>'
            f'<path class="g" d="M{right + b:.1f} {y + 10}H{right + d:.1f}m0 -4v8"/>'
            f'<text x="{right + max(b, d) + 5:.1f}" y="{y + 14}">{p50:.0f} / {p99:.0f}</text>'
        )
    return "".join(out) + "</svg>\n"
