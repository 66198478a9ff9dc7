"""The law over the table: a wrapped fit equals the plain one."""

import keras
import numpy as np
import pytest

import kparallel
from kparallel.engine.optimizer_update import OptimizerUpdate
from tests.choice import some
from tests.equality.cases import CASES, SCCE
from tests.equality.control import control
from tests.equality.cover import covering, cross, meetings, replicated
from tests.equality.measure import build, differences, reference, train, use
from tests.equality.models import mlp, numbers
from tests.equality.plans import KINDS, PLANS
from tests.equality.tolerances import CONTROLS, FLOAT32, FLOAT64, tolerance
from tests.pairs import pair

# Plain Keras says so of a table that is normalized in its lookup's call: what it assigns there has no gradient.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Gradients do not exist for variables ..spectral_normalization:UserWarning"
)


def check(name, plan, policy=None):
    case = CASES[name]
    policy = policy or case.policy or "float64"
    want = reference(name, policy)
    use(policy)
    wrapped = kparallel.wrap(build(case), **PLANS[plan])
    found = differences(train(wrapped, case), want)
    limit = tolerance(name, policy)
    # `not <=`, so that a NaN is a failure.
    far = {entry: difference for entry, difference in found.items() if not difference <= limit}
    assert not far, f"beyond {limit:.0e}: {far}"


EACH, MORE = covering()
# Of these another case shows nearly as much: `full` has them.
ALIKE = {"nesterov", "amsgrad", "decay_without_biases", "ema_at_the_end", "cosine_with_warmup", "scalar_of_keras"}
ALIKE |= {"dice_by_name", "circle_by_name", "tversky", "own_call_of_a_mask", "dict_of_losses", "add_loss_of_keras"}
ALIKE |= {"gru", "validation_split", "xla_of_a_mask", "positions_xla", "positions_clipped", "positions_accumulated"}
ALIKE |= {"positions_mixed_float16", "one_table_clipped", "sparse_inputs_clipped", "mixed_float16_clipping"}
ALIKE |= {"mixed_float16_accumulation", "accumulation_and_ema", "synchronized_adam", "spectral_lookup"}
ALIKE |= {"tiled_positions", "positions_eagerly", "dict_of_weights", "rmsprop", "ema"}
ALIKE |= {"regularizers_and_weights", "mixed_float16", "mixed_float16_regularizers", "mask", "weights", "dice"}
ALIKE |= {"scalar_loss", "label_smoothing"}
# The catalogue has these optimizers, and other cases these kinds of positions and weights.
ALIKE |= {"muon", "adafactor", "lion", "accumulation"}
ALIKE |= {"held_positions", "positions", "shares_without_tokens", "scalar_loss_and_weights"}
# Of what features meet beyond one plan of each case, every run takes one pair of each plan that it lacks.
CHOSEN = [pair for pair in EACH if pair[0] not in ALIKE]
CHOSEN += {plan: (name, plan) for name, plan in MORE if not replicated(plan)}.values()


@pytest.mark.parametrize(("name", "plan"), some([*EACH, *MORE], *CHOSEN))
def test_wrapped_fit_equals_plain_fit(name, plan):
    check(name, plan)


def test_the_covering_set_covers():
    """Every case on several replicas, every plan, and every feature under every kind of plan that it can take."""
    chosen = [*EACH, *MORE]
    assert len(set(chosen)) == len(chosen)
    assert {name for name, plan in chosen if replicated(plan)} == set(CASES)
    assert {plan for _, plan in chosen} | {"1x1"} == set(PLANS) == set(KINDS)
    met, possible = ({each for pair in pairs for each in meetings(*pair)} for pairs in (chosen, cross()))
    assert met == possible
    assert {plan for _, plan in CHOSEN} | {"1x1"} == set(PLANS)
    assert {feature for name, _ in CHOSEN for feature in CASES[name].features} == {
        feature for case in CASES.values() for feature in case.features
    }


@pytest.mark.full
@pytest.mark.parametrize(("name", "plan"), cross())
def test_every_case_under_every_plan(name, plan):
    check(name, plan)


# One of each kind, and all whose control is beyond FLOAT32; `full` has the others.
IN_FLOAT32 = ["adam"]
IN_FLOAT32 += [name for name, control in CONTROLS.items() if control > FLOAT32 and CASES[name].policy is None]


@pytest.mark.parametrize("name", some(CASES, *IN_FLOAT32))
def test_in_single_precision(name):
    check(name, "3x1", CASES[name].policy or "float32")


@pytest.mark.parametrize("name", some(CASES, "mixed_bfloat16"))
def test_the_recorded_control_holds(name):
    """In order of magnitude, above what float32 resolves."""
    floor = 2e-7
    measured, recorded = (max(value, floor) for value in (control(name), CONTROLS[name]))
    assert recorded / 10 < measured < recorded * 10, f"{name}: recorded {recorded:.1e}, measured {measured:.1e}"


UPDATES = ["sgd_momentum", "adamw", "accumulation", "global_clipnorm", "mixed_float16_adam"]


@pytest.fixture
def compiled(monkeypatch):
    """The devices whose updates were compiled, as for large stages, of which the table has none."""
    devices = []
    whole = OptimizerUpdate.compiled_update
    monkeypatch.setattr("kparallel.engine.optimizer_update.LARGE", 20)
    monkeypatch.setattr("kparallel.engine.optimizer_update.LARGE_TENSOR", 1)
    monkeypatch.setattr(
        OptimizerUpdate,
        "compiled_update",
        lambda self, device, *rest: devices.append(device) or whole(self, device, *rest),
    )
    return devices


@pytest.mark.parametrize("name", some(CASES, "adamw", "mixed_float16_adam"))
def test_updates_as_one_program_of_each_stage_equal_plain_fit(name, compiled):
    """The second stage's program gets the first one's scalars."""
    check(name, "1x2" if CASES[name].cut else "2x1")
    assert len(set(compiled)) == 2 or name not in UPDATES


@pytest.mark.full
def test_an_embeddings_slices_leave_the_other_updates_compiled(compiled):
    check("gru", "2x1")
    assert len(set(compiled)) == 2


@pytest.mark.parametrize("rows", some(range(1, 8), 1, 4))
def test_every_size_of_batch(rows):
    """From one row up to two for each replica and one more, each in a batch of its own."""
    use("float64")
    plain, wrapped = pair(mlp, replicas=3)
    x, y = (part[:rows] for part in numbers())
    histories = []
    for model in (plain, wrapped):
        model.compile(keras.optimizers.SGD(0.1), SCCE)
        histories.append(model.fit(x, y, batch_size=8, verbose=0).history)
    for one, other in zip(wrapped.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(histories[1]["loss"], histories[0]["loss"], rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(wrapped.predict(x, verbose=0), plain.predict(x, verbose=0), rtol=0, atol=FLOAT64)
