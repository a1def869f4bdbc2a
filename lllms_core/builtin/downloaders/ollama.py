"""Models that Ollama has on this machine, by the names that it has for them; used in place."""

from lllms_core.downloads import Downloader, Part, RemoteFile, RemoteModel
from lllms_core.errors import InvalidSource


class OllamaDownloader(Downloader):
    """`ollama:llama3.2:3b`, `ollama:hf.co/org/repo:Q4_K_M`: the weights, without Ollama's other layers."""

    name = "ollama"
    schemes = frozenset({"ollama"})
    local = True

    def canonical(self, source: str) -> str:
        """Return the name with its tag. Raises `InvalidSource` without a name."""
        from lllms_core.store.ollama_manifests import whole_name

        written = source.partition(":")[2]
        if not written.strip("/"):
            raise InvalidSource(f"'{source}' names no model: write ollama:NAME, like ollama:llama3.2:3b")
        return f"ollama:{whole_name(written)}"

    def file_name(self, source: str) -> str:
        """Return Ollama's name, without `:latest`, as the name of a GGUF file, which its weights are in."""
        return f"{self.canonical(source).partition(':')[2].removesuffix(':latest').rpartition('/')[2]}.gguf"

    def find(self, source: str) -> RemoteModel | None:
        """Return the weights; None if Ollama has no such model here."""
        from lllms_core.store.ollama_manifests import fitting_name
        from lllms_core.store.other_programs import find_ollama

        wanted = self.canonical(source).partition(":")[2]
        models = {model.name: model for model in find_ollama().models}
        name = fitting_name(wanted, [*models])
        if name is None:
            return None
        model = models[name]
        notes = [f"{name}, the only one"] if name.casefold() != wanted.casefold() else []
        if model.left_out:
            notes.append(f"Ollama's {', '.join(model.left_out)}: left out")
        digest = model.path.name.removeprefix("sha256-")
        file = RemoteFile(f"{digest}.gguf", source, model.size, digest, model.path)
        return RemoteModel([file], "; ".join(notes))

    def resolve(self, source: str) -> RemoteModel:
        """Return the weights. Raises `InvalidSource`, with the names that there are, if Ollama has no such model."""
        from lllms_core.store.other_programs import find_ollama

        found = self.find(source)
        if found is not None:
            return found
        findings = find_ollama()
        there = ", ".join(f"ollama:{model.name}" for model in findings.models) or "none"
        raise InvalidSource("; ".join(
            [f"Ollama has no GGUF model '{source.partition(':')[2]}' here; there are: {there}", *findings.problems],
        ))

    def fetch(self, file: RemoteFile, part: Part) -> None:  # noqa: ARG002  # a local file is never fetched
        """Never called: the file is already here."""
        raise InvalidSource(f"{file.url} is already on this machine")
