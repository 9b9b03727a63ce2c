"""Show each block of Mermaid as the SVG that tests/diagrams.py drew of it."""

from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from tests.pages import DIAGRAMS, name_diagram


class Diagram(SphinxDirective):
    """A block of Mermaid."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        path = DIAGRAMS / f"{name_diagram(chr(10).join(self.content))}.svg"
        self.env.note_dependency(str(path))
        try:
            svg = path.read_text(encoding="utf-8")
        except FileNotFoundError as exc:
            raise self.error("not drawn yet: python -m tests.diagrams") from exc
        figure = f'<div class="diagram">{svg}</div>'
        return [nodes.raw("", figure, format="html")]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("mermaid", Diagram)
    return {"parallel_read_safe": True}
