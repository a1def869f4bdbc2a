"""Builds the documentation into `build/docs/site`: `make docs`. Every warning is an error.

The pages of this folder, and those that `reference_pages` makes from the code, go to `build/docs/pages`, where Sphinx
reads them. Nothing is fetched, at build time or by the built pages.
"""

import shutil
import sys
from pathlib import Path

from reference_pages import every_page
from reference_pages.fetching import fetched_elsewhere
from sphinx.cmd.build import build_main

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILT = ROOT / "build" / "docs"


def main() -> int:
    """Build the site; return the exit status."""
    pages = BUILT / "pages"
    if pages.exists():
        shutil.rmtree(pages)
    ignored = shutil.ignore_patterns("*.py", "reference_pages", "__pycache__")
    shutil.copytree(HERE, pages, ignore=ignored)
    for name, text in every_page(ROOT).items():
        path = pages / name
        if path.exists():
            raise FileExistsError(f"docs/{name} is a page that is made from the code")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    flags = ["-W", "--keep-going", "-q", "-a", "-E", "-c", str(HERE), "-d", str(BUILT / "doctrees")]
    failed = build_main([*flags, str(pages), str(BUILT / "site")])
    fetched = sorted(fetched_elsewhere(BUILT / "site"))
    for one in fetched:
        print(f"a page would fetch {one} from another server", file=sys.stderr)
    return failed or bool(fetched)


if __name__ == "__main__":
    status = main()
    if status == 0:
        print(f"{(BUILT / 'site' / 'index.html').relative_to(ROOT)}")
    sys.exit(status)
