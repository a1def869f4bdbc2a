"""The pages of the documentation that are made from the code at each build: Markdown; no documentation tools needed."""

from collections.abc import Mapping
from pathlib import Path

from lllms_core.cli import cli
from reference_pages import (
    commands,
    configuration,
    environment,
    errors,
    metrics,
    parameters,
    python,
    repository,
    routes,
)

__all__ = ["every_page"]


def every_page(root: Path) -> Mapping[str, str]:
    """Return all pages that are made from the code, by their paths on the site; `root` is the repository."""
    reference = {
        "commands": commands.page(cli), "configuration": configuration.page(), "environment": environment.page(),
        "errors": errors.page(), "metrics": metrics.page(), "parameters": parameters.page(), "routes": routes.page(),
    }
    return {
        **{f"reference/{name}.md": text for name, text in reference.items()},
        **{f"reference/python/{name}": text for name, text in python.pages(root).items()},
        **repository.pages(root),
    }
