"""Compares the first batch with its parts, before Keras's own step runs a model with code of the user's own on it."""

from typing import Any

from kparallel.compat.layers import flatten_layers, float8_variables
from kparallel.data.share import row_count
from kparallel.model.functions import first_share
from kparallel.model.runtime import Runtime
from kparallel.ownstep.custom import listed, own_code
from kparallel.ownstep.keras_step import ModelCheck

__all__: list[str] = []


class FirstBatch:
    """A comparison that is made once, with the first batch that has two rows.

    Args:
        model: The wrapped model.
        runtime: Its plan and what carries it out.
        name: Of the step: `"train_step"`, `"test_step"` or `"predict_step"`.
    """

    def __init__(self, model: Any, runtime: Runtime, name: str) -> None:
        self._model = model
        self._name = name
        self._runtime = runtime
        # With one part there is nothing that could differ.
        self._due = runtime.check != "off" and runtime.placement.replicas * runtime.plan.microbatches > 1
        self._is_first = True

    def is_due(self, batch: Any) -> bool:
        """Tell whether to compare a batch: one with two rows, and none was before."""
        is_first, self._is_first = self._is_first, False
        if is_first and self._due:
            self._bring_weights()
        return self._due and row_count(first_share(self._runtime, batch)) > 1

    def _bring_weights(self) -> None:
        """Let weights that the workers share out come together, of which the comparison reads all."""
        shared = self._runtime.shared_out if self._runtime.plan.shard == "weights" else None
        # All workers are at their first batch here, also those that have no two rows to compare.
        if shared is not None and own_code(self._model, self._name != "predict_step"):
            shared.gather_if_apart()

    def compare(self, batch: Any) -> str | None:
        """Compare a batch with its parts.

        Args:
            batch: Whole, or divided between the replicas: then what the first replica of this process has.

        Returns:
            What to warn of if the step itself runs: that no rows could be compared. None otherwise.

        Raises:
            ModelError: The parts do not do the same.
        """
        # Once, whatever the result: the comparison takes as long as some steps.
        self._due = False
        model, runtime = self._model, self._runtime
        code, pipeline = own_code(model, self._name != "predict_step"), runtime.pipeline(model)
        # Float8 layers round to three bits: what is rounding there hides what would be found.
        if not code or runtime.plan.placed or float8_variables(flatten_layers(model)):
            return None
        devices = runtime.placement.rows[0]
        check = ModelCheck(model, pipeline, runtime.plan, devices, runtime.loss_reduction, code, self._name)
        parts = runtime.placement.replicas * runtime.plan.microbatches
        why_not = check.run(first_share(runtime, batch), parts, runtime.check)
        if not why_not:
            return None
        return (
            f"Whether {listed(code)} of {model.__class__.__name__} do the same on a batch and on its parts was not "
            f'looked at: {why_not}. Say wrap(..., check="off") if each treats rows by themselves.'
        )
