"""The settings of an answer, where a request does not set them."""

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
        """Return these settings overridden by `values` (by the names of `DEFAULTS`), each checked.

        Raises `InvalidRequest` for the first wrong value, `KeyError` for an unknown name.
        """
        return self.replace({name: check(name, value) for name, value in values.items()})

    def replace(self, checked: Mapping[str, Any]) -> Self:
        """Return these settings overridden by values that are already checked."""
        sampling = {name: value for name, value in checked.items() if name in _SAMPLING}
        own = {name: value for name, value in checked.items() if name not in _SAMPLING}
        return evolve(self, sampling=evolve(self.sampling, **sampling), **own)


_OWN = frozenset(attribute.name for attribute in fields(Generation)) - {"sampling"}

DEFAULTS: Mapping[str, Parameter] = {name: ROUTES["chat"][name] for name in sorted(_SAMPLING | _OWN)}
"""The parameters that can have defaults per model: the fields of `Sampling` and the others of `Generation`."""


def check(name: str, value: object) -> object:
    """Return the value of one of `DEFAULTS` in its proper type, for example an int as a float where a number is due.

    Raises `InvalidRequest` with `param=name`, in OpenAI's wording, for a wrong type or a value out of range, also for
    None: an omitted parameter is not checked. Raises `KeyError` for a name that is not in `DEFAULTS`.
    """
    return DEFAULTS[name].check(value)
