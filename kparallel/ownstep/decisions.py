"""What was found out about a step while it was traced, for the same step that runs eagerly and has no graph."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__: list[str] = []

Found = TypeVar("Found")


class Decisions:
    """The decisions of one run of a step, in their order.

    Args:
        known: Those of a traced run, to be taken again; None where this run finds them in its graph.
    """

    def __init__(self, known: "Decisions | None" = None) -> None:
        self._known = None if known is None else iter(known.taken)
        self.taken: list[tuple[str, bool, Any]] = []

    def of(self, kind: str, find: Callable[[], Found], conditional: bool = False) -> Found:
        """Return the next decision.

        Args:
            kind: What it is about.
            find: Finds it in the graph.
            conditional: Whether it stands in a condition, both sides of which are traced and one is run.

        Raises:
            RuntimeError: The step took another way than when it was traced.
        """
        if self._known is None:
            found = find()
            self.taken.append((kind, conditional, found))
            return found
        # Decisions are taken again in their order. A traced run goes through both sides of a condition and an eager
        # run through one, so decisions inside conditions may be passed over.
        for known, skipped, decided in self._known:
            if known == kind:
                return cast(Found, decided)
            if not skipped:
                raise RuntimeError(
                    f"Expected the step to do the same as when it was traced, {known}, received {kind}: with "
                    "run_eagerly=True it took another way, by a value that only a run knows."
                )
        raise RuntimeError(f"Expected the step to do no more than when it was traced, received {kind}.")
