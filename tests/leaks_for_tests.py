"""A server, run as a program, whose engine and API mishandle what clients send as careless code does."""

import asyncio
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import lllms_llamacpp
from quart import Blueprint, request

from lllms_core.apis import Api, Server
from lllms_core.config import parse_config
from lllms_core.engines import Engine, Model, Progress, SerialModel
from lllms_core.engines.serial import Pause, Piece
from lllms_core.errors import EngineFailed
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.log import configure_logging
from lllms_core.plugins import Plugins
from lllms_core.serve import serve
from lllms_core.types import ModelSpec, Request

TINY = str(Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf")
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ {}[m.content].missing }}{% endfor %}"


def deeper(text: str, calls: int) -> str:
    if not calls:
        raise ValueError(text)
    return deeper(text, calls - 1)


def act(word: str, text: str) -> None:
    """Mishandle a text in the way that a word names."""
    match word:
        case "raise":
            raise ValueError(f"invalid literal: {text!r}")
        case "key":
            {}[text]
        case "deep":
            deeper(text, 800)
        case "endless":
            deeper(text, -1)
        case "chain":
            try:
                act("key", text)
            except KeyError as error:
                raise RuntimeError(text) from error
        case "group":
            raise ExceptionGroup(text, [ValueError(text), KeyError(text)])
        case "exit":
            sys.exit(text)
        case "fail":
            raise EngineFailed(text)
        case "note":
            error = ValueError(text)
            error.add_note(text)
            raise error


def leak(text: str) -> None:
    """Write a text to every place where programs leak text."""
    print(text)  # noqa: T201  # as careless engines do
    os.write(2, f"{text}\n".encode())
    warnings.warn(text, stacklevel=1)
    logging.getLogger("careless.library").error(text)
    failing = threading.Thread(target=act, args=["raise", text])
    failing.start()
    failing.join()
    try:
        act("key", text)
    except KeyError:
        logging.getLogger("lllms.careless").exception("this failed")


class LeakyModel(SerialModel):
    """Prompts are "WORD TEXT"; "wait" never ends."""

    context_length = 1_000_000
    slots = 4

    def complete(self, prompt: str, request: Request) -> Iterator[Piece]:
        yield "begun "
        word, _, text = prompt.partition(" ")
        if word == "wait":
            while True:
                yield Pause(0.01)
                yield "x"
        leak(text)
        act(word, text)
        if word == "abort":
            os.abort()
        yield text


class LeakyEngine(Engine):
    name = "leaky"
    needs_file = False

    def load(self, spec: ModelSpec, progress: Progress) -> Model:
        return LeakyModel()


class BrokenApi(Api):
    """`POST /broken/WORD` with a text as body."""

    name = "broken"

    def blueprint(self, server: Server) -> Blueprint:
        blueprint = Blueprint("broken", __name__)
        tasks = set()

        async def fail(word: str, text: str) -> None:
            act(word, text)

        @blueprint.post("/broken/<word>")
        async def broken(word: str) -> str:
            keys = [request.headers.get(name, "") for name in ("Authorization", "X-Api-Key")]
            text = " ".join([await request.get_data(as_text=True), *keys])
            if word == "task":
                tasks.add(asyncio.create_task(fail("raise", text)))
                await asyncio.sleep(0)
                tasks.clear()
            elif word == "callback":
                asyncio.get_running_loop().call_soon(act, "key", text)
            elif word == "thread":
                await asyncio.to_thread(leak_in_server, text)
            else:
                act(word, text)
            return "done"

        return blueprint


def leak_in_server(text: str) -> None:
    failing = threading.Thread(target=act, args=["raise", text])
    failing.start()
    failing.join()
    Dying(text)


class Dying:
    def __init__(self, text: str) -> None:
        self.text = text

    def __del__(self) -> None:
        act("raise", self.text)


class Plugin:
    @hookimpl
    def lllms_engines(self) -> Iterable[Engine]:
        return [LeakyEngine()]

    @hookimpl
    def lllms_apis(self) -> Iterable[Api]:
        return [BrokenApi()]


def main(style: str, key: str) -> None:
    models = {
        "leaky": {"engine": "leaky", "isolation": "process"},
        "template": {"engine": "llamacpp", "file": TINY, "options": {"threads": 1, "chat_template": TEMPLATE}},
    }
    server = {"port": 0, "log_level": "debug", "log_format": style, "shutdown_timeout": 0, "api_keys": [key]}
    config = parse_config({"server": server, "models": models})
    configure_logging(config.server.log_level, config.server.log_format)
    host = Host(config, Plugins.discover(extra={"extra": Plugin()}))
    asyncio.run(serve(host, on_ready=lambda url: print(url, flush=True)))  # noqa: T201  # for the test


if __name__ == "__main__":
    from leaks_for_tests import main as run  # workers must find the engine's module by name

    run(*sys.argv[1:])
