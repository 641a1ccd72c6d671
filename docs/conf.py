"""Sphinx settings.

The build is offline: references whose inventory is on the network are ignored at the
end.
"""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

HIDDEN = "\ue000"

project = "trio_ticks"
author = "The trio_ticks developers"
copyright = "The trio_ticks developers"
release = version = installed_version("trio_ticks")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    # Ours, in _extensions.
    "command_reference",
    "readable_api",
    "section_search",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_exclude = ".linenos, .gp"
linkcheck_anchors = False
linkcheck_timeout = 20
linkcheck_ignore = [
    r"https?://(localhost|127\.0\.0\.1)",
    r"\w+://[\w.-]*\.example\b",
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cancellation"]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
python_display_short_literal_types = True
readable_types = {
    # What the reference shows in place of names that the source has, where that is not
    # just what an alias stands for.
    "Finite": "float",
    "NonNegative": "float",
    "Handler[Any]": "Callable[[Any], Any]",
    "OnError": "Callable[[Any, Exception], Any]",
    "Overflow": "OverflowStrategy | Mapping[type, OverflowStrategy] | Throttle",
    "Policy": "OverflowStrategy | Mapping[type, OverflowStrategy]",
    "Results": "Callable[[Result], Any] | ResultStore",
}
autodoc_type_aliases = {"Finite": "float", "NonNegative": "float"}
keyword_classes = {
    "WebSocketKeywords": "trio_ticks.WebSocketOptions",
    "PollingKeywords": "trio_ticks.PollingOptions",
}

pygments_dark_style = "github-dark"
html_theme = "furo"
html_title = "trio_ticks"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": True,
    "top_of_page_buttons": [],
    "light_css_variables": {
        "color-brand-primary": "#0b6b5d",
        "color-brand-content": "#0b6b5d",
        "color-brand-visited": "#0b6b5d",
    },
    "dark_css_variables": {
        "color-brand-primary": "#4fd1b5",
        "color-brand-content": "#4fd1b5",
        "color-brand-visited": "#4fd1b5",
    },
}

nitpick_ignore_regex = [
    # Type variables; types in signatures that are not documented; names that a module
    # uses without their path.
    (r"py:.*", r".*\b(T|F|_Takes)"),
    # Bounds in annotations.
    (r"py:class", r"[-+.e\d]+"),
    (
        r"py:.*",
        r"trio_ticks\.(exchange\.recorded\.Damage|foresight\.measuring\.Measured"
        r"|channel\.sleepers\.Watch|exchange\.wire\.FlatTick|feeds\.captures"
        r"|exchange\.coinbase\.market\.ProductMarket)",
    ),
    (r"py:.*", r"to_utc|WebSocketFeed|WebSocketOptions|zipf_weights|Checksum|Packing"),
    # Other projects' objects: their inventories are on the network.
    (
        r"py:.*",
        r"(Random|Path|PathLike|FlatTick|trio|trio_websocket|random|attrs?|msgspec|ssl|datetime"
        r"|collections|typing|pathlib|os|logging|contextlib|types)(\..*)?",
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
