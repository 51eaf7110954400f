"""What bench/peers/run measured, as tables in Markdown, as a plot, and as the generated part of a page."""
import html

import results
import rows
from peers import PEERS, ROOT
from results import table

PLACE = results.Place("bench/peers/run")


def put(path, r):
    PLACE.put(path, text(r), plot(r), "each row of the table: ours over the best peer")


def number(value, digits):
    return "" if value is None else f"{value:,.{digits}f}"


def goal(marks):
    words = []
    for m in marks:
        reached = "" if m["value"] is None else f": {m['value']:.2f}"
        words.append(m["words"] + reached + {True: ", met", False: ", **missed**", None: ", not measured"}[m["met"]])
    return "; ".join(words)


def peer_names(r):
    return [p for p in PEERS if p in r["peers"] or p in r["lost"]]


def about(r):
    m, ours = r["machine"], r["ours"]
    peak = rows.Run(r).peak
    version = f"{ours['version']}{' (' + ours['revision'] + ')' if ours['revision'] else ''}, {ours['isa']}"
    if ours["flags"]:
        version += ", flags " + " ".join(ours["flags"])
    lines = [f"{r['date']}, {r['threads']} threads each, medians of {r['rounds']} rounds. The small model is "
             f"{r['small']}, the big ones have the shape of Llama 3.2 1B and random weights.\n",
             f"- Machine: {m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, Linux {m['kernel']}. It reads "
             f"{number(peak('read_gb_s'), 1)} GB/s and does {number(peak('int8_gop_s'), 0)} int8 Gop/s "
             f"(`autoglm bench --peak`). Other work took {100 * r['others']:.0f} % of it meanwhile.",
             f"- Of its instructions: {' '.join(m['flags'])}.",
             f"- autoglm: {version}."]
    for name in peer_names(r):
        if name in r["peers"]:
            p = r["peers"][name]
            features = " ".join(p["features"].split())
            lines.append(f"- {name}: {PEERS[name][0]} {p['version']}, {p['built']} ({features}).")
        for case, why in r["lost"].get(name, {}).items():
            what = "" if case == "all" else " for " + case
            why = " ".join(why.split()).replace(f"{ROOT}/", "")  # the page is not about where this checkout lies
            lines.append(f"- {name}: **unavailable{what}**: {why}.")
    return "\n".join(lines)


def flags_table(r):
    names = [p for p in PEERS if r["flags"].get(p)]
    if not names:
        return ""
    every = list(dict.fromkeys(c for p in names for c in r["flags"][p]))
    lines = [[case, *(r["flags"][p].get(case, "") for p in names)] for case in every]
    return "The flags that were best, per case:\n\n" + table(["", *names], lines)


def text(r):
    names = peer_names(r)
    lines = []
    for row in rows.table(r):
        if row["ours"] is None and not any(row["peers"].values()):
            lines.append([row["name"], "not measured", *[""] * (len(names) + 2), goal(row["goals"])])
            continue
        cells = [number(v, row["digits"]) for v in (row["ours"], *(row["peers"].get(p) for p in names))]
        ratio = number(row["ratio"], 2) if row["unit"] == "tokens/s" else ""
        lines.append([row["name"], row["unit"], *cells, ratio, goal(row["goals"])])
    head = ["", "", "autoglm ", *(p + " " for p in names), "ours / best ", "goal"]
    return "\n\n".join(x for x in [*results.warnings(r), about(r), table(head, lines), flags_table(r)] if x) + "\n"


LEFT, WIDTH, STEP, TOP = 250, 560, 28, 70


def bar(y, x, name, ratio, limit):
    """A name, its bar, a tick at the goal, and the figure behind whichever is further out where they are near."""
    met = limit is None or ratio >= limit
    out = [f'<text x="{LEFT - 10}" y="{y + 17}" text-anchor="end">{html.escape(name)}</text>'
           f'<rect class="{"ok" if met else "low"}" x="{LEFT}" y="{y + 4}" width="{x(ratio) - LEFT:.1f}" '
           f'height="{STEP - 10}" rx="2"/>']
    end = x(ratio)
    if limit:
        out.append(f'<path class="goal" d="M{x(limit):.1f} {y + 2}v{STEP - 6}"/>')
        end = x(limit) if 0 <= x(limit) - end < 40 else end
    return "".join(out) + f'<text x="{end + 6:.1f}" y="{y + 17}">{ratio:.2f}</text>'


def plot(r):
    """A bar per row: ours over the best peer; a tick where its goal is."""
    bars = []
    for row in rows.table(r):
        if row["unit"] == "tokens/s" and row["ratio"]:
            limit = next((m["limit"] for m in row["goals"] if m["words"].endswith("the best peer")), None)
            bars.append((row["name"], row["ratio"], limit))
    most = max([1.2, *(max(ratio, limit or 0) * 1.08 for _, ratio, limit in bars)])
    height, bottom = TOP + STEP * len(bars) + 44, TOP + STEP * len(bars)

    def x(v):
        return LEFT + WIDTH * v / most
    note = "; a quick run, means nothing" if r["quick"] else ""
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" role="img">'
           f'<title>autoglm against the best peer</title><style>{results.STYLE}</style>'
           f'<rect class="b" width="900" height="{height}"/>'
           f'<text class="t" x="20" y="26">Tokens a second: ours over the best of {len(r["peers"])} peers</text>',
           f'<text class="s" x="20" y="48">{r["threads"]} threads, {html.escape(r["machine"]["processor"])}, '
           f'{r["date"]}; the tick is the goal{note}</text>',
           *(bar(TOP + STEP * i, x, *b) for i, b in enumerate(bars)),
           f'<path class="one" d="M{x(1):.1f} {TOP - 4}V{bottom + 4}"/>'
           f'<text class="s" x="{x(1):.1f}" y="{bottom + 22}" text-anchor="middle">best peer</text>']
    return "".join(out) + "</svg>\n"
