"""The gpt4all engine: checks a GGUF file, and loads it."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lllms_core.chat import check_templates
from lllms_core.engines import TEMPLATE_PARAMETERS, Engine, Progress
from lllms_core.engines.foresight import largest_that_fits, text_tasks, written
from lllms_core.engines.requirements import missing
from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import describe, read_gguf, recommended_sampling
from lllms_core.types import Finding, Memory, ModelSpec, Task
from lllms_gpt4all.options import Options
from lllms_gpt4all.preflight import EMBEDDING, beyond_training, check, context_length, estimate

if TYPE_CHECKING:
    from lllms_gpt4all.embedder import Gpt4AllEmbedder
    from lllms_gpt4all.model import Gpt4AllModel

logger = logging.getLogger("lllms.gpt4all")


class Gpt4AllEngine(Engine):
    """Runs GGUF models with gpt4all, one request after the other."""

    name = "gpt4all"
    Options = Options
    parameters = TEMPLATE_PARAMETERS | {
        "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "dimensions",
    }
    file_suffixes = (".gguf",)
    yields_files = True
    checked_constraints = frozenset({"json_object", "json_schema"})

    def inspect(self, spec: ModelSpec) -> Mapping[str, str | int | float]:
        """Return the file's own metadata. Raises `ModelLoadFailed` for a file that can never be loaded."""
        path = _file(spec)
        gguf = read_gguf(path)
        check(gguf, path)
        options = cast(Options, spec.options)
        length = context_length(gguf, options, path, spec.memory)
        own = [gguf.metadata.text(key) for key in ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")]
        check_templates(options.chat_template, filter(None, own), options.tool_calls)
        tasks: frozenset[Task] = frozenset({"embed"}) if gguf.architecture in EMBEDDING else (
            text_tasks(gguf, templated=options.chat_template is not None)
        )
        return describe(gguf, path) | {"tasks": written(tasks), "context_length": length}

    def examine(self, spec: ModelSpec) -> Iterator[Finding]:
        """Yield what is wrong with the file or the options for it."""
        yield from missing(self.name, "gpt4all", "gpt4all")
        yield from super().examine(spec)
        if spec.file is not None:
            with suppress(ModelLoadFailed):  # already reported
                yield from beyond_training(read_gguf(spec.file), cast(Options, spec.options))

    def recommended(self, spec: ModelSpec) -> Mapping[str, object]:
        """Return the sampling parameters in the file."""
        return recommended_sampling(read_gguf(_file(spec)).metadata)

    def estimate(self, spec: ModelSpec) -> Memory:
        """Return the memory that the file's header implies; see `lllms_gpt4all.preflight`."""
        path = _file(spec)
        gguf = read_gguf(path)
        check(gguf, path)
        return estimate(gguf, path, context_length(gguf, cast(Options, spec.options), path, spec.memory))

    def hardware(self, spec: ModelSpec | None = None) -> str:
        """Say that a model computes on the CPU, or on which device it was told to."""
        device = Options().device if spec is None else cast(Options, spec.options).device
        if device == "cpu":
            return 'CPU (options.device may be "gpu", "cuda" or "kompute")'
        return f"GPU (options.device is {device!r})"

    def smaller(self, spec: ModelSpec, fits: Callable[[Memory], bool]) -> Iterator[str]:
        """Yield a context with which the model would fit."""
        path = _file(spec)
        gguf = read_gguf(path)
        check(gguf, path)
        length = context_length(gguf, cast(Options, spec.options), path, spec.memory)
        if found := largest_that_fits(length, lambda length: fits(estimate(gguf, path, length))):
            yield f"options.context_length = {found}"

    def warm(self) -> None:
        """Import gpt4all and what surrounds it."""
        import_module("lllms_gpt4all.loading")

    def load(self, spec: ModelSpec, progress: Progress) -> "Gpt4AllModel | Gpt4AllEmbedder":
        """Load the file into a new context."""
        for finding in missing(self.name, "gpt4all", "gpt4all"):
            raise ModelLoadFailed(finding.text)
        path = _file(spec)
        gguf = read_gguf(path)
        check(gguf, path)
        options = cast(Options, spec.options)
        length = context_length(gguf, options, path, spec.memory)
        for finding in beyond_training(gguf, options):
            logger.warning("%s", finding.text)
        # Imported late, because it imports gpt4all.
        from lllms_gpt4all.loading import load

        model = load(spec, gguf, length, progress)
        logger.info(
            "a request may hold %d tokens%s; the model was trained for %s", length,
            ' (context_length is "auto")' if options.context_length == "auto" else "",
            gguf.hyperparameter("context_length") or "an unknown number",
        )
        return model


def _file(spec: ModelSpec) -> Path:
    if spec.file is None:
        raise ModelLoadFailed(f"model '{spec.name}' names no file; set models.{spec.name}.file to a GGUF file")
    return spec.file
