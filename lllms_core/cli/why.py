"""`lllms why`: what happened to a request of a running server."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from lllms_core.cli.setup import config_option, connect, examples, server_options

ROUTE = "/api/v1/requests"


@click.command(epilog=examples(
    "lllms why 1f0c9a3b5d7e",
    "lllms why chatcmpl-phi3:Ab3dE5gH-1f0c9a3b5d7e",
    "lllms why",
))
@click.argument("request_id", required=False)
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")
@config_option
def why(request_id: str | None, url: str | None, as_json: bool, config_file: Path | None) -> None:
    """Tell the timeline of a request: what it waited for, what was unloaded for it, how much of its prompt was cached.

    REQUEST_ID is the id in the server's log, in the header X-Request-Id or at the end of the answer's id. On the
    server's own machine the text around the place where the prompt differs from what was cached is shown, too. Without
    an id, the last requests are listed.
    """
    from lllms_core.client import ServerError

    client = connect(url, config_file, timeout=30)
    if request_id is None:
        listed = client.get(ROUTE)
        if as_json:
            click.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        elif isinstance(listed, Mapping):
            for one in listed.get("ended", ()):
                click.echo(_line(one))
        return
    path = f"{ROUTE}/{quote(request_id, safe='')}"
    try:
        told = client.get(f"{path}?text=true")
    except ServerError as error:
        if error.status != 403:
            raise
        told = client.get(path)  # on another machine
    if as_json:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    elif isinstance(told, Mapping):
        for line in _lines(told):
            click.echo(line)


def _line(one: Mapping[str, Any]) -> str:
    pace = "" if one["tokens_per_second"] is None else f", {one['tokens_per_second']} tokens/s"
    place = f" at {one['place']}" if one.get("place") else ""
    return (
        f"{one['id']}: {one['task']} for {one['model']}{place},"
        f" {one['outcome'] or one['state']} after {one['seconds']:.3f} s, {one['prompt_tokens']} tokens read"
        f" ({one['cached_tokens']} cached), {one['tokens']} written{pace}"
    )


def _lines(one: Mapping[str, Any]) -> Iterator[str]:
    yield _line(one)
    for moment in one["timeline"]:
        detail = f": {moment['detail']}" if moment["detail"] else ""
        yield f"{moment['seconds']:>10.3f} s  {moment['what']}{detail}"
    if cache := one.get("cache"):
        yield f"cache: {cache['explanation']}"
    if text := one.get("text"):
        yield f"  both:   ...{_shown(text['before'])}"
        yield f"  prompt: {_shown(text['prompt'])}..."
        yield f"  cached: {_shown(text['cached'])}..."


def _shown(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
