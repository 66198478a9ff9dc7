"""What passes between machines: from the stage that makes a value to each that reads it on another machine."""

from kparallel.mesh import Mesh
from kparallel.planning.groups import layer_groups
from kparallel.planning.plan import Plan
from kparallel.planning.report import between_lines
from kparallel.planning.traffic import Traffic, machines_of, traffic_between
from kparallel.planning.units import Unit

# a ─► b ─► c ─► d, and what `a` makes is read by `c` and `d` as well.
READS = {"a": (), "b": (0,), "c": (0, 1), "d": (0, 2)}
UNITS = [Unit(name, 1.0, 1, 4, 4, size, READS[name], (name,)) for name, size in zip("abcd", (8, 4, 2, 1), strict=True)]


def plan(*row, **options):
    return Plan("net", Mesh((row,)), layer_groups(UNITS, (0, 1, 2, 3), 4), **options)


def test_a_value_goes_straight_to_each_machine_that_reads_it():
    made = plan("worker0/CPU:0", "worker1/CPU:0", "worker2/CPU:0", "worker2/CPU:1")
    assert [group.arriving_from for group in made.groups] == [(), (8,), (8, 4), (8, 0, 2)]
    # Both stages of worker 2 get what `a` makes: each on a device of its own.
    assert traffic_between(made) == [Traffic(0, 1, 8), Traffic(0, 2, 16), Traffic(1, 2, 4)]
    assert machines_of(made) == [0, 1, 2]


def test_nothing_passes_on_one_machine():
    made = plan("CPU:0", "CPU:1", "CPU:2", "CPU:3", batch_size=8)
    assert traffic_between(made) == [] and machines_of(made) == [0] and between_lines(made) == []


def test_a_line_names_both_machines_and_the_bytes_of_a_batch():
    row = ("worker0/CPU:0", "worker0/CPU:1", "worker0/CPU:2", "worker1/CPU:0")
    assert between_lines(plan(*row, batch_size=1000)) == [
        "worker 0 to worker 1: 10 kB of activations for a batch of 1,000 rows, and as much of their gradients back"
    ]
    assert between_lines(plan(*row))[0].startswith("worker 0 to worker 1: 10 B of activations for each row of a batch")
