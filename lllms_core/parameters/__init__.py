"""The parameters that clients may send: one table of names, types, ranges and verdicts."""

from lllms_core.parameters.checked import Checked, UnknownNames, check_all
from lllms_core.parameters.generation import DEFAULTS, Generation, check
from lllms_core.parameters.readme import markdown
from lllms_core.parameters.table import ROUTES, TABLE, Parameter, Route, Verdict, verdicts

__all__ = [
    "DEFAULTS",
    "ROUTES",
    "TABLE",
    "Checked",
    "Generation",
    "Parameter",
    "Route",
    "UnknownNames",
    "Verdict",
    "check",
    "check_all",
    "markdown",
    "verdicts",
]
