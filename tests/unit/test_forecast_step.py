"""Predicted steps: each term where it must appear, and nowhere else."""

import random
import time
from dataclasses import replace

import pytest

from kparallel.errors import PlanError
from kparallel.forecast.configuration import Configuration, Fixed
from kparallel.forecast.configurations import configurations
from kparallel.forecast.estimate import TERMS
from kparallel.forecast.hardware import Hardware, Link
from kparallel.forecast.hardware_file import read_hardware
from kparallel.forecast.search import best
from kparallel.forecast.segments import joined, segments
from kparallel.forecast.step import StepModel
from kparallel.forecast.work import Work
from tests.unit.described import chain, transformer

# Links without latency and bandwidth to spare: what a step takes is arithmetic and schedule.
IDEAL = Hardware(
    "ideal", 8, 1e12, {"float32": 1e12}, 1.0, Link(1e30, 0), machines=16, between=Link(1e30, 0), memory_bandwidth=1e30
)


def step(units, configuration, batch_size=64, hardware=IDEAL, slots=2, **seconds):
    model = StepModel(Work(units, hardware, **seconds), batch_size, slots)
    return model.estimate(configuration, model.work.cut(configuration.stages))


def test_one_device_computes_and_does_nothing_else():
    time = step(chain(8), Configuration(1)).time
    assert time.compute == pytest.approx(8 * 1e9 * 64 * 3 / 1e12)  # A backward pass is two forward passes.
    assert time.total == pytest.approx(time.compute) and time.bound_by == "compute"


def test_replicas_divide_the_batch():
    one = step(chain(8), Configuration(1)).time.total
    assert step(chain(8), Configuration(4)).time.total == pytest.approx(one / 4)
    assert step(chain(8), Configuration(3)).time.total == pytest.approx(one * 22 / 64)  # The largest share.


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_the_bubble_of_a_pipeline(schedule):
    for stages, microbatches in [(2, 2), (4, 8), (8, 64)]:
        time = step(chain(8), Configuration(1, stages, stages, microbatches, schedule)).time
        assert time.bubble / time.total == pytest.approx((stages - 1) / (microbatches + stages - 1))
    interleaved = step(chain(8), Configuration(1, 4, 8, 8, "interleaved")).time
    assert interleaved.bubble / interleaved.total == pytest.approx(3 / (8 * 2 + 3))


def test_recomputation_is_a_forward_pass_more():
    time = step(chain(8), Configuration(1, microbatches=4, recompute="always")).time
    assert time.recompute == pytest.approx(time.compute / 3)
    pipeline = step(chain(8), Configuration(1, 4, 4, 8, recompute="always")).time  # Others wait for it too.
    assert pipeline.bubble / pipeline.total == pytest.approx(3 / 11)
    last = step(chain(8), Configuration(1, microbatches=4, recompute="except_last")).time
    assert last.recompute == pytest.approx(time.recompute * 3 / 4)


def test_actions_take_their_start():
    hardware = replace(IDEAL, action_start=1e-3)
    assert step(chain(8), Configuration(1, microbatches=16), hardware=hardware).time.start == pytest.approx(32e-3)
    dealt = Configuration(1, 4, 8, 8, "interleaved")
    assert step(chain(8), dealt, hardware=hardware).time.start == pytest.approx(32e-3)


def test_a_backward_pass_hides_the_reduction_but_for_its_end():
    units = chain(8, parameters=10**7)  # Eight gradients of 40 MB: one travels while the next is computed.
    backward = 8 * 1e9 * 16 * 2 / 1e12

    def reduction(bandwidth):
        return step(units, Configuration(4), hardware=replace(IDEAL, within=Link(bandwidth, 0))).time.reduction

    one = 2 * 3 / 4 * 4e7
    assert reduction(1e12) == pytest.approx(one / 1e12)  # Seven are hidden.
    slow = one / (backward / 2)  # Each takes as long as half of the backward pass.
    assert reduction(slow) == pytest.approx(8 * one / slow - backward * 7 / 8)
    assert step(units, Configuration(1), hardware=replace(IDEAL, within=Link(1e3, 0))).time.reduction == 0


