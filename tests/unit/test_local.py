"""The environments of the workers of one machine."""

import os

import pytest

from kparallel.cluster import read_cluster
from kparallel.errors import DeviceError
from kparallel.launcher.local import free_addresses, local_environments


def test_each_worker_has_a_place_in_the_cluster_and_a_part_of_the_gpus():
    given = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "TF_CONFIG": "of the launcher", "HOME": "/home"}
    environments = local_environments(given, [0, 1], 2, None)
    clusters = [read_cluster(each) for each in environments]
    assert [cluster.index for cluster in clusters] == [0, 1]
    assert clusters[0].workers == clusters[1].workers and len(set(clusters[0].workers)) == 2
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == ["0,1", "2,3"]
    assert [each["HOME"] for each in environments] == ["/home"] * 2
    assert environments[0]["KPARALLEL_TOKEN"] == environments[1]["KPARALLEL_TOKEN"] != ""
    assert environments[0]["TF_NUM_INTRAOP_THREADS"] == str(max(1, os.cpu_count() // 2))


def test_the_gpus_of_a_lost_workers_place_stay_free():
    environments = local_environments({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [0, 2, 3], 4, None)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == ["0", "2", "3"]


def test_a_single_worker_is_no_cluster():
    (environment,) = local_environments({"TF_CONFIG": "old"}, [0], 1, 2)
    assert "TF_CONFIG" not in environment and environment["CUDA_VISIBLE_DEVICES"] == "-1"


def test_what_the_user_sets_stays():
    (environment,) = local_environments({"TF_NUM_INTRAOP_THREADS": "7", "KPARALLEL_TOKEN": "mine"}, [0], 1, 1)
    assert environment["TF_NUM_INTRAOP_THREADS"] == "7" and environment["KPARALLEL_TOKEN"] == "mine"


def test_gpus_that_do_not_divide_are_refused():
    with pytest.raises(DeviceError, match="divides"):
        local_environments({"CUDA_VISIBLE_DEVICES": "0,1,2"}, [0, 1], 2, None)


def test_free_addresses_differ():
    addresses = free_addresses(5)
    assert len(set(addresses)) == 5 and all(address.startswith("127.0.0.1:") for address in addresses)
