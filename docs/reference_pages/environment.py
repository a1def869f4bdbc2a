"""The page of environment variables: those of the configuration, and those that the code reads by name."""

from collections.abc import Mapping

import attrs

from lllms_core.config import ServerConfig

HEAD = """\
# Environment variables

## Of the configuration

Each key of `[server]` has a variable, which overrides the file and is overridden by flags. Commas separate the items of
lists; `1`, `true`, `yes` and `on` are true, `0`, `false`, `no` and `off` false.

```sh
LLLMS_PORT=8080 LLLMS_LOG_LEVEL=debug lllms serve
```

"""
OTHERS: Mapping[str, str] = {
    "LLLMS_API_KEY": "the key with which commands talk to a server (`--api-key`)",
    "LLLMS_NO_HISTORY": "true: `lllms chat` keeps no history of what is typed (`--no-history`)",
    "LLLMS_PLUGINS": "comma-separated names: only these plugins are loaded",
    "LLLMS_STRICT": "true: a plugin that fails is an error, in place of a warning",
    "HF_TOKEN": "the token for Hugging Face repositories that need one",
    "HF_ENDPOINT": "a mirror in place of `https://huggingface.co`",
    "HF_HUB_OFFLINE": "true: fetch nothing, as `--offline`",
    "HF_HUB_CACHE": "Hugging Face's own cache, whose files are used in place (also `HUGGINGFACE_HUB_CACHE`, `HF_HOME`)",
    "HF_HUB_DISABLE_TELEMETRY": "set to 1 unless you set it",
    "HTTPS_PROXY": "a proxy for downloads (also `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`)",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "where traces are sent, with `lllms-core[otel]` (also "
    "`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`)",
    "OTEL_SERVICE_NAME": "the service's name in traces; `lllms` by default",
    "OPENAI_API_KEY": "the key with which `lllms bench --base-url` talks to a server",
    "XDG_CONFIG_HOME": "the user's configuration folder, `~/.config` by default",
    "XDG_CACHE_HOME": "the user's cache folder, `~/.cache` by default, for the bench's model and other programs' files",
    "XDG_STATE_HOME": "the user's state folder, `~/.local/state` by default, for the history of `lllms chat`",
    "OLLAMA_MODELS": "where Ollama keeps its models, for `lllms ls --found`",
    "LLAMA_CACHE": "where llama.cpp keeps its models, for `lllms ls --found`",
}
"""Variables besides those of the configuration; a test compares them with the code."""


def page() -> str:
    """Return the page in Markdown."""
    rows = [
        f"| `LLLMS_{one.name.upper()}` | [`server.{one.name}`](#server-{one.name.replace('_', '-')}) |"
        for one in attrs.fields(ServerConfig)
    ]
    others = [f"| `{name}` | {meaning} |" for name, meaning in OTHERS.items()]
    own = ["| variable | key |", "|---|---|", *rows]
    return HEAD + "\n".join([*own, "", "## Others", "", "| variable | meaning |", "|---|---|", *others, ""])