def test_owners_halve_the_first_part_of_the_sum_and_share_the_update():
    hardware = replace(IDEAL, within=Link(1e9, 0), memory_bandwidth=1e9)
    units = [replace(unit, largest_bytes=100) for unit in chain(8, parameters=10**7)]
    whole, shared = (step(units, Configuration(4, shard=shard), hardware=hardware) for shard in (None, "optimizer"))
    assert whole.time.update == pytest.approx(
        8 * 4e7 * 7 / 1e9
    )  # Adam: gradient; weight and two slots, there and back.
    assert shared.time.update == pytest.approx(whole.time.update / 4)
    one = 2 * 3 / 4 * 4e7 / 1e9  # Seconds of one sum. The last one cannot be hidden; eight weights go back.
    assert whole.time.reduction == pytest.approx(one)
    assert shared.time.reduction == pytest.approx(one / 2 + 8 * one / 2)
    assert whole.memory - shared.memory == pytest.approx(2 * 8 * 4e7 * 3 / 4)


def test_transfers_are_on_the_way_and_on_the_link():
    pipeline = Configuration(1, 2, 2, 8)
    latent = step(chain(8), pipeline, hardware=replace(IDEAL, within=Link(1e30, 1e-3))).time
    assert 2e-3 <= latent.transfer <= 16e-3 and latent.bubble == step(chain(8), pipeline).time.bubble
    clogged = step(
        chain(8), replace(pipeline, schedule="gpipe"), hardware=replace(IDEAL, within=Link(3200 / 1.0, 0))
    ).time
    assert 8 <= clogged.total < 10 and clogged.bound_by == "transfer"  # A microbatch of 8 rows takes a second.


def test_memory_may_bound_a_call():
    hardware = replace(IDEAL, memory_bandwidth=1e6)
    one = step(chain(1, flops=1.0), Configuration(1), hardware=hardware, slots=0).time
    assert one.compute == pytest.approx(3 * (4000 + 64 * 2 * 400) / 1e6)


def test_measured_times_replace_arithmetic():
    time = step(chain(4), Configuration(1), batch_size=2, seconds_per_row=[0.1, 0.2, 0.3, 0.4]).time
    assert time.compute == pytest.approx(2 * 3 * 1.0)


def test_a_loop_over_time_costs_a_microbatch_as_much_as_the_batch():
    units = [replace(unit, loop_steps=50) for unit in chain(4)]
    hardware = replace(IDEAL, loop_step=1e-3)
    whole, parts = (step(units, Configuration(1, microbatches=number), hardware=hardware).time for number in (1, 4))
    assert parts.compute - whole.compute == pytest.approx(3 * 4 * 3 * 50e-3)
    model = StepModel(Work(units, hardware), 64)
    fixed = Fixed(replicas=1, stages=2, recompute="never", shard=None)
    assert (
        best(model, fixed)[0].configuration.microbatches
        < best(StepModel(Work(chain(4), hardware), 64), fixed)[0].configuration.microbatches
    )
    told = step(chain(1), Configuration(1, microbatches=2), seconds_per_row=[0.1], seconds_per_call=[2.0]).time
    assert told.compute == pytest.approx(3 * (64 * 0.1 + 2 * 2.0))


