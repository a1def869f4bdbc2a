"""A program that a placement runs on another machine: it tells what instances may take there, as a JSON object.

    python -m lllms_core.pool.far_facts

The machine's own configuration may set a limit: `LLLMS_MEMORY_LIMIT`.
"""

import logging
import os
from collections.abc import Mapping

from lllms_core.config import Config, load_config
from lllms_core.errors import LllmsError
from lllms_core.machine import available_cores, die_with
from lllms_core.plugins import Plugins
from lllms_core.pool.devices import find_devices
from lllms_core.pool.needs import memory_limit
from lllms_core.rendezvous import answers, versions
from lllms_core.store.far_files import room


def facts(config: Config, plugins: Plugins) -> Mapping[str, object]:
    """Return what instances may take of this machine together, and what a worker imports here."""
    limit = memory_limit(config.server)
    engines = [provided.object for provided in plugins.engines.values()]
    return {
        "cores": available_cores(), "memory": None if limit is None else limit.total, "disk": room(config),
        "versions": dict(versions()),
        "devices": [{"name": one.name, "total": one.total, "free": one.free} for one in find_devices(engines)],
    }


def main() -> None:
    """Tell them."""
    die_with(os.getppid())
    tell = answers()
    logging.disable(logging.INFO)
    try:
        config = load_config()
        tell(facts(config, Plugins.discover(disable=config.disabled_plugins)))
    except LllmsError as error:
        tell({"error": error.message})


if __name__ == "__main__":
    main()
