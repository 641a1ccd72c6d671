"""Show in the API reference what a reader needs: constructors, defaults, plain types.

autodoc shows attrs' generated source (``attr_dict['timeout'].default``) for defaults,
and what annotations evaluate to (``Annotated[float, Meta(ge=...)]``) for types. Here a
signature is made from the fields and parameters themselves.

Rules: a default is shown as its value. A type is shown as it stands in the source, with
names of aliases replaced by what they stand for, unless the reference has them. For
some, ``readable_types`` in conf.py has better words.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import types
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

DOCUMENTED_ALIASES = {"DropReason", "Level", "OverflowStrategy"}
NOT_SHOWN = "..."
"""What is shown for a default that cannot be written down; Sphinx has to parse it."""
Parameter = inspect.Parameter


class Shown:
    """Shows as *text* where a signature has a default."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def show_value(value: Any) -> str:
    """Return *value* as it would be written in code, or an ellipsis."""
    if isinstance(value, float) and math.isinf(value):
        return "math.inf" if value > 0 else "-math.inf"
    if isinstance(value, float) and math.isnan(value):
        return "math.nan"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 100_000:
        return f"{value:_}"
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return NOT_SHOWN if "<lambda>" in value.__qualname__ else value.__qualname__
    if isinstance(value, types.MappingProxyType):
        value = dict(value)
    if isinstance(value, tuple | list | frozenset) and len(value) > 8:
        return NOT_SHOWN
    text = repr(value)
    return NOT_SHOWN if " at 0x" in text or text.startswith("<") or len(text) > 60 else text


def default_of(field: attrs.Attribute[Any]) -> Any:
    """Return the default of an attrs *field*, ready to be shown."""
    if field.default is attrs.NOTHING:
        return Parameter.empty
    if isinstance(field.default, attrs.Factory):
        if field.default.takes_self:
            return Shown(NOT_SHOWN)
        factory = field.default.factory
        if factory in (list, dict, set, tuple, frozenset):
            return Shown(repr(factory()))
        named = isinstance(factory, type) or "<lambda>" not in factory.__qualname__
        return Shown(f"{factory.__qualname__}()" if named else NOT_SHOWN)
    return Shown(show_value(field.default))


def attrs_signature(cls: type) -> inspect.Signature:
    """Return the signature of the constructor that attrs has made for *cls*."""
    fields = [field for field in attrs.fields(cls) if field.init]
    return inspect.Signature(
        [
            Parameter(
                field.alias or field.name,
                Parameter.KEYWORD_ONLY if field.kw_only else Parameter.POSITIONAL_OR_KEYWORD,
                default=default_of(field),
                annotation=Parameter.empty if field.type is None else field.type,
            )
            for field in sorted(fields, key=lambda field: field.kw_only)
        ]
    )


def generated_by_attrs(cls: type) -> bool:
    code = getattr(cls.__init__, "__code__", None)
    return attrs.has(cls) and code is not None and code.co_filename.startswith("<attrs generated")


def with_keywords(signature: inspect.Signature, classes: dict[str, str]) -> inspect.Signature:
    """Return *signature* with the fields of a settings class in place of ``**options``.

    Args:
        signature: of a constructor.
        classes: for the name of a typed dict in ``**options: Unpack[...]``, the attrs
            class that has the same names with their defaults.
    """
    *parameters, last = signature.parameters.values() or [None]
    if last is None or last.kind is not Parameter.VAR_KEYWORD:
        return signature
    named = re.fullmatch(r"Unpack\[(\w+)\]", str(last.annotation))
    if named is None or named[1] not in classes:
        return signature
    settings = found(classes[named[1]])
    fields = [
        field.replace(annotation=without_aliases(str(field.annotation), settings.__module__))
        for field in attrs_signature(settings).parameters.values()
    ]
    return signature.replace(parameters=[*parameters, *fields])


def signature_of(what: str, obj: Any) -> inspect.Signature | None:
    """Return the signature of *obj* as a reader wants it, or None if it has none."""
    if what in ("class", "exception"):
        if generated_by_attrs(obj):
            return attrs_signature(obj)
        if not isinstance(obj.__init__, types.FunctionType):
            return None
        signature = without_first(inspect.signature(obj.__init__))
        return signature.replace(return_annotation=inspect.Signature.empty)
    function = inspect.unwrap(obj.__func__ if isinstance(obj, classmethod | staticmethod) else obj)
    if isinstance(function, types.MethodType):
        function = function.__func__
    if not isinstance(function, types.FunctionType):
        return None
    signature = inspect.signature(function)
    if obj is not function and inspect.isasyncgenfunction(function):
        signature = as_context_manager(signature)
    is_method = what == "method" and not isinstance(obj, staticmethod)
    return without_first(signature) if is_method else signature


