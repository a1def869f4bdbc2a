"""`lllms plugins`: the installed plugins, what each provides, or why it failed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.setup import config_option, examples, read_config

if TYPE_CHECKING:
    from lllms_core.plugins import Plugins


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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("plugin", "version", "distribution", "provides", box=None, pad_edge=False, header_style="dim")
    for report in found.reports:
        about = Text("disabled" if report.disabled else "\n".join([*report.provides, *_hardware(found, report.name)]))
        if report.error:
            about = Text("\n").join([about, Text(f"failed: {report.error}", "red")] if report.provides else
                                    [Text(f"failed: {report.error}", "red")])
        table.add_row(Text(report.name, "bold"), report.version or "-", report.distribution or "-", about)
    # Output that programs read must not be cut to the width of a terminal.
    console = Console()
    console = console if console.is_terminal else Console(width=240)
    console.print(table)
    if click.get_current_context().find_root().params.get("debug"):
        for report in found.reports:
            click.echo(report.traceback or "", nl=False, err=True)


def _hardware(plugins: "Plugins", name: str) -> list[str]:
    """Return on what the engines of a plugin compute."""
    from lllms_core.cli.inspection import hardware_of

    engines = [one.object for one in plugins.engines.values() if one.plugin == name]
    told = [(engine.name, hardware_of(engine)) for engine in engines]
    return [f"{engine} computes on {text}" for engine, text in told if text]
