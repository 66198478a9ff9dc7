"""What the options of `kparallel run` come to."""

import json

import click
import pytest

from kparallel.launcher.run_options import common_environment, elastic_hosts, workers_of
from kparallel.launcher.sizes import Sizes

COMMON = {"timeout": 30.0, "heartbeat": None, "devices_per_worker": None, "hosts": None, "index": None}


@pytest.fixture(autouse=True)
def _no_scheduler(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_PROCID", "JOB_COMPLETION_INDEX", "SM_HOSTS", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_each_worker_of_this_machine_has_an_index_in_one_cluster():
    environments, indices = workers_of(places=[0, 1], gangs=2, **COMMON | {"workers": Sizes(2, 2)})
    told = [json.loads(each["TF_CONFIG"]) for each in environments]
    assert indices == [each["task"]["index"] for each in told] == [0, 1]
    assert told[0]["cluster"] == told[1]["cluster"] and len(told[0]["cluster"]["worker"]) == 2
    assert {each["KPARALLEL_RESTARTS"] for each in environments} == {"2"}


def test_hosts_give_this_machine_one_worker():
    (environment,), indices = workers_of(places=[0], gangs=0, workers=None, **COMMON | {"hosts": "a:1,b:1", "index": 1})
    assert indices == [1] and json.loads(environment["TF_CONFIG"])["cluster"]["worker"] == ["a:1", "b:1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hosts": "a:1,b:1", "index": 0, "workers": Sizes(2, 2)}, "not both"),
        ({"index": 0, "workers": None}, "give --hosts too"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options, words):
    with pytest.raises(click.UsageError, match=words):
        workers_of(places=[0], gangs=0, **COMMON | options)


def test_a_loss_is_told_sooner_in_one_program():
    beats = [
        common_environment(0, None, None, 30.0, None, one_program=one)["KPARALLEL_HEARTBEAT"] for one in (False, True)
    ]
    assert beats == ["60.0", "20.0"]


def test_a_changing_number_of_hosts_ends_at_the_largest_size():
    given = COMMON | {"hosts": "a:1,b:1,c:1", "index": 2, "restarts": 0, "wait": 1.0}
    hosts = elastic_hosts(workers=Sizes(2, 3), **given)
    assert hosts.addresses == ("a:1", "b:1", "c:1") and hosts.index == 2
    with pytest.raises(click.UsageError, match="-n MIN:3, as --hosts names 3, received -n 2:4"):
        elastic_hosts(workers=Sizes(2, 4), **given)
    assert elastic_hosts(workers=Sizes(3, 3), **given) is None