def without_first(signature: inspect.Signature) -> inspect.Signature:
    first, *rest = signature.parameters.values() or [None]
    if first is None or first.name not in ("self", "cls"):
        return signature
    return signature.replace(parameters=rest)


def as_context_manager(signature: inspect.Signature) -> inspect.Signature:
    """Return *signature* with what ``async with`` gives."""
    given = str(signature.return_annotation).removeprefix("AsyncIterator[").removesuffix("]")
    return signature.replace(return_annotation=f"AsyncContextManager[{given}]")


def readable(annotation: Any, names: dict[str, str], module: str = "") -> str:
    """Return *annotation* as text, with *names* replaced by what they stand for.

    Args:
        annotation: as the source or the signature has it.
        names: what to show in place of them.
        module: in which it stands; the aliases there are replaced, too.
    """
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    for name, meaning in names.items():
        text = re.sub(rf"(?<![\w.]){re.escape(name)}(?!\w)", meaning, text)
    text = plain(without_aliases(text, module))
    text = text.replace("NoneType", "None")
    return re.sub(
        r"\b(?:typing|collections\.abc|datetime|trio_ticks(?:\.\w+)+)\.(?=[A-Z])", "", text
    )


def is_alias(value: Any) -> bool:
    """Whether *value* is a type that has no name of its own."""
    return isinstance(value, types.UnionType | types.GenericAlias) or (
        typing.get_origin(value) is not None
    )


def without_aliases(text: str, module: str) -> str:
    """Return *text* with the aliases that *module* knows replaced by what they are."""
    known = vars(sys.modules[module]) if module in sys.modules else {}

    def expand(match: re.Match[str]) -> str:
        value = known.get(match[0])
        if not is_alias(value) or match[0] in DOCUMENTED_ALIASES:
            return match[0]
        # An alias' own module may know names in it that this one does not: they are
        # types by now, not names.
        return plain(inspect.formatannotation(value))

    return re.sub(r"(?<![\w.\"'])[A-Z]\w*(?![\w\"'])", expand, text)


def plain(text: str) -> str:
    """Return *text* with ``float`` for ``Annotated[float, Meta(ge=0)]``."""
    return re.sub(r"(?:typing\.)?Annotated\[(\w+), [^\]]*\]", r"\1", text)


def format_signature(
    signature: inspect.Signature, names: dict[str, str], module: str
) -> tuple[str, str]:
    """Return the parameters in brackets, and what is returned."""
    shown: list[str] = []
    kind: Any = None
    parameters = list(signature.parameters.values())
    for number, parameter in enumerate(parameters):
        if parameter.name.startswith("_") and parameter.default is not Parameter.empty:
            continue  # for the library itself
        if parameter.kind is Parameter.KEYWORD_ONLY and kind not in (
            Parameter.KEYWORD_ONLY,
            Parameter.VAR_POSITIONAL,
        ):
            shown.append("*")
        kind = parameter.kind
        star = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}.get(kind, "")
        text = star + parameter.name
        if parameter.annotation is not Parameter.empty:
            text += f": {readable(parameter.annotation, names, module)}"
        if parameter.default is not Parameter.empty:
            value = parameter.default
            value = value.text if isinstance(value, Shown) else show_value(value)
            text += f" = {value}" if ":" in text else f"={value}"
        shown.append(text)
        following = parameters[number + 1] if number + 1 < len(parameters) else None
        if kind is Parameter.POSITIONAL_ONLY and (
            following is None or following.kind is not Parameter.POSITIONAL_ONLY
        ):
            shown.append("/")
    returned = signature.return_annotation
    if returned is inspect.Signature.empty:
        return f"({', '.join(shown)})", ""
    return f"({', '.join(shown)})", readable(returned, names, module)


