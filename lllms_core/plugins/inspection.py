"""Inspect one plugin: the hooks that it implements, and whether their results are valid."""

import inspect
from collections.abc import Callable, Iterable, Mapping

import pluggy

from lllms_core import hookspecs
from lllms_core.errors import PluginLoadFailed
from lllms_core.values.violations import did_you_mean

Hook = Callable[..., object]


def find_hooks(plugin: object, name: str) -> tuple[dict[str, Hook], list[str]]:
    """Return the hooks that a plugin implements, by name, and the faults of its other `lllms_` functions.

    Raises `pluggy.PluginValidationError` for a hook with wrong parameters, and any error of the plugin's properties.
    """
    if inspect.isclass(plugin):
        return {}, [f"it is the class {plugin.__name__}; a plugin is a module or an instance"]
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    hooks: dict[str, Hook] = {}
    faults: list[str] = []
    marked: set[str] = set()
    for caller in manager.get_hookcallers(plugin) or ():
        for implementation in caller.get_hookimpls():
            marked.add(implementation.function.__name__)
            if not caller.has_spec():
                faults.append(f"{caller.name} is not a hook of lllms{_meant(caller.name)}")
            elif implementation.wrapper or implementation.hookwrapper:
                faults.append(f"{caller.name} is a wrapper, but lllms calls each plugin separately")
            else:
                hooks[caller.name] = _call(implementation)
    faults += [f"{function} lacks the @hookimpl marker" for function in _functions(plugin) if function not in marked]
    return hooks, faults


def named_objects(answer: object, hook: str, base: type) -> list[tuple[str, object]]:
    """Return the objects that a hook returned, with their names; each is an instance of `base`.

    Raises `PluginLoadFailed` with the fault of an invalid result, and any error of the plugin's generator.
    """
    wanted = f"{hook} must return an iterable of {base.__name__} objects"
    if not isinstance(answer, Iterable) or isinstance(answer, str | bytes | Mapping):
        raise PluginLoadFailed(f"{wanted}, not {answer!r}")
    found: list[tuple[str, object]] = []
    for one in answer:
        if not isinstance(one, base):
            hint = f"; it must be an instance: {one.__name__}()" if inspect.isclass(one) else ""
            raise PluginLoadFailed(f"{wanted}, not of {one!r}{hint}")
        name = getattr(one, "name", None)
        if not isinstance(name, str) or not name:
            raise PluginLoadFailed(f"{hook} returned {one!r}, which has no name")
        found.append((name, one))
    return found


def _call(implementation: pluggy.HookImpl) -> Hook:
    """Return a function that calls an implementation with as many of the hook's arguments as it takes."""
    return lambda *given: implementation.function(*given[: len(implementation.argnames)])


def _functions(plugin: object) -> list[str]:
    """Return the names of a plugin's functions that look like hooks."""
    names = [name for name in dir(plugin) if name.startswith("lllms_")]
    return [name for name in names if inspect.isroutine(inspect.getattr_static(plugin, name))]


def _meant(hook: str) -> str:
    return did_you_mean(hook, [name for name in vars(hookspecs) if name.startswith("lllms_")])
