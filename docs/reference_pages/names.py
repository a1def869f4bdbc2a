"""The public names of a module, read from its source: signatures and docstrings, those of attributes included."""

import ast
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from attrs import frozen

LONGEST_LINE = 100
DECORATORS = (
    "abstractmethod", "cached_property", "classmethod", "contextmanager", "hookspec", "property", "staticmethod",
)
"""Those that a reader needs to know of."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@frozen
class Name:
    """A class, function, method or value."""

    name: str
    kind: str
    """`class`, `function` or `value`."""
    code: str
    """How it is declared, in Python; without the members of a class."""
    doc: str
    """"" if there is none."""
    members: tuple["Name", ...] = ()
    """Of a class, in order: its public attributes and methods."""


def public_names(module: str, wanted: Sequence[str] | None = None) -> list[Name]:
    """Return the names of a module in the order of its source: those `wanted`, also if it imports them, else its own.

    Raises `LookupError` if a wanted name is not found.
    """
    tree = _parse(module)
    if wanted is None:
        return [one for one in _declared(tree.body) if not one.name.startswith("_")]
    imported = [one.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for one in node.names]
    order = [one.name for one in _declared(tree.body)] + imported
    return [_find(module, name) for name in sorted(wanted, key=order.index)]


def exported(module: str) -> list[str] | None:
    """Return the names in the `__all__` of a module; None if it has none."""
    for node in _parse(module).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def docstring(module: str) -> str:
    """Return the docstring of a module."""
    return _doc_at(_parse(module).body)


def _parse(module: str) -> ast.Module:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"there is no module {module}")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _find(module: str, name: str) -> Name:
    """Return a name where it is declared, following imports."""
    tree = _parse(module)
    for one in _declared(tree.body):
        if one.name == name:
            return one
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and any(one.name == name for one in node.names):
            return _find(node.module, name)
    raise LookupError(f"{module}.{name} is nowhere declared")


def _declared(body: Sequence[ast.stmt]) -> Iterator[Name]:
    for at, node in enumerate(body):
        after = body[at + 1] if at + 1 < len(body) else None
        match node:
            case ast.ClassDef():
                members = tuple(one for one in _declared(node.body) if not one.name.startswith("_"))
                yield Name(node.name, "class", _class_code(node), _doc_at(node.body), members)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if not any(ast.unparse(one) == "overload" for one in node.decorator_list):
                    yield Name(node.name, "function", _function_code(node), _doc_at(node.body))
            case ast.AnnAssign(target=ast.Name(id=name)):
                value = "" if node.value is None else f" = {_value(node.value)}"
                yield Name(name, "value", f"{name}: {ast.unparse(node.annotation)}{value}", _doc_of(after))
            case ast.Assign(targets=[ast.Name(id=name)]):
                yield Name(name, "value", f"{name} = {_value(node.value)}", _doc_of(after))


def _doc_at(body: Sequence[ast.stmt]) -> str:
    """Return the docstring that a body begins with."""
    return _doc_of(body[0] if body else None)


def _doc_of(statement: ast.stmt | None) -> str:
    """Return a docstring without its indentation; "" for any other statement.

    `inspect.cleandoc` would also remove that of an example that is all there is after the first line.
    """
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
        return ""
    text = statement.value.value
    if not isinstance(text, str):
        return ""
    margin = " " * statement.col_offset
    return "\n".join(line.removeprefix(margin) for line in text.splitlines()).strip()


def _value(node: ast.expr) -> str:
    """Return a default or a value as code, unless it is long."""
    code = ast.unparse(node)
    return code if len(code) <= LONGEST_LINE else "..."


def _class_code(node: ast.ClassDef) -> str:
    bases = ", ".join(ast.unparse(one) for one in [*node.bases, *(one.value for one in node.keywords)])
    head = f"class {node.name}({bases})" if bases else f"class {node.name}"
    return "\n".join([*(f"@{ast.unparse(one)}" for one in node.decorator_list), head])


def _function_code(node: Function) -> str:
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = "" if node.returns is None else f" -> {_unquoted(node.returns)}"
    line = f"{word} {node.name}({ast.unparse(node.args)}){returns}"
    if len(line) > LONGEST_LINE:
        inner = ",\n".join(f"    {one}" for one in _arguments(node.args))
        line = f"{word} {node.name}(\n{inner},\n){returns}"
    decorators = [ast.unparse(one) for one in node.decorator_list]
    return "\n".join([*(f"@{one}" for one in decorators if one in DECORATORS), line])


def _unquoted(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def _arguments(given: ast.arguments) -> Iterator[str]:
    """Yield the arguments of a long signature, one for each line."""
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [*[None] * (len(positional) - len(given.defaults)), *given.defaults]
    for argument, default in zip(positional, defaults, strict=True):
        yield _argument(argument, default)
        if given.posonlyargs and argument is given.posonlyargs[-1]:
            yield "/"
    if given.vararg is not None:
        yield f"*{ast.unparse(given.vararg)}"
    elif given.kwonlyargs:
        yield "*"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _argument(argument, default)
    if given.kwarg is not None:
        yield f"**{ast.unparse(given.kwarg)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    shown = ast.unparse(argument)
    if default is None:
        return shown
    return f"{shown} = {ast.unparse(default)}" if argument.annotation else f"{shown}={ast.unparse(default)}"
