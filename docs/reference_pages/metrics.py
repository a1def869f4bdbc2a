"""The page of all metrics, from the registry that a scrape reads."""

from prometheus_client.core import Metric

from lllms_core import Host, parse_config

HEAD = """\
# Metrics

What `GET /metrics` returns. Counters begin at 0 when the server starts; histograms also have `_bucket`, `_sum` and
`_count`. Labels have few values, names of served models and of places, states, causes and HTTP statuses, so no client
can make their number grow. Metrics of memory appear if the server has a memory limit, as it has by default.

[Watch it](../guides/watching.md) shows how to scrape them, and a dashboard for Grafana.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def page() -> str:
    """Return the page in Markdown."""
    registry = Host(parse_config({})).metrics._registry  # noqa: SLF001  # the text of a scrape lacks unused labels
    labels = {
        name: collector._labelnames  # noqa: SLF001  # no public way to ask
        for collector, names in registry._collector_to_names.items() if hasattr(collector, "_labelnames")  # noqa: SLF001
        for name in names
    }
    return HEAD + "\n".join(_row(metric, labels.get(metric.name, ())) for metric in registry.collect()) + "\n"


def _row(metric: Metric, labels: tuple[str, ...]) -> str:
    names = labels or getattr(metric, "_labelnames", ()) or tuple(metric.samples[0].labels if metric.samples else ())
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    name += "_info" if metric.type == "info" else ""
    shown = ", ".join(f"`{one}`" for one in names) or "-"
    return f"| `{name}` | {metric.type} | {shown} | {metric.documentation.rstrip('.')} |"