def show_signature(
    app: Any, what: str, _name: str, obj: Any, _options: Any, arguments: str | None, _returns: Any
) -> tuple[str, str | None] | None:
    """Answer autodoc's question for a signature."""
    if what not in ("class", "exception", "function", "method") or arguments is None:
        return None
    if what in ("class", "exception") and arguments == "()":
        # It is written `.. autoclass:: Gap()` in the source: users do not make one, so
        # the reference shows no constructor at all.
        return "", None
    signature = signature_of(what, obj)
    if signature is None:
        return None
    signature = with_keywords(signature, app.config.keyword_classes)
    return format_signature(signature, app.config.readable_types, obj.__module__)


class ApiNames(SphinxDirective):
    """``api-names``: what each page in ``api/`` documents, a line for each name."""

    DOCUMENTED = re.compile(r"^\.\. auto\w+:: ([\w.]+)", re.MULTILINE)

    def run(self) -> list[nodes.Node]:
        """Return the names under the title of each page, in the toctree's order."""
        shown: list[nodes.Node] = []
        order = re.findall(r"^api/(\w+)$", Path(self.env.doc2path("api")).read_text(), re.MULTILINE)
        for page in order:
            source = Path(self.env.srcdir, "api", f"{page}.md")
            self.env.note_dependency(str(source))
            text = source.read_text(encoding="utf-8")
            title = text.partition("\n")[0].removeprefix("# ")
            link = addnodes.pending_xref(
                "",
                nodes.inline(title, title),
                refdomain="std",
                reftype="doc",
                reftarget=f"/api/{page}",
                refdoc=self.env.docname,
                refexplicit=True,
                refwarn=True,
            )
            rubric = nodes.rubric("", "", link)
            names = nodes.bullet_list(classes=["api-names"])
            for name in self.DOCUMENTED.findall(text):
                names += nodes.list_item("", self.line(name))
            shown += [rubric, names]
        return shown

    def line(self, name: str) -> nodes.paragraph:
        """Return *name* as a link, with the first sentence of its docstring."""
        module = "trio_ticks"
        full = name if name.startswith("trio_ticks.") else f"{module}.{name}"
        short = full.removeprefix("trio_ticks.")
        link = addnodes.pending_xref(
            "",
            nodes.literal(short, short, classes=["xref", "py"]),
            refdomain="py",
            reftype="obj",
            reftarget=full,
            refdoc=self.env.docname,
            refexplicit=True,
            refwarn=True,
        )
        said = first_sentence(found(full))
        return nodes.paragraph("", "", link, nodes.Text(f"  {said}" if said else ""))


def found(name: str) -> Any:
    """Return the object with the dotted *name*, or None."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute, None)


def first_sentence(obj: Any) -> str:
    """Return the first sentence of the docstring of *obj*, as plain text."""
    if not isinstance(obj, type | types.FunctionType):
        return ""
    summary = (inspect.getdoc(obj) or "").partition("\n\n")[0].replace("\n", " ")
    text = re.sub(r":\w+:`~?([^`]+)`", lambda match: match[1].rpartition(".")[2], summary)
    return re.sub(r"[`*]+", "", re.split(r"(?<=[.:;]) ", text)[0]).rstrip(":;")


def show_alias(_app: Any, what: str, _name: str, obj: Any, _options: Any, lines: list[str]) -> None:
    """Say of an alias what it stands for, and not what its origin's docstring says."""
    if what == "data" and isinstance(obj, types.GenericAlias):
        lines[:] = [f"``{readable(obj, {})}``"]


def simplify_types(_app: Any, document: nodes.document) -> None:
    """Simplify the types that autodoc writes by itself, of properties and aliases."""
    for node in list(document.findall(addnodes.desc_sig_element)) + list(
        document.findall(addnodes.desc_annotation)
    ):
        text = node.astext()
        if "Annotated[" in text:
            node.children = []
            node += nodes.Text(plain(text))
    for paragraph in list(document.findall(nodes.paragraph)):
        if paragraph.astext().startswith("alias of ") and "Annotated[" in paragraph.astext():
            paragraph.parent.remove(paragraph)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("api-names", ApiNames)
    app.add_config_value("keyword_classes", {}, "env", [dict])
    app.add_config_value("readable_types", {}, "env", [dict])
    app.connect("autodoc-process-signature", show_signature)
    app.connect("autodoc-process-docstring", show_alias)
    app.connect("doctree-read", simplify_types)
    return {"parallel_read_safe": True}
