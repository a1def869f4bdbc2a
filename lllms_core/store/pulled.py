"""The models that clients have fetched: the names under which they are offered again at the next start."""

from collections.abc import Iterator

from attrs import frozen

from lllms_core.store.records import key, read_records, write_record
from lllms_core.store.shelf import Shelf


@frozen
class Pulled:
    """A model that a client has fetched."""

    name: str
    """The name by which the client asked for it."""
    source: str


def remember_pulled(shelf: Shelf, pulled: Pulled) -> None:
    """Record a name and its source."""
    write_record(shelf.models_dir / "records" / "pulled" / f"{key(pulled.name)}.json", {
        "name": pulled.name, "source": pulled.source,
    })


def read_pulled(shelf: Shelf) -> Iterator[Pulled]:
    """Yield the recorded models, whether or not their files are still here."""
    for _, pulled in read_records(shelf.models_dir / "records" / "pulled", Pulled):
        yield pulled
