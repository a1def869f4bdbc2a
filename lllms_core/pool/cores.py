"""Shares the machine's cores among the busy instances; pure.

Two engines that each use all cores run at a third of their speed: their threads wait for each other at every barrier.
"""

from collections.abc import Sequence


def share_cores(cores: int, working: Sequence[str]) -> dict[str, int]:
    """Give each busy instance its share: the shares sum to `cores`, and each is at least one.

    `working` lists the instances in the order in which they became busy; the remainder goes to the earliest. With more
    busy instances than cores, each gets one.
    """
    share, rest = divmod(cores, max(len(working), 1))
    return {instance: max(1, share + (rank < rest)) for rank, instance in enumerate(working)}
