"""`lllms bench`: load tests of any OpenAI server, and comparisons that show the cost of serving."""

import asyncio
import json
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from lllms_core.cli.setup import examples

if TYPE_CHECKING:
    from rich.console import Console

    from lllms_core.bench.comparisons import Comparison

NAMES = (
    "raw", "busy", "two-models", "turns", "sessions", "http", "wire", "cancel", "masks", "swap", "start", "drafts",
    "prompts", "long", "gaps", "shared", "stored", "short",
)
OWN_MODEL = "135m"


_SUITES = """\b
Suites; each compares in turns, in one run, and shows ratios with their targets:
  raw         through our server against a plain llama.cpp loop
  busy        the same, idle and next to a program that uses every core
  two-models  two models generating at once
  turns       the second turn of a long conversation against the first
  sessions    later turns of 30 conversations over 4 slots: resident, stored, after a restart; the cost of storing
  http        our server on the mock engine against a bare handler
  wire        CPU time per token between worker and server
  cancel      from cancel to idle slot
  masks       answers constrained by a JSON schema against free ones, with a vocabulary of 152,000 tokens
  swap        from a request for a model that is not loaded to its first token, with room for one of two models
  start       from `lllms serve` to the first token
  drafts      speculation: answers that repeat their prompt, and answers that do not, against a plain llama.cpp loop
  prompts     time to first token of 10, 300 and 3,000 tokens, in turns with other servers, and in blocks
  long        the same of 8,000 and 32,000 tokens, with a small model
  gaps        the longest wait for a token of those that generate while a prompt of 8,000 tokens is read
  shared      64 conversations over 4 slots with one system prompt: how much is evaluated anew; turns per second
  stored      1,000 stored sessions: the server's memory for them, and their cost to lookups
  short       requests per second of short answers: the mock engine and a tiny model"""


