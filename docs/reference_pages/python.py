"""The pages of Python's names: what plugins and programs may import."""

import ast
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import lllms_core
from reference_pages.names import Name, docstring, exported, public_names

PACKAGE = "lllms_core"
ABOUT: Mapping[str, str] = {
    "hookspecs": "The hooks of plugins", "engines": "Engines and models", "apis": "HTTP APIs",
    "downloads": "Downloaders", "placements": "Placements", "rendezvous": "Connections of placements",
    "sessions": "Session stores", "types": "Values", "queries": "Queries",
    "errors": "Classes of errors", "answers": "Answers", "cancellation": "Cancellation", "chat": "Chat templates",
    "gguf": "GGUF files", "machine": "The machine", "parameters": "Table of parameters", "status": "State",
    "text": "Text", "values": "Values from tables", "testing": "Tests of plugins", "client": "Clients of a server",
}
KINDS = ("class", "function", "value")
"""In the order of a page."""
ALSO: Mapping[str, Sequence[str]] = {"engines": ("tokens",), "apis": ("event_buffer", "own_machine", "same_paths")}
"""Modules within packages for plugins that authors need, although our own plugins use them only through others."""
INDEX = """\
# Python

Programs may import the names of [`lllms_core`](lllms_core.md), and those of [`lllms_core.client`](client.md) to talk
to a server. Plugins may also import the other modules below (`lllms_core.FOR_PLUGINS`); our own plugins import no
others. Any other module may change at any time: see the [promises](../../promises.md).

| module | what it has |
|---|---|
"""


def pages(root: Path) -> Mapping[str, str]:
    """Return the pages by their names; `root` is the repository."""
    used = _used_by_plugins(root)
    rows = [f"| [`{PACKAGE}`](lllms_core.md) | What programs import that embed the pool or serve it |"]
    found = {f"{PACKAGE}.md": _page(PACKAGE, "For programs", ())}
    for name in (*lllms_core.FOR_PLUGINS, "client"):
        rows.append(f"| [`{PACKAGE}.{name}`]({name}.md) | {ABOUT[name]} |")
        found[f"{name}.md"] = _page(f"{PACKAGE}.{name}", ABOUT[name], used.get(name, ()))
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *(name.removesuffix(".md") for name in found), "```"])
    found["index.md"] = f"{INDEX}{chr(10).join(rows)}\n\n{toctree}\n"
    return found


def _page(module: str, title: str, further: Sequence[str]) -> str:
    names = exported(module)
    parts = [f"# {title}\n", f"`{module}`\n", _text(docstring(module))]
    own = [one for one in public_names(module, names) if not _internal(one)]
    parts += [_section(one, 2) for one in sorted(own, key=lambda one: KINDS.index(one.kind))]
    for inner in further:
        found = public_names(f"{module}.{inner}")
        others = [one for one in found if one.name not in (names or ()) and not _internal(one)]
        if others:
            parts += [f"## Module `{module}.{inner}`\n", _text(docstring(f"{module}.{inner}"))]
            parts += [_section(one, 3) for one in others]
    return "\n".join(parts)


def _internal(one: Name) -> bool:
    """Whether a value is a logger or a variable of types, which nobody else imports."""
    return one.kind == "value" and ("getLogger(" in one.code or "TypeVar(" in one.code)


def _section(one: Name, level: int) -> str:
    parts = [f"{'#' * level} `{one.name}`\n", f"```python\n{one.code}\n```\n", _text(one.doc)]
    values = [member for member in one.members if member.kind == "value"]
    if values:
        parts.append("".join(_item(value) for value in values))
    methods = (member for member in one.members if member.kind == "function")
    # A method is no section of its own, or the table of contents would list hundreds.
    parts += [f"```python\n{method.code}\n```\n\n{_text(method.doc)}" for method in methods]
    return "\n".join(parts)


def _item(value: Name) -> str:
    item = f"- ``{value.code}``\n"
    if value.doc:
        item += "\n" + "".join(f"  {line}\n" if line else "\n" for line in value.doc.splitlines()) + "\n"
    return item


def _text(doc: str) -> str:
    """Return a docstring as Markdown: its indented blocks are programs, or trees."""
    lines: list[str] = []
    block: list[str] = []
    for line in [*doc.splitlines(), "end"]:
        if line.startswith("    ") or (block and not line.strip()):
            block.append(line[4:])
            continue
        if block:
            while not block[-1].strip():
                block.pop()
            lines += [f"```{_language(chr(10).join(block))}", *block, "```", ""]
            block = []
        lines.append(line)
    return "\n".join(lines[:-1]).rstrip() + "\n"


def _language(code: str) -> str:
    for language, parse in (("toml", tomllib.loads), ("python", ast.parse)):
        with suppress(SyntaxError, tomllib.TOMLDecodeError):
            parse(code)
            return language
    return "text"


def _used_by_plugins(root: Path) -> Mapping[str, Sequence[str]]:
    """Return the modules within packages for plugins that our own plugins and examples import, by package."""
    found: dict[str, set[str]] = {}
    for package, inner in _imports(root):
        found.setdefault(package, {*ALSO.get(package, ())}).add(inner)
    return {package: sorted(inner) for package, inner in found.items()}


def _imports(root: Path) -> Iterator[tuple[str, str]]:
    for path in [*root.glob("plugins/*/lllms_*/**/*.py"), *root.glob("examples/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
                package, _, inner = str(node.module).removeprefix(f"{PACKAGE}.").partition(".")
                if inner and package in lllms_core.FOR_PLUGINS:
                    yield package, inner
