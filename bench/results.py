"""What the benchmarks of this folder share: samples in a file, their place in a page, the colours of a plot."""
import json
import pathlib


class Store:
    """A JSON file that is whole at every moment."""

    def __init__(self, path, empty):
        self.path = pathlib.Path(path)
        self.data = json.loads(self.path.read_text()) if self.path.exists() else empty

    def save(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.data, indent=1) + "\n")
        new.replace(self.path)


class Place:
    """The part of a page that a command writes, between two lines that stand in it."""

    def __init__(self, command):
        self.begin, self.end = f"<!-- measured: begin ({command}) -->", "<!-- measured: end -->"

    def check(self, path):
        """Before minutes of measuring rather than after: the page can take the result."""
        words = pathlib.Path(path).read_text()
        begins, ends = words.count(self.begin), words.count(self.end)
        if (begins, ends) != (1, 1) or words.index(self.begin) > words.index(self.end):
            raise SystemExit(f"{path}: there should be one line '{self.begin}' and after it one line '{self.end}'")

    def put(self, path, text, svg=None, caption=""):
        path = pathlib.Path(path)
        if svg:
            picture = path.with_suffix(".svg")
            picture.write_text(svg)
            text = f"![{caption}]({picture.name})\n\n{text}"
        words = path.read_text()
        before, after = words.split(self.begin)[0], words.split(self.end)[1]
        path.write_text(f"{before}{self.begin}\n\n{text}\n{self.end}{after}")


def table(head, lines):
    """A heading that ends in a space is that of a column of numbers."""
    rule = ["---:" if h.endswith(" ") else "---" for h in head]
    found = ["| " + " | ".join(h.strip() for h in head) + " |", "| " + " | ".join(rule) + " |"]
    return "\n".join(found + ["| " + " | ".join(line) + " |" for line in lines])


def warnings(r):
    found = []
    if r["quick"]:
        found.append("**A quick run: these figures only show that the measurement works.**")
    if r["others"] > NOISE:
        found.append(f"**The machine was not quiet: other work took {100 * r['others']:.0f} % of it while this was measured. "
                     "Measure again.**")
    return found


NOISE = 0.05  # share of the machine, above which a page says that it was measured in noise
# Of both colour schemes; k0 to k4 tell things apart, ok and low say whether a goal is met.
STYLE = ("text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:15px;font-weight:600}.s{fill:#656d76}"
         ".b{fill:#fff}.ok,.k0{fill:#0969da}.low,.k1{fill:#bc4c00}.k2{fill:#1a7f37}.one{stroke:#8c959f;stroke-width:1.5}"
         ".goal{stroke:#1f2328;stroke-width:2;fill:none}"
         "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#8d96a0}.b{fill:#0d1117}.ok,.k0{fill:#58a6ff}"
         ".low,.k1{fill:#f0883e}.k2{fill:#3fb950}.one{stroke:#6e7681}.goal{stroke:#e6edf3}}")
