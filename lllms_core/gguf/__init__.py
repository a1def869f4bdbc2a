"""The header of a GGUF file: what a model says about itself, without loading it.

Values are made when they are asked for, so that a vocabulary of 150,000 strings costs nothing but its skipping.
"""

from lllms_core.gguf.reading import GGUFError, is_gguf, read_gguf
from lllms_core.gguf.values import GGUF, TENSOR_TYPES, Metadata, TensorInfo, Value, describe

__all__ = ["GGUF", "TENSOR_TYPES", "GGUFError", "Metadata", "TensorInfo", "Value", "describe", "is_gguf", "read_gguf"]
