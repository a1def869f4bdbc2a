"""How an answer is generated where a request does not say otherwise."""

from collections.abc import Mapping
from typing import Any, Self

from attrs import evolve, field, fields, frozen

from lllms_core.parameters.table import ROUTES, Parameter
from lllms_core.types import Sampling

_SAMPLING = frozenset(attribute.name for attribute in fields(Sampling))


@frozen
class Generation:
    """A model's `defaults`, checked."""

    sampling: Sampling = field(factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()

    def override(self, values: Mapping[str, object]) -> Self:
        """Return these settings with `values` (by the names of `DEFAULTS`) in their place, each checked.

        Raises `InvalidRequest` for the first that is wrong, `KeyError` for a name that is none of these.
        """
        return self.replace({name: check(name, value) for name, value in values.items()})

    def replace(self, checked: Mapping[str, Any]) -> Self:
        """Return these settings with values in their place that are checked already."""
        sampling = {name: value for name, value in checked.items() if name in _SAMPLING}
        own = {name: value for name, value in checked.items() if name not in _SAMPLING}
        return evolve(self, sampling=evolve(self.sampling, **sampling), **own)


_OWN = frozenset(attribute.name for attribute in fields(Generation)) - {"sampling"}

DEFAULTS: Mapping[str, Parameter] = {name: ROUTES["chat"][name] for name in sorted(_SAMPLING | _OWN)}
"""The parameters that a model may have defaults for: the fields of `Sampling`, and what else is in `Generation`."""


def check(name: str, value: object) -> object:
    """Return the value of one of `DEFAULTS` in its proper type: ints as floats where a number is meant, and so on.

    Raises `InvalidRequest` with `param=name`, worded as OpenAI words it, for a wrong type or a value out of range; also
    for None: a parameter that is left out is not checked. Raises `KeyError` for a name that is not in `DEFAULTS`.
    """
    return DEFAULTS[name].check(value)
