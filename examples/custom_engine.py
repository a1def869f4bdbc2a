r"""A whole engine in one file: a parrot, with its model, served through the OpenAI API.

    python examples/custom_engine.py
    curl http://127.0.0.1:3000/v1/chat/completions -H 'Content-Type: application/json' \
        -d '{"model": "parrot", "messages": [{"role": "user", "content": "Pieces of eight!"}]}'

CONTRIBUTING.md says how to make a package of it, and how to test that.
"""

from collections.abc import Iterator

from lllms_core import hookimpl
from lllms_core.engines import Engine, Progress, SerialModel
from lllms_core.types import ChatRequest, ModelOffer, ModelSpec


class Parrot(SerialModel):
    """Repeats the last message, word by word."""

    def chat(self, request: ChatRequest) -> Iterator[str]:
        """Answer one conversation."""
        last = request.messages[-1]
        for number, word in enumerate(last.content.split()):
            yield f" {word}" if number else word


class ParrotEngine(Engine):
    """Keeps parrots, one per worker process."""

    name = "parrot"
    needs_file = False

    def load(self, spec: ModelSpec, progress: Progress) -> Parrot:  # noqa: ARG002  # there is nothing to load
        """Take a parrot from its cage."""
        return Parrot()


@hookimpl
def lllms_engines() -> list[Engine]:
    """Provide the engine."""
    return [ParrotEngine()]


@hookimpl
def lllms_models() -> list[ModelOffer]:
    """Offer a model that needs no configuration."""
    return [ModelOffer("parrot", engine="parrot", description="repeats your words")]


if __name__ == "__main__":
    import asyncio
    import sys

    from lllms_core import Host, load_config
    from lllms_core.plugins import Plugins
    from lllms_core.serve import serve

    plugins = Plugins.discover(extra={"parrot": sys.modules[__name__]})
    asyncio.run(serve(Host(load_config(), plugins), on_ready=print))
