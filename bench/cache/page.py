"""What bench/cache/run measured, as tables in Markdown, as a plot, and as the generated part of a page."""
import html
import math

import results
from results import table

PLACE = results.Place("bench/cache/run")
GOAL_NS = 1000
MEMORY_OFF = 0.02
MIB = 1 << 20
OPTIMUM = "optimum"
STYLE = ("text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:15px;font-weight:600}.h{font-weight:600}"
         ".s{fill:#656d76}.b{fill:#fff}.g{stroke:#d0d7de;stroke-width:1;fill:none}path.l{fill:none;stroke-width:2}"
         ".p0{stroke:#0969da;fill:#0969da}.p1{stroke:#bc4c00;fill:#bc4c00}.p2{stroke:#1a7f37;fill:#1a7f37}"
         ".p3{stroke:#8250df;fill:#8250df}.p4{stroke:#1f2328;fill:#1f2328;stroke-dasharray:5 3}circle{stroke:none}"
         "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#8d96a0}.b{fill:#0d1117}.g{stroke:#30363d}"
         ".p0{stroke:#58a6ff;fill:#58a6ff}.p1{stroke:#f0883e;fill:#f0883e}.p2{stroke:#3fb950;fill:#3fb950}"
         ".p3{stroke:#bc8cff;fill:#bc8cff}.p4{stroke:#e6edf3;fill:#e6edf3}}")


def policies(r):
    return [p for p in r["hits"]["traces"][0]["sizes"][0]["hits"] if p != OPTIMUM]


def percent(share):
    return f"{100 * share:.1f}"


def traces(h):
    by = {}
    for t in h["traces"]:
        by.setdefault(t["what"], []).append(t["name"])
    return "\n".join(f"- {', '.join(names)}: {what}." for what, names in by.items())


def hits(r):
    """Of each trace and size; the best policy's in bold."""
    names, lines = policies(r), []
    for trace in r["hits"]["traces"]:
        for i, size in enumerate(trace["sizes"]):
            best = max(size["hits"][n] for n in names)
            shown = [percent(size["hits"][n]) for n in names]
            shown = [f"**{v}**" if v == percent(best) else v for v in shown]
            lines.append([trace["name"] if i == 0 else "", f"{100 * size['share']:g} %", *shown,
                          percent(size["hits"][OPTIMUM])])
    return table(("trace", "room ", *(n + " " for n in names), "optimum "), lines)


def of_optimum(r):
    """Mean over everything, of what the optimum reaches."""
    found = []
    for n in policies(r):
        shares = [s["hits"][n] / s["hits"][OPTIMUM] for t in r["hits"]["traces"] for s in t["sizes"]]
        found.append((n, sum(shares) / len(shares), min(shares)))
    return found


def cost(r):
    c, lines = r["cost"], []
    for name, by in c["calls_ns"].items():
        shown = [by[t][k]["median"] for t in ("1", "2") for k in ("hit", "miss")]
        puts = [by[f"put {t}"]["put"]["median"] if f"put {t}" in by else None for t in (1, 2)]
        lines.append([name if name != "plain" else "a plain table, list and lock",
                      *(f"{ns:.0f}" for ns in shown), *("–" if ns is None else f"{ns:.0f}" for ns in puts)])
    head = ("ns a call, median", "hit ", "miss ", "hit, 2 threads ", "miss, 2 threads ", "put ", "put, 2 threads ")
    return table(head, lines)


def worst_lookup(r):
    return max((by[t][k]["median"], name) for name, by in r["cost"]["calls_ns"].items() if name != "plain"
               for t in ("1", "2") for k in ("hit", "miss"))


def memory(r):
    m = r["memory"]
    lines = [[name, f"{x['entries']:,}", f"{x['bytes'] / MIB:.1f}", f"{x['heap'] / MIB:.1f}",
              f"{100 * (x['heap'] / m['bytes_max'] - 1):+.2f} %", f"{x['resident'] / MIB:.0f}"]
             for name, x in m["policies"].items()]
    return table(("", "entries ", "counted, MiB ", "of the heap, MiB ", "off the bound ", "resident, MiB "), lines)


def goals(r):
    off = max(abs(x["heap"] / r["memory"]["bytes_max"] - 1) for x in r["memory"]["policies"].values())
    lines = [[f"memory after {r['memory']['operations']:,} random operations, off its bound", "at most 2 %",
              f"{100 * off:.2f} %", "met" if off <= MEMORY_OFF else "**missed**"]]
    if "cost" in r:
        ns, slowest = worst_lookup(r)
        lines.insert(0, [f"a lookup with {r['cost']['entries']:,} entries, the slowest", "under 1 µs", f"{ns:.0f} ns ({slowest})",
                         "met" if ns < GOAL_NS else "**missed**"])
    return table(("", "goal", "", ""), lines)


