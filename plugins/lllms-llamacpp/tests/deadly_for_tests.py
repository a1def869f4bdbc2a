"""An engine whose workers die of a llama.cpp assertion when they answer."""

from typing import Any

import llama_cpp.llama_cpp as llama
from lllms_llamacpp import LlamaCppEngine

from lllms_core.engines import Progress
from lllms_core.types import ModelSpec


class EmptyChain:
    """An empty sampler chain, which fails llama.cpp's assertion that a token was chosen."""

    def __init__(self, context: llama.llama_context_p) -> None:
        self._context = context
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())

    def sample(self, row: int) -> int:
        return llama.llama_sampler_sample(self._chain, self._context, row)

    def close(self) -> None:
        llama.llama_sampler_free(self._chain)


class DeadlyEngine(LlamaCppEngine):
    """llama.cpp, with samplers that choose no token."""

    name = "deadly"

    def load(self, spec: ModelSpec, progress: Progress) -> Any:
        model: Any = super().load(spec, progress)
        model.sampler = lambda *_: EmptyChain(model._context)
        return model
