"""The options of the placement."""

from typing import Annotated

from attrs import frozen

from lllms_core.values.structure import Range


@frozen
class RayOptions:
    """`[placement.options]`."""

    address: str = "auto"
    """The cluster, of which this machine is a node: `auto` for the one that runs here, or `HOST:PORT` of its head."""
    host: str = ""
    """The address of this machine at which the nodes reach it; unset: the one by which Ray knows it."""
    port: Annotated[int, Range(0, 65535)] = 0
    """The port at which workers connect to this server; 0: a free port that the system chooses."""
    here: bool = True
    """Whether models also run on this machine, beside the server."""
