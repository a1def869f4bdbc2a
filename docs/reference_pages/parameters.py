"""The page of the parameters of requests, from the table that checks them."""

from lllms_core.parameters import markdown
from lllms_core.plugins import Plugins

HEAD = """\
# Parameters of requests

How each installed engine treats each parameter: *honoured* by the engine, *emulated* by the core, *named* (it does not
affect the text, or concerns the instance: the request is served, and the header `x-lllms-ignored` and a line of the log
name it), or *refused* with 400, the code `unsupported_parameter` and its name in `param`.

- `null` means absent.
- Other servers' names (after "or") mean the same; two names with different values are a 400 that names both.
- Values in brackets request nothing and are always accepted.
- A star marks parameters that OpenAI's specification lacks.
- Any other name is refused, unless [`unknown_parameters`](#server-unknown-parameters) is `"name"`.

`GET /v1/models/{id}` returns the same for one model. `[models.NAME.defaults]` takes those that choose the text.

"""


def page() -> str:
    """Return the page in Markdown."""
    declared = {name: one.object.parameters for name, one in sorted(Plugins.discover().engines.items())}
    return f"{HEAD}{markdown(declared)}\n"
