"""The results of a bench as tables."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from lllms_core.bench.comparisons import Comparison

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = {
    "max_concurrency": "clients", "turn": "turn", "completed": "done", "failed": "failed",
    "median_ttft_ms": "TTFT p50", "p99_ttft_ms": "p99", "median_tpot_ms": "TPOT p50", "p99_tpot_ms": "p99",
    "median_itl_ms": "ITL p50", "p99_itl_ms": "p99",
    "output_throughput": "output tok/s", "request_throughput": "requests/s",
}
"""Columns of the load test: the figure's name in JSON, and its heading. Times are in milliseconds."""


def load_table(figures: Sequence[Mapping[str, object]]) -> Table:
    """Return a table of a load test, with a row for each number of clients and turn."""
    table = _table(*COLUMNS.values())
    for row in figures:
        table.add_row(*(_number(row[name]) for name in COLUMNS))
    return table


def findings_table(findings: Sequence[Comparison]) -> Table:
    """Return a table of comparisons: medians, the median ratio with its extremes, and the target."""
    table = _table("what", "ours", "other", "unit", "ratio", "min to max", "target", "")
    for finding in findings:
        ratio, ratios = finding.ratio, finding.ratios
        sign = ">=" if finding.wanted == "at least" else "<="
        table.add_row(
            finding.what,
            _number(median(finding.ours)), _number(median(finding.reference)), finding.unit,
            "-" if ratio is None else f"{ratio:.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-",
            "" if finding.target is None else f"{sign} {finding.target:g}",
            _verdict(finding),
        )
    return table


def _verdict(finding: Comparison) -> "RenderableType":
    if finding.target is None:
        return ""
    return Text("met", "green") if finding.met else Text("missed", "red")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _number(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
