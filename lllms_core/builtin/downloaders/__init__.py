"""Where model files come from: this machine (`file:`, `ollama:`), the web (`https:`, `http:`), Hugging Face (`hf:`)."""

from collections.abc import Iterable

from lllms_core.builtin.downloaders.file import FileDownloader
from lllms_core.builtin.downloaders.ollama import OllamaDownloader
from lllms_core.downloads import Downloader
from lllms_core.hookspecs import hookimpl

__all__ = ["lllms_downloaders"]


@hookimpl
def lllms_downloaders() -> Iterable[Downloader]:
    """Provide the downloaders."""
    from lllms_core.builtin.downloaders.http import HttpDownloader
    from lllms_core.builtin.downloaders.hub import HubDownloader

    return [FileDownloader(), HttpDownloader(), HubDownloader(), OllamaDownloader()]
