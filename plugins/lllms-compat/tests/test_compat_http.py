"""The real server, asked as llama.vim, llama.vscode, Continue, SillyTavern and LM Studio's clients ask."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from gap_models_for_tests import TINY, write_gap_model
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

CURL = shutil.which("curl")
SCRIPT = [
    {"when": "count", "replies": ["one two three four"]}, {"when": "refuse", "fault": "refuse"},
    {"when": "break", "replies": ["one two"], "fault": "fail", "after": 1},
    {"when": "hang", "replies": ["one two"], "fault": "hang", "after": 1},
]
LLAMA_VIM: dict[str, Any] = {
    "input_prefix": "def add(a, b):\n", "input_suffix": "\n\nprint(add(1, 2))\n",
    "input_extra": [
        {"text": "def sub(a, b):\n    return a - b\n", "time": [1, 2], "filename": "sub.py"},
        {"text": "one, two\n", "time": [3, 4], "filename": "numbers.txt"},
    ],
    "prompt": "    return ", "n_predict": 24, "stop": [], "n_indent": 4, "top_k": 40, "top_p": 0.90, "stream": False,
    "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "t_max_prompt_ms": 500, "t_max_predict_ms": 1000,
    "response_fields": [
        "content", "timings/prompt_n", "timings/prompt_ms", "timings/prompt_per_token_ms", "timings/prompt_per_second",
        "timings/predicted_n", "timings/predicted_ms", "timings/predicted_per_token_ms",
        "timings/predicted_per_second", "truncated", "tokens_cached",
    ],
}
"""The request that llama.vim sends while one types."""
WARM_UP: dict[str, Any] = {
    "input_prefix": "", "input_suffix": "", "input_extra": LLAMA_VIM["input_extra"], "prompt": "", "n_predict": 0,
    "temperature": 0.0, "stream": False, "samplers": [], "cache_prompt": True, "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1, "response_fields": [""],
}
"""The request by which it lets the server read its excerpts meanwhile."""
TAVERN: dict[str, Any] = {
    "prompt": "Please count.", "max_new_tokens": 3, "max_tokens": 3, "n_predict": 3, "num_predict": 3, "stream": False,
    "temperature": 1, "top_p": 1, "typical_p": 1, "typical": 1, "min_p": 0, "top_k": 0, "top_a": 0, "tfs_z": 1,
    "repetition_penalty": 1, "rep_pen": 1, "repeat_penalty": 1, "repeat_last_n": 0, "rep_pen_range": 0,
    "frequency_penalty": 0, "presence_penalty": 0, "skew": 0, "do_sample": True, "add_bos_token": True,
    "dynatemp_range": 0, "dynatemp_exponent": 1, "smoothing_factor": 0, "smoothing_curve": 1, "dry_multiplier": 0,
    "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": 0, "dry_sequence_breakers": ["\n", ":"],
    "mirostat": 0, "mirostat_mode": 0, "mirostat_tau": 5, "mirostat_eta": 0.1, "xtc_probability": 0,
    "xtc_threshold": 0.1, "nsigma": 0, "top_n_sigma": 0, "min_keep": 0, "ignore_eos": False, "ban_eos_token": False,
    "stop": ["\nUser:", ""], "stopping_strings": ["\nUser:"], "truncation_length": 4096, "n_probs": 0,
    "cache_prompt": True, "grammar": "", "grammar_string": "", "negative_prompt": "", "guidance_scale": 1, "seed": -1,
    "samplers": ["dry", "top_k", "tfs_z", "typical_p", "top_p", "min_p", "xtc", "temperature"], "logit_bias": [],
    "banned_strings": [], "sampler_order": [6, 0, 1], "length_penalty": 1, "early_stopping": False, "min_tokens": 0,
}
"""The parameters of all servers at once, as SillyTavern sends them."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    gap = write_gap_model(tmp_path_factory.mktemp("gap") / "gap.gguf")
    with running_server({
        "bot": {"engine": "mock", "aliases": ["default"], "options": {"script": SCRIPT}},
        "tiny": {"engine": "llamacpp", "file": str(TINY), "isolation": "thread", "options": {"threads": 1}},
        "gap": {"engine": "llamacpp", "file": str(gap), "isolation": "thread", "aliases": ["infill"],
                "options": {"threads": 1, "slots": 2}},
    }) as address:
        yield address


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


