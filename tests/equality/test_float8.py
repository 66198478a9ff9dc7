"""float8: scales and histories of magnitudes end as on one device, which the sum of the parts' would not do."""

import keras
import numpy as np
import pytest

import kparallel
from tests.choice import some
from tests.equality.measure import BATCH, EPOCHS, permuted, use
from tests.equality.models import numbers
from tests.equality.plans import PLANS
from tests.equality.tolerances import FLOAT32, MIXED

pytestmark = pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
L = keras.layers


def made(options=None, bias=False):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = L.Dense(8, activation="tanh", use_bias=bias)(inputs)
    hidden = L.Dense(8, activation="tanh", use_bias=bias)(hidden)
    hidden = L.EinsumDense("ab,bc->ac", 8, activation="tanh", bias_axes="c" if bias else None)(hidden)
    model = keras.Model(inputs, L.Dense(3, activation="softmax", use_bias=bias)(hidden))
    model = kparallel.wrap(model, **options) if options else model
    model.quantize("float8")
    return model


def trained(model, seed=None):
    use("float32")
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    x, y = permuted(numbers(), seed)
    history = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0).history
    return {variable.path: variable.numpy() for variable in model.variables} | {"loss": np.array(history["loss"])}


def difference(got, want, least=1e-3):
    """Relative to each number, or to `least` where it is less: magnitudes of gradients are small."""
    assert len(got) == len(want)
    pairs = zip(got.values(), want.values(), strict=True)
    return max(float(np.max(np.abs(one - other) / np.maximum(np.abs(other), least))) for one, other in pairs)


@pytest.fixture(scope="module")
def plain():
    return trained(made())


@pytest.mark.full
def test_the_control(plain):
    assert max(difference(trained(made(), seed), plain) for seed in (1, 2, 3)) < FLOAT32


@pytest.mark.parametrize(
    "plan",
    some(
        ["3x1", "2x1_microbatches", "1x2_1f1b", "2x2_gpipe_recompute", "2x2_sharded", "2x2_weights", "2x2_zb_h1"],
        "2x2_sharded",
    ),
)
def test_float8_equals_one_device(plan, plain):
    assert difference(trained(made(PLANS[plan])), plain) < FLOAT32
    scales = [value for path, value in plain.items() if path.endswith("grad_scale")]
    assert scales and all(scale != 1.0 for scale in scales)


@pytest.mark.full
def test_biases_differ_by_the_rounding_of_their_gradients():
    """Keras rounds a bias, and with it its gradient, to bfloat16: here each part's."""
    found = difference(trained(made(PLANS["2x2_gpipe_recompute"], bias=True)), trained(made(bias=True)), least=1.0)
    assert found < MIXED["mixed_bfloat16"]


def test_other_variables_that_are_overwritten_are_refused():
    def fit(**options):
        model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="softmax")])
        model = kparallel.wrap(model, **options)
        model.layers[0].bias.overwrite_with_gradient = True
        trained(model)

    fit(replicas=1)
    with pytest.raises(kparallel.errors.ModelError, match="bias'.*one replica and one microbatch"):
        fit(replicas=2)
