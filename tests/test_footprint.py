"""The fingerprint of an answer is that of the instance that wrote it; replaced files are noticed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from engines_for_tests import Options, ScriptedEngine
from lllms_mock.options import Options as MockOptions

from lllms_core.app import create_app
from lllms_core.cli import cli
from lllms_core.client import Client
from lllms_core.config import parse_config
from lllms_core.footprint import take_footprint
from lllms_core.host import Host
from lllms_core.types import ModelSpec


def write_rules(file: Path, reply: str) -> None:
    file.write_text(f'rules = [{{ pattern = "ping", replies = ["{reply}"] }}]\n')


async def ask(app: Any, *, stream: bool) -> tuple[str, str]:
    """Return the text and the fingerprint of an answer."""
    body = {"model": "m", "messages": [{"role": "user", "content": "ping"}], "stream": stream}
    response = await app.test_client().post("/v1/chat/completions", json=body)
    text = (await response.get_data()).decode()
    if not stream:
        answer = json.loads(text)
        return answer["choices"][0]["message"]["content"], answer["system_fingerprint"]
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    [fingerprint] = {event["system_fingerprint"] for event in events}
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events), fingerprint


@pytest.mark.parametrize("stream", [False, True])
async def test_the_fingerprint_is_that_of_what_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool,
) -> None:
    """Until the next load, answers come from the old file and say so, and `ps` reports that it was replaced."""
    rules = tmp_path / "rules.toml"
    write_rules(rules, "old")
    model = {"engine": "mock", "options": {"rules": str(rules)}}
    async with Host(parse_config({"models": {"m": model}})) as host:
        app = create_app(host)

        async def instance() -> Any:
            status = await (await app.test_client().get("/", headers={"Accept": "application/json"})).get_json()
            monkeypatch.setattr(Client, "get", lambda *_: status)
            said = "its file has been replaced since it was loaded" in CliRunner().invoke(cli, ["ps"]).stdout
            [one] = status["instances"]
            assert one["replaced"] is said
            return one

        first = await ask(app, stream=stream)
        assert first[0] == "old"
        assert await ask(app, stream=stream) == first
        assert (await instance())["fingerprint"] == first[1]
        assert not (await instance())["replaced"]
        write_rules(rules, "another")
        assert await ask(app, stream=stream) == first
        assert (await instance())["replaced"]
        page = await app.test_client().get("/", headers={"Accept": "text/html"})
        assert "file replaced" in await page.get_data(as_text=True)
        await host.unload("m")
        second = await ask(app, stream=stream)
        assert second[0] == "another"
        assert second[1] != first[1]
        assert (await instance())["fingerprint"] == second[1] == host.model("m").fingerprint
        assert not (await instance())["replaced"]
        rules.unlink()
        assert (await instance())["replaced"]


def test_a_footprint_is_of_all_files(tmp_path: Path) -> None:
    """Each part of the weights counts, even a missing one; copies elsewhere are the same model."""
    def write(folder: Path, *texts: bytes) -> list[Path]:
        folder.mkdir()
        files = [folder / f"x-0000{number}-of-00002.gguf" for number in (1, 2)]
        for file, text in zip(files, texts, strict=False):
            file.write_bytes(text)
            os.utime(file, (1, 1))
        return files

    def take(file: Path | None, source: str | None = None) -> Any:
        return take_footprint(ScriptedEngine.name, "1", ModelSpec("m", Options(), file), source)

    files = write(tmp_path / "a", b"one", b"two")
    first = take(files[0])
    assert list(first.files) == files
    assert not first.replaced
    copy = write(tmp_path / "b", b"one", b"two")
    assert take(copy[0]).fingerprint == first.fingerprint
    ruled = [take_footprint("mock", "1", ModelSpec("m", MockOptions(rules=one[0])), None) for one in (files, copy)]
    assert ruled[0].fingerprint == ruled[1].fingerprint
    others = [take(write(tmp_path / "c", b"one", b"three")[0]), take(write(tmp_path / "d", b"one")[0]), take(None)]
    others += [take(files[0], "hf:x/y"), take_footprint("other", "1", ModelSpec("m", Options(), files[0]), None)]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 6
    copy[1].replace(files[1])  # same size and time, but another file
    assert first.replaced
