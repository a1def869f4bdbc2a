import asyncio
import json
import math
import sys
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.bench import random_model
from lllms_core.bench.children import BusyNeighbour, ChildFailed, OurServer, Peer, RawLoopProcess, toml
from lllms_core.bench.comparisons import Comparison, best
from lllms_core.bench.load import LoadTest, first_model, prompts, run
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites import SUITES, busy, drafts, shared, short, stored, swap, wire
from lllms_core.bench.suites import prompts as prompts_suite
from lllms_core.bench.tables import findings_table, load_table
from lllms_core.bench.timeline import Timeline, decode_rate, output_rate, percentile, summarise
from lllms_core.bench.traffic import Reply, ServerSilent, exchange, read_stream
from lllms_core.cli import cli
from lllms_core.cli.bench import NAMES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A minimal llama with random weights."""
    file = tmp_path_factory.mktemp("bench") / "tiny.gguf"
    random_model.write(file, random_model.SHAPES["tiny"])
    return file


def timeline(start: float, *times: float) -> Timeline:
    return Timeline(start, tuple((time, 1) for time in times), prompt_tokens=10)


# -- times -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_percentiles_lie_among_the_values(values, percent):
    """A percentile is never outside the values; the ends are the smallest and the largest."""
    assert min(values) <= percentile(values, percent) <= max(values)
    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)


def test_percentile_interpolates():
    """Between two values a percentile is interpolated linearly."""
    assert percentile([3, 1, 2, 4], 50) == 2.5
    assert percentile([10, 20], 25) == 12.5


def test_times_of_one_answer():
    """TTFT counts from the sending, TPOT from the first piece; gaps are between pieces, whatever they hold."""
    one = Timeline(1.0, ((1.5, 1), (1.6, 1), (1.9, 2)))
    assert one.ttft == 0.5
    assert one.tpot == pytest.approx(0.4 / 3)
    assert one.gaps == pytest.approx([0.1, 0.3])
    assert one.tokens == 4


def test_an_empty_answer_has_no_times():
    """A time that cannot be determined is NaN in an answer, and None in a summary."""
    assert math.isnan(Timeline(1.0).ttft)
    assert math.isnan(timeline(1.0, 2.0).tpot)
    figures = summarise([Timeline(1.0)], 1)
    assert figures["median_ttft_ms"] is None
    assert figures["output_throughput"] == 0


async def test_an_answer_without_text_is_no_measurement():
    """Where a prompt's time to first token is wanted, an answer that ends at once is an error, not a wait of 0 ms."""
    async def silent(prompts, max_tokens, *, seconds):
        return [Timeline(1.0) for _ in prompts]

    with pytest.raises(ServerSilent, match="to a prompt of 3 words no text came"):
        await prompts_suite.answer(silent, 3, Random(1))


def test_decode_rate_counts_while_all_generate():
    """Only the time in which every request was generating counts: prompts and stragglers are excluded."""
    early, late = timeline(0, 1, 2, 3, 4, 5), timeline(0, 3, 4, 5, 6, 7, 8)
    assert decode_rate([early]) == 1
    assert decode_rate([early, late]) == 2
    assert decode_rate([early, timeline(0, 6, 7)]) == 0
    assert decode_rate([early, Timeline(0)]) == 0
    assert output_rate([early, late]) == 11 / 8


def test_summary_has_the_names_of_vllm_bench():
    """The figures of a load test can be compared with those of `vllm bench serve`."""
    figures = summarise([timeline(0, 1, 2, 3), timeline(0, 2, 4), Timeline(0, error="503: busy")], 2)
    assert figures["completed"] == 2
    assert figures["failed"] == 1
    assert figures["total_input_tokens"] == 20
    assert figures["total_output_tokens"] == 5
    assert figures["duration"] == 4
    assert figures["request_throughput"] == 0.5
    assert figures["output_throughput"] == 1.25
    assert figures["median_ttft_ms"] == 1500
    assert figures["median_itl_ms"] == 1000
    assert {"mean_tpot_ms", "p99_tpot_ms", "p99_itl_ms", "p99_ttft_ms", "total_token_throughput"} <= figures.keys()


# -- findings ----------------------------------------------------------------------------------------------------------


def test_a_finding_is_the_median_of_its_rounds():
    """Each round's figure is divided by the same round's reference; a round without a reference is left out."""
    finding = Comparison("x", "tok/s", (10, 30, 20, 5), (10, 20, 40, 0), 0.95)
    assert finding.ratios == (1, 1.5, 0.5)
    assert finding.ratio == 1
    assert finding.met is True
    assert Comparison("x", "ms", (3,), (2,), 1.2, "at most").met is False
    assert Comparison("x", "ms", (3,), (0,), 1.2).met is None


