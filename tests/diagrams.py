"""
Draw the diagrams of the documentation as SVG.

    python -m tests.diagrams

Pages have them as blocks of Mermaid, which code hosts show. The built pages have the
SVG, so that they need no network and no script. It takes npm and Chromium.
"""

import argparse
import asyncio
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

from playwright.async_api import Route

from tests.integration.browser import open_browser
from tests.pages import DIAGRAMS, find_diagrams

MERMAID = "mermaid@11.12.1"

_ORIGIN = "http://mermaid.invalid/"
"""The browser asks nobody for what is below it: the package answers."""

_DRAW = """
async ([source, id]) => {
  const { default: mermaid } = await import("/package/dist/mermaid.esm.min.mjs");
  mermaid.initialize({
    startOnLoad: false,
    deterministicIds: true,
    htmlLabels: false,
    theme: "base",
    themeVariables: { fontFamily: "sans-serif", fontSize: "14px" },
    flowchart: { htmlLabels: false, nodeSpacing: 16, rankSpacing: 36, padding: 10 },
  });
  return (await mermaid.render(id, source)).svg;
}
"""


def clean(svg: str) -> str:
    """Remove needless digits, and colours: the style sheet has them for both themes."""
    svg = re.sub(r"<style>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'width="100%"(.*?) style="max-width: (\d+).*?"', r'width="\2"\1', svg)
    svg = re.sub(r' data-[\w-]+="[^"]*"', "", svg)
    return re.sub(r"(\d\.\d)\d+", r"\1", svg)


async def draw(folder: Path) -> None:
    """Draw every diagram with the package in a folder; remove files of others."""

    async def answer(route: Route) -> None:
        await route.fulfill(path=folder / route.request.url.removeprefix(_ORIGIN))

    async with open_browser() as browser:
        page = await browser.new_page()
        await page.route(f"{_ORIGIN}**", answer)
        await page.goto(f"{_ORIGIN}package/package.json")
        drawn = {
            f"{name}.svg": await page.evaluate(_DRAW, [source, f"d{name[:8]}"])
            for name, source in find_diagrams().items()
        }
    for path in DIAGRAMS.glob("*.svg"):
        path.unlink()
    for name, svg in drawn.items():
        (DIAGRAMS / name).write_text(f"{clean(svg)}\n")


def main() -> None:
    """Fetch Mermaid into a temporary folder and draw."""
    argparse.ArgumentParser(
        prog="python -m tests.diagrams",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", MERMAID], cwd=folder, check=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        asyncio.run(draw(Path(folder)))


if __name__ == "__main__":
    main()
