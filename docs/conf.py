"""Sphinx settings.

The build is offline: references whose inventory is on the network are ignored at the
end.
"""

from importlib.metadata import version as installed_version
from typing import Any

HIDDEN = "\ue000"

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
    # Type variables; types in signatures that are not documented; names that a module
    # uses without their path.
    (r"py:.*", r".*\b(T|F|_Takes)"),
    # Bounds in annotations.
    (r"py:class", r"[-+.e\d]+"),
    (
        r"py:.*",
        r"trio_ticks\.(feeds\.websocket\.options\.WebSocketKeywords"
        r"|feeds\.polling\.options\.PollingKeywords|exchange\.recorded\.Damage"
        r"|channel\.sleepers\.Watch|exchange\.wire\.FlatTick|feeds\.captures"
        r"|exchange\.coinbase\.market\.ProductMarket)",
    ),
    (r"py:.*", r"to_utc|WebSocketFeed|WebSocketOptions|zipf_weights|Checksum|Packing"),
    # Other projects' objects: their inventories are on the network.
    (
        r"py:.*",
        r"(trio|trio_websocket|random|attrs?|msgspec|ssl|datetime|collections|typing"
        r"|pathlib|os|logging|contextlib|types)(\..*)?",
    ),
]


def hide_colons(
    _app: Any, what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Hide colons in an attribute's first line, which napoleon would split there."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(": ", HIDDEN)


def show_colons(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    lines[:] = [line.replace(HIDDEN, ": ") for line in lines]


def setup(app: Any) -> None:
    # Napoleon's own priority is 500.
    app.connect("autodoc-process-docstring", hide_colons, priority=400)
    app.connect("autodoc-process-docstring", show_colons, priority=600)
