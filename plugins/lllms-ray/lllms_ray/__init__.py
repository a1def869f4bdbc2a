"""Ray for lllms: the instances of models run on the nodes of a cluster, `[placement] kind = "ray"`."""

from collections.abc import Iterable

from lllms_core.hookspecs import hookimpl
from lllms_core.placements import Placement
from lllms_ray.options import RayOptions
from lllms_ray.placement import RayPlacement

__all__ = ["RayOptions", "RayPlacement", "lllms_placements"]


@hookimpl
def lllms_placements() -> Iterable[Placement]:
    """Provide the placement; Ray itself is imported by another process, once a server uses it."""
    return [RayPlacement()]