def test_the_best_setting_is_chosen_for_all_rounds():
    """One setting is chosen for all rounds: choosing anew in each round would compare with luck."""
    assert best([(1, 9, 1), (2, 2, 2)]) == (2, 2, 2)


def test_reports_show_every_row():
    """Tables have a row for each finding and each number of clients."""
    assert findings_table([Comparison("x", "ms", (1,), (2,)), Comparison("y", "ms", (1,), (0,), 1)]).row_count == 2
    assert load_table([{**summarise([Timeline(0.0)], 1), "turn": 1}]).row_count == 1


# -- measuring tools ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [*drafts.TASKS, drafts.RANDOM])
def test_prompts_of_drafts_hold_as_much_of_the_answer_as_the_task_says(task):
    """The words of the answer stand in the prompt in their order, but for those that the task changes."""
    size = random_model.SHAPES[drafts.MODEL].vocabulary
    ring, tokens = random_model.followers(size), random_model.vocabulary(size)[0]
    place_of = {tokens[token].replace("Ġ", ""): place for place, token in enumerate(ring)}
    words = drafts.write_prompt(task, 180, Random(1)).split()
    start = place_of[words[-1]]
    repeated = [place_of[word] for word in words[drafts.AROUND : -drafts.AROUND - 1]]
    same = sum(place == (start + at) % len(ring) for at, place in enumerate(repeated))
    share, other = drafts.TASKS.get(task, (0, 1))
    assert len(repeated) == 181
    assert same == pytest.approx(181 * share / (share + other), abs=4)


@pytest.mark.parametrize("shape", random_model.SHAPES.values(), ids=random_model.SHAPES)
def test_the_vocabulary_has_the_size_it_says(shape):
    """Every preset has as many distinct tokens as it declares, each merged from shorter ones."""
    tokens, merges = random_model.vocabulary(shape.vocabulary)
    known = set(tokens)
    assert len(tokens) == len(known) == shape.vocabulary
    assert all(known.issuperset(merge.split(" ")) for merge in merges)


def test_prompts_share_what_they_shall_and_no_more():
    """The shared words come first in all prompts; the rest differs from prompt to prompt and client to client."""
    one, two = prompts(50, 20, seed=1), prompts(50, 20, seed=2)
    texts = [next(one).split(), next(one).split(), next(two).split()]
    assert all(len(text) == 50 for text in texts)
    assert texts[0][:20] == texts[1][:20] == texts[2][:20]
    assert len({tuple(text[20:]) for text in texts}) == 3


@pytest.mark.parametrize("cut", [1, 7, 64, 10_000])
def test_replies_are_read_whatever_pieces_they_come_in(cut):
    """Chunked or not, split anywhere: the pieces of text are the same, each timed when it was complete."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}
    events = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": "one"}}]},
        {"choices": [{"delta": {"content": " two"}}]},
        {"choices": [], "usage": usage},
    ]
    lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events] + [b": keep-alive\n\n", b"data: [DONE]\n\n"]
    body = b"".join(f"{len(line):x}\r\n".encode() + line + b"\r\n" for line in lines) + b"0\r\n\r\n"
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    received = tuple((float(place), whole[place : place + cut]) for place in range(0, len(whole), cut))
    read = read_stream(Reply(0.0, received))
    assert (read.text, read.tokens, read.prompt_tokens, read.cached_tokens) == ("one two", 3, 7, 5)
    assert [tokens for _, tokens in read.arrivals] == [1, 2]
    first, second = (time for time, _ in read.arrivals)
    assert first <= second < len(whole)
    if cut == 1:
        assert whole[: int(first) + 1].endswith(b'"one"}}]}\n\n\r\n')


def test_refusals_are_errors_with_their_text():
    """A status other than 200 and a connection without an answer are errors of the request, not of the bench."""
    refused = Reply(0.0, ((1.0, b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nfull"),))
    assert read_stream(refused).error == "429: full"
    assert read_stream(Reply(0.0, ())).error == "the connection was closed"
    assert read_stream(Reply(0.0, (), cut_off=True)).error is None


async def test_nobody_there_is_a_clear_error():
    """An address without a server, or one that is not http, is an error that names it."""
    with pytest.raises(ServerSilent, match="no server answers"):
        await exchange("http://127.0.0.1:1/v1", "/models")
    with pytest.raises(ServerSilent, match="only http://"):
        await exchange("https://127.0.0.1:1/v1", "/models")


def test_configurations_are_written_as_toml():
    """The configuration of the bench's server is read back as it was written."""
    import tomllib

    models = {"a b": {"engine": "mock", "ttl": -1, "options": {"script": [{"replies": ['"x"\n'], "tokens": 2}]}}}
    assert tomllib.loads(f"models = {toml(models)}") == {"models": models}


