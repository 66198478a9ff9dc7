"""The model that `wrap` returns: the only room that touches Keras's trainer hooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
import tensorflow as tf

from kparallel.collective.exchange import Alone, Exchange, InProcess
from kparallel.data.rows import share
from kparallel.engine.step import Step
from kparallel.errors import DataError, ModelError
from kparallel.model.optimizer import adopt, copy_state, rebuild_optimizer
from kparallel.planning.plan import Plan
from kparallel.private import (
    build_symbolically,
    compile_arguments,
    compiled_loss,
    compiled_metrics,
    loss_tracker,
    loss_weights,
)
from kparallel.stage.rebuild import build_like, build_with, rebuild, transfer

__all__: list[str] = []


class Runtime:
    """What a wrapped model carries beside its Keras self; no Keras object, so that files stay plain.

    Args:
        plan: The decision.
        strategy: The strategy that holds the variables.
        loss_reduction: What a loss means that returns a scalar.
        builder: The function that built the model, if one did.
    """

    def __init__(
        self, plan: Plan, strategy: tf.distribute.Strategy, loss_reduction: str, builder: Callable[[], Any] | None
    ) -> None:
        self.plan = plan
        self.strategy = strategy
        self.loss_reduction = loss_reduction
        self.builder = builder
        replicas = plan.mesh.replicas
        self.exchange: Exchange = Alone() if replicas == 1 else InProcess(plan.mesh.column(0))

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Create variables as one local copy per replica, which nothing but the step keeps equal."""

        def local(next_creator: Callable[..., Any], **kwargs: Any) -> Any:
            kwargs["aggregation"] = tf.VariableAggregation.NONE
            kwargs["synchronization"] = tf.VariableSynchronization.AUTO
            return next_creator(**kwargs)

        with self.strategy.scope(), tf.variable_creator_scope(local):
            yield


