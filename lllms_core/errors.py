"""Every error that lllms raises on purpose.

    LllmsError
    ├── ConfigError              a configuration that cannot be used; names the path (models.phi3.max_instances)
    ├── PluginError
    │   ├── PluginLoadFailed     a plugin that cannot be imported or asked
    │   └── PluginConflict       two plugins provide one name
    ├── ModelError
    │   ├── ModelUnknown         no model of this name
    │   └── ModelLoadFailed      the model's file or options cannot be loaded
    ├── RequestError             the request itself is at fault; `param` names the field, `code` the reason
    │   ├── InvalidRequest       a field is missing, malformed or out of range
    │   ├── UnsupportedParameter a known field asks for what this engine does not do
    │   └── ContextOverflow      prompt and answer do not fit the model's context
    ├── EngineError
    │   ├── EngineFailed         the engine reported that it cannot go on with this request
    │   ├── OutOfTime            there was no time to finish, and no part of the answer is of use
    │   └── EngineDied           the worker that held the request is gone
    ├── DownloadError            model files that cannot be had; `retry_after` says when to try again
    │   ├── InvalidSource        a source that no downloader understands
    │   ├── SourceUnavailable    the place cannot be reached, or does not give the file
    │   ├── Offline              the file is not on disk, and offline mode is on
    │   ├── WrongFile            what came is not what was asked for
    │   │   └── ChecksumMismatch its hash is another one
    │   ├── DiskFull             there is no room for the file
    │   └── DownloadCancelled    nobody wants it any more
    └── Overloaded               the server has no room now; `retry_after` says when to come back
        ├── QueueFull            too many requests wait already
        ├── WaitedTooLong        the request waited longer than it may
        └── ShuttingDown         the server takes no more requests

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


class ModelLoadFailed(ModelError):
    """The model could not be loaded: its file, its options or the machine do not allow it."""


@define(auto_exc=True, eq=False, slots=False)
class RequestError(LllmsError):
    """The request itself is at fault: sending it again unchanged fails again."""

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
    """The engine reported that it cannot go on with this one request; its other requests are unharmed."""


class OutOfTime(EngineError):
    """The model's `timeout` was over before the answer was complete, and no part of it is of use."""


class EngineDied(EngineError):
    """The worker that held the request is gone; the next request gets a new one."""


@define(auto_exc=True, eq=False, slots=False)
class DownloadError(LllmsError):
    """A model's files cannot be had; a request for the model tries again after `retry_after` seconds."""

    text: str
    retry_after: int | None = None

    __str__ = LllmsError.__str__


class InvalidSource(DownloadError):
    """No downloader understands the source, or it names nothing that is there."""


class SourceUnavailable(DownloadError):
    """The place cannot be reached, or does not give the file."""


class Offline(DownloadError):
    """The file is not on disk, and offline mode forbids to fetch it."""


class WrongFile(DownloadError):
    """What came is not what was asked for: another size, a web page, no model; it was thrown away."""


class ChecksumMismatch(WrongFile):
    """The file's SHA-256 is not the one that was promised."""


class DiskFull(DownloadError):
    """There is no room on the disk for the file."""


class DownloadCancelled(DownloadError):
    """The download was cancelled; what has arrived is kept for the next time."""


@define(auto_exc=True, eq=False, slots=False)
class Overloaded(LllmsError):
    """The server has no room now; try again after `retry_after` seconds."""

    text: str
    retry_after: int = 1

    __str__ = LllmsError.__str__


class QueueFull(Overloaded):
    """As many requests wait already as `server.queue_size` allows."""


class WaitedTooLong(Overloaded):
    """The request waited in the queue for longer than `server.queue_timeout`."""


class ShuttingDown(Overloaded):
    """The server is stopping and takes no more requests."""
