"""Sessions on disk, and real processes that are killed while they write them, or find the disk full."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

import pytest
from test_cli_serve import serving
from test_session_stores import open_disk
from waits_for_tests import GUARD, poll

from lllms_core.builtin.sessions.disk_store import PART, SUFFIX

pytestmark = pytest.mark.slow

SECRETS = ["blimp", "zebra", "apple"]
ASKS = "What is the secret word?"

WRITER = """
import resource, signal, sys, time
from pathlib import Path
from lllms_core.builtin.sessions.disk_store import DiskOptions, DiskStore
from lllms_core.sessions import SessionEntry, TokenChain

folder, size, limit, deadly = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "deadly"
store = DiskStore()
store.open(DiskOptions(Path(folder)))
print("open", flush=True)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
if deadly:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
for number in range(10_000):
    tokens = TokenChain(range(number, number + 100))
    data = bytes([number % 251]) * size
    entry = SessionEntry(f"s{number}", "tiny", "here", 100, tokens.blocks, tokens.digest(100), size, time.time())
    try:
        store.put(entry, data)
    except OSError as error:
        print(f"failed {error.errno} {[file.name for file in Path(folder).iterdir()]}", flush=True)
        break
    print("put", flush=True)
"""


def writer(folder, size, limit=0, deadly="mild"):
    """A program that stores one session after another, and reports each."""
    argv = [sys.executable, "-c", WRITER, str(folder), str(size), str(limit), deadly]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def whole_sessions(folder, size):
    """The number of sessions that a new store lists; each can be read, and equals what was put."""
    store = open_disk(folder)
    entries = store.list()
    for entry in entries:
        assert store.get(entry.id) == bytes([int(entry.id[1:]) % 251]) * size
    return len(entries)


def parts(folder):
    return [file for file in folder.iterdir() if file.name.endswith(PART)]


@pytest.mark.parametrize("limit", [1, 100, 400, 5000, 99_999])
def test_kill_in_the_middle_of_a_write(tmp_path, limit):
    """A process killed after any byte leaves a partial file that no reader sees, and that is deleted once old."""
    with writer(tmp_path, 100_000, limit, "deadly") as process:
        told = process.communicate(timeout=GUARD)[0].split()
    assert process.returncode == -signal.SIGXFSZ
    assert told == ["open"]
    [part] = parts(tmp_path)
    assert part.stat().st_size == limit
    assert whole_sessions(tmp_path, 100_000) == 0
    assert parts(tmp_path) == [part]  # another process may be writing it
    os.utime(part, (1, 1))
    assert whole_sessions(tmp_path, 100_000) == 0
    assert list(tmp_path.iterdir()) == []


def test_killed_at_any_time(tmp_path):
    """A process killed repeatedly while it writes leaves whole sessions: those it reported, and at most one more."""
    size, cut = 20_000_000, 0
    for number in range(8):
        folder = tmp_path / str(number)
        with writer(folder, size) as process:
            told = [process.stdout.readline() for _ in range(1 + number % 3)]
            end = time.monotonic() + GUARD
            while not parts(folder):
                assert time.monotonic() < end
            process.kill()
            told += process.stdout.readlines()
        cut += bool(parts(folder))
        assert whole_sessions(folder, size) - told.count("put\n") in {0, 1}
        assert len([file for file in folder.iterdir() if file.name.endswith(SUFFIX)]) == whole_sessions(folder, size)
    assert cut  # some were in the middle of a file


def test_no_room_for_a_file(tmp_path):
    """A write that fails half-way is an error, and leaves neither a partial file nor a session."""
    with writer(tmp_path, 100_000, 50_000) as process:
        told, said = process.communicate(timeout=GUARD)
    assert process.returncode == 0, said
    assert told.splitlines()[1:] == ["failed 27 []"]
    assert whole_sessions(tmp_path, 100_000) == 0


CONFIG = """
[sessions]
store = "disk"
min_tokens = 16
options = {{ folder = "{folder}" }}
[models.tiny]
engine = "llamacpp"
file = "{file}"
options = {{ slots = 2, context_length = 512, threads = 1, kept_tokens = 0 }}
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with the configuration of a server that keeps its sessions on disk."""
    import lllms_llamacpp

    tiny = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
    (tmp_path / "lllms.toml").write_text(CONFIG.format(folder=tmp_path / "sessions", file=tiny))
    return tmp_path


def address(printed):
    return next(line.split()[-1] for line in printed if line.startswith("listening on "))


def fetch(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=GUARD) as response:
        return json.load(response)


def ask(url, *texts):
    """The next answer of a conversation, and how much of its prompt was cached."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    body = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 40}
    answer = fetch(f"{url}/v1/chat/completions", body)
    return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def tell(url, secret):
    text = f"My name is Bob. The secret word is {secret}. Do not forget it."
    return [text, ask(url, text)[0]]


def stored(folder):
    """The number of sessions on the disk; the server also lists those that wait to be written."""
    return len([*(folder / "sessions").glob(f"*{SUFFIX}")])


def test_killed_server_goes_on_from_its_disk(folder):
    """Sessions stored before the kill are resumed, warm; others are evaluated: both get the right answer."""
    with serving(folder) as (process, printed):
        url = address(printed)
        said = {secret: tell(url, secret) for secret in SECRETS}
        poll(lambda: stored(folder) >= 2)
        process.kill()
    with serving(folder) as (_, printed):
        url = address(printed)
        answers = [ask(url, *said[secret], ASKS) for secret in SECRETS]
    assert all(secret in text for secret, (text, _) in zip(SECRETS, answers, strict=True))
    assert [cached > 20 for _, cached in answers] == [True, True, False]


def test_server_killed_at_work(folder):
    """A server killed while conversations are answered and stored leaves nothing that misleads the next one."""
    chosen, warm = random.Random(3), 0
    said = {}
    for _ in range(3):
        with serving(folder) as (process, printed):
            url = address(printed)
            for secret in SECRETS:
                said.setdefault(secret, tell(url, secret))

            def turns(url=url):
                try:
                    while True:
                        for secret in SECRETS:
                            ask(url, *said[secret], ASKS)
                except (OSError, HTTPException, ValueError, EOFError):
                    return  # killed

            threads = [threading.Thread(target=turns) for _ in range(2)]
            for thread in threads:
                thread.start()
            for _ in range(chosen.randint(1, 6)):
                text, cached = ask(url, *said["blimp"], ASKS)
                assert "blimp" in text
            process.kill()
            for thread in threads:
                thread.join(GUARD)
                assert not thread.is_alive()
        whole = [entry.id for entry in open_disk(folder / "sessions").list()]
        assert all(open_disk(folder / "sessions").get(one) for one in whole)
        with serving(folder) as (_, printed):
            for secret in SECRETS:
                text, cached = ask(address(printed), *said[secret], ASKS)
                assert secret in text
                warm += cached > 20
    assert warm


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process can be set on Linux only")
def test_server_on_a_full_disk(folder):
    """Without room for sessions the server still answers, logs what is wrong, and leaves no partial files."""
    with serving(folder) as (process, printed):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4000, 4000))
        url = address(printed)
        said = {secret: tell(url, secret) for secret in SECRETS}
        for secret in SECRETS:
            assert secret in ask(url, *said[secret], ASKS)[0]
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=GUARD)[1]
    assert "store 'disk' cannot keep a session: OSError" in log
    assert list((folder / "sessions").iterdir()) == []
