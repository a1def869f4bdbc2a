"""What the command line reports about a model's context: `show`, `ls`, `check`, `ps`, the log of `serve`."""

from pathlib import Path

import pytest
from programs_for_tests import Program, serving
from stores_for_tests import TINY
from waits_for_tests import GUARD

pytestmark = pytest.mark.slow


@pytest.fixture
def lllms(tmp_path: Path) -> Program:
    return Program(tmp_path)


def configured(lllms: Program, options: str) -> None:
    text = f'[models.tiny]\nengine = "llamacpp"\nfile = "{TINY}"\noptions = {{ {options} }}\n'
    (lllms.folder / "lllms.toml").write_text(text)


@pytest.mark.parametrize(("options", "length"), [('context_length = "auto"', 1024), ("", 1024), ("kv_size = 700", 700)])
def test_show_and_ls_tell_what_auto_takes(lllms: Program, options: str, length: int) -> None:
    """Without loading the model, `show` prints its context and tasks, and `ls` its context."""
    configured(lllms, options)
    shown = lllms.here("show", "tiny").splitlines()
    assert f"context length: {length}" in shown
    assert "context trained: 1024" in shown
    assert "tasks: chat, detokenize, render, text, tokenize" in shown
    [row] = [line.split() for line in lllms.here("ls").splitlines() if line.startswith("tiny")]
    assert str(length) in row


def test_check_warns_of_a_context_beyond_the_training(lllms: Program) -> None:
    """`check` warns, but does not fail; "auto" never exceeds the context that the model was trained for."""
    configured(lllms, "context_length = 1025")
    lllms.here("check")
    assert "Warning: models.tiny: options.context_length is 1025, but the model was trained for 1024" in lllms.errors
    configured(lllms, 'context_length = "auto"')
    lllms.here("check")
    assert lllms.errors == ""


def test_a_server_tells_what_it_took(lllms: Program) -> None:
    """The log of a load, and `ps`, give the tokens of a request; if they exceed the training, the log has a warning."""
    model = f'engine = "llamacpp"\nfile = "{TINY}"\nmin_instances = 1\n'
    (lllms.folder / "lllms.toml").write_text(f"[models.a]\n{model}[models.b]\n{model}options.context_length = 1100\n")
    with serving(lllms.folder, environ=lllms.environ) as (process, printed):
        url = next(line.split()[-1] for line in printed if line.startswith("listening on "))
        told = lllms.here("ps", "--url", url).splitlines()
        process.terminate()
        log = process.communicate(timeout=GUARD)[1]
    instances = sorted(line for line in told if line.startswith("instance "))
    assert ["1024 tokens per request," in instances[0], "1100 tokens per request," in instances[1]] == [True, True]
    lines = log.splitlines()
    for words in (
        ("a: ", 'a request may hold 1024 tokens (context_length is "auto"); the model was trained for 1024'),
        ("b: ", "a request may hold 1100 tokens; the model was trained for 1024"),
        ("b: ", "context_length is 1100, but the model was trained for 1024 tokens, and may write nonsense beyond"),
    ):
        assert any(all(word in line for word in words) for line in lines), log
    assert log.count("nonsense") == 1
