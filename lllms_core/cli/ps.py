"""`lllms ps`: the state of a running server."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lllms_core.cli.setup import config_option, connect, examples, server_options
from lllms_core.values.sizes import human_size, human_time

_SILENT = 5
"""Seconds; shorter silences are usual."""


@click.command(epilog=examples(
    "lllms ps",
    "lllms ps --url http://127.0.0.1:8080 --json",
))
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print the server's full status as JSON.")
@config_option
def ps(url: str | None, as_json: bool, config_file: Path | None) -> None:
    """Show the instances of a running server, what its requests wait for, failed loads, and downloads."""
    from lllms_core.client import ServerError

    client = connect(url, config_file, timeout=10)
    status = client.get("/")
    if not isinstance(status, Mapping) or status.get("name") != "lllms":
        raise ServerError(f"{client.url} is not an lllms server")
    if as_json:
        click.echo(json.dumps(status, indent=2, ensure_ascii=False))
        return
    requests = status["requests"]
    click.echo(f"lllms {status['version']} at {client.url}: {status['status']}")
    cores = "" if status.get("places") else f"; {status['cores']} cores"  # else each place has its own
    click.echo(f"requests: {requests['running']} of {requests['concurrency']} running, "
               f"{requests['waiting']} of {requests['queue_size']} waiting{cores}")
    if memory := status.get("memory"):
        parts = [f"about {human_size(memory['used'])} of {human_size(memory['limit'])} used"]
        parts += [f"{human_size(memory['sessions'])} of it by stored sessions"] if memory.get("sessions") else []
        parts += [f"workers measured at {human_size(memory['measured'])}"] if memory.get("measured") else []
        free = memory.get("available")
        parts += [] if free is None else [f"{human_size(free)} available on the machine"]
        click.echo(f"memory: {', '.join(parts)}")
        for gpu in memory.get("devices", ()):
            click.echo(f"memory of the GPU {gpu['name']}: about {human_size(gpu['used'])} of "
                       f"{human_size(gpu['limit'])} used, it has {human_size(gpu['total'])}")
    for line in (*map(_model, status["models"]), *map(_place, status.get("places", ()))):
        click.echo(line)
    for one in status["problems"]:
        click.echo(f"model {one['model']} cannot be served: {one['problem']}" if one["model"] else one["problem"])
    for one in status["lacking"]:
        again = f"; next try in {one['retry_seconds']:.0f} s" if one["retry_seconds"] is not None else ""
        click.echo(f"model {one['model']} has {one['ready']} of {one['min_instances']} kept instances: "
                   f"{one['problem'] or 'not loaded yet'}{again}")
    told = {one["model"] for one in status["lacking"]}
    for one in [one for one in status.get("failed_loads", ()) if one["model"] not in told]:
        click.echo(f"model {one['model']} could not be loaded{_times(one['failures'])}: {one['problem']}; "
                   f"{_next_try(one['retry_seconds'], one['model'])}")
    for one in status.get("waiting", ()):
        others = f" (the first of {one['requests']} requests)" if one["requests"] > 1 else ""
        click.echo(f"waiting for model {one['model']}: {one['text']}{others}")
    for one in status["instances"]:
        state = _loading(one) if one["state"] == "loading" else one["state"]
        idle = f", idle for {one['idle_seconds']:.0f} s" if one["state"] == "ready" and not one["running"] else ""
        silent = _silence(one) if one["silent_seconds"] >= _SILENT else ""
        replaced = ", its file has been replaced since it was loaded" if one.get("replaced") else ""
        replaced += ", by a former configuration: it ends with its last request" if one.get("retired") else ""
        memory = f", about {human_size(one['memory'])}" if one.get("memory") else ""
        if one.get("measured"):
            grown = ", more than its share" if one.get("grown") else ""
            memory += f", measured {human_size(one['measured'])}{grown}"
        device = f", on {one['details']['device']}" if one.get("details", {}).get("device") else ""
        holds = f"{one['context_length']} tokens per request, " if one["context_length"] else ""
        click.echo(f"instance {one['id']}: {state}, {one['running']} of {one['slots'] or '?'} slots, {holds}"
                   f"{one['threads']} threads, {_where(one)}{memory}{idle}{silent}{replaced}{device}")
    for one in status["downloads"]:
        state = f"failed: {one['note']}" if one["state"] == "failed" else one["text"]
        place = f" to {one['place']}" if one.get("place") else ""
        click.echo(f"download {', '.join(one['models'])} from {one['source']}{place}: {state}")


def _model(one: Mapping[str, Any]) -> str:
    return f"model {one['name']}: engine {one['engine']}, {one['instances']} of {one['max_instances']} instances"


def _place(one: Mapping[str, Any]) -> str:
    since = human_time(one["seconds"])
    if one["state"] not in {"used", "avoided"}:
        return f"place {one['name']}: not used for {since}: {one['problem']}"
    limit = "" if one["memory"] is None else f" of {human_size(one['memory'])}"
    disk = "" if one["disk"] is None else f", {human_size(one['disk'])} of disk free"
    gpus = "".join(
        f", {human_size(gpu['used'])} of {human_size(gpu['limit'])} on {gpu['name']}" for gpu in one["devices"]
    )
    return (
        f"place {one['name']}: {one['instances']} instances, {one['cores']} cores,"
        f" about {human_size(one['used'])}{limit} used{gpus}{disk}, there for {since}"
        f"{'; ' + one['problem'] if one['problem'] else ''}"
    )


def _where(one: Mapping[str, Any]) -> str:
    if one.get("place"):
        return f"at {one['place']}"
    return "a thread" if one["pid"] is None else f"process {one['pid']}"


def _times(count: int) -> str:
    return f" {count} times" if count > 1 else ""


def _next_try(seconds: float, model: str) -> str:
    if seconds <= 0:
        return "the next request tries again"
    return f"next try in {seconds:.0f} s (`lllms load {model}` tries at once)"


def _loading(one: Mapping[str, Any]) -> str:
    limit = f" of at most {one['load_timeout']:.0f} s" if one.get("load_timeout") else " s"
    return f"loading, {one['progress']:.0%}, for {one.get('load_seconds', 0):.0f}{limit}"


def _silence(one: Mapping[str, Any]) -> str:
    limit = f" of at most {one['watchdog']:.0f} s" if one.get("watchdog") else " s"
    return f", silent for {one['silent_seconds']:.0f}{limit}"
