"""The trained model of the llamacpp plugin, with tokens for filling gaps that it was never trained on."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import lllms_llamacpp

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
MARKS: Mapping[str, int] = {"pre": 922, "suf": 923, "mid": 924, "rep": 925, "sep": 926}
"""Reserved tokens of its vocabulary."""


def write_gap_model(path: Path, marks: Mapping[str, int] = MARKS) -> Path:
    """Write a copy of the model whose vocabulary has these marks."""
    reader = gguf.GGUFReader(TINY)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if field.types[1:] else None)
    for name, token in marks.items():
        writer.add_uint32(f"tokenizer.ggml.fim_{name}_token_id", token)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
