"""Which GPUs a process sees, and which each worker gets."""

import pytest

from kparallel.errors import DeviceError
from kparallel.launcher.gpus import divide_gpus, visible_gpus


@pytest.mark.parametrize(
    ("named", "expected"),
    [("2, 0", ["2", "0"]), ("", []), ("-1", []), ("1,-1,0", ["1"]), ("GPU-8f,GPU-3a", ["GPU-8f", "GPU-3a"])],
)
def test_what_is_named_is_seen_up_to_the_first_that_is_none(named, expected, tmp_path):
    (tmp_path / "nvidia0").touch()
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": named}, tmp_path) == expected


def test_without_a_name_the_drivers_files_count(tmp_path):
    for name in ("nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "tty"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["2", "10"]


def test_neighbours_stay_together_and_no_gpu_is_left_over():
    assert divide_gpus(["a", "b", "c", "d"], 2) == [["a", "b"], ["c", "d"]]
    assert divide_gpus([], 3) == [[], [], []]
    with pytest.raises(DeviceError, match="divides the 3 GPUs"):
        divide_gpus(["a", "b", "c"], 2)
