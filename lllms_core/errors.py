"""Every error that lllms raises on purpose.

    LllmsError
    ├── ConfigError              a configuration that cannot be used; names the path (models.phi3.max_instances)
    ├── PluginError
    │   ├── PluginLoadFailed     a plugin that cannot be imported, or whose hook raised
    │   └── PluginConflict       two plugins provide one name
    ├── ModelError
    │   ├── ModelUnknown         no model of this name
    │   ├── ModelLoadFailed      the model's file or options cannot be loaded
    │   │   └── PlacementFailed  a worker cannot be started at its place, or a file is not there
    │   │       ├── PlaceLost    because the place is lost
    │   │       └── PlaceFull    because the disk of the place has no room for the file
    │   └── ModelTooLarge        an instance needs more memory than it can ever get
    ├── RequestError             the request itself is at fault; `param` names the field, `code` the reason
    │   ├── InvalidRequest       a field is missing, malformed or out of range
    │   ├── UnsupportedParameter a known field asks for what this engine does not do
    │   └── ContextOverflow      prompt and answer do not fit the model's context
    ├── EngineError
    │   ├── EngineFailed         the engine cannot continue this request
    │   ├── OutOfTime            the time ran out, and a part of the answer would be of no use
    │   └── EngineDied           the worker that held the request is gone
    ├── DownloadError            a model's files could not be fetched; `retry_after` says when to try again
    │   ├── InvalidSource        a source that no downloader understands
    │   ├── SourceUnavailable    the source cannot be reached, or does not serve the file
    │   ├── Offline              the file is not on disk, and offline mode is on
    │   ├── WrongFile            the server sent something other than the requested file
    │   │   └── ChecksumMismatch a file with another hash
    │   ├── DiskFull             there is no room for the file
    │   └── DownloadCancelled    the download was cancelled
    ├── KeyRefused               the request has no API key, or one that the server does not know
    ├── RequestCancelled         somebody other than the reader of the answer has cancelled the request
    └── Overloaded               the server has no room now; `retry_after` says when to try again
        ├── RateLimited          the client's API key allows no more requests now
        ├── QueueFull            too many requests are already waiting
        ├── WaitedTooLong        the request waited for too long
        ├── InsufficientMemory   the request waited for too long for its model's memory
        └── ShuttingDown         the server accepts no more requests

Errors travel between processes by pickle, so each is rebuilt from its `args`: positional fields only.
A message names the thing, the limit and the way out.
"""

from attrs import define


class LllmsError(Exception):
    """The root: catch it to catch every error that lllms raises on purpose."""

    @property
    def message(self) -> str:
        """What went wrong, for people."""
        return str(self.args[0]) if self.args else type(self).__name__

    def __str__(self) -> str:
        return self.message


class ConfigError(LllmsError):
    """A configuration that cannot be used; the message names the path of the key."""


class PluginError(LllmsError):
    """A plugin that cannot be used."""


class PluginLoadFailed(PluginError):
    """A plugin that cannot be imported, or whose hook raised."""


class PluginConflict(PluginError):
    """Two plugins provide an object of the same kind and name."""


class ModelError(LllmsError):
    """Something is wrong with a model."""


class ModelUnknown(ModelError):
    """No model of this name is configured or offered by a plugin."""


@define(auto_exc=True, eq=False, slots=False)
class ModelLoadFailed(ModelError):
    """The model could not be loaded: its file, its options or the machine do not allow it.

    If a load has failed a short time ago, it is tried again after `retry_after` seconds.
    """

    text: str
    retry_after: int | None = None

    __str__ = LllmsError.__str__


class PlacementFailed(ModelLoadFailed):
    """A worker cannot be started at its place, or a model file can be neither found nor fetched there."""


class PlaceLost(PlacementFailed):
    """Because the place is lost: that says nothing of the model."""


class PlaceFull(PlacementFailed):
    """Because the disk of the place has no room for the file: another place may have some."""


class ModelTooLarge(ModelError):
    """An instance of the model needs more memory than `server.memory_limit` can ever leave it."""


@define(auto_exc=True, eq=False, slots=False)
class RequestError(LllmsError):
    """The request itself is at fault: unchanged, it will fail again."""

    text: str
    param: str | None = None
    code: str | None = None

    __str__ = LllmsError.__str__


class InvalidRequest(RequestError):
    """A field is missing, has the wrong type, or is out of range; `param` is its path, like `messages[0].role`."""


class UnsupportedParameter(RequestError):
    """A known parameter asks for something that this engine, or this version, does not do."""


class ContextOverflow(RequestError):
    """The prompt and the requested answer do not fit into the model's context."""


class EngineError(LllmsError):
    """The engine failed while it worked on a request."""


class EngineFailed(EngineError):
    """The engine cannot continue this one request; its other requests are not affected."""


class OutOfTime(EngineError):
    """The model's `timeout` expired before the answer was complete, and a part of it would be of no use."""


class EngineDied(EngineError):
    """The worker that held the request is gone; the next request gets a new one."""


@define(auto_exc=True, eq=False, slots=False)
class DownloadError(LllmsError):
    """A model's files could not be fetched; a request for the model tries again after `retry_after` seconds."""

    text: str
    retry_after: int | None = None

    __str__ = LllmsError.__str__


class InvalidSource(DownloadError):
    """No downloader understands the source, or it names something that does not exist."""


class SourceUnavailable(DownloadError):
    """The source cannot be reached, or does not serve the file."""


class Offline(DownloadError):
    """The file is not on disk, and offline mode forbids fetching it."""


class WrongFile(DownloadError):
    """The server sent something else: another size, a web page, not a model; it was thrown away."""


class ChecksumMismatch(WrongFile):
    """The file's SHA-256 is not the expected one."""


class DiskFull(DownloadError):
    """There is no room on the disk for the file."""


class DownloadCancelled(DownloadError):
    """The download was cancelled; the bytes received are kept for the next time."""


class KeyRefused(LllmsError):
    """The request has no API key, or one that the server does not know."""


class RequestCancelled(LllmsError):
    """The request was cancelled, by somebody other than the reader of its answer."""


@define(auto_exc=True, eq=False, slots=False)
class Overloaded(LllmsError):
    """The server has no room now; try again after `retry_after` seconds."""

    text: str
    retry_after: int = 1

    __str__ = LllmsError.__str__


class RateLimited(Overloaded):
    """The client's API key allows no more requests now."""


class QueueFull(Overloaded):
    """The queue is full: `server.queue_size` requests are already waiting."""


class WaitedTooLong(Overloaded):
    """The request waited in the queue for longer than `server.queue_timeout`."""


class InsufficientMemory(Overloaded):
    """The request waited for longer than `server.queue_timeout` for the memory that its model needs."""


class ShuttingDown(Overloaded):
    """The server is shutting down and accepts no more requests."""
