"""`TF_CONFIG`: what it may say, and which field an error shows."""

import json

import pytest

from kparallel.cluster import Cluster, read_cluster
from kparallel.errors import ClusterError

TWO = ["a:1", "b:2"]


def config(cluster, task):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def test_workers_and_index():
    assert read_cluster(config({"worker": TWO}, {"type": "worker", "index": 1})) == Cluster(("a:1", "b:2"), 1)
    text = read_cluster(config({"worker": TWO}, {"type": "worker", "index": "0"}))
    assert text == Cluster(("a:1", "b:2"), 0) and text.address == "a:1"
    assert read_cluster({"TF_CONFIG": text.to_tf_config()}) == text


@pytest.mark.parametrize(("kind", "index", "place"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)])
def test_the_chief_is_worker_0(kind, index, place):
    cluster = read_cluster(config({"worker": TWO, "chief": ["c:3"], "ps": []}, {"type": kind, "index": index}))
    assert cluster == Cluster(("c:3", "a:1", "b:2"), place)


def test_a_single_worker_is_no_cluster():
    alone = {"type": "worker", "index": 0}
    one = config({"worker": ["a:1"]}, alone)
    for environment in ({}, {"TF_CONFIG": " "}, {"TF_CONFIG": "{}"}, one, config({}, alone)):
        assert read_cluster(environment) is None


WORKER = {"type": "worker", "index": 0}
MALFORMED = {
    "bad JSON": ({"TF_CONFIG": '{"cluster": '}, ["JSON", "character 11", '{"cluster": ']),
    "no object": ({"TF_CONFIG": "[1]"}, ["[1]", "an object"]),
    "cluster is a list": (config(TWO, WORKER), ["TF_CONFIG's cluster", "['a:1', 'b:2']"]),
    "workers are a string": (config({"worker": "a:1,b:2"}, WORKER), ["cluster.worker", "'a:1,b:2'"]),
    "no port": (config({"worker": ["a:1", "b"]}, WORKER), ["host:port", "worker 1", "'b'"]),
    "a scheme": (config({"worker": ["a:1", "grpc://b:2"]}, WORKER), ["host:port", "worker 1", "'grpc://b:2'"]),
    "a list as type": (config({"worker": TWO}, {"type": ["worker"], "index": 0}), ["task.type", "['worker']"]),
    "port out of range": (config({"worker": ["a:1", "b:70000"]}, WORKER), ["worker 1", "'b:70000'"]),
    "duplicate": (config({"worker": ["a:1", "b:2", "a:1"]}, WORKER), ["'a:1'", "workers 0 and 2"]),
    "two chiefs": (config({"chief": TWO}, {"type": "chief", "index": 0}), ["cluster.chief", "one address"]),
    "missing task": ({"TF_CONFIG": json.dumps({"cluster": {"worker": TWO}})}, ["task", "None", '"index"']),
    "missing index": (config({"worker": TWO}, {"type": "worker"}), ["TF_CONFIG's task", "{'type': 'worker'}"]),
    "index out of range": (config({"worker": TWO}, {"type": "worker", "index": 2}), ["task.index", "2 addresses"]),
    "negative index": (config({"worker": TWO}, {"type": "worker", "index": -1}), ["task.index", "received -1"]),
    "index is no number": (config({"worker": TWO}, {"type": "worker", "index": "x"}), ["task.index", "'x'"]),
    "index is true": (config({"worker": TWO}, {"type": "worker", "index": True}), ["task.index", "True"]),
    "evaluator": (config({"worker": TWO}, {"type": "evaluator", "index": 0}), ["task.type", "'evaluator'"]),
    "parameter server": (config({"worker": TWO, "ps": ["p:1"]}, WORKER), ["cluster.ps", "parameter servers"]),
    "unknown job": (config({"workers": TWO}, WORKER), ["cluster.workers", "'workers'"]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_an_error_shows_the_field(name):
    environment, parts = MALFORMED[name]
    with pytest.raises(ClusterError) as caught:
        read_cluster(environment)
    for part in ["TF_CONFIG", *parts]:
        assert part in str(caught.value)


def test_a_cluster_checks_its_index():
    with pytest.raises(ClusterError, match="from 0 to 1, received 2"):
        Cluster(("a:1", "b:2"), 2)
