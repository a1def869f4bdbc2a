"""Files that differ from tiny-chat in one respect, and adapters for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np

STRING = gguf.GGUFValueType.STRING


def rewrite(
    path: Path, source: Path, keys: Mapping[str, object] | None = None, *, part: tuple[int, int] | None = None,
    twice: Mapping[str, str] | None = None,
) -> Path:
    """Rewrite a model with additional `keys`; of a split model, only the part `(number, count)`, numbered from 0.

    `twice` maps tensors to a second name, under which they are also written.
    """
    reader = gguf.GGUFReader(source)
    keys = dict(keys or {})
    number, count = part or (0, 1)
    writer = gguf.GGUFWriter(path, "llama")
    for found in reader.fields.values() if number == 0 else ():
        if not found.name.startswith("GGUF.") and found.name not in {"general.architecture", *keys}:
            sub = found.types[-1] if found.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(found.name, found.contents(), found.types[0], sub)
    for name, value in keys.items():
        {str: writer.add_string, float: writer.add_float32, int: writer.add_int32}[type(value)](name, value)
    if part is not None:
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
    for tensor in reader.tensors[number::count]:
        for name in filter(None, (tensor.name, (twice or {}).get(tensor.name))):
            writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    return close(writer, path)


def adapter(
    path: Path, shapes: Mapping[str, Sequence[int]], architecture: str = "llama", kind: str = "lora",
) -> Path:
    """Write an adapter that changes nothing; `shapes` are (inputs, outputs) by matrix name."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", 1.0)
    for name, (inputs, outputs) in shapes.items():
        turned = name == "token_embd.weight"  # llama.cpp takes its rows
        first, second = ((outputs, 2), (inputs, 2)) if turned else ((2, inputs), (outputs, 2))
        writer.add_tensor(f"{name}.lora_a", np.zeros(first, dtype=np.float32))
        writer.add_tensor(f"{name}.lora_b", np.zeros(second, dtype=np.float32))
    return close(writer, path)


def close(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
