"""Which of Keras's hooks a model may have of its own."""

import keras
import pytest

from kparallel.errors import ModelError
from kparallel.mesh import Mesh
from kparallel.model.overrides import check_overrides, check_steps, has_own
from kparallel.planning.plan import LayerGroup, Plan


def plan(stages, microbatches, replicas=1):
    mesh = Mesh(tuple(tuple(f"CPU:{row * stages + stage}" for stage in range(stages)) for row in range(replicas)))
    return Plan("own", mesh, tuple(LayerGroup((f"layer{stage}",), 1, 4) for stage in range(stages)), microbatches)


class Plain(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)


class Steps(Plain):
    def train_step(self, data):
        return super().train_step(data)


class Made(Plain):
    def make_test_function(self, force=False):
        return super().make_test_function(force)


def test_a_hook_may_belong_to_the_class_or_to_the_model():
    model = Plain()
    assert not has_own(model, "train_step") and has_own(Steps(), "train_step")
    model.train_step = lambda data: {}
    assert has_own(model, "train_step") and not has_own(model, "test_step")


def test_a_function_that_would_not_be_called_is_refused():
    check_overrides(Steps())
    with pytest.raises(ModelError, match="Made overrides make_test_function"):
        check_overrides(Made())


@pytest.mark.parametrize(
    ("stages", "microbatches", "words"), [(2, 1, "2 stages and 1 micro"), (1, 3, "1 stages and 3 micro")]
)
def test_a_step_of_ones_own_cannot_be_cut(stages, microbatches, words):
    groups = plan(stages, microbatches)
    check_steps(Plain(), groups)
    with pytest.raises(ModelError, match=f"Steps, which overrides train_step, received {words}"):
        check_steps(Steps(), groups)


def test_a_step_of_ones_own_has_replicas():
    check_steps(Steps(), plan(1, 1, replicas=2))
