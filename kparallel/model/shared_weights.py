"""Where models can be trained with `shard="weights"`."""

from kparallel.devices import has_several_machines
from kparallel.errors import PlanError

__all__: list[str] = []


def check_shared_weights() -> None:
    """Check that weights can be shared out among the replicas.

    Raises:
        PlanError: One program runs over several machines.
    """
    if has_several_machines():
        raise PlanError(
            "Expected one machine or several workers for shard='weights', received one program over several machines, "
            "where weights do not travel for each action. Say shard='optimizer', or run without --one-program."
        )
