"""What the scheduler wants done. It decides, the pool does."""

from attrs import frozen

from lllms_core.errors import LllmsError


@frozen
class Start:
    """Start a worker for a new instance, and load the model in it."""

    instance: str
    model: str
    threads: int


@frozen
class Prepare:
    """Get the files of a model that are not here."""

    model: str


@frozen
class Assign:
    """Give a waiting request to an instance."""

    ticket: str
    instance: str


@frozen
class Refuse:
    """Tell a waiting request that it will not be served."""

    ticket: str
    error: LllmsError


@frozen
class Stop:
    """Unload an idle instance."""

    instance: str


@frozen
class UseThreads:
    """Tell an instance how many cores it may use from now on."""

    instance: str
    count: int


Effect = Start | Prepare | Assign | Refuse | Stop | UseThreads
