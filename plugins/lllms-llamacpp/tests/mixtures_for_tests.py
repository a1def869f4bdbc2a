"""A small mixture of experts with random weights."""

from collections.abc import Callable
from pathlib import Path

from models_for_tests import DIM, WORDS

LAYERS, EXPERTS, INNER = 3, 4, 256


def write_mixture(write_random: Callable[..., Path], path: Path) -> Path:
    """Write it: a llama whose layers have several experts."""
    keys = {
        "context_length": 1024, "embedding_length": DIM, "feed_forward_length": INNER, "block_count": LAYERS,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5,
        "expert_count": EXPERTS, "expert_used_count": 2,
    }
    head = DIM // 4
    layer = {
        "attn_norm.weight": (DIM,), "attn_q.weight": (DIM, DIM), "attn_k.weight": (2 * head, DIM),
        "attn_v.weight": (2 * head, DIM), "attn_output.weight": (DIM, DIM), "ffn_norm.weight": (DIM,),
        "ffn_gate_inp.weight": (EXPERTS, DIM), "ffn_gate_exps.weight": (EXPERTS, INNER, DIM),
        "ffn_up_exps.weight": (EXPERTS, INNER, DIM), "ffn_down_exps.weight": (EXPERTS, DIM, INNER),
    }
    shapes = {"token_embd.weight": (WORDS, DIM), "output_norm.weight": (DIM,), "output.weight": (WORDS, DIM)}
    shapes |= {f"blk.{number}.{name}": shape for number in range(LAYERS) for name, shape in layer.items()}
    return write_random(path, "llama", keys, shapes)
