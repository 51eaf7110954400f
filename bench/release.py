"""A program of these benchmarks that is not `autoglm`, built for measuring, and what a page says of it."""
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def build(folder, target, binary, source):
    """Builds `target` in that folder; the flags that its page shows are those of `source`."""
    if not (folder / "build.ninja").exists():
        subprocess.run(["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                        "-DAG_TESTS=ON"], check=True, stdout=sys.stderr)
    subprocess.run(["ninja", "-C", str(folder), target], check=True, stdout=sys.stderr)
    cache = (folder / "CMakeCache.txt").read_text()
    kind, compiler = (re.search(rf"^{name}:\w+=(.*)$", cache, re.M).group(1)
                      for name in ("CMAKE_BUILD_TYPE", "CMAKE_C_COMPILER"))
    version = subprocess.run([compiler, "-dumpfullversion", "-dumpversion"], check=True, stdout=subprocess.PIPE,
                             text=True)
    commands = json.loads((folder / "compile_commands.json").read_text())
    command = next(c["command"] for c in commands if c["file"].endswith("/" + source))
    flags = [w for w in command.split() if re.match(r"-(O|g\d|m|march)", w)]
    return {"binary": str(folder / binary), "kind": kind, "compiler": f"{pathlib.Path(compiler).name} {version.stdout.strip()}",
            "flags": " ".join(flags)}


def revision(*folders):
    """Of the checkout, and whether these folders have changed since; empty outside of one."""
    def git(*words):
        return subprocess.run(["git", "-C", str(ROOT), *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True)
    name = git("rev-parse", "--short", "HEAD")
    if name.returncode:
        return ""
    return name.stdout.strip() + (" and changes" if git("diff", "--quiet", "HEAD", "--", *folders).returncode else "")
