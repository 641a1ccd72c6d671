"""Sphinx settings. The build is offline: what would need an inventory from the network is listed at the end instead."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "trio_ticks"
author = "The trio_ticks developers"
copyright = "The trio_ticks developers"
release = version = installed_version("trio_ticks")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cancellation"]
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "trio_ticks"
html_static_path = ["_static"]

nitpick_ignore_regex = [
    # Other projects' objects: their inventories are on the network.
    (r"py:.*", r"(trio|trio_websocket|attrs?|msgspec|ssl|datetime|collections|typing|pathlib|os|logging|contextlib|types)(\..*)?"),
]
