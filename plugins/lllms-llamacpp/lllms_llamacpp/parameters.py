"""The request parameters that this engine honours, by hand: each is here because `sampling` or `model` acts on it.

This is a separate file, since the server reads the table, and `sampling` imports the native library. For each parameter
`tests/test_honoured.py` proves that it changes answers.
"""

from lllms_core.engines import TEMPLATE_PARAMETERS

SAMPLING = frozenset({
    "temperature", "top_k", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold", "mirostat",
    "mirostat_tau", "mirostat_eta", "repeat_penalty", "frequency_penalty", "presence_penalty", "dry_multiplier",
    "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "logit_bias", "ignore_eos", "seed",
})
"""The fields of `Sampling` from which the sampler chain is built."""
HONOURED = TEMPLATE_PARAMETERS | SAMPLING | {
    "n", "best_of", "logprobs", "top_logprobs", "echo", "suffix", "input_extra", "prediction",
}
"""Those of constraints come with `LlamaCppEngine.constraints`."""
