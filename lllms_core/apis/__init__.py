"""What the authors of HTTP APIs implement and use: the contract, bodies, faults, streams.

Importing this package imports no web framework: `bodies`, `own_machine`, `replies`, `same_paths` and `streaming` import
Quart, so an API imports them where it makes its blueprint. `examples/dialect.py` is a whole dialect;
`lllms_core.testing` tests it.
"""

from lllms_core.apis.card import Abilities, ModelCard, ModelState, state_of
from lllms_core.apis.contract import Api, Documents, Encoder, Paths, Server, Sessions
from lllms_core.apis.explanations import explain, openai_shape
from lllms_core.apis.fault import Fault

__all__ = [
    "Abilities",
    "Api",
    "Documents",
    "Encoder",
    "Fault",
    "ModelCard",
    "ModelState",
    "Paths",
    "Server",
    "Sessions",
    "explain",
    "openai_shape",
    "state_of",
]
