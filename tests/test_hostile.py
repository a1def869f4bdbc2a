"""Nothing that one client sends can hurt another: a real server receives all kinds of hostile inputs in turn.

After each it must be as before: `/health` answers, no work is done for clients that have left, the witnesses have got
exactly their answers without a gap, the workers are the same processes, and the log holds a few lines and no secrets.
An input that damages the server fails by name, and the next one meets a new server.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from besieged_for_tests import Besieged, Siege, siege, until
from frames_for_tests import PREFACE
from hostile_compat_for_tests import BARE as COMPAT_BARE
from hostile_for_tests import CHAT, COMPAT, NAMED, OLLAMA, POSTS, SLOW, Input, body, with_value
from hostile_leaving_for_tests import LONG
from hostile_lines_for_tests import PLACES
from hostile_ollama_for_tests import BARE
from hostile_table_for_tests import ALL
from lines_for_tests import Line, head

from lllms_core.host import Host

pytestmark = pytest.mark.slow

lllms_llamacpp = pytest.importorskip("lllms_llamacpp")
TINY_CHAT = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
MORE_DESCRIPTORS = 6
"""Descriptors of connections that are just being closed."""
MORE_PROCESSES = 2
"""Processes in which a model tries grammars, started once it has seen some; they stay."""
MORE_MEMORY = 400_000_000
"""Bytes that the largest bodies may leave behind in the server's heap, and texts and grammars in a worker's."""


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    """A server whose log is for people."""
    with siege(lambda: Besieged(tmp_path_factory.mktemp("console"), file=TINY_CHAT)) as made:
        yield made


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_nobody_is_hurt(attacked: Siege, one: Input) -> None:
    """The input is answered correctly; the server, its workers, its log and all other clients are unaffected."""
    attacked.suffer(one)


def test_all_is_given_back(attacked: Siege) -> None:
    """After all inputs the server holds no more descriptors and processes than before, and not much more memory."""
    server = attacked.server
    before = server.before
    until(lambda: server.uses()["descriptors"] <= before["descriptors"] + MORE_DESCRIPTORS, "connections end", 15)
    until(lambda: server.uses()["processes"] <= before["processes"] + MORE_PROCESSES, "helpers end", 30)
    grown = {name: size - before[name] for name, size in server.uses().items() if name.startswith("memory")}
    assert {name: size for name, size in grown.items() if size > MORE_MEMORY} == {}


def test_it_ends_while_it_is_attacked(attacked: Siege) -> None:
    """SIGTERM ends the server and all that it has started, although clients hold half requests and unread answers."""
    server = attacked.server
    long = with_value(CHAT, SLOW, "max_tokens", LONG[SLOW])[:-1] + b',"stream":true}'
    whole = head(length=len(long))
    phases = (b"", whole[:40], whole, whole + long, PREFACE)
    held = [Line(server.address).send(data) for data in phases for _ in range(5)]
    server.look_into_log()
    server.stop()
    for line in held:
        line.socket.close()
    server.look_into_log()
    assert server.process.returncode == 0


def test_the_log_for_programs(tmp_path: Path) -> None:
    """With `log_format = "json"` the log reveals no more: some inputs of each kind, on a separate server."""
    wrong = {}
    with siege(lambda: Besieged(make(tmp_path), "json", file=TINY_CHAT)) as made:
        for one in [one for one in ALL if not one.heavy][::20]:
            try:
                made.suffer(one)
            except AssertionError as error:
                wrong[one.name] = str(error)
        made.server.stop()
    assert wrong == {}


def make(folder: Path) -> Path:
    """A separate folder for each server."""
    made = folder / str(len(list(folder.iterdir())))
    made.mkdir()
    return made


def test_there_are_many() -> None:
    """The table has far more than 250 inputs, each with its own name."""
    assert len({one.name for one in ALL}) == len(ALL) > 1000


def test_every_route_is_attacked() -> None:
    """Each route of the description is in the table; each request that the table calls valid is one of that route."""
    host = Host()
    apis = [provided.object for provided in host.plugins.apis.values()]
    paths = {path: methods for api in apis for path, methods in api.describe(host).items()}
    described = {
        (method.upper(), path.replace("{model}", "{id}").replace("{response_id}", "{id}"))
        for path, methods in paths.items() for method in methods if path not in NAMED
    }
    assert set(NAMED) <= set(paths)
    posts = {path for method, path in described if method == "POST" and "{" not in path}
    assert posts == {*POSTS, *OLLAMA, *COMPAT}
    assert all(body(path, SLOW)["model"] == SLOW for path in posts)
    sessions = "/api/v1/sessions"
    models = {("GET", "/v1/models"), ("GET", "/anthropic/v1/models")}
    bare = {*models, ("GET", "/api/v1/downloads"), ("GET", "/api/v1/requests")}
    bare |= {("GET", sessions), ("DELETE", sessions)} | {("GET", path) for path in (*BARE, *COMPAT_BARE)}
    bare |= {("GET", "/metrics"), ("GET", "/health"), ("GET", "/api/v1/config"), ("GET", "/api/v1/status/events")}
    bare |= {("GET", "/api/v1/conversations"), ("GET", "/api/v1/client.js"), ("GET", "/api/v1/react.js")}
    with_ids = {(method, path + "{id}") for method, path in PLACES if path.endswith("/")}
    inside = [(method, path.partition("?")[0]) for method, path in PLACES if "resp_1" in path]
    with_ids |= {(method, path.replace("resp_1", "{id}")) for method, path in inside}
    others = {(method, path) for method, path in described if method != "POST" or "{" in path}
    assert others == bare | with_ids
