"""Nothing that one client sends can hurt another: hundreds of hostile inputs against one real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from besieged_for_tests import Besieged, Siege, siege
from hostile_for_tests import Input
from hostile_table_for_tests import ALL

lllms_llamacpp = pytest.importorskip("lllms_llamacpp")
TINY_CHAT = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with siege(lambda: Besieged(tmp_path_factory.mktemp("console"), file=TINY_CHAT)) as made:
        yield made


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_nobody_is_hurt(attacked: Siege, one: Input) -> None:
    """The input is answered rightly; and the server, its log and all others are as they were before."""
    attacked.suffer(one)


def test_all_is_given_back(attacked: Siege) -> None:
    """After all of them."""
    server = attacked.server
    print(server.before, server.uses(), attacked.wounds, len(server.log()))
    print(server.stop())
