"""The model inside its process: lookahead, batches and cancels; each test uses a separate process, as in production."""

import json
import subprocess
import sys
from pathlib import Path

from test_gpt4all_files import TINY, TOKENS, reader, write

RUN = """
import json, sys
from pathlib import Path
from lllms_core.types import Message, ModelSpec, ChatRequest, Sampling
from lllms_gpt4all import Gpt4AllEngine, Options

def load(file, **options):
    return Gpt4AllEngine().load(ModelSpec("tiny", Options(threads=1, **options), Path(file)), lambda _: None)

def ask(model, text, **fields):
    sampling = Sampling(temperature=0)
    model.open(ChatRequest("r", "tiny", (Message("user", text),), sampling=sampling, **fields))
    deltas = []
    while not model.idle:
        deltas += model.step()
    usage = deltas[-1].finish.usage
    return ["".join(delta.text for delta in deltas), usage.completion_tokens]

def tell(value):
    print("@" + json.dumps(value))
"""


def run(code: str) -> list[object]:
    """Run a program that loads models, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", RUN + code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("@")]


def test_looking_ahead_changes_no_answer(tmp_path: Path) -> None:
    """A model that writes "#" where another writes "," otherwise gives the same answer, token by token.

    gpt4all ends answers at "### Human" and the like, so after each "#" it evaluates more tokens before it reports it.
    """
    names = reader().fields[TOKENS].contents()
    swapped = [{",": "#", "#": ","}.get(name, name) for name in names]
    assert swapped != names
    file = write(tmp_path / "swapped.gguf", tokenizer__ggml__tokens=swapped)
    told = run(f"for file in ({str(TINY)!r}, {str(file)!r}): tell(ask(load(file), 'lets count to 10'))")
    [[text, tokens], [other, same]] = told  # type: ignore[misc]
    assert text.count(",") > 9
    assert (other, same) == (text.replace(",", "#"), tokens)


def test_a_cancel_waits_for_one_batch_of_a_prompt() -> None:
    """A step in a long prompt returns after one batch if something is waiting, and the next step resumes from there."""
    [batches, answered, cut] = run(f"""
model = load({str(TINY)!r}, batch_size=16)
model.interrupt.set()
model.open(ChatRequest("long", "tiny", (Message("user", "dog " * 100),), max_tokens=1))
model.step()  # what was reused
batches = []
for _ in range(3):
    model.step()
    batches.append(len(model._native.tokens))
tell(batches)
model.interrupt.clear()
while not model.idle:
    last = list(model.step())
tell(last[-1].finish.usage.prompt_tokens == len(model._prompt.tokens))
model.open(ChatRequest("cut", "tiny", (Message("user", "cat " * 100),)))
model.interrupt.set()
for _ in range(3):
    model.step()
[end] = model.cancel("cut")
model.interrupt.clear()
tell([end.finish.reason, ask(model, "Say pong.")[0]])
""")
    assert batches == sorted(batches)  # type: ignore[type-var]
    assert batches[0] <= 32  # type: ignore[index]
    assert batches[-1] > batches[0]  # type: ignore[index]
    assert answered is True
    assert cut == ["cancelled", "pong"]


def test_threads_follow_the_pool() -> None:
    """The model uses the threads that the pool grants, or fewer if the options say so."""
    told = run(f"""
for options in ({{}}, {{"threads": 2}}):
    model = Gpt4AllEngine().load(ModelSpec("tiny", Options(**options), Path({str(TINY)!r}), threads=1), lambda _: None)
    counts = [model._native._model.thread_count()]
    for count in (3, 1):
        model.use_threads(count)
        counts.append(model._native._model.thread_count())
    tell(counts)
    model.close()
""")
    assert told == [[1, 3, 1], [1, 2, 1]]


def test_the_last_conversation_is_told_of_and_forgotten() -> None:
    """The model holds one conversation; `forget` drops it at once, or when its request has ended."""
    told = run(f"""
model = load({str(TINY)!r})
ask(model, "Say pong.")
def held():
    return [len(one.tokens) for one in model.residents()]
tell(held())
model.forget(0)
tell([held(), len(model._native.tokens)])
model.open(ChatRequest("r", "tiny", (Message("user", "Say pong."),), sampling=Sampling(temperature=0)))
while not model._native.tokens:
    model.step()
tell(held())
model.forget(0)
tell(held())
text = ""
while not model.idle:
    text += "".join(delta.text for delta in model.step())
tell([text != "", held(), len(model._native.tokens)])
ask(model, "Say pong.")
tell(held())
""")
    [first, gone, running, hidden, end, after] = told
    assert gone == [[], 0]
    assert running != []
    assert hidden == []
    assert end == [True, [], 0]
    assert after == first != []
