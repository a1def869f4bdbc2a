"""Paths that programs request although they do not exist, and the way out for each; one table, pure."""

import re
from collections.abc import Collection

from attrs import frozen

_OPENAI = r"(chat/completions|completions|embeddings|models|rerank|responses|messages)"
_OTHERS = (
    r"audio|images|videos|moderations|files|uploads|batches|fine_tuning|fine-tunes|assistants|threads|vector_stores|"
    r"realtime|evals|containers|conversations|organization|skills|chatkit|edits"
)
_OLLAMA = (
    r"chat|generate|tags|show|ps|version|embed|embeddings|pull|push|create|copy|delete|me|signin|signout|blobs/[^/]+"
)


@frozen
class Foreign:
    """Paths of one kind."""

    pattern: str
    """A regular expression for whole paths."""
    way_out: str
    """`{base}` stands for the URL of this server."""
    api: str = ""
    """The API that would serve such a path, by the name of its blueprint; "" if there is none."""
    installed: str = ""
    """The way out if that API is installed, so that only the base URL is wrong."""


_USE_OPENAI = "nothing installed serves it here; tell the client to speak OpenAI's API, with the base URL {base}/v1"
_INSTALL = "nothing installed serves it here; pip install lllms-{} where it runs, or tell the client to speak OpenAI's"
_OLLAMA_LACKS = f"{_INSTALL.format('ollama')} API, with the base URL {{base}}/v1"
_ANTHROPIC_LACKS = f"{_INSTALL.format('anthropic')} API, with the base URL {{base}}/v1"
_OWN = ("llama-server", "llama-server's own routes have no prefix here; set the client's base URL to {base}")
_OR_COMPAT = "or pip install lllms-compat where this runs, for llama-server's own form"

TABLE = (
    # -- slightly wrong base URLs -------------------------------------------------------------------------------------
    Foreign(
        rf"(/openai)?(/v1){{2,}}/api/({_OLLAMA})|(/openai)?/v1/api/({_OLLAMA})",
        f"this is Ollama's API below /v1, and {_OLLAMA_LACKS}",
        "ollama", "Ollama's API begins with /api here, not below /v1; set the client's base URL to {base}",
    ),
    Foreign(
        r"(/openai)?(/v1){2,}(/.*)?",
        "the client appends /v1 to its base URL, which has one already; set the base URL to {base}",
    ),
    Foreign(
        rf"(/openai)?(/v1)?/{_OPENAI}(/v1)?/({_OPENAI}|api/({_OLLAMA}))",
        "the client appends the route to its base URL, which has one already; set the base URL to {base}/v1",
    ),
    Foreign(
        r"(/openai|/api|/api/openai|/ollama)?/(chat/completions|completions|embeddings|models(/.*)?|responses(/.*)?|"
        rf"rerank|({_OTHERS})(/.*)?)",
        "OpenAI's API begins with /v1 here; set the client's base URL to {base}/v1",
    ),
    Foreign(
        r"(/openai)?(/v1)?/(deployments|engines)/.*",
        "this is the form of Azure, or of clients before 2023; use a client for OpenAI itself, with the base URL "
        "{base}/v1",
    ),
    Foreign(
        r"(/api)?/v2/rerank|/api/rerank",
        "documents are ranked at {base}/v1/rerank",
    ),
    Foreign(
        r"/openai|(/openai)?/v1",
        "a base URL for clients is {base}/v1, and has nothing at itself; {base}/v1/models lists the models",
    ),
    # -- other APIs ---------------------------------------------------------------------------------------------------
    Foreign(
        r"(/v1)?/(messages(/.*)?|complete)",
        f"this is Anthropic's API, and {_ANTHROPIC_LACKS}",
        "anthropic", "Anthropic's API begins with /v1 here; set the client's base URL to {base}",
    ),
    Foreign(
        rf"(/ollama)?/api/({_OLLAMA})",
        f"this is Ollama's API, and {_OLLAMA_LACKS}",
        "ollama", "Ollama's API begins with /api here; set the client's base URL to {base}",
    ),
    Foreign(
        r"/(v1beta|v1beta1|v1alpha|v1)/(models|projects|publishers)/.+:\w+",
        f"this is Google's API, and {_USE_OPENAI}",
    ),
    Foreign(
        r"/api/v0(/.*)?",
        f"this is LM Studio's API, and {_INSTALL.format('compat')} API, with the base URL {{base}}/v1",
        "lm-studio", "of LM Studio's API, only {base}/api/v0/models is served here; for answers, tell the client to "
        "speak OpenAI's API, with the base URL {base}/v1",
    ),
    Foreign(
        r"/api/v1/(completions|embeddings|models|models/.+)",
        f"this is LM Studio's API, and {_USE_OPENAI}",
    ),
    Foreign(
        r"/api/v1/(generate|model|info)|/api/extra/.*|/generate|/generate_stream|/api/generate_stream",
        f"this is the API of KoboldCpp or TGI, and {_USE_OPENAI}",
    ),
    # -- llama-server's and vLLM's own routes -------------------------------------------------------------------------
    Foreign(
        r"(/v1)?/completion",
        f"texts are continued at {{base}}/v1/completions, in OpenAI's form; {_OR_COMPAT}",
        *_OWN,
    ),
    Foreign(
        r"(/v1)?/infill",
        "gaps are filled at {base}/v1/completions, with the text before as prompt and the one after as suffix; "
        f"{_OR_COMPAT}",
        *_OWN,
    ),
    Foreign(
        r"(/v1)?/(tokenize|detokenize|apply-template)",
        "tokens and prompts are at {base}/api/v1/tokenize, {base}/api/v1/detokenize and {base}/api/v1/apply-template; "
        f"{_OR_COMPAT}",
        *_OWN,
    ),
    Foreign(
        r"/embedding|/pooling|/v1/embed|/v2/embed",
        "vectors are made at {base}/v1/embeddings, in OpenAI's form",
    ),
    Foreign(
        r"(/v1)?/(reranking|score)",
        "documents are ranked at {base}/v1/rerank",
    ),
    Foreign(
        r"(/v1)?/(props|slots)",
        f"the state of this server is at {{base}}/ (as JSON, unless asked for HTML), its models at {{base}}/v1/models; "
        f"{_OR_COMPAT}",
        *_OWN,
    ),
    Foreign(
        r"/slots/.*|/lora-adapters|/version|/ping|/server_info|/get_model_info",
        "the state of this server is at {base}/ (as JSON, unless asked for HTML), its models at {base}/v1/models",
    ),
    # -- the rest of OpenAI's -----------------------------------------------------------------------------------------
    Foreign(
        rf"(/openai)?/v1/({_OTHERS}|chat/completions/.+|completions/.+|embeddings/.+|responses/.+)(/.*)?",
        "nothing installed serves this part of OpenAI's API; {base}/openapi.json lists what is served",
    ),
)
"""The first line that matches counts. It is read only for paths that no plugin serves."""
_COMPILED = tuple((re.compile(one.pattern), one) for one in TABLE)
LONGEST = 500
"""No path of the table is longer."""


def find_way_out(path: str, base: str, installed: Collection[str] = ()) -> str | None:
    """Return advice for a client that requests this path from the server at the URL `base`; None if there is none.

    `installed` are the names of the blueprints of the installed APIs.
    """
    if len(path) > LONGEST:
        return None
    found = next((one for pattern, one in _COMPILED if pattern.fullmatch(path)), None)
    if found is None:
        return None
    way_out = found.installed if found.api and found.api in installed else found.way_out
    return way_out.format(base=base)
