"""Sphinx's configuration: the pages of this folder, in Markdown, as `make docs` builds them."""

from __future__ import annotations

project = "rllib_nbsp"
author = "the authors of rllib_nbsp"
project_copyright = "the authors of rllib_nbsp"

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "rllib_nbsp"
html_show_sphinx = False
