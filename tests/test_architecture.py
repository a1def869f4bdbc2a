"""The shape of the code: what may import what, what is exported, and that every test says what it proves."""

import ast
import importlib
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lllms_core

ROOT = Path(__file__).parent.parent
CORE = ROOT / "lllms_core"
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/*/__init__.py") if path.parent.name != "tests")
SOURCES = sorted([*CORE.rglob("*.py"), *(file for plugin in PLUGINS for file in plugin.rglob("*.py"))])
TESTS = sorted([*(ROOT / "tests").glob("*.py"), *(ROOT / "plugins").glob("*/tests/*.py")])

PACKAGES = sorted(
    ".".join(file.parent.relative_to(ROOT if CORE in file.parents else file.parent.parent).parts)
    for file in SOURCES if file.name == "__init__.py"
)

ROOMS: tuple[tuple[str, ...], ...] = (
    ("errors", "types", "queries"),
    (
        "values", "text", "chat", "gguf", "machine", "parameters", "tracebacks", "cancellation", "status", "answers",
        "caller", "events",
    ),
    ("hookspecs", "engines", "apis", "downloads", "placements", "rendezvous", "sessions"),
    ("config", "plugins", "footprint", "curated", "catalog", "requests"),
    ("worker",),
    ("pool", "store", "observers"),
    ("host",),
    ("builtin",),
    ("app", "serve", "web", "log", "client", "cli", "bench", "testing"),
    ("__init__", "__main__"),
)
"""The rooms of `lllms_core`, from the bottom up: a room may import itself and those below."""
FLOOR = {name: floor for floor, names in enumerate(ROOMS) for name in names}
FOR_PLUGINS = frozenset(lllms_core.FOR_PLUGINS)


def test_every_module_has_its_room() -> None:
    """Each module of the core is in the plan of the rooms, and the plan lists no module that is missing."""
    there = {path.stem for path in CORE.glob("*.py")} | {path.parent.name for path in CORE.glob("*/__init__.py")}
    assert there <= FLOOR.keys()
    assert FLOOR.keys() <= there


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file: Path) -> None:
    """A module imports only its own room and those below; a plugin only itself and the rooms for plugins."""
    rooms = {room(name) for name in imports(file) if name.partition(".")[0] == "lllms_core"}
    if CORE in file.parents:
        place = file.relative_to(CORE).parts[0].removesuffix(".py")
        assert {name for name in rooms if FLOOR[name] > FLOOR[place]} == set()
    else:
        assert rooms <= FOR_PLUGINS - {"testing"}
        others = {plugin.name for plugin in PLUGINS if plugin not in file.parents}
        assert others.isdisjoint(name.partition(".")[0] for name in imports(file))


def test_what_plugins_may_import_is_low() -> None:
    """The modules for plugins, except the one for their tests, are on the three lowest floors."""
    assert FOR_PLUGINS - {"testing"} <= {*ROOMS[0], *ROOMS[1], *ROOMS[2]}


def test_built_in_plugins_need_no_other() -> None:
    """No built-in plugin is imported from outside: each can be disabled, and another can be written the same way."""
    for file in CORE.rglob("*.py"):
        place = file.relative_to(CORE).parts
        own = f"lllms_core.builtin.{place[1]}" if place[0] == "builtin" else "nothing"
        taken = {name for name in imports(file) if name.startswith("lllms_core.builtin.")}
        assert {name for name in taken if name != own and not name.startswith(f"{own}.")} == set(), file


def test_imports_form_no_circle() -> None:
    """Rooms do not import each other in cycles, even on one floor: each is understood with those that it imports."""
    graph: dict[str, set[str]] = {}
    for file in CORE.rglob("*.py"):
        place = file.relative_to(CORE).parts[0].removesuffix(".py")
        needed = {room(name) for name in imports(file) if name.partition(".")[0] == "lllms_core"}
        graph.setdefault(place, set()).update(needed - {place})
    assert list(TopologicalSorter(graph).static_order())


COMMANDS = (CORE / "cli", CORE / "bench" / "suites")
"""Folders whose files are named after words of the command line."""
ANATOMY = {"__init__.py", "routes.py", "openapi.py"}
"""File names that have the same meaning in each package or built-in API."""


def test_a_file_name_means_one_thing() -> None:
    """A file name occurs once in the core, except those of commands and of the parts that every API has."""
    files = [file for file in CORE.rglob("*.py") if file.parent not in COMMANDS and file.name not in ANATOMY]
    names = Counter(file.name for file in files)
    assert [name for name, count in names.items() if count > 1] == []


def test_a_class_name_means_one_thing() -> None:
    """The name of a public class occurs once in the core."""
    classes = Counter(
        node.name for file in CORE.rglob("*.py") for node in parse(file).body if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in classes.items() if count > 1 and not name.startswith("_")] == []


@pytest.mark.parametrize("file", TESTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_test_states_its_fact(file: Path) -> None:
    """Each test function has a docstring: the fact that it proves."""
    functions = [node for node in ast.walk(parse(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [one.name for one in functions if one.name.startswith("test_") and not ast.get_docstring(one)] == []


def test_names_of_test_files_are_unique() -> None:
    """Test files have different names all over the repository, because they are imported without packages."""
    names = [file.name for file in TESTS if file.name != "conftest.py"]
    assert len(names) == len(set(names))


def test_helpers_for_tests_are_annotated() -> None:
    """Every function of a test helper and of a conftest.py has types for its parameters and its result."""
    helpers = [file for file in TESTS if file.name == "conftest.py" or file.stem.endswith("_for_tests")]
    assert not [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}" for file in helpers for node in ast.walk(parse(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not annotated(node)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_exports_are_sorted_and_complete(package: str) -> None:
    """`__all__` is sorted, every name in it exists, and a package that only re-exports exports all its imports."""
    module = importlib.import_module(package)
    exported = list(getattr(module, "__all__", []))
    assert exported == sorted(exported, key=rank)
    assert all(hasattr(module, name) for name in exported)
    body = parse(Path(module.__file__ or "")).body[1:]  # after the docstring
    if all(isinstance(node, ast.ImportFrom | ast.Assign) for node in body):
        imported = [alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
        assert exported == sorted(imported, key=rank)


def test_public_api_is_what_type_checkers_see() -> None:
    """The names that `lllms_core` imports lazily are those that it exports and those that type checkers see."""
    [checked] = [node for node in parse(CORE / "__init__.py").body if isinstance(node, ast.If)]
    lines = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    told = {alias.name: node.module for node in lines for alias in node.names}
    assert sorted(told) == sorted(lllms_core.__all__)
    assert {name: getattr(importlib.import_module(module or ""), name) for name, module in told.items()} == {
        name: getattr(lllms_core, name) for name in lllms_core.__all__
    }


def rank(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def annotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    untyped = [one.arg for one in named if one.annotation is None]
    return function.returns is not None and not {*untyped} - {"self", "cls"}


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def room(module: str) -> str:
    """The room of a module of the core; the package itself for what it re-exports."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports: at its top, inside functions, and only for type checkers."""
    pending: list[ast.AST] = [parse(file)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            submodules = node.module == "lllms_core"  # `from lllms_core import hookspecs` is an import of that module
            yield from (f"{node.module}.{alias.name}" if submodules else node.module or "" for alias in node.names)
        else:
            pending += ast.iter_child_nodes(node)
