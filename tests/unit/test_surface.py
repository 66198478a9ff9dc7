"""A wrapped model's public surface is the plain model's."""

import copy
import inspect
import pickle

import keras
import numpy as np
import pytest

import kparallel
from kparallel import errors
from tests.assertions import assert_alike, assert_fit_alike, doubles, state
from tests.choice import some
from tests.pairs import pair

RNG = np.random.default_rng(0)
X = RNG.normal(size=(9, 3))
Y = RNG.normal(size=(9, 1))


def net(name="net"):
    layers = keras.layers
    inputs = keras.Input((3,))
    hidden = layers.Dropout(0.0)(layers.Dense(4, activation="tanh", name="hidden")(inputs))
    return keras.Model(inputs, layers.Dense(1, name="top")(hidden), name=name)


def compiled_pair(**arguments):
    def trained():
        model = net()
        model.compile(**{"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **arguments})
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        return model

    plain, wrapped = pair(trained, replicas=2)
    return wrapped, plain


def printed(model):
    lines = []
    model.summary(print_fn=lines.append)
    return "\n".join(lines)


def test_it_describes_itself_as_the_plain_model_does():
    wrapped, plain = compiled_pair()
    assert wrapped.to_json() == plain.to_json()
    assert wrapped.get_config() == plain.get_config()
    assert wrapped.get_compile_config() == plain.get_compile_config()
    assert wrapped.count_params() == plain.count_params()
    assert printed(wrapped) == printed(plain)
    assert repr(wrapped) == repr(plain)
    assert wrapped.metrics_names == plain.metrics_names
    assert wrapped.input_shape == plain.input_shape and wrapped.output_shape == plain.output_shape
    assert [v.path for v in wrapped.variables] == [v.path for v in plain.variables]
    assert [v.path for v in wrapped.optimizer.variables] == [v.path for v in plain.optimizer.variables]
    assert wrapped.get_layer("top").name == wrapped.get_layer(index=3).name == "top"
    assert type(wrapped.optimizer) is keras.optimizers.Adam
    assert inspect.signature(wrapped.fit) == inspect.signature(plain.fit)
    assert wrapped.plan.mesh.replicas == 2 and {"plan", "unwrap"} <= set(dir(wrapped))


def test_it_goes_on_from_the_compiled_models_state():
    doubles()
    wrapped, plain = compiled_pair()
    optimizer = wrapped.optimizer
    assert_alike(state(wrapped), state(plain))
    for model in (wrapped, plain):
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    assert_alike(state(wrapped), state(plain))
    back = wrapped.unwrap()
    assert back is wrapped and type(back) is type(plain) and back.optimizer is optimizer
    for model in (back, plain):
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    assert_alike(state(back), state(plain))
    with pytest.raises(errors.ModelError, match="kparallel.wrap returned, received Functional"):
        kparallel.unwrap(plain)


def test_scalars_read_as_python_numbers():
    wrapped, _ = compiled_pair()
    assert float(wrapped.optimizer.learning_rate) == pytest.approx(0.001)
    assert int(wrapped.optimizer.iterations) == 3
    wrapped.optimizer.learning_rate = 0.5
    assert float(wrapped.optimizer.learning_rate) == 0.5
    assert np.asarray(wrapped.weights[0]).shape == (3, 4)
    assert float(wrapped.unwrap().optimizer.learning_rate) == 0.5


class Meddler(keras.callbacks.Callback):
    """Does to a model, while it trains, what users' callbacks do."""

    def __init__(self, folder):
        super().__init__()
        self._file = str(folder / "meddled.weights.h5")

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.optimizer.learning_rate = 0.05
            self.model.save_weights(self._file)
        if epoch == 2:
            self.model.set_weights([weight * 0.5 for weight in self.model.get_weights()])
        if epoch == 3:
            self.model.load_weights(self._file)

    def on_train_batch_end(self, batch, logs=None):
        if float(self.model.optimizer.iterations) == 11:
            self.model.stop_training = True


def test_callbacks_may_meddle_while_it_trains(tmp_path):
    doubles()
    plain, wrapped = pair(net, replicas=2)

    def fit(model):
        folder = tmp_path / str(isinstance(model, kparallel.ParallelModel))
        folder.mkdir()
        return {"x": X, "y": Y, "batch_size": 4, "epochs": 9, "callbacks": [Meddler(folder)]}

    assert_fit_alike(wrapped, plain, fit, lambda: {"optimizer": "adam", "loss": "mse"})
    assert 4 <= len(wrapped.history.history["loss"]) < 9


@pytest.mark.parametrize("option", some([{"run_eagerly": True}, {"jit_compile": True}], {"run_eagerly": True}))
def test_eager_and_xla_steps_equal_plain(option):
    doubles()
    plain, wrapped = pair(net, replicas=2)
    fit = {"x": X, "y": Y, "batch_size": 4, "validation_split": 0.3}
    arguments = {"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **option}
    assert_fit_alike(wrapped, plain, lambda model: fit, lambda: arguments)
    assert_alike(wrapped.predict(X, batch_size=4, verbose=0), plain.predict(X, batch_size=4, verbose=0))
    assert wrapped.get_compile_config()["jit_compile"] == plain.get_compile_config()["jit_compile"]
    assert wrapped.run_eagerly is option.get("run_eagerly", False)


def test_copies_are_plain_models():
    doubles()
    wrapped, plain = compiled_pair()
    for make in (copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))):
        twin = make(wrapped)
        assert type(twin) is type(plain) and not isinstance(twin, kparallel.ParallelModel)
        assert_alike(twin.get_weights(), plain.get_weights())
        assert type(twin.optimizer) is keras.optimizers.Adam
    clone = keras.models.clone_model(wrapped)
    assert type(clone) is type(plain) and not isinstance(clone, kparallel.ParallelModel)
    clone.set_weights(wrapped.get_weights())
    assert_alike(clone.predict(X, verbose=0), plain.predict(X, verbose=0))


@pytest.mark.full
def test_optimizers_that_belong_elsewhere():
    doubles()
    wrapped, plain = compiled_pair()
    own = wrapped.optimizer
    wrapped.compile(own, "mae")
    assert wrapped.optimizer is own and int(own.iterations) == 3
    plain.compile(plain.optimizer, "mae")
    for model in (wrapped, plain):
        model.get_layer("hidden").trainable = False
        model.compile(model.optimizer, "mae")
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    assert_alike(state(wrapped), state(plain))
    before = state(wrapped)
    for model, kept in ((wrapped, own), (plain, plain.optimizer)):
        stranger = keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)])
        stranger.compile("adam", "mse")
        stranger.fit(np.ones((2, 7)), np.ones((2, 2)), verbose=0)
        model.compile(stranger.optimizer, "mse")
        with pytest.raises(ValueError, match="Unknown variable"):
            model.fit(X, Y, verbose=0)
        model.compile(kept, "mse")
    assert_alike(state(wrapped), before)
    for model in (wrapped, plain):
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    assert_alike(state(wrapped), state(plain))


