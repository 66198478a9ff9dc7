"""The passes of one replica: what a schedule that runs backward early counts before them."""

import keras
import numpy as np

import kparallel
from kparallel.engine import forward_backward
from kparallel.engine.graph_part import ancestors


def test_statistics_that_are_counted_early_wait_for_no_layer(monkeypatch):
    """Both stages are on one lane, where actions wait for one another."""
    counted, factors = [], forward_backward.whole_batch_factors

    def noted(replica, share, terms, statistics, scale):
        counted.extend(statistics)
        return factors(replica, share, terms, statistics, scale)

    monkeypatch.setattr(forward_backward, "whole_batch_factors", noted)
    layers = [keras.layers.Embedding(7, 4, mask_zero=True), keras.layers.Dense(6, activation="tanh")]
    model = keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(3)])
    kparallel.wrap(model, replicas=1, stages=2, microbatches=2, devices=["CPU:0"])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 5)), np.ones((4, 5, 3)), verbose=0)
    names = {operation.name for operation in ancestors(counted, set())}
    assert any("count/1F0" in name for name in names)
    assert not any("Tanh" in name or "MatMul" in name for name in names), names