@pytest.mark.skipif(CURL is None, reason="llama.vim talks through curl, which is not installed")
def test_llama_vim_by_curl(url: str) -> None:
    """llama.vim's own command and requests: the excerpts are read first, then the gap is filled, by the cache."""
    command = [
        str(CURL), "--silent", "--no-buffer", "--request", "POST", "--url", f"{url}/infill", "--header",
        "Content-Type: application/json", "--data", "@-", "--write-out", "\n%{http_code}",
    ]

    def ask(body: dict[str, Any]) -> dict[str, Any]:
        done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, timeout=60, check=True)
        answer, _, status = done.stdout.rpartition("\n")
        assert status == "200", answer
        return json.loads(answer)

    assert ask(WARM_UP) == {}
    filled = ask(LLAMA_VIM)
    assert set(filled) == set(LLAMA_VIM["response_fields"])
    assert isinstance(filled["content"], str)
    assert filled["truncated"] is False
    assert 0 < filled["timings/predicted_n"] <= 24
    assert filled["timings/predicted_per_second"] > 0
    # All excerpts, and their head, were evaluated by the first request.
    excerpts = "".join(f"{one['filename']}\n{one['text']}" for one in LLAMA_VIM["input_extra"])
    known = httpx.post(f"{url}/tokenize", json={"model": "gap", "content": excerpts}).json()["tokens"]
    assert filled["tokens_cached"] >= len(known)
    again = ask(LLAMA_VIM)
    assert (again["content"], again["timings/prompt_n"]) == (filled["content"], 1)


def test_the_gap_stands_between_the_marks(http: httpx.Client) -> None:
    """The prompt is the excerpts, the text before the gap and the one after it, as the count of its tokens shows."""
    whole = http.post("/infill", json={**LLAMA_VIM, "response_fields": None}).json()

    def count(text: str) -> int:
        return len(http.post("/tokenize", json={"model": "gap", "content": text}).json()["tokens"])

    texts = [LLAMA_VIM["input_prefix"] + LLAMA_VIM["prompt"], LLAMA_VIM["input_suffix"], "repository\n", "untitled\n"]
    texts += [f"{one['filename']}\n{one['text']}" for one in LLAMA_VIM["input_extra"]]
    marks = ["bos", "rep", "sep", "sep", "sep", "pre", "suf", "mid"]
    assert whole["tokens_evaluated"] == sum(map(count, texts)) + len(marks)
    assert whole["model"] == "gap"
    assert whole["generation_settings"]["temperature"] == 0.0
    assert whole["timings"]["cache_n"] + whole["timings"]["prompt_n"] == whole["tokens_evaluated"]


def test_what_has_no_effect_is_named(http: httpx.Client) -> None:
    """The header names the unknown sampler, and the limit that llama-server lacks as well."""
    answer = http.post("/infill", json=LLAMA_VIM)
    assert answer.headers["x-lllms-ignored"] == "t_max_prompt_ms, samplers.infill"


def test_more_than_fits_is_left_out(http: httpx.Client) -> None:
    """Excerpts and texts far beyond the context leave room for the answer; the end of the prompt is kept."""
    line = "".join(f"value_{number} = {number}\n" for number in range(400))
    body = {
        **LLAMA_VIM, "input_prefix": line, "input_suffix": line, "response_fields": None,
        "input_extra": [{"text": line, "filename": f"{number}.py"} for number in range(64)],
    }
    answer = http.post("/infill", json=body)
    assert answer.status_code == 200
    assert 700 < answer.json()["tokens_evaluated"] <= 1024 - 24
    huge = {**body, "input_prefix": line * 100, "prompt": "x = "}
    assert http.post("/infill", json=huge).json()["tokens_evaluated"] <= 1024 - 24


def test_a_model_without_marks_says_so(http: httpx.Client) -> None:
    """A model that was not trained for gaps is a 501 in llama-server's shape, whatever the engine, also in a stream."""
    for model in ("tiny", "bot"):
        for stream in (False, True):
            answer = http.post("/infill", json={**LLAMA_VIM, "model": model, "stream": stream})
            assert answer.status_code == 501
            error = answer.json()["error"]
            assert (error["code"], error["type"]) == (501, "not_supported_error")
            assert f"model '{model}' cannot fill gaps" in error["message"]


def test_llama_vscode(http: httpx.Client) -> None:
    """llama.vscode's request and its way to let the server read excerpts, which names no response fields."""
    body = {key: value for key, value in LLAMA_VIM.items() if key not in {"response_fields", "stop"}}
    answer = http.post("/infill", json={**body, "top_p": 0.99, "n_indent": None}).json()
    assert {"content", "generation_settings", "tokens_cached", "truncated", "timings"} <= set(answer)
    warm = {key: value for key, value in WARM_UP.items() if key not in {"response_fields", "temperature", "stream"}}
    empty = http.post("/infill", json=warm).json()
    assert (empty["content"], empty["tokens_predicted"]) == ("", 0)


