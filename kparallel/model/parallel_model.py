"""The model that `wrap` returns: the only file that overrides Keras's trainer hooks.

It has them all, each a few lines that call the module which does the work; so it is longer than most files.
"""

from functools import partial, wraps
from types import MethodType
from typing import Any

import keras

from kparallel.comm.failures import translate_worker_loss
from kparallel.compat.copies import as_ordinary
from kparallel.compat.data import epoch_batches
from kparallel.compat.optimizers import own_optimizer
from kparallel.compat.training import compile_arguments, forget_functions, record_jit
from kparallel.data.batches import WholeBatchStrategy
from kparallel.errors import ModelError
from kparallel.model.arguments import named, takes
from kparallel.model.auto_shard import keep_whole, with_shard
from kparallel.model.build import build_missing, place_new
from kparallel.model.call_data import adapted, check_call
from kparallel.model.columns import owners_of
from kparallel.model.first_batch import FirstBatch
from kparallel.model.functions import first_share, predict_function, step_function, tensors
from kparallel.model.overrides import check_overrides, check_steps, has_own
from kparallel.model.own_functions import (
    build_by_step,
    own_predict_function,
    own_test_function,
    own_train_function,
    whole_step,
)
from kparallel.model.runtime import Runtime
from kparallel.model.takeover import give_back, take_over
from kparallel.ownstep.loop import LoopStrategy
from kparallel.planning.plan import Plan
from kparallel.resume.notice import notices_end
from kparallel.resume.progress import Progress
from kparallel.resume.resumable import resumable_arguments
from kparallel.workers.fetch import agree_on_end
from kparallel.workers.fit_arguments import fit_arguments
from kparallel.workers.rejoin import rejoin

