"""Settings of the documentation site, which `make site` builds with Sphinx from the pages as they are.

The source folder is the repository, so that links to the README and the recipes work on the site too.
"""

import re

from sphinx.application import Sphinx

project = "recap"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/*.svg",
    "recipes/*/README.md",
]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # some pages start with a table
html_theme = "furo"
html_title = "recap"
html_copy_source = False
html_show_sourcelink = False


def _prepare(app: Sphinx, name: str, source: list[str]) -> None:
    """Adapt a page to Sphinx: add a table of contents to the index, and explicit anchors."""
    if name == root_doc:  # the pages that the index links to, in its order
        pages = dict.fromkeys(re.findall(r"\]\(([^)#]+)\.md\)", source[0]))
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *pages, "```", ""])
    source[0] = re.sub(r'<a id="([^"]+)"></a>', r"(\1)=", source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _prepare)
