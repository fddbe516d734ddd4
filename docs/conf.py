"""The documentation site: `make site` builds it with Sphinx from the Markdown that is read on its own, too.

The source folder is the repository, so that links to the README and the recipes work in the site as they do there.
"""

import re

from sphinx.application import Sphinx

project = "recap"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/*.svg", "recipes/*/README.md"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # some pages start with a table
html_theme = "furo"
html_title = "recap"
html_copy_source = False
html_show_sourcelink = False


def _prepare(app: Sphinx, name: str, source: list[str]) -> None:
    """Change what Markdown on its own says in another way than Sphinx needs it."""
    if name == root_doc:  # the contents of the site: the pages that the index links to, in its order
        pages = dict.fromkeys(re.findall(r"\]\(([^)#]+)\.md\)", source[0]))
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *pages, "```", ""])
    source[0] = re.sub(r'<a id="([^"]+)"></a>', r"(\1)=", source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _prepare)
