"""Recipes for models of several architectures, and a link that keeps their sessions."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from lllms_core.engines.batching.sequences import common_prefix
from lllms_core.engines.session_link import Session

WORDS, DIM, LAYERS = 928, 32, 2
Keys = dict[str, int | float]
Shapes = dict[str, tuple[int, ...]]
NAMES = ["tiny-chat", "llama", "sliding-window", "mamba"]


@define
class Link:
    """Keeps every session it gets, and finds the one with the longest common prefix."""

    model: Any
    min_tokens: int = 8
    max_size: int = 2**30
    sessions: list[Session] = field(factory=list)
    restored: int = 0

    def put(self, session: Session, *, whole: bool) -> None:
        # What is sent goes through the bytes of a store.
        self.sessions.append(Session(session.tokens, bytes(session.state)))

    def find(self, request_id: str, tokens: Sequence[int], known: int, *, whole: bool) -> None:
        shared = [(common_prefix(one.tokens, tokens), one) for one in self.sessions]
        fit = [(n, one) for n, one in shared if n > known and (not whole or n == len(one.tokens))]
        self.restored += bool(fit)
        self.model.found(request_id, max(fit, key=lambda one: one[0])[1] if fit else None)


def transformer(norm: Mapping[str, int], window: int | None) -> tuple[Keys, Shapes]:
    """The keys and tensors of a small transformer."""
    keys: Keys = {
        "context_length": 512, "embedding_length": DIM, "feed_forward_length": 64, "block_count": LAYERS,
        "attention.head_count": 2, "attention.head_count_kv": 1, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.key_length": 16, "attention.value_length": 16, "rope.dimension_count": 16,
        "rope.freq_base": 10000.0,
    }
    if window:
        keys["attention.sliding_window"] = window
    layer: Shapes = {
        "attn_norm.weight": (DIM,), "attn_q.weight": (DIM, DIM), "attn_k.weight": (16, DIM),
        "attn_v.weight": (16, DIM), "attn_output.weight": (DIM, DIM), "ffn_norm.weight": (DIM,),
        "ffn_gate.weight": (64, DIM), "ffn_up.weight": (64, DIM), "ffn_down.weight": (DIM, 64),
        **{f"{name}.weight": (size,) for name, size in norm.items()},
    }
    return keys, layer


def mamba() -> tuple[Keys, Shapes]:
    """The keys and tensors of a small recurrent model."""
    inner, state, rank, kernel = 64, 8, 4, 4
    keys = {
        "context_length": 512, "embedding_length": DIM, "feed_forward_length": 0, "block_count": LAYERS,
        "attention.head_count": 0, "attention.layer_norm_rms_epsilon": 1e-5, "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank,
    }
    return keys, {
        "attn_norm.weight": (DIM,), "ssm_in.weight": (2 * inner, DIM), "ssm_conv1d.weight": (inner, kernel),
        "ssm_conv1d.bias": (inner,), "ssm_x.weight": (rank + 2 * state, inner), "ssm_dt.weight": (inner, rank),
        "ssm_dt.bias": (inner,), "ssm_a": (inner, state), "ssm_d": (inner,), "ssm_out.weight": (DIM, inner),
    }


GEMMA = {"post_attention_norm": DIM, "post_ffw_norm": DIM, "attn_q_norm": 16, "attn_k_norm": 16}
RECIPES = {
    "llama": ("llama", transformer({}, None)), "sliding-window": ("gemma3", transformer(GEMMA, 16)),
    "mamba": ("mamba", mamba()),
}
