"""An engine whose workers die of a llama.cpp assertion when they answer."""

import llama_cpp.llama_cpp as llama
from lllms_llamacpp import LlamaCppEngine


class EmptyChain:
    """An empty sampler chain, which fails llama.cpp's assertion that a token was chosen."""

    def __init__(self, context):
        self._context = context
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())

    def sample(self, row):
        return llama.llama_sampler_sample(self._chain, self._context, row)

    def close(self):
        llama.llama_sampler_free(self._chain)


class DeadlyEngine(LlamaCppEngine):
    """llama.cpp, with samplers that choose no token."""

    name = "deadly"

    def load(self, spec, progress):
        model = super().load(spec, progress)
        model.sampler = lambda *_: EmptyChain(model._context)
        return model
