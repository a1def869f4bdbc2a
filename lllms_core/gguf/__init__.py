"""The header of a GGUF file: a model's own metadata, read without loading it.

Values are decoded on access, so a vocabulary of 150,000 strings only costs the time to skip it.
"""

from lllms_core.gguf.describing import MARKS, TEMPLATE, Scalar, describe, scalars
from lllms_core.gguf.header import GGUF, TENSOR_TYPES, Metadata, TensorInfo, Value
from lllms_core.gguf.header_reader import GGUFError, is_gguf, read_gguf, read_parts, reading_once
from lllms_core.gguf.parts import is_model_file, part_names, part_paths
from lllms_core.gguf.recommended import recommended_sampling

__all__ = [
    "GGUF",
    "MARKS",
    "TEMPLATE",
    "TENSOR_TYPES",
    "GGUFError",
    "Metadata",
    "Scalar",
    "TensorInfo",
    "Value",
    "describe",
    "is_gguf",
    "is_model_file",
    "part_names",
    "part_paths",
    "read_gguf",
    "read_parts",
    "reading_once",
    "recommended_sampling",
    "scalars",
]