# -- the real programs -------------------------------------------------------------------------------------------------


async def test_the_raw_loop_generates_what_is_asked(tiny):
    """The random model loads in llama.cpp, tokenises a word as a token, and never ends an answer early."""
    async with RawLoopProcess(tiny, 2, 128) as loop:
        answers = await loop.run([" bada bada", " dabo"], 20, 1, 60.0)
        again = await loop.run([" bada"], 5, 1, 60.0)
    assert [answer.prompt_tokens for answer in answers][1] <= 2
    assert [answer.tokens for answer in answers] == [20, 20]
    assert [answer.tokens for answer in again] == [5]
    assert decode_rate(answers) > 0


async def test_a_child_that_fails_is_told_with_its_last_words(tmp_path):
    """A program that ends before it is ready is an error that shows its last output."""
    with pytest.raises(ChildFailed, match="cannot load"):
        async with RawLoopProcess(tmp_path / "gone.gguf", 1, 64):
            pass
    with pytest.raises(ChildFailed, match="no peer today"):
        async with Peer(f"{sys.executable} -c 'raise SystemExit(\"no peer today\")'", tmp_path):
            pass


async def test_the_busy_neighbour_ends_with_its_block(tiny):
    """A neighbour that generates without end is gone after the measurement."""
    async with BusyNeighbour(tiny, 1) as neighbour:
        process = neighbour._process
        assert process.returncode is None
    assert process.returncode is not None


async def test_load_test_of_a_real_server():
    """Clients, requests and turns are as requested; the server's own token counts are reported."""
    options = {"script": [{"replies": ["word word word"], "tokens": 6}], "slots": 2}
    async with OurServer({"bench": {"engine": "mock", "options": options}}) as server:
        name = await first_model(server.base_url)
        load = LoadTest(server.base_url, name, requests=2, max_tokens=5, prompt_tokens=20, turns=2)
        told: list[None] = []
        asked = await run(load, 2, seed=1, told=lambda: told.append(None))
        figures = summarise([one.timeline for one in asked if one.turn == 0], 2)
    assert name == "bench"
    assert len(told) == len(asked) == 8
    assert figures["completed"] == 4
    assert figures["total_output_tokens"] == 20
    assert figures["total_input_tokens"] == 80


async def test_bench_command_tests_a_server():
    """`bench --base-url` prints a table, or JSON with a row for each number of clients."""
    options = {"script": [{"replies": ["word"], "tokens": 6}]}
    async with OurServer({"bench": {"engine": "mock", "options": options}}) as server:
        arguments = ["bench", "--base-url", server.base_url, "--clients", "1,2", "--requests", "1", "--max-tokens", "4"]
        as_json = await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--json", "-"])
        as_table = await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--text"])
    rows = json.loads(as_json.stdout)
    counts = [(row["max_concurrency"], row["completed"], row["total_output_tokens"]) for row in rows]
    assert counts == [(1, 1, 4), (2, 2, 8)]
    assert "TTFT" in as_table.stdout


def test_the_command_knows_every_suite():
    """The names in the help are those of the suites."""
    assert tuple(SUITES) == NAMES


@pytest.mark.parametrize("name", NAMES)
async def test_every_suite_runs(name, tiny, monkeypatch):
    """Each comparison, on a model too small to mean anything, finds a figure in each of its rounds."""
    monkeypatch.setattr(wire, "TOKENS", 20)
    monkeypatch.setattr(busy, "LONGEST", 0.5)
    monkeypatch.setattr(swap, "PAUSE", 0)
    monkeypatch.setattr(prompts_suite, "PAUSE", 0)
    monkeypatch.setattr(shared, "CONVERSATIONS", 3)
    monkeypatch.setattr(stored, "SESSIONS", 4)
    monkeypatch.setattr(stored, "FIRST", 2)
    monkeypatch.setattr(stored, "LOOKUPS", 2)
    monkeypatch.setattr(short, "REQUESTS", 4)
    plan = Plan(tiny, rounds=1, max_tokens=8, prompt_tokens=8, clients=(1,), sizes=(40, 8))
    findings = await SUITES[name](plan)
    assert findings
    for finding in findings:
        assert len(finding.ours) == len(finding.reference) == 1
        assert finding.ours[0] >= 0
