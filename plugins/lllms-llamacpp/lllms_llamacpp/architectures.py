"""Architectures that llama.cpp loads and this engine does not run; without importing the native library."""

WITH_ENCODER = "is a model with an encoder, which this engine cannot run yet"
NOT_BY_TOKENS = "is a model that does not generate text token by token"
_REASONS = {
    **dict.fromkeys(("t5", "t5encoder"), WITH_ENCODER),
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), NOT_BY_TOKENS),
}


def why_not(architecture: str) -> str | None:
    """Return the reason for not running this architecture; None if there is no known one."""
    return _REASONS.get(architecture)