def _counts(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read comma-separated positive numbers."""
    if value is None:
        return None
    try:
        counts = tuple(int(part) for part in value.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise click.BadParameter(f"{value!r}: expected positive numbers with commas between them, like 1,4,8")
    return counts


@click.command(epilog=_SUITES + "\n\n" + examples(
    "lllms bench --base-url http://127.0.0.1:3000/v1 --model tiny-chat --clients 1,4,8",
    "lllms bench --raw",
    "lllms bench --raw phi3.gguf --peer 'python -m llama_cpp.server --model {file} --port {port}'",
    "lllms bench prompts gaps --peer 'llama-server -m {file} --port {port} -np 4 -c 65536'",
    "lllms bench --all --json figures.json",
))
@click.argument("suites", nargs=-1, type=click.Choice(NAMES), metavar="[SUITE]...")
@click.option("--base-url", metavar="URL", help="Load test the OpenAI server here, like http://127.0.0.1:3000/v1.")
@click.option("--model", metavar="NAME", help="Its model; by default the first that it lists.")
@click.option("--api-key", envvar="OPENAI_API_KEY", metavar="KEY", help="Its API key; by default $OPENAI_API_KEY.")
@click.option("--clients", callback=_counts, metavar="N,N", help="Numbers of clients at once, one test each.")
@click.option("--requests", type=click.IntRange(1), default=4, show_default=True, help="By each client.")
@click.option("--max-tokens", type=click.IntRange(2), default=96, show_default=True, help="Tokens of each answer.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=50, show_default=True, help="Of each prompt, roughly.")
@click.option("--shared-prefix", type=click.IntRange(0), default=0, help="How many of them all prompts share.")
@click.option("--turns", type=click.IntRange(1), default=1, help="Turns of each conversation; figures for each turn.")
@click.option("--text", is_flag=True, help="Ask for /completions instead of /chat/completions.")
@click.option(
    "--raw", "raw_file", is_flag=False, flag_value="", default=None, metavar="[FILE]",
    help="The suite raw; FILE is the GGUF to measure with (all suites).",
)
@click.option("--busy", is_flag=True, help="The suite busy.")
@click.option("--all", "everything", is_flag=True, help="All suites.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds of each comparison.")
@click.option(
    "--peer", "peers", multiple=True, metavar="COMMAND",
    help="Another server for the suites raw, swap, start, prompts, long, gaps, shared and short; {file} and {port} are "
    "filled in. Several are possible.",
)
@click.option("--sizes", callback=_counts, metavar="N,N",
              help="Tokens of the prompts of the suites prompts, long and gaps, or of the shared prompt of shared.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Also write all figures there; - writes them to stdout instead of the tables.")
def bench(
    *,
    suites: tuple[str, ...],
    base_url: str | None,
    model: str | None,
    api_key: str | None,
    clients: tuple[int, ...] | None,
    requests: int,
    max_tokens: int,
    prompt_tokens: int,
    shared_prefix: int,
    turns: int,
    text: bool,
    raw_file: str | None,
    busy: bool,
    everything: bool,
    rounds: int,
    peers: tuple[str, ...],
    sizes: tuple[int, ...] | None,
    json_file: Path | None,
) -> None:
    """Measure speed: of any OpenAI server (--base-url), or of this one against the limits of this machine (SUITE).

    Without FILE, the suites use a model of random weights (about 135M parameters), written once to the user's cache.
    """
    wanted = [
        name for name in NAMES
        if everything or name in suites or (name == "raw" and raw_file is not None) or (name == "busy" and busy)
    ]
    if (base_url is None) == (not wanted):
        raise click.UsageError("give either --base-url, or a comparison: a SUITE, --raw, --busy or --all")
    from lllms_core.bench.tables import findings_table, load_table

    console = _console()
    figures: list[dict[str, object]]
    with _sigterm_interrupts(), console.status("") as status:
        if base_url is not None:
            load = {"requests": requests, "max_tokens": max_tokens, "prompt_tokens": prompt_tokens,
                    "shared_prefix": shared_prefix, "turns": turns, "chat": not text, "api_key": api_key}
            figures = asyncio.run(_load_test(base_url, model, clients or (1, 4, 8), load, status.update))
            table = load_table(figures)
        else:
            settings = {"clients": clients or (1, 8), "rounds": rounds, "max_tokens": max_tokens,
                        "prompt_tokens": prompt_tokens, "peers": peers, "sizes": sizes or ()}
            findings = _compare(wanted, Path(raw_file) if raw_file else None, settings, status.update)
            figures = [finding.as_dict() for finding in findings]
            table = findings_table(findings)
    document = json.dumps(figures, indent=2)
    if json_file == Path("-"):
        click.echo(document)
        return
    if json_file is not None:
        json_file.write_text(document + "\n")
    console.print(table)
    for error in dict.fromkeys(error for row in figures for error in cast(list[str], row.get("errors", []))):
        click.echo(f"failed: {error}", err=True)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Make SIGTERM act like Ctrl-C: end the started programs, then this one."""
    if threading.current_thread() is not threading.main_thread():
        yield  # not the main thread: signals belong to the embedding program
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _console() -> "Console":
    """Return the terminal, or, without one, a page wide enough for the tables."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def _compare(
    wanted: Sequence[str], file: Path | None, settings: Mapping[str, Any], told: Callable[[str], None],
) -> "list[Comparison]":
    from lllms_core.bench.random_model import cached
    from lllms_core.bench.suite_plan import Plan
    from lllms_core.bench.suites import MODELS, SUITES, WITHOUT_FILE
    from lllms_core.errors import ConfigError

    if file is not None and not file.is_file():
        raise ConfigError(f"no file {file}")
    findings: list[Comparison] = []
    for name in wanted:
        measured = file
        if file is None and name not in WITHOUT_FILE:
            told("writing a model of random weights")
            measured = cached(MODELS.get(name, OWN_MODEL))
        plan = Plan((measured or Path()).absolute(), told=told, **settings)
        findings += asyncio.run(SUITES[name](plan))
    return findings


async def _load_test(
    base_url: str,
    model: str | None,
    clients: Sequence[int],
    settings: Mapping[str, Any],
    told: Callable[[str], None],
) -> list[dict[str, object]]:
    """Return the figures for each number of clients, and each turn of their conversations."""
    from lllms_core.bench.load import LoadTest, first_model, run
    from lllms_core.bench.suite_plan import people
    from lllms_core.bench.timeline import summarise

    name = model or await first_model(base_url, settings["api_key"])
    load = LoadTest(base_url, name, **settings)
    figures: list[dict[str, object]] = []
    for count in clients:
        told(people(count))
        asked = await run(load, count, seed=secrets.randbits(32))
        for turn in range(load.turns):
            timelines = [one.timeline for one in asked if one.turn == turn]
            errors = sorted({timeline.error for timeline in timelines if timeline.error})
            about = {"model": name, "base_url": base_url, "turn": turn + 1}
            figures.append({**about, **summarise(timelines, count), "errors": errors})
    return figures
