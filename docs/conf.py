"""How Sphinx builds the documentation."""

from __future__ import annotations

from importlib.metadata import version as _version

project = "agentpool"
author = "The agentpool authors"
copyright = "2026, the agentpool authors"
release = _version("trio-agentpool")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinxcontrib_trio",
]
exclude_patterns = ["_build", "**/.*"]
html_theme = "furo"
html_title = f"agentpool {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "literal"

# The build needs no network: the names of other projects stay plain text.
intersphinx_mapping: dict[str, tuple[str, None]] = {}
