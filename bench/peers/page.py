"""What bench/peers/run measured, as tables in Markdown, as a plot, and as the generated part of a page."""
import html
import os
import pathlib

BEGIN, END = "<!-- measured: begin (bench/peers/run) -->", "<!-- measured: end -->"


def check(path):
    """Before an hour of measuring rather than after it: the page can take the result."""
    text = pathlib.Path(path).read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"{path}: there should be one line '{BEGIN}' and after it one line '{END}'")


def put(path, text, svg):
    page = pathlib.Path(path).read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    picture = f"![ratios of the rows below]({os.path.relpath(svg, pathlib.Path(path).parent)})\n\n" if svg else ""
    pathlib.Path(path).write_text(f"{before}{BEGIN}\n\n{picture}{text}\n{END}{after}")


def verdict(ratio, goal):
    if ratio < goal:
        return f"**missed: below {goal:g}**"
    return "slower" if ratio < 1 else ""


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(" --- " if i == 0 or h == "" or "flags" in h else " ---: " for i, h in enumerate(head)) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def warnings(r):
    found = []
    if r["quick"]:
        found.append("**A quick run: these figures only show that the measurement works.**")
    if r["others"] > 0.05 or r["impatient"]:
        found.append(f"**The machine was not quiet: other work took {100 * r['others']:.0f} % of it. Measure again.**")
    return found


def tables(r):
    machine, ours, peer = r["machine"], r["ours"], r["peer"]
    parts = warnings(r)
    parts.append(f"{r['date']}, {r['model']}, {r['threads']} threads on each side, medians of {r['rounds']} turns.\n"
                 f"- Machine: {machine['processor']}, {machine['cores']} cores, {machine['system']}; other work took {100 * r['others']:.0f} % of it. "
                 f"It reads {ours['peak']['read_gb_s']:.1f} GB/s and does {ours['peak']['int8_gop_s']:.0f} int8 Gop/s.\n"
                 f"- Ours: {ours['version']}{' (' + ours['revision'] + ')' if ours['revision'] else ''}, {ours['isa']}"
                 f"{', flags ' + ' '.join(ours['flags']) if ours['flags'] else ''}.\n"
                 f"- Peer: {peer['name']} {peer['version']} built from source ({', '.join(peer['features'])}), its best flags per row.")
    goal = r["goal"]
    parts.append("**Engines**, tokens a second:\n\n" + table(
        ["", "ours", "llama.cpp", "ratio", "", "llama.cpp's flags"],
        [[e["name"], f"{e['ours']:.1f}", f"{e['peer']:.1f}", f"{e['ratio']:.2f}", verdict(e["ratio"], goal), e["flag_words"]] for e in r["engines"]]))
    if r["servers"]:
        s = r["servers"]
        def times(side, key):
            return [f"{row[side][key]:.0f}" for row in s["rows"]]
        rows = [[row["name"], f"{row['ours']['tok_s']:.1f}", f"{row['peer']['tok_s']:.1f}", f"{row['ratio']:.2f}", verdict(row["ratio"], goal),
                 times("ours", "ttft")[i] + " / " + times("peer", "ttft")[i], f"{row['ours']['gap']:.1f} / {row['peer']['gap']:.1f}",
                 f"{row['ours']['gap99']:.1f} / {row['peer']['gap99']:.1f}"] for i, row in enumerate(s["rows"])]
        parts.append(f"**Servers** (`autoglm serve` and `python -m llama_cpp.server`, which answers one request at a time), prompts of {s['words']} words, "
                     f"answers of {s['tokens']} tokens, ours / the peer's:\n\n" + table(
                         ["", "ours, tokens/s", "peer, tokens/s", "ratio", "", "first token p50, ms", "gap p50, ms", "gap p99, ms"], rows))
    return "\n\n".join(parts) + "\n"


def plot(r):
    """Bars of the ratios; 1 is the peer."""
    rows = [(e["name"], e["ratio"]) for e in r["engines"]]
    if r["servers"]:
        rows += [("server, " + s["name"], s["ratio"]) for s in r["servers"]["rows"]]
    left, width, step, top = 260, 560, 28, 64
    most = max(1.2, max(ratio for _, ratio in rows) * 1.1)
    height = top + step * len(rows) + 40
    x = lambda v: left + width * v / most  # noqa: E731
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" role="img"><title>autoglm against llama.cpp</title><style>'
           "text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:15px;font-weight:600}.s{fill:#656d76}.b{fill:#fff}"
           ".ok{fill:#0969da}.low{fill:#bc4c00}.g{stroke:#8c959f;stroke-width:1.5}.d{stroke-dasharray:4 4}"
           "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#8d96a0}.b{fill:#0d1117}.ok{fill:#58a6ff}.low{fill:#f0883e}.g{stroke:#6e7681}}"
           f'</style><rect class="b" width="900" height="{height}"/><text class="t" x="20" y="26">Tokens a second, ours over llama.cpp\'s</text>',
           f'<text class="s" x="20" y="46">{html.escape(r["model"])}, {r["threads"]} threads, {html.escape(r["machine"]["processor"])}, {r["date"]}'
           f'{"; a quick run, means nothing" if r["quick"] else ""}</text>']
    for i, (name, ratio) in enumerate(rows):
        y = top + step * i
        out.append(f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{html.escape(name)}</text>'
                   f'<rect class="{"ok" if ratio >= r["goal"] else "low"}" x="{left}" y="{y + 3}" width="{x(ratio) - left:.1f}" height="{step - 10}" rx="2"/>'
                   f'<text x="{x(ratio) + 6:.1f}" y="{y + 15}">{ratio:.2f}</text>')
    bottom = top + step * len(rows)
    marks = [(1, "g", "llama.cpp", "start")]
    if r["goal"] < 1:
        marks.append((r["goal"], "g d", f"goal {r['goal']:g}", "end"))
    for value, style, words, anchor in marks:
        out.append(f'<path class="{style}" d="M{x(value):.1f} {top}V{bottom + 4}"/>'
                   f'<text class="s" x="{x(value):.1f}" y="{bottom + 20}" text-anchor="{anchor}">{words}</text>')
    return "".join(out) + "</svg>\n"
