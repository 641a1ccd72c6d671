"""The directive ``command-reference``: a click command and all below it, as sections.

It reads the very objects that ``--help`` reads, so the page cannot be out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, ClassVar

import click
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

CODE = re.compile(
    r"(`[^`]+`|(?<![\w-])--?[a-z][\w-]*|\bTRIO_TICKS_\w+|/(?:metrics|healthz|readyz)\b)"
)


def inline(text: str) -> list[nodes.Node]:
    """Return *text* with options, variables and paths as code."""
    return [
        nodes.literal(part, part.strip("`")) if CODE.fullmatch(part) else nodes.Text(part)
        for part in CODE.split(text)
        if part
    ]


def help_nodes(text: str) -> Iterator[nodes.Node]:
    """Yield the paragraphs of a command's help.

    What click must not wrap stays as it is.
    """
    for part in re.split(r"\n\s*\n", text.strip().partition("\f")[0]):
        lines = part.splitlines()
        if lines[0].strip() != "\b":
            yield nodes.paragraph("", "", *inline(" ".join(line.strip() for line in lines)))
            continue
        head, *rest = lines[1:]
        if head.rstrip().endswith(":") and rest:
            yield nodes.paragraph("", "", *inline(head.strip()))
        else:
            rest = [head, *rest]
        shown = "\n".join(rest)
        indent = min(len(line) - len(line.lstrip()) for line in rest if line.strip())
        shown = "\n".join(line[indent:] for line in shown.splitlines())
        yield nodes.literal_block(shown, shown, language="text")


def facts(parameter: click.Parameter, context: click.Context) -> Iterator[str]:
    """Yield what there is to say of an option beside its help."""
    if not isinstance(parameter, click.Option):
        return
    extra = parameter.get_help_extra(context)
    if extra.get("required"):
        yield "required"
    if "default" in extra:
        yield f"default: `{extra['default']}`"
    if "range" in extra:
        yield f"range: `{extra['range']}`"
    if isinstance(parameter.type, click.Choice):
        yield "one of " + ", ".join(f"`{choice}`" for choice in parameter.type.choices)
    if extra.get("envvars"):
        yield "environment: " + ", ".join(f"`{name}`" for name in extra["envvars"])


class CommandReference(SphinxDirective):
    """``command-reference:: module:command``, with the option ``prog``."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"prog": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        module, _, name = self.arguments[0].partition(":")
        command = getattr(import_module(module), name)
        for path in (module, *(each.callback.__module__ for each in command.commands.values())):
            source = getattr(import_module(path), "__file__", None)
            if source is not None:
                self.env.note_dependency(source)
        return list(self.sections(command, None, self.options.get("prog", command.name)))

    def sections(
        self, command: click.Command, parent: click.Context | None, name: str
    ) -> Iterator[nodes.section]:
        context = click.Context(command, info_name=name, parent=parent)
        yield self.section(command, context)
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                found = command.get_command(context, child)
                if found is not None and not found.hidden:
                    yield from self.sections(found, context, child)

    def section(self, command: click.Command, context: click.Context) -> nodes.section:
        path = context.command_path
        section = nodes.section(ids=[nodes.make_id(path)], names=[nodes.fully_normalize_name(path)])
        section += nodes.title(path, "", nodes.literal(path, path))
        usage = f"{path} {' '.join(command.collect_usage_pieces(context))}"
        section += nodes.literal_block(usage, usage, language="text")
        section.extend(help_nodes(command.help or ""))
        groups: dict[str, list[click.Parameter]] = {}
        for parameter in command.get_params(context):
            if isinstance(parameter, click.Option) and parameter.get_help_record(context):
                groups.setdefault(getattr(parameter, "group", "Options"), []).append(parameter)
        for title in sorted(groups, key=lambda title: title == "Options"):
            section += nodes.rubric(title, title)
            section += self.options_list(groups[title], context)
        self.state.document.note_implicit_target(section, section)
        return section

    def options_list(
        self, parameters: list[click.Parameter], context: click.Context
    ) -> nodes.definition_list:
        listed = nodes.definition_list(classes=["command-options"])
        for parameter in parameters:
            record = parameter.get_help_record(context)
            assert record is not None
            anchor = nodes.make_id(f"{context.command_path} {max(parameter.opts, key=len)}")
            term = nodes.term("", "", nodes.literal(record[0], record[0]), ids=[anchor])
            text = " ".join((getattr(parameter, "help", None) or "").split())
            text, _, written = text.partition(" [default:")
            definition = nodes.definition("", nodes.paragraph("", "", *inline(text.rstrip())))
            told = list(facts(parameter, context))
            if written:
                told.insert(0, f"default: {written.strip().removesuffix(']')}")
            if told:
                said = nodes.paragraph("", "", classes=["command-facts"])
                for number, fact in enumerate(told):
                    said.extend([nodes.Text("; ")] if number else [])
                    said.extend(inline(fact))
                definition += said
            listed += nodes.definition_list_item("", term, definition)
        return listed


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("command-reference", CommandReference)
    return {"parallel_read_safe": True}
