"""When TensorFlow's profiler runs, of which a stand-in takes the place."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from kparallel.callbacks.recorder import Recorder

MODEL = SimpleNamespace(run_eagerly=False)


@pytest.fixture
def profiler(monkeypatch):
    """Return what is asked of the profiler, in order."""
    asked = []
    profiler = tf.profiler.experimental
    monkeypatch.setattr(profiler, "start", lambda *_: asked.append("start"))
    monkeypatch.setattr(profiler, "stop", lambda save=True: asked.append("stop" if save else "drop"))
    return asked


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (1.5, 1)])
def test_a_step_has_to_be_there_before_it_and_in_it(arguments):
    with pytest.raises(ValueError, match="a number of steps from 1 on"):
        Recorder(*arguments)


def test_a_model_without_a_graph_is_refused():
    with pytest.raises(ValueError, match="received run_eagerly=True"):
        Recorder(1, 1).begin(SimpleNamespace(run_eagerly=True))


def test_it_starts_after_so_many_steps_and_records_one_more_than_asked(profiler):
    recorder = Recorder(start=2, steps=2)
    recorder.begin(MODEL)
    started = []
    for _ in range(4):  # Two steps before; then the one that the start disturbs, and the first of the two.
        assert recorder.waits == (not recorder.records)
        started.append(recorder.before_step())
        assert recorder.after_step() is None
    assert started == [False, False, True, False] and profiler == ["start"] and recorder.records
    recorder.stop()
    assert profiler == ["start", "drop"] and not recorder.records


def test_an_epoch_that_ends_too_early_is_dropped_and_recorded_again(profiler):
    recorder = Recorder(start=1, steps=2)
    recorder.begin(MODEL)
    for _ in range(2):
        recorder.before_step()
        recorder.after_step()
    assert recorder.finish() is None and profiler == ["start", "drop"]
    assert recorder.waits and recorder.before_step()
    recorder.stop()


def test_another_profile_that_runs_is_told(monkeypatch):
    def refuse(*_):
        raise tf.errors.AlreadyExistsError(None, None, "another")

    monkeypatch.setattr(tf.profiler.experimental, "start", refuse)
    recorder = Recorder(start=1, steps=1)
    recorder.begin(MODEL)
    recorder.after_step()
    with pytest.warns(UserWarning, match="profiler runs already"):
        assert not recorder.before_step()
    assert not recorder.waits and not recorder.records
