"""What workers compare before a collective could wait for one that never joins."""

import pytest

from kparallel.errors import WorkerError
from kparallel.workers.consistency import call_fingerprint, require_same
from tests.unit.groups import Answers


def test_equal_facts_pass_and_the_first_that_differs_is_named_on_each_worker():
    facts = {"call": "fit", "epochs": "2", "shuffle": "True"}
    require_same(Answers({}, {}), facts)
    with pytest.raises(WorkerError, match="same epochs on all workers, received worker 0: 2; worker 1: 2; worker 2: 3"):
        require_same(Answers({}, {"epochs": "3", "shuffle": "False"}), facts)


def test_a_fact_that_another_worker_does_not_have_differs():
    other = Answers({"call": "predict"})
    with pytest.raises(WorkerError, match="same call on all workers, received worker 0: fit; worker 1: predict"):
        require_same(other, {"call": "fit", "epochs": "2"})


def test_the_first_rows_of_arrays_count():
    one, other = (call_fingerprint("predict", [[row]], None, 1) for row in (1.0, 1.0))
    assert one == other
