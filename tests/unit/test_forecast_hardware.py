"""The hardware of a cluster and its file."""

import pytest

from kparallel.errors import PlanError
from kparallel.forecast.hardware import Hardware, Link
from kparallel.forecast.hardware_file import hardware_text, parse_hardware, read_hardware, shipped
from kparallel.forecast.quantity import parse, write

SMALLEST = """
devices_per_machine = 2
memory_per_device = "4GB"
efficiency = 0.5
[flops]
float32 = "1TFLOP/s"
[links.within_machine]
bandwidth = "10GB/s"
latency = "20us"
"""


def test_quantities_read_what_they_write():
    for kind, values in {
        "bytes": (1.0, 8e10, 2.56e11),
        "rate": (12.5e6, 2.5e10, 2.039e12),
        "flops": (1e9, 1.95e13, 9.89e14),
        "seconds": (0.0, 3.4e-6, 0.002, 5.0),
    }.items():
        for value in values:
            assert parse(write(value, kind), kind, "it") == pytest.approx(value, rel=1e-12)
    assert parse("25Gbit/s", "rate", "it") == 3.125e9
    assert parse("80GiB", "bytes", "it") == 80 * 2**30


@pytest.mark.parametrize(
    "text, kind",
    [("25GB", "rate"), ("25 knots", "rate"), (0, "bytes"), (True, "flops"), (-1, "seconds"), ("1e999s", "seconds")],
)
def test_what_is_no_quantity_is_refused(text, kind):
    with pytest.raises(PlanError, match="Expected latency of x such as '"):
        parse(text, kind, "latency of x")


def test_the_smallest_file_has_defaults():
    hardware = parse_hardware(SMALLEST, "small.toml")
    assert hardware == Hardware("small.toml", 2, 4e9, {"float32": 1e12}, 0.5, Link(1e10, 2e-5))
    assert hardware.devices == 2 and hardware.memory_bandwidth == float("inf") and hardware.action_start == 0


def test_files_read_what_is_written(tmp_path):
    for name in shipped():
        hardware = read_hardware(name)
        file = tmp_path / "cluster.toml"
        file.write_text(hardware_text(hardware, ["measured"]))
        assert read_hardware(file) == hardware
        assert file.read_text().startswith("# measured\n")


@pytest.mark.parametrize(
    "change, said",
    [
        (("devices_per_machine = 2", ""), "'devices_per_machine' in it, received only memory_per_device, efficiency"),
        (("efficiency", "eficiency"), "received 'eficiency'. Did you mean 'efficiency'?"),
        (("latency", "bandwith"), "received 'links.within_machine.bandwith'. Did you mean 'bandwidth'?"),
        (('"4GB"', '"4 cows"'), "memory_per_device in it such as '80GB', received '4 cows'"),
        (("0.5", "1.5"), "an efficiency above 0 and at most 1, received 1.5"),
        (("0.5", '"half"'), "efficiency in it to be a number, received 'half'"),
        (("= 2", "= 0"), "devices_per_machine in it to be a whole number of at least 1, received 0"),
        (('float32 = "1TFLOP/s"', ""), "FLOP/s of at least one dtype in [flops] of it, received none"),
        (("[flops]", "[flops"), "Expected TOML in it, received a text that is none"),
        (
            ("efficiency", 'all_reduce = "star"\nefficiency'),
            "all_reduce to be one of ('ring', 'nccl'), received 'star'",
        ),
        (("efficiency", "machines = 3\nefficiency"), "the link between machines for 3 machines, received none"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(change, said):
    with pytest.raises(PlanError) as caught:
        parse_hardware(SMALLEST.replace(*change, 1), "it")
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(
        PlanError, match=r"one of '8xA100', '8xH100', 'cpu-hosts', received '8xA10'.* Did you mean '8xA100'\?"
    ):
        read_hardware("8xA10")
    with pytest.raises(PlanError, match="received 8"):
        read_hardware(8)


def test_another_number_of_devices():
    node = read_hardware("8xA100")
    assert [node.with_devices(count).devices for count in (1, 4, 8, 1024)] == [1, 4, 8, 1024]
    assert node.with_devices(4).machines == 1
    with pytest.raises(PlanError, match="whole machines of 8 devices, received 12. Say 16."):
        node.with_devices(12)
    with pytest.raises(PlanError, match="received 0. Say 8."):
        node.with_devices(0)
    with pytest.raises(PlanError, match="Add the table"):
        parse_hardware(SMALLEST).with_devices(4)


def test_a_dtype_without_figure():
    with pytest.raises(
        PlanError, match="Expected the FLOP/s of float16 in the cluster 'it', which has those of float32"
    ):
        parse_hardware(SMALLEST, "it").flop_rate("float16")


def test_links_are_shared():
    link = Link(2e11, 1e-5, per_device=2.5e10)
    assert [link.rate(sharers) for sharers in (1, 8, 16)] == [2.5e10, 2.5e10, 1.25e10]
    assert Link(2e11, 1e-5).rate() == 2e11