__all__: list[str] = []


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
        # (Parallel<Model>, ParallelModel, <Model>, ..., keras.Model)      index 2 is the user's class
        return type(self).__mro__[2]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), "plan", "unwrap"})

    @property
    def plan(self) -> Plan:
        """The plan that this model follows."""
        return self._kparallel.plan

    @property
    def distribute_strategy(self) -> Any:
        """The strategy that holds the variables; use it to distribute a dataset yourself, and in a loop of your own.

        `model.distribute_strategy.run(step, args=(batch,))` runs a step of your own on each replica, as TensorFlow's
        guide has it: an optimizer sums gradients over the replicas, so that losses are to be divided by the rows of the
        global batch.

        While `fit`, `evaluate` or `predict` runs it hands out whole batches: the step itself divides them.
        """
        runtime = self._kparallel
        if runtime.feeding:
            return WholeBatchStrategy(runtime.strategy, runtime.reading)
        if runtime.loop is None:
            owners = partial(owners_of, self, runtime)
            place, whole = partial(place_new, self, runtime), partial(keep_whole, self, runtime)
            shared = runtime.shared_out
            release = None if shared is None else shared.release_in_graph
            runtime.loop = LoopStrategy(
                self,
                runtime.strategy,
                runtime.placement,
                place,
                runtime.draws,
                owners,
                whole,
                release,
                runtime.plan.shard,
            )
        return runtime.loop

    @wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        runtime = self._kparallel
        arguments = named(self.__class__.fit, args, kwargs)
        if not runtime.placement.group.is_single:
            with translate_worker_loss():
                rejoin(runtime.placement)
                arguments = fit_arguments(self, runtime.placement.group, runtime.epoch, arguments)
        else:
            arguments = resumable_arguments(self, runtime.epoch, arguments)
        with notices_end(), runtime.whole_batches():
            history = super().fit(**adapted(runtime, arguments))
        runtime.epoch.callbacks = []  # They may hold weights.
        return history

    @wraps(keras.Model.train_on_batch)
    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        logs = super().train_on_batch(*args, **kwargs)
        if self._kparallel.shared_out is not None:
            self._kparallel.shared_out.gather()  # All workers pass here; a save may follow on one alone.
        return logs

    @wraps(keras.Model.evaluate)
    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        arguments = named(self.__class__.evaluate, args, kwargs)
        check_call(self._kparallel, "evaluate", arguments)
        with self._kparallel.whole_batches():
            return super().evaluate(**adapted(self._kparallel, arguments))

    @wraps(keras.Model.predict)
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        arguments = named(self.__class__.predict, args, kwargs)
        check_call(self._kparallel, "predict", arguments)
        with self._kparallel.whole_batches():
            outputs = super().predict(**adapted(self._kparallel, arguments))
            if self._kparallel.epoch.unsized:
                agree_on_end(self._kparallel.placement, 0)
        return outputs

    def __reduce__(self) -> Any:
        """Pickle and copy as a plain model: what comes back is on one device."""
        # Keras returns a bound method of the class to restore with. It is bound anew, to the plain class.
        read, arguments = super().__reduce__()
        return MethodType(read.__func__, self.__class__), arguments

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save as a plain Keras file, as `keras.Model.save` does; in a cluster only the chief writes."""
        if self._kparallel.writes:
            super().save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Save weights, as `keras.Model.save_weights` does; in a cluster only the chief writes."""
        if self._kparallel.writes:
            super().save_weights(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Export for serving, as `keras.Model.export` does; in a cluster only the chief writes."""
        if not self._kparallel.writes:
            return None
        with as_ordinary(self.weights):  # Exporting traces a function, which keeps what the weights are now.
            return super().export(*args, **kwargs)

    def unwrap(self) -> keras.Model:
        """Turn this model back into a plain one, in place, and return it."""
        return unwrap(self)

    @wraps(keras.Model.compile)
    def compile(self, *args: Any, **kwargs: Any) -> None:
        method = self.__class__.compile  # Perhaps a subclass's own, with arguments and defaults of its own.
        arguments = named(method, args, kwargs)
        if arguments.get("run_eagerly") and not self._kparallel.placement.group.is_single:
            raise ModelError(
                "Expected run_eagerly=False in a cluster, received True: TensorFlow's collectives run in graphs only. "
                "Look into the step on one machine, where run_eagerly=True works."
            )
        jit = arguments.pop("jit_compile", "auto")
        if takes(method, "jit_compile"):
            # Keras would compile the whole step as one program for one device. What was asked for goes to
            # `runtime.jit`, by which the step compiles its stages and updates.
            arguments["jit_compile"] = False
        self._kparallel.jit = jit if isinstance(jit, bool) else None
        former = own_optimizer(getattr(self, "optimizer", None))
        super().compile(**arguments)
        # A function of the user's own may have been traced for the slots that the optimizer has, where they are.
        has_slots = former is not None and former is own_optimizer(self.optimizer) and former.built
        if self._kparallel.shard_is_free and not has_slots:
            self._kparallel.plan = with_shard(self, self._kparallel.plan)
        if jit is True:
            record_jit(self, True)

    def _prepare(self) -> None:
        """Make sure that the hooks, which may be assigned at any time, are called, and place what is new."""
        check_overrides(self)
        check_steps(self, self._kparallel.plan)
        if has_own(self, "train_step"):  # `compile` has seen none that is assigned later.
            keep_whole(self, self._kparallel)
        place_new(self, self._kparallel)

    def _function_of(self, name: str, own: Any, choose: Any, trains: bool = False) -> Any:
        """Return what Keras's loop calls for each step: a step of the model's own, or Keras's over the plan."""
        runtime = self._kparallel
        if has_own(self, name):
            return own(self, runtime)
        whole, check = whole_step(self, runtime, name), FirstBatch(self, runtime, name)
        return step_function(self, runtime, choose, whole, check, trains=trains)

    def make_train_function(self, force: bool = False) -> Any:
        """Build the function that `fit` calls for every step."""
        self._prepare()
        if self.train_function is None or force:
            self.train_function = self._function_of(
                "train_step", own_train_function, lambda step: step.train, trains=True
            )
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Build the function that `evaluate` calls for every step."""
        self._prepare()
        if self.test_function is None or force:
            self.test_function = self._function_of("test_step", own_test_function, lambda step: step.test)
        return self.test_function

    def make_predict_function(self, force: bool = False) -> Any:
        """Build the function that `predict` calls for every step."""
        self._prepare()
        if self.predict_function is None or force:
            own = has_own(self, "predict_step")
            self.predict_function = (
                own_predict_function(self, self._kparallel)
                if own
                else predict_function(self, self._kparallel, FirstBatch(self, self._kparallel, "predict_step"))
            )
        return self.predict_function

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        """Return an epoch's logs, also of one that was resumed after its last step."""
        epoch = self._kparallel.epoch
        if not logs:  # Keras has those of the last step that this process has run: none.
            logs, epoch.logs = epoch.logs, {}
        return super()._get_metrics_result_or_logs(logs) if logs else self.get_metrics_result()

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        runtime = self._kparallel
        follows = iterator is not None and runtime.epoch.follows_data
        if follows:  # The first that a fit builds from is what it trains on.
            runtime.epoch.progress, runtime.epoch.follows_data = Progress(iterator, runtime.epoch.order), False
        if has_own(self, "train_step"):
            if follows:
                build_by_step(self, runtime, epoch_batches(iterator).spec())
            return  # Its own step builds what it uses, as in plain Keras, when it is first traced.
        if has_own(self, "test_step") and not follows:
            return
        if iterator is not None:
            # No batch is read where shapes are known: a generator yields each of its batches once.
            batches = epoch_batches(iterator)
            data_batch = batches.spec()
            if data_batch is None:
                data_batch = first_share(runtime, next(iter(batches)))
        else:
            data_batch = first_share(runtime, tensors(data_batch))
        build_missing(self, runtime, data_batch)


def make_parallel(model: keras.Model, runtime: Runtime) -> ParallelModel:
    """Turn a model, plain or wrapped, into one that follows a plan, in place.

    Args:
        model: Checked.
        runtime: Has the plan and what carries it out.

    Raises:
        ModelError: Its variables cannot be moved; the model is as it was.
    """
    former: Runtime | None = vars(model).get("_kparallel")
    if former is not None:
        _check_rest(model)
    # A class may refuse to have subclasses, so it is made before anything moves.
    kind = type(f"Parallel{type(model).__name__}", (ParallelModel, type(model)), {}) if former is None else type(model)
    if runtime.shared_out is not None:
        runtime.shared_out.belong_to(model)
    take_over(model, runtime)
    if former is None:
        _set_class(model, kind)
        arguments = compile_arguments(model)
        runtime.jit = True if arguments is not None and arguments.get("jit_compile") is True else None
    else:
        former.restore_calls()
        runtime.jit = former.jit
    # Past Keras's tracking: the runtime is no layer, and no file may hold it.
    object.__setattr__(model, "_kparallel", runtime)
    runtime.redirect_calls(model)
    forget_functions(model)
    if model.compiled:
        model.jit_compile = False  # The step compiles its parts by itself.
    wrapped: ParallelModel = model
    return wrapped


def unwrap(model: keras.Model) -> keras.Model:
    """Turn a wrapped model back into a plain one, in place, its variables on one device.

    Args:
        model: A model that `kparallel.wrap` returned.

    Returns:
        The same model, compiled as before. What another wrapped model holds as well stays where it is, and trains all
        the same.

    Raises:
        ModelError: The model is not wrapped, or it is at work.
    """
    if not isinstance(model, ParallelModel):
        raise ModelError(f"Expected a model that kparallel.wrap returned, received {type(model).__name__}.")
    _check_rest(model)
    runtime = model._kparallel
    runtime.restore_calls()
    give_back(model, runtime)
    plain = model.__class__
    object.__delattr__(model, "_kparallel")
    _set_class(model, plain)
    forget_functions(model)
    arguments = compile_arguments(model)
    if arguments is not None:
        model.jit_compile = arguments.get("jit_compile")
    return model


def _check_rest(model: ParallelModel) -> None:
    if model._kparallel.feeding:
        raise ModelError(
            f"Expected a model that is not at work, received {model.name!r} within its fit, evaluate or predict. Wrap "
            "or unwrap it when that is done."
        )


def _set_class(model: keras.Model, kind: type[keras.Model]) -> None:
    """Set the class of a model, past the property by which a wrapped one shows its plain class."""
    object.__dict__["__class__"].__set__(model, kind)
