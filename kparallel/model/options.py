"""What a user may say about a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from kparallel.errors import PlanError
from kparallel.planning.plan import check_shard
from kparallel.schedule import registered

__all__: list[str] = []

_BALANCES = ("flops", "parameters", "time")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The user's options for a plan; `kparallel.plan` documents them, and has the same defaults."""

    replicas: int | None = None
    stages: int | Mapping[str, Sequence[str]] | Sequence[Any] | None = None
    microbatches: int | None = None
    schedule: Any = "1f1b"
    recompute: str | None = None
    balance: str = "flops"
    sample: Any = None
    devices: Sequence[str] | None = None
    memory_per_device: str | float | None = None
    batch_size: int | None = None
    shard: str | None = "auto"

    def given(self) -> list[str]:
        """Return the names of the options that differ from their default."""
        return [each.name for each in fields(self) if _differs(getattr(self, each.name), each.default)]


def _differs(value: Any, default: Any) -> bool:
    # An array, which `sample` may be, is compared with its elements.
    # Defaults other than strings are None, for which identity is enough.
    return value != default if isinstance(value, str) else value is not default


def check_options(options: Options) -> None:
    """Check the type and the range of each option.

    Raises:
        PlanError: An option is not valid; the message says what was expected.
    """
    if options.balance not in _BALANCES:
        raise PlanError(f"Expected balance to be one of {_BALANCES}, received {options.balance!r}.")
    for name in ("microbatches", "replicas", "batch_size"):
        value = getattr(options, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise PlanError(f"Expected {name} to be a whole number of at least 1, received {value!r}.")
    if options.shard != "auto":
        check_shard(options.shard)
    stages = options.stages
    if isinstance(stages, bool) or not isinstance(stages, int | Mapping | Sequence | None) or isinstance(stages, str):
        raise PlanError(
            f"Expected stages to be a number, a list of lists of layer names or a dict of them, received {stages!r}."
        )
    if isinstance(stages, int) and stages < 1:
        raise PlanError(f"Expected at least 1 stage, received {stages}.")
    if isinstance(options.schedule, str):
        registered(options.schedule)
    elif not callable(options.schedule):
        raise PlanError(
            "Expected schedule to be a name, such as '1f1b', or a function of the numbers of stages and microbatches, "
            f"received {options.schedule!r}."
        )
