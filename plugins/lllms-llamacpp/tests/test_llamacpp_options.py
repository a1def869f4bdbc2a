import pytest
from lllms_llamacpp import Lora, Options

from lllms_core.errors import ModelLoadFailed


@pytest.mark.parametrize(
    "options",
    [
        {"context_length": 0}, {"context_length": "all"}, {"context_length": True}, {"slots": 0}, {"slots": 257},
        {"slots": "4"}, {"threads": 0}, {"threads": "many"}, {"batch_size": 0}, {"micro_batch_size": -1},
        {"gpu_layers": -2}, {"flash_attention": True}, {"kv_type_k": "q3"}, {"kv_type_v": ""}, {"use_mmap": 1},
        {"use_mlock": "no"}, {"chat_template": 5}, {"rope_scaling": "double"}, {"rope_freq_base": -1},
        {"rope_freq_scale": float("nan")}, {"rope_freq_scale": "2"}, {"lora": ["a.gguf"]}, {"seed": 2**63},
        {"seed": 1.5}, {"kv_size": 0}, {"slots": 8, "batch_size": 7}, {"kv_type_v": "q8_0", "flash_attention": "off"},
        {"context_length": 100, "kv_size": 99}, {"reasoning": "<think>"}, {"reasoning": 3},
        {"devices": [-1]}, {"devices": [True]}, {"devices": [""]}, {"devices": ["CUDA0", "CUDA0"]},
        {"devices": [], "gpu_layers": 20}, {"devices": [], "gpu_layers": -1}, {"split_mode": "rows"},
        {"tensor_split": [1, -1]}, {"tensor_split": [0, 0]}, {"tensor_split": [float("inf")]},
        {"tensor_split": [1, 1], "split_mode": "none"}, {"tensor_split": [1, 1], "devices": ["CUDA0"]},
        {"main_gpu": -1}, {"main_gpu": ""}, {"main_gpu": 1, "devices": ["CUDA0"]}, {"kv_offload": 1},
        {"op_offload": "off"}, {"embeddings": "on"},
        {"cpu_moe": -1}, {"cpu_moe": "all"}, {"cpu_moe": 1.0}, {"override_tensors": ["x"]},
        {"override_tensors": {"(": "CPU"}}, {"override_tensors": {"": "CPU"}}, {"override_tensors": {"x": ""}},
    ],
)
def test_wrong_options_are_refused(options):
    """A wrong type or an out-of-range value is refused before C code sees it, and the message names the option."""
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        Options(**options)


@pytest.mark.parametrize("options", [{"path": ""}, {"path": 3}, {"path": "a", "scale": "1"}])
def test_wrong_loras_are_refused(options):
    """An adapter needs a path and a number."""
    with pytest.raises((ValueError, TypeError)):
        Lora(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"context_length": 64}, {"context_length": 2048, "slots": 1}, {"slots": 33, "batch_size": 33},
        {"slots": 256, "context_length": 16}, {"threads": "auto"}, {"threads": 64},
        {"batch_size": 8, "micro_batch_size": 4}, {"batch_size": 8, "micro_batch_size": 4096},
        {"gpu_layers": 0}, {"gpu_layers": 99}, {"flash_attention": "on"}, {"flash_attention": "off"},
        {"kv_type_k": "q8_0", "kv_type_v": "q8_0"}, {"kv_type_k": "f32", "kv_type_v": "bf16"},
        {"use_mmap": False}, {"use_mlock": True}, {"use_mmap": False, "use_mlock": True},
        {"rope_scaling": "none"}, {"rope_freq_base": 10000, "rope_freq_scale": 1.0}, {"seed": -1},
        {"kv_size": 1100}, {"kv_size": 100}, {"devices": []}, {"devices": ["CUDA0", 1], "tensor_split": [2, 1]},
        {"split_mode": "none", "main_gpu": 0}, {"kv_offload": False, "op_offload": False}, {"cpu_moe": 3},
        {"override_tensors": {"attn_.*": "CPU", "nothing": "CUDA0"}},
    ],
)
def test_models_answer_with_every_option(load, options):
    """With each of the options, the model loads and answers."""
    talk = load(**options)
    answer = talk.ask("ping", max_tokens=4)
    assert answer.text == "pong"
    assert talk.model.slots == options.get("slots", 4)
    assert talk.model.context_length == options.get("context_length", min(1024, options.get("kv_size", 1024)))


def test_rope_scaling_changes_the_model(load):
    """RoPE's options reach the model: with other positions it answers differently."""
    plain, scaled = load(), load(rope_scaling="linear", rope_freq_scale=0.1)
    assert plain.ask("lets count to 10").text != scaled.ask("lets count to 10", max_tokens=60).text


@pytest.mark.parametrize("source", ["inline", "file"])
def test_own_chat_template(load, tmp_path, source):
    """`chat_template` replaces the model's own template, as text or as a file's path."""
    template = (
        "{% for m in messages %}<|im_start|>user\n{{ m.content | replace('X', 'ping') }}<|im_end|>\n{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}"
    )
    if source == "file":
        (tmp_path / "chat.jinja").write_text(template)
        template = str(tmp_path / "chat.jinja")
    assert load(chat_template=template).ask("X").text == "pong"


def test_marks_of_thoughts_by_hand(load):
    """Text between the configured marks is returned as thoughts, even where tokens do not end with the marks."""
    said = load().ask("Hi!").text
    assert said == "Hello! How can I help you?"
    talk = load(reasoning="Hello!...help")
    talk.open("Hi!")
    deltas = [delta for _ in range(40) if not talk.model.idle for delta in talk.step()]
    assert "".join(delta.reasoning for delta in deltas).strip() == "How can I"
    assert "".join(delta.text for delta in deltas).strip() == "you?"
    assert deltas[-1].finish.usage.reasoning_tokens > 0


@pytest.mark.parametrize("template", ["no/such/file.jinja", "{% for %}"])
def test_unusable_chat_template_is_refused(load, template):
    """A template that cannot be read or compiled fails the load, with the reason."""
    with pytest.raises(ModelLoadFailed):
        load(chat_template=template)


def test_missing_lora_is_refused(load):
    """A missing adapter fails the load and is named."""
    with pytest.raises(ModelLoadFailed, match="absent"):
        load(lora=[Lora("absent.gguf")])


def test_threads_are_bounded_by_the_allowance(load):
    """A fixed count is used as far as the pool grants it, and in full again once more is granted."""
    talk = load(threads=3)
    chosen = []
    for allowance in (8, 2, 1, 8):
        talk.model.use_threads(allowance)
        chosen.append(talk.model._threads.choose(1))
    assert chosen == [3, 2, 1, 3]
    assert talk.ask("ping").text == "pong"


def test_automatic_threads_stay_in_the_allowance(load):
    """With "auto" the count is chosen while running, and never exceeds the granted one."""
    talk = load(threads="auto")
    talk.model.use_threads(1)
    assert talk.ask("lets count to 10").text.endswith("9, 10.")
    assert talk.model._threads_set == 1