class ParallelModel(keras.Model):  # type: ignore[misc]
    """A Keras model that trains over several devices; made by `kparallel.wrap`.

    It is an instance of the wrapped model's own class as well, and shows that class to Keras's
    serialization, so that every file written from it is a plain Keras file.
    """

    _kparallel: Runtime
    train_function: Any
    test_function: Any
    predict_function: Any

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self).__mro__[2]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), "plan", "unwrap"})

    @property
    def plan(self) -> Plan:
        """The plan that this model follows."""
        return self._kparallel.plan

    @property
    def distribute_strategy(self) -> tf.distribute.Strategy:
        """The strategy that holds the variables; use it to distribute a dataset yourself."""
        return self._kparallel.strategy

    def unwrap(self) -> keras.Model:
        """Return a plain single-device model with the present weights and optimizer state."""
        return unwrap(self)

    def compile(self, optimizer: Any = "rmsprop", *args: Any, **kwargs: Any) -> None:
        """Configure training, as `keras.Model.compile` does; the optimizer is rebuilt on this model's devices."""
        if kwargs.get("jit_compile") is True:
            raise ModelError("jit_compile=True is not supported yet: expected 'auto' or False. Leave jit_compile out.")
        kwargs["jit_compile"] = False
        given = optimizer
        with self._kparallel.scope():
            super().compile(rebuild_optimizer(optimizer), *args, **kwargs)
            adopt(self.optimizer)
            if self.built and hasattr(given, "variables"):
                inner = getattr(given, "inner_optimizer", None)
                if given.built or (inner is not None and inner.built):
                    copy_state(given, self.optimizer, self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """Build the function that `fit` calls for every step."""
        if self.train_function is None or force:
            self.train_function = self._step_function(lambda step: step.train)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Build the function that `evaluate` calls for every step."""
        if self.test_function is None or force:
            self.test_function = self._step_function(lambda step: step.test)
        return self.test_function

    def make_predict_function(self, force: bool = False) -> Any:
        """Build the function that `predict` calls for every step."""
        if self.predict_function is not None and not force:
            return self.predict_function
        step: Step | None = None

        def one(data: Any) -> Any:
            outputs = self.distribute_strategy.run(step.predict, args=(data,))  # type: ignore[union-attr]
            return keras.tree.map_structure(self._concatenate, outputs)

        compiled = one if self.run_eagerly else tf.function(one, reduce_retracing=True, autograph=False)

        def run(batches: list[Any]) -> Any:
            nonlocal step
            if step is None:
                if not self.built:
                    self._maybe_symbolic_build(data_batch=self._local(batches[0]))
                step = self._new_step()
            outputs = [compiled(self._shared(batch)) for batch in batches]
            return keras.tree.map_structure(lambda *parts: tf.concat(parts, 0), *outputs)

        self.predict_function = run
        return run

    def _new_step(self) -> Step:
        return Step(self, self._kparallel.exchange, self.plan.mesh.replicas, self._kparallel.loss_reduction)

    def _step_function(self, choose: Callable[[Step], Callable[[Any], dict[str, Any]]]) -> Callable[[Any], Any]:
        step = self._new_step()
        replica_step = choose(step)

        def one(data: Any) -> dict[str, Any]:
            report = self.distribute_strategy.run(replica_step, args=(data,))
            return self._log(report, step.add_metrics)

        compiled = one if self.run_eagerly else tf.function(one, reduce_retracing=True, autograph=False)

        def run(iterator: Any) -> Any:
            # The next batch is fetched before the step starts: inside it, an exhausted dataset would raise
            # only after an update from an empty batch.
            logs = None
            for _ in range(self.steps_per_execution):
                batch = next(iterator, None)
                if batch is None:
                    break
                logs = compiled(self._shared(batch))
            if logs is None:
                raise StopIteration
            return logs

        return run

    def _log(self, report: dict[str, Any], add_metrics: bool) -> dict[str, Any]:
        """Enter what the replicas report into the metrics, once, and return the logs."""
        first = keras.tree.map_structure(lambda v: v, {k: report[k] for k in report if k != "batch"})
        first = {
            k: [self._local(v) for v in vs] if isinstance(vs, list) else self._local(vs) for k, vs in first.items()
        }
        dtype = loss_tracker(self).dtype
        values = tf.cast(first["terms"], dtype)
        losses = compiled_loss(self)
        scales = [1.0 if w is None else w for w in loss_weights(self)][: values.shape[0]]
        scales += [1.0] * (int(values.shape[0]) - len(scales))
        loss = tf.reduce_sum(values * tf.constant(scales, dtype))
        loss_tracker(self).update_state(loss, sample_weight=tf.cast(first["rows"], dtype))
        if losses is not None:
            for tracker, value in zip(losses.metrics, tf.unstack(values), strict=False):
                tracker.update_state(value)
        if not add_metrics:
            x, y, outputs, weight = keras.tree.map_structure(self._concatenate, report["batch"])
            logs: dict[str, Any] = self.compute_metrics(x, y, outputs, sample_weight=weight)
            return logs
        metrics = compiled_metrics(self)
        for variable, change in zip(metrics.variables if metrics else [], first.get("metrics", []), strict=True):
            variable.assign(variable + tf.cast(change, variable.dtype))
        results: dict[str, Any] = self.get_metrics_result()
        return results

    def _local(self, value: Any) -> Any:
        """Return replica 0's part of a structure."""
        return keras.tree.map_structure(lambda v: self.distribute_strategy.experimental_local_results(v)[0], value)

    def _concatenate(self, value: Any) -> Any:
        parts = self.distribute_strategy.experimental_local_results(value)
        return None if parts[0] is None else tf.concat(parts, 0)

    def _shared(self, data: Any) -> Any:
        """Divide a whole batch between the replicas, unless it is divided already."""
        leaves = keras.tree.flatten(data)
        if any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in leaves):
            return data
        replicas = self.plan.mesh.replicas
        if replicas == 1:
            return keras.tree.map_structure(lambda v: None if v is None else tf.convert_to_tensor(v), data)
        return keras.tree.map_structure(
            lambda leaf: (
                None
                if leaf is None
                else self.distribute_strategy.experimental_distribute_values_from_function(
                    lambda context: share(leaf, context.replica_id_in_sync_group, replicas)
                )
            ),
            data,
        )

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is not None:
            for _, _, batches in iterator:
                data_batch = next(batches, None)
                break
            if data_batch is None:
                raise DataError("Expected a dataset with at least one batch, received an empty one.")
        with self._kparallel.scope():
            build_symbolically(self, self._local(data_batch))
            adopt(self.optimizer)

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        return self.get_metrics_result() if logs else logs


def parallel_class(plain: type[keras.Model]) -> type[ParallelModel]:
    """Return the class of a wrapped model whose plain class is given."""
    return type(f"Parallel{plain.__name__}", (ParallelModel, plain), {})


def unwrap(model: keras.Model) -> keras.Model:
    """Return a plain single-device Keras model with a wrapped model's weights and optimizer state.

    Args:
        model: A model that `kparallel.wrap` returned.

    Returns:
        A plain model, compiled as the wrapped one is.

    Raises:
        ModelError: The model is not wrapped.
    """
    if not isinstance(model, ParallelModel):
        raise ModelError(f"Expected a model that kparallel.wrap returned, received {type(model).__name__}.")
    runtime = model._kparallel
    if runtime.builder is not None:
        plain = build_with(runtime.builder)
        if model.built:
            build_like(model, plain)
            transfer(model, plain)
    else:
        plain = rebuild(model, model.__class__)
    recompile(model, plain)
    return plain


def recompile(source: keras.Model, target: keras.Model) -> None:
    """Compile a model as another is compiled, with fresh metrics and the same optimizer state."""
    arguments = compile_arguments(source)
    if arguments is None:
        return

    def fresh(value: Any) -> Any:
        return type(value).from_config(value.get_config()) if isinstance(value, keras.metrics.Metric) else value

    for key in ("metrics", "weighted_metrics"):
        arguments[key] = keras.tree.map_structure(fresh, arguments.get(key))
    arguments["optimizer"] = rebuild_optimizer(source.optimizer)
    arguments["jit_compile"] = "auto"
    target.compile(**arguments)
    if target.built:
        scope = target._kparallel.scope() if isinstance(target, ParallelModel) else nullcontext()
        with scope:
            copy_state(source.optimizer, target.optimizer, target.trainable_variables)
