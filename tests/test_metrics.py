"""What Prometheus reads from a real server: names by its conventions, and numbers that match what was done."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core.config import parse_config
from lllms_core.host import Host

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
DASHBOARD = Path(__file__).parent.parent / "examples" / "grafana_dashboard.json"
UNITS = ("seconds", "bytes", "tokens", "requests", "instances", "slots", "cores", "places", "limit", "info")
LABELS = {
    "model", "task", "outcome", "status", "route", "result", "cause", "room_for", "state", "le", "version", "place",
}


class Scrape:
    """What one scrape tells."""

    def __init__(self, text: str) -> None:
        self.families = {one.name: one for one in text_string_to_metric_families(text)}
        self.samples = [sample for one in self.families.values() for sample in one.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels."""
        fits = [one for one in self.samples if one.name == name and labels.items() <= one.labels.items()]
        return sum(one.value for one in fits)


def config() -> Mapping[str, Any]:
    model = {"engine": "llamacpp", "file": str(TINY), "options": {"context_length": 512, "threads": 1}}
    return {"server": {"max_instances": 1}, "models": {"tiny": model, "other": model}}


@pytest.fixture(scope="module")
def work() -> tuple[Scrape, list[Mapping[str, Any]], str]:
    """A scrape after some work, the answers, and the scrape in the newer format."""
    return asyncio.run(do_work())


async def do_work() -> tuple[Scrape, list[Mapping[str, Any]], str]:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    path = "/v1/chat/completions"
    async with asyncio.timeout(GUARD), Host(parse_config(config())) as host, published(host) as url, \
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        answers = [(await client.post(path, json={"model": "tiny", **body})).json() for _ in range(3)]
        answers.append((await client.post(path, json={"model": "other", **body})).json())
        assert (await client.post(path, json={"model": "other", **body, "top_p": 7})).status_code == 400
        assert (await client.post(path, json={"model": "nobody", **body})).status_code == 404
        text = " ".join(["word"] * 2000)
        long = {**body, "messages": [{"role": "user", "content": text}]}
        assert (await client.post(path, json={"model": "other", **long})).status_code == 400
        [instance] = host.status().instances
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGKILL)
        await until(lambda: not host.status().instances)
        got = await client.get("/metrics")
        assert got.headers["content-type"].startswith("text/plain")
        newer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert newer.headers["content-type"].startswith("application/openmetrics-text")
    return Scrape(got.text), answers, newer.text


def test_numbers_are_those_of_the_work(work: tuple[Scrape, list[Mapping[str, Any]], str]) -> None:
    """Requests, tokens, cache hits, histograms, loads, evictions, deaths and refusals are those that took place."""
    scrape, answers, _ = work
    usages = [one["usage"] for one in answers]
    value = scrape.value
    assert value("lllms_requests_total", outcome="length", status="200", model="tiny") == 3
    assert value("lllms_requests_total", outcome="context_length_exceeded", status="400", model="other") == 1
    assert value("lllms_requests_total") == 5
    assert value("lllms_refused_requests_total", route="/v1/chat/completions", status="400") == 1
    assert value("lllms_refused_requests_total", status="404") == 1
    assert value("lllms_prompt_tokens_total") == sum(one["prompt_tokens"] for one in usages)
    cached = sum(one["prompt_tokens_details"]["cached_tokens"] for one in usages)
    assert value("lllms_cached_prompt_tokens_total") == cached > 0
    assert value("lllms_generated_tokens_total", model="tiny") == 18
    for name in ("time_to_first_token_seconds", "inter_token_seconds", "answer_tokens"):
        assert value(f"lllms_{name}_count") == 4, name
        assert value(f"lllms_{name}_bucket", le="+Inf") == 4
    assert value("lllms_request_duration_seconds_count") == value("lllms_request_queue_seconds_count") == 5
    assert value("lllms_time_to_first_token_seconds_sum") < value("lllms_request_duration_seconds_sum")
    assert value("lllms_loads_total", result="done") == value("lllms_load_duration_seconds_count") == 2
    assert value("lllms_evictions_total", model="tiny", room_for="other") == 1
    assert value("lllms_unloads_total", model="tiny", cause="room") == 1
    assert value("lllms_instance_deaths_total", model="other") == 1
    assert value("lllms_instances") == value("lllms_running_requests") == value("lllms_waiting_requests") == 0
    assert value("process_resident_memory_bytes") > 1e6


def test_names_keep_to_the_conventions(work: tuple[Scrape, list[Mapping[str, Any]], str]) -> None:
    """As promtool checks: prefix, base units, `_total` for counters alone, help for all, and few, bounded labels."""
    scrape, _, newer = work
    ours = [one for one in scrape.families.values() if not one.name.startswith("process_")]
    assert len(ours) > 25
    for one in ours:
        assert re.fullmatch(r"lllms_[a-z][a-z_]*", one.name), one.name
        assert one.documentation.endswith("."), one.name
        assert not re.search(r"milli|micro|kilo|mega|_ms\b|gauge|counter|histogram|summary", one.name), one.name
        names = {sample.name for sample in one.samples}
        if one.type == "counter":
            assert all(name.endswith("_total") for name in names), one.name
        else:
            assert not any(name.endswith("_total") for name in names), one.name
        if one.type == "histogram":
            assert one.name.endswith(("_seconds", "_tokens")), one.name
        if one.type == "gauge":
            assert one.name.endswith(UNITS), one.name
        for sample in one.samples:
            assert sample.labels.keys() <= LABELS, sample
            assert sample.labels.get("model") in {None, "tiny", "other"}, sample
    families = [one.name for one in read_openmetrics(newer)]
    assert len(families) == len(set(families))


def test_the_dashboard_asks_for_what_exists(work: tuple[Scrape, list[Mapping[str, Any]], str]) -> None:
    """Each metric in the Grafana dashboard is one of the server's, with the labels by which it is grouped."""
    scrape, _, _ = work
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    targets = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(targets) > 30
    known = {sample.name for sample in scrape.samples} | scrape.families.keys()
    known |= {f"{one.name}_total" for one in scrape.families.values() if one.type == "counter"}
    known |= {f"{one.name}_bucket" for one in scrape.families.values() if one.type == "histogram"}
    for expression in [*targets, *(one.get("definition", "") for one in board["templating"]["list"])]:
        assert set(re.findall(r"lllms_\w+", expression)) <= known, expression
    assert {label for one in targets for label in re.findall(r"by \(([\w, ]+)\)", one)} <= {
        ", ".join(group) for group in (
            ["outcome"], ["outcome", "status"], ["route", "status"], ["le"], ["model"], ["model", "state"],
            ["model", "result"], ["model", "room_for"],
        )
    }
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
