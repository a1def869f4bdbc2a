"""`lllms plugins`: the installed plugins, what each provides, or why it failed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.figures import notice
from lllms_core.cli.ls import table
from lllms_core.cli.setup import config_option, examples, read_config

if TYPE_CHECKING:
    from lllms_core.plugins import PluginReport, Plugins


@click.command(epilog=examples(
    "lllms plugins",
    "lllms plugins --json",
))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
def plugins(as_json: bool, config_file: Path | None) -> None:
    """List the plugins: version, distribution, what each provides, or why it failed."""
    from lllms_core.plugins import Plugins

    found = Plugins.discover(disable=read_config(config_file).disabled_plugins)
    found.add_commands(click.Group("lllms"))
    if as_json:
        listed = [
            {
                "name": report.name, "version": report.version, "distribution": report.distribution,
                "provides": list(report.provides), "error": report.error, "disabled": report.disabled,
            }
            for report in found.reports
        ]
        click.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    table(("plugin", "version", "distribution", "provides"), [
        (report.name, report.version or "-", report.distribution or "-", _provides(report)) for report in found.reports
    ])
    for report in found.reports:
        if report.error:
            notice(f"plugin {report.name} failed: {report.error}", "red")
        for line in () if report.disabled else _hardware(found, report.name):
            click.echo(line)
    if click.get_current_context().find_root().params.get("debug"):
        for report in found.reports:
            click.echo(report.traceback or "", nl=False, err=True)


def _provides(report: "PluginReport") -> str:
    if report.disabled:
        return "disabled"
    return ", ".join([*report.provides, *(["failed"] if report.error else [])])


def _hardware(plugins: "Plugins", name: str) -> list[str]:
    """Return on what the engines of a plugin compute."""
    from lllms_core.cli.inspection import hardware_of

    engines = [one.object for one in plugins.engines.values() if one.plugin == name]
    told = [(engine.name, hardware_of(engine)) for engine in engines]
    return [f"engine {engine} computes on {text}" for engine, text in told if text]
