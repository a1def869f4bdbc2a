import pytest

WORDS, DIM, INNER, STATE, RANK, KERNEL, LAYERS = 928, 32, 64, 8, 4, 4, 2


@pytest.fixture(scope="module")
def mamba(tmp_path_factory, write_random):
    """A Mamba model with random weights."""
    keys = {
        "context_length": 512, "embedding_length": DIM, "feed_forward_length": 0, "block_count": LAYERS,
        "attention.head_count": 0, "attention.layer_norm_rms_epsilon": 1e-5, "ssm.conv_kernel": KERNEL,
        "ssm.inner_size": INNER, "ssm.state_size": STATE, "ssm.time_step_rank": RANK,
    }
    layer = {
        "attn_norm.weight": (DIM,), "ssm_in.weight": (2 * INNER, DIM), "ssm_conv1d.weight": (INNER, KERNEL),
        "ssm_conv1d.bias": (INNER,), "ssm_x.weight": (RANK + 2 * STATE, INNER), "ssm_dt.weight": (INNER, RANK),
        "ssm_dt.bias": (INNER,), "ssm_a": (INNER, STATE), "ssm_d": (INNER,), "ssm_out.weight": (DIM, INNER),
    }
    shapes = {"token_embd.weight": (WORDS, DIM), "output_norm.weight": (DIM,), "output.weight": (WORDS, DIM)}
    shapes |= {f"blk.{number}.{name}": shape for number in range(LAYERS) for name, shape in layer.items()}
    return write_random(tmp_path_factory.mktemp("mamba") / "mamba.gguf", "mamba", keys, shapes)


def ask(talk, prompt, most=8):
    return talk.ask(prompt=prompt, max_tokens=most)


def test_recurrent_model_answers_as_if_alone(load, mamba):
    """Concurrent requests, more than there are slots, get the same answers as in a fresh model."""
    prompts = [f"word {n} and " + "more " * n for n in range(6)]
    alone = [ask(load(mamba, slots=1), prompt).text for prompt in prompts]
    talk = load(mamba, slots=2, batch_size=16)
    names = [talk.open(prompt=prompt, max_tokens=8) for prompt in prompts]
    talk.finish()
    assert [talk.answers[name].text for name in names] == alone
    assert len(set(alone)) > 1


def test_recurrent_model_goes_on_and_starts_afresh(load, mamba):
    """A continued text is reused whole; an edited one is evaluated from the beginning, with the right result."""
    talk = load(mamba, slots=2)
    first = talk.ask(prompt="once upon a time", max_tokens=1)
    onwards = ask(talk, "once upon a time there was")
    assert first.usage.prompt_tokens <= onwards.cached
    edited = ask(talk, "once upon a hill")
    assert edited.cached == 0
    fresh = load(mamba, slots=1)
    assert edited.text == ask(fresh, "once upon a hill").text


def test_recurrent_model_survives_cancel_and_interrupt(load, mamba):
    """Neither a cancel nor an interrupt affects later answers."""
    talk = load(mamba, slots=1, batch_size=64)
    name = talk.open(prompt="dog " * 60, max_tokens=8)
    talk.model.interrupt.set()
    talk.step()
    talk.model.interrupt.clear()
    talk.cancel(name)
    assert ask(talk, "dog cat").text == ask(load(mamba, slots=1), "dog cat").text