def test_terms_add_up_and_the_quick_time_is_never_above():
    source = random.Random(7)
    hardware = Hardware("it", 4, 1e12, {"float32": 1e11}, 0.5, Link(1e9, 1e-5), 8, Link(2e8, 1e-4), 1e10, 1e-4, "nccl")
    model = StepModel(Work(transformer(4, 64, 32), hardware), 64)
    possible = list(configurations(hardware, 64, model.work.most_stages, Fixed()))
    assert len(possible) > 1000
    for configuration in source.sample(possible, 60):
        told = model.estimate(configuration, model.work.cut(configuration.stages))
        assert min(getattr(told.time, name) for name in TERMS) >= -1e-12
        assert model.quick_time(configuration) <= told.time.total * (1 + 1e-9), configuration
        assert configuration.devices <= 32 and configuration.microbatches <= -(-64 // configuration.replicas)


# Fast links with little memory; slow links with enough: there the quick time, which knows no transfers, misleads.
SCARCE = Hardware("it", 4, 3e6, {"float32": 1e11}, 0.5, Link(1e11, 1e-6), 2, Link(2e10, 1e-6), 1e10, 1e-4)
SLOW = replace(SCARCE, memory_per_device=1e9, within=Link(1e8, 1e-4), between=Link(3e7, 1e-3))


@pytest.mark.parametrize("hardware", [SCARCE, SLOW])
def test_the_search_finds_what_trying_all_finds(hardware):
    model = StepModel(Work(transformer(3, 64, 32), hardware), 8)
    found = best(model)
    tried = [(each, model.fitting_cut(each)) for each in configurations(hardware, 8, model.work.most_stages, Fixed())]
    times = {model.estimate(each, stages).time.total for each, stages in tried if stages is not None}
    assert [each.time.total for each in found] == sorted(times)[:5]
    assert all(each.memory <= hardware.memory_per_device for each in found)


def test_what_does_not_fit_is_not_chosen():
    model = StepModel(Work(transformer(4, 64, 32), SCARCE), 16)
    plain = model.estimate(Configuration(8), model.work.cut(1))
    # It would be faster, but does not fit.
    assert plain.memory > SCARCE.memory_per_device and plain.time.total < best(model)[0].time.total


def test_what_the_user_fixes_stays():
    model = StepModel(Work(chain(16), IDEAL), 64)
    fixed = Fixed(replicas=2, stages=8, microbatches=4, schedule="gpipe", recompute="always", shard=None)
    assert {each.configuration for each in best(model, fixed)} == {
        Configuration(2, 8, 8, 4, "gpipe", "always", None, neighbors) for neighbors in ("stages", "replicas")
    }
    dealt = best(model, Fixed(stages=8, schedule="interleaved"))
    assert {each.configuration.stages for each in dealt} == {8}
    with pytest.raises(PlanError, match="at most 16 stages, received stages=32"):
        best(model, Fixed(stages=32))


def test_the_closest_miss_is_told():
    with pytest.raises(PlanError, match=r"fits 1 B per device; there is none. The closest miss is .*16 stages"):
        best(StepModel(Work(chain(16), replace(IDEAL, memory_per_device=1.0)), 64))


def test_segments_start_where_one_tensor_crosses():
    units = transformer(200, 64, 32)
    starts = segments(units)
    assert len(units) == 1402 and len(starts) <= 256
    names = {units[start].name.rsplit("/")[-1] for start in starts[1:-1]}
    assert names <= {"norm", "norm_2"}
    joint = joined(units, starts)
    for name in ("flops_per_row", "weight_bytes", "activation_bytes_per_row"):
        assert sum(getattr(unit, name) for unit in joint) == sum(getattr(unit, name) for unit in units)
    assert all(unit.output_bytes_per_row == 2 * 32 * 64 for unit in joint[:-1])


@pytest.mark.full
def test_ninety_six_blocks_on_1024_devices_take_a_minute_at_most():
    start = time.process_time()
    work = Work(transformer(96, 12288, 2048, 51200, 96), read_hardware("8xA100").with_devices(1024), "bfloat16")
    found = best(StepModel(work, 1536))
    assert time.process_time() - start < 60 and len(found) == 5
    assert all(each.memory <= 80e9 and each.configuration.devices <= 1024 for each in found)
