"""How the machine's cores are shared out among the instances at work; pure.

Two engines that each use all cores run at a third of their speed: their threads wait for each other at every barrier.
"""

from collections.abc import Sequence


def share_cores(cores: int, working: Sequence[str]) -> dict[str, int]:
    """Give each instance at work its share: they sum to `cores`, and nobody gets less than one.

    `working` is in the order in which they began to work; what cannot be divided goes to the earliest. With more
    instances at work than cores, each has one.
    """
    share, rest = divmod(cores, max(len(working), 1))
    return {instance: max(1, share + (rank < rest)) for rank, instance in enumerate(working)}
