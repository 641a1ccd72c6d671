"""A search that finds the section which answers a question, in place of Sphinx's own.

Sphinx finds pages that have all the words, in the order of the alphabet. Users ask
questions. So each section, each documented object and each command becomes a text of
its own, which ``_static/section_search.js`` ranks (BM25) in the browser. The texts are
a script, not JSON, so that the site also works from a folder, without a server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes

TARGET = "_static/section_texts.js"
LONGEST = 4000
"""Letters of a section that are searched; longer ones are tables of figures."""


def own_text(node: nodes.Element) -> str:
    """Return the text in *node*, without that of sections and objects within it."""
    parts: list[str] = []
    for child in node.children:
        if isinstance(child, nodes.section | nodes.title | nodes.comment | nodes.raw):
            continue
        if isinstance(child, nodes.Text):
            parts.append(child.astext())
        elif isinstance(child, addnodes.desc):
            parts.append(signatures(child))
        elif isinstance(child, nodes.TextElement):
            parts.append(child.astext())
        elif isinstance(child, nodes.Element):
            parts.append(own_text(child))
    return " ".join(" ".join(parts).split())[:LONGEST]


def signatures(node: addnodes.desc) -> str:
    return " ".join(name.astext() for name in node.findall(addnodes.desc_name))


def entries(page: str, document: nodes.document) -> Iterator[tuple[str, str, str, str]]:
    """Yield address, title, titles above it and text of all that can be found."""
    top = ""
    for section in document.findall(nodes.section):
        title = section.next_node(nodes.title)
        if title is None or not section["ids"]:
            continue
        name = title.astext()
        above = [
            each.next_node(nodes.title).astext()
            for each in ancestors(section)
            if isinstance(each, nodes.section)
        ]
        top = top or name
        address = page if not above else f"{page}#{section['ids'][0]}"
        yield (
            address,
            name,
            " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} ".join(reversed(above)),
            own_text(section),
        )
    for described in document.findall(addnodes.desc):
        signature = described.next_node(addnodes.desc_signature)
        content = described.next_node(addnodes.desc_content)
        if signature is None or content is None or not signature["ids"]:
            continue
        name = signature.get("fullname") or signature.astext()
        yield f"{page}#{signature['ids'][0]}", name, top, own_text(content)


def ancestors(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def collect(app: Any, page: str, _template: str, _context: Any, document: Any) -> None:
    """Keep the texts of a page when it is written."""
    if document is not None and app.builder.format == "html" and page not in ("search",):
        app.section_texts[page] = [
            [
                app.builder.get_target_uri(address.partition("#")[0])
                + address[len(address.partition("#")[0]) :],
                *rest,
            ]
            for address, *rest in entries(page, document)
        ]


def write(app: Any, error: Exception | None) -> None:
    """Write the script."""
    if error is not None or app.builder.format != "html":
        return
    texts = [entry for _page, found in sorted(app.section_texts.items()) for entry in found]
    script = (
        f"sectionSearch.load({json.dumps(texts, ensure_ascii=False, separators=(',', ':'))});\n"
    )
    Path(app.outdir, TARGET).write_text(script, encoding="utf-8")


def write_all(app: Any) -> None:
    """Have every page written: those that are skipped would not be found."""
    app.section_texts = {}
    app.env.files_to_rebuild.update({})


def every_page(_app: Any, env: Any) -> list[str]:
    return list(env.found_docs)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_all)
    app.connect("env-updated", every_page)
    app.connect("html-page-context", collect)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
