"""What else than `fit` a wrapped model computes: `evaluate`, `predict` and single batches, as the plain one does."""

import keras
import numpy as np
import pytest

import kparallel
from tests.equality.cases import CASES
from tests.equality.measure import build, differences, use
from tests.equality.plans import PLANS
from tests.equality.tolerances import FLOAT64

# One of each kind of model, target, weight and mask, under a plan that it can be laid out in.
SOME = {
    "adam": "2x2_gpipe_recompute",
    "dict_of_weights": "2x2_gpipe_recompute",
    "list_of_losses": "1x2_1f1b",
    "mask_and_weights": "1x2_1f1b",
    "lstm": "3x1",
    "shares_without_weight": "3x1",
    "regularizers_and_weights": "2x2_gpipe_recompute",
    "add_loss_in_two_stages": "1x2_1f1b",
    "dice": "2x1_microbatches",
    "scalar_loss_and_weights": "3x1",
    "metrics": "2x2_gpipe_recompute",
    "synchronized": "3x1",
    "subclassed": "3x1",
}
# Batches of 7, 7, 7 and 1 row: the last leaves replicas without rows.
BATCH = 7


def outputs(model, case):
    model.compile(**case.compile())
    x, y, *weight = case.data()
    given = {"sample_weight": weight[0]} if weight else {}
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, **given)
    found = {"evaluate": model.evaluate(x, y, batch_size=BATCH, verbose=0, return_dict=True, **given)}
    found["predict"] = model.predict(x, batch_size=BATCH, verbose=0)
    some = keras.tree.map_structure(lambda array: array[:4], (x, y, given))
    model.reset_metrics()
    found["train_on_batch"] = model.train_on_batch(*some[:2], return_dict=True, **some[2])
    found["test_on_batch"] = model.test_on_batch(*some[:2], return_dict=True, **some[2])
    found["predict_on_batch"] = model.predict_on_batch(some[0])
    found["weights"] = model.get_weights()
    named = keras.tree.flatten_with_path(found)
    return {"/".join(map(str, path)): np.asarray(value) for path, value in named}


@pytest.mark.parametrize("name", SOME)
def test_outputs_equal_those_of_the_plain_model(name):
    use("float64")
    case = CASES[name]
    want = outputs(build(case), case)
    found = differences(outputs(kparallel.wrap(build(case), **PLANS[SOME[name]]), case), want)
    far = {entry: difference for entry, difference in found.items() if not difference <= FLOAT64}
    assert not far, far