def test_fit_before_compile_is_keras_own_error():
    wrapped = kparallel.wrap(net(), replicas=2)
    for call in (wrapped.fit, wrapped.evaluate, wrapped.train_on_batch, wrapped.test_on_batch):
        with pytest.raises(ValueError, match="call `compile\\(\\)`"):
            call(X, Y)
    assert wrapped.predict(X, verbose=0).shape == (9, 1)


def test_an_argument_given_twice_is_pythons_own_error():
    wrapped, plain = compiled_pair()
    for model in (plain, wrapped):
        with pytest.raises(TypeError, match=r"fit\(\) got multiple values for argument 'batch_size'"):
            model.fit(X, Y, 4, batch_size=7, verbose=0)
        with pytest.raises(TypeError, match="argument 'loss'"):
            model.compile("sgd", "mse", loss="mae")


def outer_of(inner):
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="ones")(inner(inputs)))


def test_models_inside_models():
    """A wrapped model may be a layer of another model, as any model may, wrapped itself or not."""
    doubles()
    wrapped, plain = compiled_pair()
    outer, plain_outer = outer_of(wrapped), outer_of(plain)
    target = np.concatenate([Y, -Y], axis=1)
    assert_alike(outer.predict(X, verbose=0), plain_outer.predict(X, verbose=0))
    for model in (outer, plain_outer):
        model.compile("adam", "mse")
    for step in ("plain", "wrapped"):
        if step == "wrapped":
            assert kparallel.wrap(outer, replicas=2) is outer
        histories = [m.fit(X, target, batch_size=4, shuffle=False, verbose=0).history for m in (outer, plain_outer)]
        assert_alike(*histories)
        assert_alike(state(outer), state(plain_outer))
        for model in (wrapped, plain):
            model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        assert_alike(state(wrapped), state(plain))
        assert_alike(state(outer), state(plain_outer))
    with pytest.raises(ValueError):
        wrapped.get_layer("missing")


def test_models_that_share_layers_want_the_same_devices():
    wrapped, _ = compiled_pair()
    outer, before = outer_of(wrapped), state(wrapped)
    with pytest.raises(errors.ModelError, match=r"Expected the devices of the model 'net'.*unwrap the other one first"):
        kparallel.wrap(outer, replicas=3)
    assert not isinstance(outer, kparallel.ParallelModel)
    assert_alike(state(wrapped), before)
    wrapped.fit(X, Y, verbose=0)
    wrapped.unwrap()
    assert kparallel.wrap(outer, replicas=3).plan.mesh.replicas == 3
