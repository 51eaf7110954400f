"""What bench/queue/run measured, as Markdown: a table for each experiment, figures down, servers across."""

import pathlib

from experiments import EXPERIMENTS, GOALS, OURS_ONLY

BEGIN, END = "<!-- measured: begin (bench/queue/run) -->", "<!-- measured: end -->"
OURS = "autoglm"


def check(path):
    text = pathlib.Path(path).read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"{path}: there should be one line '{BEGIN}' and after it one line '{END}'")


def put(path, result):
    text = pathlib.Path(path).read_text()
    pathlib.Path(path).write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n\n{render(result)}\n{END}{text.split(END)[1]}")


def number(v):
    if v is None:
        return "–"
    return f"{v:,.0f}" if abs(v) >= 100 or v == int(v) else f"{v:.2f}" if abs(v) < 10 else f"{v:.1f}"


def met(figure, v):
    least, most = GOALS[figure]
    return (least is None or v >= least) and (most is None or v <= most)


def bound(figure):
    least, most = GOALS.get(figure, (None, None))
    if least is not None and most is not None:
        return f"{least:g} to {most:g}"
    return f"at least {least:g}" if least is not None else f"at most {most:g}" if most is not None else ""


def table(name, by):
    """by: {server: figures}"""
    figures = list(dict.fromkeys(f for got in by.values() for f in got))
    lines = [f"| {EXPERIMENTS[name][1]} | goal | {' | '.join(by)} |", f"| --- | --- |{' ---: |' * len(by)}"]
    for f in figures:
        cells = []
        for server, got in by.items():
            v = None if server != OURS and f in OURS_ONLY else got.get(f)
            missed = server == OURS and f in GOALS and v is not None and not met(f, v)
            cells.append(f"**{number(v)}**, missed" if missed else number(v))
        lines.append(f"| {f} | {bound(f)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def render(result):
    machine = result["machine"]
    parts = []
    if result["quick"]:
        parts.append("**A quick run: these figures only show that the measurement works.**")
    if result["others"] > 0.05:
        parts.append(f"**The machine was not quiet: other work took {100 * result['others']:.0f} % of it.**")
    lines = [
        f"{result['date']}, {result['model']}, {result['threads']} threads for each server.",
        f"- Machine: {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}.",
        *(f"- {name} {version}" for name, version in result["servers"].items()),
        *(f"- {name}: unavailable. {why}" for name, why in result["missing"].items()),
    ]
    parts.append("\n".join(lines))
    for name, by in result["experiments"].items():
        parts.append(table(name, by))
        parts += [f"{server} in this experiment: {why}" for server, why in result["failed"].get(name, {}).items()]
    return "\n\n".join(parts) + "\n"
