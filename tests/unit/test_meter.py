"""Steps and seconds of an epoch, without those that are left out."""

from kparallel.callbacks.meter import Meter


def counted(meter):
    return meter.steps, meter.seconds


def test_what_came_before_does_not_count():
    meter = Meter()
    meter.begin(40, 100.0)
    assert counted(meter) == (0, 0.0)
    meter.reach(42, 103.0)
    assert counted(meter) == (2, 3.0)


def test_a_pause_leaves_out_its_steps_and_its_time():
    meter = Meter()
    meter.begin(0, 0.0)
    meter.reach(2, 2.0)
    meter.pause(2.5)  # Half a second between the steps counts.
    meter.reach(5, 300.0)
    meter.resume()
    assert counted(meter) == (2, 2.5)
    meter.reach(6, 301.0)
    assert counted(meter) == (3, 3.5)


def test_without_a_pause_there_is_nothing_to_resume():
    meter = Meter()
    meter.begin(0, 0.0)
    meter.reach(3, 4.0)
    meter.resume()
    meter.resume()
    assert counted(meter) == (3, 4.0)
