import gguf
import numpy as np
import pytest

DIM, INNER, STATE, RANK, KERNEL, LAYERS = 32, 64, 8, 4, 4, 2


@pytest.fixture(scope="module")
def mamba(tmp_path_factory, tiny_file):
    """A Mamba model of random weights with the vocabulary of tiny-chat."""
    path = tmp_path_factory.mktemp("mamba") / "mamba.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(512)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(LAYERS)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    words = 0
    for found in gguf.GGUFReader(tiny_file).fields.values():
        if found.name.startswith("tokenizer."):
            kind = found.types[0]
            sub = found.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(found.name, found.contents(), kind, sub)
            words = words or len(found.data) * (kind == gguf.GGUFValueType.ARRAY)
    rng = np.random.default_rng(0)

    def add(name, *shape, scale=1.0):
        writer.add_tensor(name, (rng.standard_normal(shape) * scale).astype(np.float32))

    add("token_embd.weight", words, DIM)
    add("output_norm.weight", DIM)
    add("output.weight", words, DIM)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        add(block + "attn_norm.weight", DIM)
        add(block + "ssm_in.weight", 2 * INNER, DIM, scale=DIM**-0.5)
        add(block + "ssm_conv1d.weight", INNER, KERNEL)
        add(block + "ssm_conv1d.bias", INNER)
        add(block + "ssm_x.weight", RANK + 2 * STATE, INNER, scale=INNER**-0.5)
        add(block + "ssm_dt.weight", INNER, RANK)
        add(block + "ssm_dt.bias", INNER)
        writer.add_tensor(block + "ssm_a", -np.exp(rng.standard_normal((INNER, STATE))).astype(np.float32))
        add(block + "ssm_d", INNER)
        add(block + "ssm_out.weight", DIM, INNER, scale=INNER**-0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def ask(talk, prompt, most=8):
    return talk.ask(prompt=prompt, max_tokens=most)


def test_recurrent_model_answers_as_if_alone(load, mamba):
    """Several requests at once, more than there are slots, get what each gets in a fresh model."""
    prompts = [f"word {n} and " + "more " * n for n in range(6)]
    alone = [ask(load(mamba, slots=1), prompt).text for prompt in prompts]
    talk = load(mamba, slots=2, batch_size=16)
    names = [talk.open(prompt=prompt, max_tokens=8) for prompt in prompts]
    talk.finish()
    assert [talk.answers[name].text for name in names] == alone
    assert len(set(alone)) > 1


def test_recurrent_model_goes_on_and_starts_afresh(load, mamba):
    """A continued text is reused as a whole; an edited one is evaluated from its beginning, and rightly."""
    talk = load(mamba, slots=2)
    first = talk.ask(prompt="once upon a time", max_tokens=1)
    onwards = ask(talk, "once upon a time there was")
    assert first.usage.prompt_tokens <= onwards.cached
    edited = ask(talk, "once upon a hill")
    assert edited.cached == 0
    fresh = load(mamba, slots=1)
    assert edited.text == ask(fresh, "once upon a hill").text


def test_recurrent_model_survives_cancel_and_interrupt(load, mamba):
    """A cancel leaves no trace in what comes after it, nor does an interrupt."""
    talk = load(mamba, slots=1, batch_size=64)
    name = talk.open(prompt="dog " * 60, max_tokens=8)
    talk.model.interrupt.set()
    talk.step()
    talk.model.interrupt.clear()
    talk.cancel(name)
    assert ask(talk, "dog cat").text == ask(load(mamba, slots=1), "dog cat").text
