"""Configuration of Sphinx, which builds these pages: script/docs."""

import os
import sys
import tempfile
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]
os.environ.setdefault("ORCHESTRA_VAR", tempfile.mkdtemp(prefix="orchestra-docs-"))
os.environ["DJANGO_SETTINGS_MODULE"] = "orchestra.settings"
django.setup()

from connections.version import VERSION  # noqa: E402

project = "Orchestra"
author = "Orchestra contributors"
copyright = "Orchestra contributors"
release = VERSION

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "diagrams",
    "reference",
]
exclude_patterns = ["_build", "reference/_generated"]
# Types of other projects, and of our own private modules, have no page here.
nitpick_ignore_regex = [("py:.*", ".*")]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "Orchestra"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
