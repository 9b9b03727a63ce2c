"""
Build the npm package from the static files of the browser client.

    cd clients/javascript && npm install && python build.py && npm publish dist

The output stands beside or below node_modules, where tsc finds the types of React.
"""

import argparse
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODULES = ROOT / "connections" / "static" / "connections"
ENTRIES = ("client.js", "http.js", "shared.js")
OWN = tuple(sorted(path.name for path in HERE.glob("*.js")))
"""Modules that need packages of npm, which no static file does."""
NOT_PUBLISHED = ("devDependencies",)

_IMPORT = re.compile(r'(?:from |import\()"\./(\w+\.js)"')
_TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)-(\d+)-g\w+")
_TSC = (
    *("--declaration", "--emitDeclarationOnly", "--strict", "--allowJs", "--checkJs"),
    *("--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext"),
    *("--lib", "es2023,dom,dom.iterable", "--types", "", "--skipLibCheck"),
)


def read_version() -> str:
    """
    Return the version that setuptools-scm gives the Python packages, for npm.

    It is the last tag, or the patch after it with the number of commits since.
    """
    described = subprocess.run(
        ["git", "describe", "--tags", "--long", "--match", "v*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = _TAG.fullmatch(described.stdout.strip())
    if found is None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        fallback = project["tool"]["setuptools_scm"]["fallback_version"]
        return str(fallback).replace(".dev", "-dev.")
    major, minor, patch, commits = map(int, found.groups())
    if not commits:
        return f"{major}.{minor}.{patch}"
    return f"{major}.{minor}.{patch + 1}-dev.{commits}"


def find_modules() -> set[str]:
    """Return the modules that the entries import, themselves included."""
    found: set[str] = set()
    waiting = [*ENTRIES]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _IMPORT.findall((MODULES / name).read_text())
    return found


def build(output: Path) -> None:
    """Write the package into a folder, which is emptied before."""
    shutil.rmtree(output, ignore_errors=True)
    lib = output / "lib"
    lib.mkdir(parents=True)
    for name in find_modules():
        shutil.copy(MODULES / name, lib)
    for name in OWN:
        shutil.copy(HERE / name, lib)
    for name in ("README.md", "LICENSE"):
        shutil.copy(HERE / name, output)
    package = json.loads((HERE / "package.json").read_text())
    package = {key: one for key, one in package.items() if key not in NOT_PUBLISHED}
    package["version"] = read_version()
    (output / "package.json").write_text(json.dumps(package, indent=2) + "\n")
    sources = [str(lib / name) for name in (*ENTRIES, *OWN)]
    subprocess.run([find_compiler(output), *_TSC, *sources], check=True)


def find_compiler(output: Path) -> str:
    """Return the path of tsc in the node_modules beside or above a folder."""
    for folder in output.resolve().parents:
        compiler = folder / "node_modules" / ".bin" / "tsc"
        if compiler.exists():
            return str(compiler)
    raise SystemExit(f"no node_modules above {output} has tsc: run npm install")


def main() -> None:
    """Build into the folder of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--output", type=Path, default=HERE / "dist")
    build(parser.parse_args().output)


if __name__ == "__main__":
    main()