def test_continue_streams(http: httpx.Client) -> None:
    """Continue's llama.cpp provider reads `content` until `stop`; the end tells what a whole answer tells."""
    asked = {
        "prompt": "Please count.", "stream": True, "n_predict": 500, "frequency_penalty": 0, "presence_penalty": 0,
        "min_p": None, "mirostat": None, "stop": ["<|im_end|>", "four"], "top_k": None, "top_p": None, "temperature": 0,
    }
    answer = http.post("/completion", json=asked, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"] == "text/event-stream"
    told = events(answer.text)
    assert "".join(one["content"] for one in told) == "one two three "
    assert [one["stop"] for one in told] == [False] * (len(told) - 1) + [True]
    assert (told[-1]["stop_type"], told[-1]["stopping_word"]) == ("word", "four")
    whole = http.post("/completion", json={**asked, "stream": False}).json()
    assert (whole["content"], whole["stop_type"]) == ("one two three ", "word")
    streamed = told[-1]
    for value in (whole, streamed):
        del value["timings"], value["generation_settings"]["stream"]
    assert {**streamed, "content": whole["content"]} == whole


def test_silly_tavern(http: httpx.Client) -> None:
    """The parameters of all servers are accepted at once, unless one asks for what this server lacks."""
    answer = http.post("/completion", json=TAVERN)
    assert answer.status_code == 200, answer.text
    value = answer.json()
    assert (value["content"], value["stop_type"], value["tokens_predicted"]) == ("one two three", "limit", 3)
    assert "guidance_scale" in answer.headers["x-lllms-ignored"]
    for name, asked in (("top_n_sigma", 1), ("banned_strings", ["x"]), ("smoothing_factor", 0.3)):
        refused = http.post("/completion", json={**TAVERN, name: asked})
        assert (refused.status_code, name in refused.json()["error"]["message"]) == (400, True)
    props = http.get("/props", params={"model": "tiny"}).json()
    assert "<|im_start|>" in props["chat_template"]
    assert (props["bos_token"], props["eos_token"]) == ("<s>", "<|im_end|>")
    assert props["default_generation_settings"]["n_ctx"] == 1024
    assert props["model_path"] == "tiny-chat.gguf"
    probable = http.post("/completion", json={**TAVERN, "n_probs": 2}).json()
    assert [one["token"] for one in probable["completion_probabilities"]] == ["one", " two", " three"]


@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_a_prompt_may_be_a_text_tokens_or_both(http: httpx.Client, path: str) -> None:
    """Each form is the same prompt; an array of prompts is answered by an array, in order."""
    asked = {"model": "tiny", "n_predict": 4, "temperature": 0, "response_fields": ["content", "tokens_evaluated"]}
    tokens = http.post("/tokenize", json={"model": "tiny", "content": "lets count to 10", "add_special": True}).json()
    ids = tokens["tokens"]
    forms: list[Any] = ["lets count to 10", ids, ["lets count to 10"], [ids]]
    answers = [http.post(path, json={**asked, "prompt": one}).json() for one in forms]
    assert all(one == answers[0] for one in answers)
    assert answers[0]["tokens_evaluated"] == len(ids)
    mixed = http.post(path, json={**asked, "prompt": ["lets count", *ids[-3:]]}).json()
    assert mixed["tokens_evaluated"] > 3
    several = http.post(path, json={**asked, "prompt": ["lets count to 10", ids, ["lets", 5]]}).json()
    assert several[:2] == [answers[0]] * 2
    refused = http.post(path, json={**asked, "prompt": ["a", "b"], "stream": True})
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")


def test_an_answer_ends_by_its_time() -> None:
    """With `t_max_predict_ms`, an answer that hangs after a whole line ends, whole and streamed, and is cancelled."""
    with running_server({"slow": {"engine": "mock", "options": {"slots": 1, "script": [
        {"replies": ["one\ntwo"], "fault": "hang", "after": 2},
    ]}}}) as url:
        for stream in (False, True):
            asked = {"prompt": "x", "t_max_predict_ms": 200, "stream": stream}
            answer = httpx.post(f"{url}/completion", json=asked, timeout=60)
            told = events(answer.text) if stream else [answer.json()]
            assert "".join(one["content"] for one in told) == "one\ntwo"
            assert (told[-1]["stop_type"], told[-1]["tokens_predicted"]) == ("limit", 2)
            assert told[-1]["timings"]["predicted_ms"] >= 200


def test_an_answer_ends_before_a_line_that_is_indented_less() -> None:
    """With `n_indent`, the answer ends before the first line of what surrounds the gap."""
    reply = "pass\n    more\n\n        deep\n    end\ndef other():\n    pass"
    with running_server({"code": {"engine": "mock", "options": {"tokenizer": "bytes", "script": [
        {"replies": [reply]},
    ]}}}) as url:
        for stream in (False, True):
            answer = httpx.post(f"{url}/completion", json={"prompt": "x", "n_indent": 4, "stream": stream}, timeout=60)
            told = events(answer.text) if stream else [answer.json()]
            assert "".join(one["content"] for one in told) == "pass\n    more\n\n        deep\n    end"
            assert told[-1]["stop_type"] == "limit"


def test_faults_have_llama_servers_shape(http: httpx.Client) -> None:
    """Before the answer, in a stream, and for wrong methods: code, message and type."""
    for body, status, kind in (
        ({"prompt": "Please refuse."}, 400, "invalid_request_error"), ({}, 400, "invalid_request_error"),
        ({"prompt": "x", "model": "none"}, 404, "not_found_error"),
        ({"prompt": "a " * 5000}, 400, "exceed_context_size_error"),
    ):
        answer = http.post("/completion", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (status, status, kind)
        assert set(error) == {"code", "message", "type"}
    broken = events(http.post("/completion", json={"prompt": "Now break.", "stream": True}).text)
    assert (broken[0]["content"], broken[-1]["error"]["type"]) == ("one", "server_error")
    changed = http.post("/props", json={"a": 1})
    assert (changed.status_code, changed.json()["error"]["type"]) == (501, "not_supported_error")


def test_requests_without_a_model(http: httpx.Client) -> None:
    """The aliases `infill` and `default` choose it; without them, the error names the models and both ways out."""
    assert http.post("/completion", json={"prompt": "count"}).json()["model"] == "bot"
    assert http.get("/props").json()["model_alias"] == "bot"
    assert http.post("/infill", json=LLAMA_VIM).status_code == 200
    with running_server({name: {"engine": "mock"} for name in ("one", "two")}) as url:
        refused = httpx.post(f"{url}/completion", json={"prompt": "x"})
        assert refused.status_code == 400
        assert "there are 2: one, two; name one as 'model', or give" in refused.json()["error"]["message"]
        assert httpx.post(f"{url}/completion", json={"prompt": "x", "model": "two"}).json()["model"] == "two"
        # One of them is loaded now.
        assert httpx.post(f"{url}/completion", json={"prompt": "x", "model": ""}).json()["model"] == "two"


def test_slots_tell_no_text(http: httpx.Client) -> None:
    """Each slot of a loaded model is listed, with whether it is busy, and nothing of what it does."""
    http.post("/completion", json={"prompt": "count"})
    idle = http.get("/slots", params={"model": "default"}).json()
    assert [one["id"] for one in idle] == [0, 1, 2, 3]
    assert not any(one["is_processing"] for one in idle)
    with http.stream("POST", "/completion", json={"prompt": "Now hang.", "stream": True}) as answer:
        lines = answer.iter_lines()
        assert "one" in next(lines)
        busy = http.get("/slots", params={"model": "bot"})
        assert [one["is_processing"] for one in busy.json()] == [True, False, False, False]
        assert "hang" not in busy.text
        assert http.get("/slots", params={"model": "bot", "fail_on_no_slot": "1"}).status_code == 200
    none = http.get("/slots", params={"fail_on_no_slot": "1", "model": "tiny"})
    assert none.status_code in {200, 503}  # whether it is loaded depends on the tests before
    with running_server({"bot": {"engine": "mock"}}) as url:
        assert httpx.get(f"{url}/slots").json() == []
        full = httpx.get(f"{url}/slots?fail_on_no_slot=1")
        assert (full.status_code, full.json()["error"]["type"]) == (503, "unavailable_error")


def test_tokens_and_prompts(http: httpx.Client) -> None:
    """Tokens become their text again; a part of a character is bytes; a chat's prompt is the template's."""
    asked = {"model": "tiny", "content": "count \N{GRINNING FACE}", "with_pieces": True}
    both = http.post("/tokenize", json=asked).json()["tokens"]
    parts = [bytes(one["piece"]) if isinstance(one["piece"], list) else one["piece"].encode() for one in both]
    assert b"".join(parts).decode() == "count \N{GRINNING FACE}"
    assert any(isinstance(one["piece"], list) for one in both)
    ids = [one["id"] for one in both]
    assert http.post("/detokenize", json={"model": "tiny", "tokens": ids}).json() == {"content": asked["content"]}
    said = [{"role": "user", "content": "hi"}]
    prompt = http.post("/apply-template", json={"model": "tiny", "messages": said}).json()["prompt"]
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_lm_studios_list(http: httpx.Client) -> None:
    """Each model with its kind, state and context; loading one changes its state; an unknown one is a 404."""
    http.post("/completion", json={"model": "tiny", "prompt": "x", "n_predict": 1})
    listed = http.get("/api/v0/models").json()
    assert listed["object"] == "list"
    models = {one["id"]: one for one in listed["data"]}
    assert set(models) == {"bot", "tiny", "gap"}
    assert models["tiny"] == {
        "id": "tiny", "object": "model", "type": "llm", "publisher": "llamacpp", "arch": "llama",
        "compatibility_type": "gguf", "quantization": "Q8_0", "state": "loaded", "max_context_length": 1024,
        "capabilities": ["tool_use"], "loaded_context_length": 1024,
    }
    http.post("/completion", json={"prompt": "count"})
    bot = http.get("/api/v0/models/default").json()
    assert (bot["id"], bot["state"], bot["loaded_context_length"]) == ("bot", "loaded", 4096)
    assert http.get("/api/v0/models/none").json()["error"]["code"] == "model_not_found"
    assert "{base}" not in http.post("/api/v0/chat/completions", json={}).text
    assert "/api/v0/models is served" in http.post("/api/v0/chat/completions", json={}).json()["error"]["message"]


def test_a_body_without_a_type_is_taken_from_programs(http: httpx.Client) -> None:
    """As `curl -d` sends it, but not as a page of a stranger does."""
    body = json.dumps({"prompt": "count"}).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert http.post("/completion", content=body, headers=form).status_code == 200
    refused = http.post("/completion", content=body, headers={**form, "Origin": "https://page.example"})
    assert refused.status_code == 403


POSTS = ("/infill", "/completion", "/completions", "/tokenize", "/detokenize", "/apply-template")


@pytest.mark.parametrize("path", POSTS)
def test_the_description_is_true(url: str, path: str) -> None:
    """Requests that fit the description, and others, get answers that fit it, never an unexpected fault."""
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path]["POST"]
    statuses = set()

    def check(case: Any) -> None:
        if isinstance(case.body, dict) and case.body.get("model") in {"tiny", "gap"}:
            case.body["model"] = "bot"
        if path == "/infill" and isinstance(case.body, dict) and isinstance(case.body.get("n_predict", 1), int):
            case.body["n_predict"] = case.body.get("n_predict", 4) % 8  # a trained model's answers take time
        answer = case.call()
        statuses.add(answer.status_code)
        assert answer.status_code < 500 or (path, answer.status_code) == ("/infill", 501), (case.body, answer.text)
        case.validate_response(answer, checks=[schemathesis.checks.response_schema_conformance])

    for mode in GenerationMode:
        fuzz = given(case=operation.as_strategy(generation_mode=mode))(check)
        settings(max_examples=3, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
                 suppress_health_check=list(HealthCheck))(fuzz)()
    assert statuses & {200, 400, 501}


def test_the_state_fits_its_description(http: httpx.Client, url: str) -> None:
    """Properties, slots and LM Studio's models fit their schemas; so does an answer that fills a gap."""
    described = schemathesis.openapi.from_url(f"{url}/openapi.json")
    one = {"path_parameters": {"model": "tiny"}}
    for path, more in (("/props", {}), ("/slots", {}), ("/api/v0/models", {}), ("/api/v0/models/{model}", one)):
        case = described[path]["GET"].Case(**more)
        answer = case.call()
        assert answer.status_code == 200
        case.validate_response(answer, checks=[schemathesis.checks.response_schema_conformance])
    case = described["/infill"]["POST"].Case(body={**LLAMA_VIM, "response_fields": []}, media_type="application/json")
    answer = case.call()
    assert answer.status_code == 200
    case.validate_response(answer, checks=[schemathesis.checks.response_schema_conformance])
    paths = http.get("/openapi.json").json()["paths"]
    ids = [one["operationId"] for methods in paths.values() for one in methods.values() if "operationId" in one]
    assert len(ids) == len({*ids})