def costs(r):
    c = r["cost"]
    return (f"**Cost**, with {c['entries']:,} entries of {c['value']} bytes and keys drawn evenly, so that hardly anything "
            f"is in the processor's caches: {c['rounds']} rounds of {c['calls']:,} calls of each thread, the value taken "
            "and given back. A read of as much memory, one after the other, takes "
            f"{c['memory']['read']['median']:.0f} ns. Each put puts another entry out; other work took "
            f"{100 * r['others']:.0f} % of the machine.\n\n{cost(r)}")


def text(r):
    m, h, built = r["machine"], r["hits"], r["built"]
    parts = [
        *(results.warnings(r) if "cost" in r else []),
        f"{r['date']}, revision {r['revision'] or 'unknown'}, {built['compiler']}, {built['kind']} "
        f"(`{built['flags']}`); {m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, Linux {m['kernel']}.",
        goals(r),
        f"**Hit ratios, %**, of {h['requests']:,} requests for {h['objects']:,} objects of one size, in one shard. "
        "Room is a share of the objects. The optimum (Belady's) knows the future, and may pass an object by. With one "
        "time to live for all, `ttl` is first in, first out.",
        traces(h),
        hits(r),
        "Of the optimum's hits, the mean over the table and the worst: "
        + ", ".join(f"`{n}` {100 * mean:.0f} % ({100 * least:.0f} %)" for n, mean, least in of_optimum(r)) + ".",
        costs(r) if "cost" in r else "Calls were not timed yet (`bench/cache/run --only cost`).",
        f"**Memory** after {r['memory']['operations']:,} random operations on a cache of "
        f"{r['memory']['bytes_max'] // MIB} MiB, values of 200 to 16,000 bytes: what the cache counts, what the "
        "allocator says of its blocks in use, and what the kernel says the process has, which is more by what lies free "
        "between blocks.",
        memory(r),
    ]
    return "\n\n".join(parts) + "\n"


COLUMNS, LEFT, TOP, WIDE, HIGH, ACROSS, DOWN = 3, 52, 108, 244, 150, 300, 212


def panel(trace, names, left, top):
    sizes = trace["sizes"]
    low, high = math.log(sizes[0]["share"]), math.log(sizes[-1]["share"])

    def x(share):
        return left + WIDE * (math.log(share) - low) / (high - low)

    def y(ratio):
        return top + HIGH * (1 - ratio)
    out = [f'<text class="h" x="{left}" y="{top - 10}">{html.escape(trace["name"])}</text>']
    for ratio in (0, 0.25, 0.5, 0.75, 1):
        out.append(f'<path class="g" d="M{left} {y(ratio):.1f}h{WIDE}"/>'
                   f'<text class="s" x="{left - 6}" y="{y(ratio) + 4:.1f}" text-anchor="end">{100 * ratio:.0f}</text>')
    for size in sizes:
        out.append(f'<text class="s" x="{x(size["share"]):.1f}" y="{top + HIGH + 16}" text-anchor="middle">'
                   f'{100 * size["share"]:g} %</text>')
    for i, n in reversed(list(enumerate([*names, OPTIMUM]))):  # the first on top
        points = [(x(s["share"]), y(s["hits"][n])) for s in sizes]
        out.append(f'<path class="l p{i}" d="M{"L".join(f"{a:.1f} {b:.1f}" for a, b in points)}"/>'
                   + "".join(f'<circle class="p{i}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points))
    return "".join(out)


def plot(r):
    names, traces = policies(r), r["hits"]["traces"]
    height = TOP + DOWN * math.ceil(len(traces) / COLUMNS) - 20
    legend = "".join(f'<path class="l p{i}" d="M{LEFT + 110 * i} 68h22"/>'
                     f'<text x="{LEFT + 110 * i + 28}" y="72">{html.escape(n)}</text>'
                     for i, n in enumerate([*names, OPTIMUM]))
    panels = "".join(panel(t, names, LEFT + ACROSS * (i % COLUMNS), TOP + DOWN * (i // COLUMNS))
                     for i, t in enumerate(traces))
    note = "; a quick run, means nothing" if r["quick"] else ""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 {height}" role="img">'
            f"<title>hit ratios of each policy by room</title><style>{STYLE}</style>"
            f'<rect class="b" width="920" height="{height}"/>'
            '<text class="t" x="20" y="26">Hits in a hundred requests, by room (a share of the objects)</text>'
            f'<text class="s" x="20" y="46">{r["hits"]["requests"]:,} requests for {r["hits"]["objects"]:,} objects, '
            f"{r['date']}{note}</text>{legend}{panels}</svg>\n")


def put(path, r):
    PLACE.put(path, text(r), plot(r), "hit ratios of each policy beside the optimum")
