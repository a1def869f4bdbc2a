"""The client for JavaScript and its hook for React: served, and run by Node.js against the real server."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from cutting_for_tests import cutting
from test_native_client import LONG, MODELS
from waits_for_tests import GUARD

from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
REACT = """
// As much of React as the hook uses: one component, rendered anew at each change of its state.
let state, at, again, effects;
const cell = (make) => (at in state ? state[at] : (state[at] = make()), state[at++]);
export const useRef = (value) => cell(() => ({ current: value }));
export const useMemo = (make, given) => {
  const kept = cell(() => ({ given, value: make() }));
  if (kept.given.some((one, index) => one !== given[index])) Object.assign(kept, { given, value: make() });
  return kept.value;
};
export const useCallback = (act, given) => useMemo(() => act, given);
export const useEffect = (act, given) => useMemo(() => effects.push(act()), given);
export const useState = (first) => {
  const kept = cell(() => ({ value: first }));
  const render = again;
  return [kept.value, (next) => {
    kept.value = typeof next === "function" ? next(kept.value) : next;
    render();
  }];
};
export function mount(component) {
  const own = [];
  effects = [];
  const render = () => {
    [state, at, again] = [own, 0, render];
    component();
  };
  render();
  return { unmount: () => effects.forEach((leave) => leave()) };
}
"""


def test_they_are_served() -> None:
    """The scripts are modules that browsers keep and compare, with their license; the page's path does not matter."""
    with running_server({}) as url:
        for name in ("client", "react"):
            got = httpx.get(f"{url}/api/v1/{name}.js")
            assert got.headers["content-type"] == "text/javascript; charset=utf-8"
            assert got.headers["cache-control"] == "no-cache"
            assert "SPDX-License-Identifier: MIT" in got.text
            for tag, status in ((got.headers["etag"], 304), (f"W/{got.headers['etag']}", 304), ('"x"', 200)):
                again = httpx.get(f"{url}/api/v1/{name}.js", headers={"If-None-Match": tag})
                assert (again.status_code, again.headers["etag"]) == (status, got.headers["etag"])


def test_node_speaks_the_protocol(tmp_path: Path) -> None:
    """Answers, errors, resumed connections, stops and conversations are in JavaScript what they are in Python."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    with running_server(MODELS) as url, cutting(url, [700, 0, 300]) as (cut, cutter):
        for name in ("client.js", "react.js"):
            (tmp_path / name).write_bytes(httpx.get(f"{url}/api/v1/{name}").content)
        (tmp_path / "package.json").write_text('{"type": "module"}')
        stub = tmp_path / "node_modules" / "react"
        stub.mkdir(parents=True)
        (stub / "index.js").write_text(REACT)
        (stub / "package.json").write_text('{"type": "module", "main": "index.js"}')
        done = subprocess.run(
            [node, HERE / "native_client.mjs", url, cut, tmp_path], capture_output=True, text=True, timeout=GUARD,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert cutter.cut == 3
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.pop("resumed") == LONG
    assert {**found.pop("call"), "id": ""} == {"type": "call", "id": "", "name": "add", "arguments": {"a": 3}}
    assert [one for one in found.pop("types") if one not in {"queued", "loading"}] == [
        "prompt", "thoughts", "text", "usage", "done",
    ]
    assert found == {
        "models": ["bot", "slow"], "loaded": "loaded", "unloaded": "bot",
        "refused": {"name": "ServerError", "code": "model_not_found", "status": 404, "ours": True},
        "failed": {"name": "ServerError", "code": "engine_failed", "status": 200, "ours": True},
        "unreachable": {"name": "ServerError", "code": "unreachable", "status": 0, "ours": True},
        "aborted": {"name": "AbortError", "code": 20, "ours": False},
        "kept": 2, "deleted": 404,
        "read": [{"id": "a-0", "type": "text", "data": '{"text":"\u00e4\u20ac"}'},
                 {"id": "", "type": "message", "data": "x"}],
        "said": [{"role": "user", "content": "think"},
                 {"role": "assistant", "content": "well", "thoughts": "hm hm", "calls": []}],
        "count": 4, "status": "ready", "error": "engine_failed", "after": 6,
        "stopped": [{"role": "user", "content": "hang"},
                    {"role": "assistant", "content": "one", "thoughts": "", "calls": []}],
    }
