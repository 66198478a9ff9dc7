"""Schedules as data: which lane runs which actions in which order. Made and tested without TensorFlow."""

from kparallel.schedule.action import BACKWARD, FORWARD, WEIGHT, Action, Program, Programs, Schedule, splits_backward
from kparallel.schedule.chart import chart
from kparallel.schedule.clock import Clock, clock, linear_order
from kparallel.schedule.fold import fold
from kparallel.schedule.forward import forward_only
from kparallel.schedule.gpipe import gpipe
from kparallel.schedule.in_flight import deferred, in_flight
from kparallel.schedule.interleaved import interleaved
from kparallel.schedule.one_f_one_b import one_f_one_b
from kparallel.schedule.registry import SCHEDULES, NamedSchedule, by_name, registered
from kparallel.schedule.resolve import programs_for
from kparallel.schedule.validate import check
from kparallel.schedule.zb_h1 import zb_h1
from kparallel.schedule.zb_v import zb_v

__all__ = [
    "BACKWARD",
    "FORWARD",
    "SCHEDULES",
    "WEIGHT",
    "Action",
    "Clock",
    "NamedSchedule",
    "Program",
    "Programs",
    "Schedule",
    "by_name",
    "chart",
    "check",
    "clock",
    "deferred",
    "fold",
    "forward_only",
    "gpipe",
    "in_flight",
    "interleaved",
    "linear_order",
    "one_f_one_b",
    "programs_for",
    "registered",
    "splits_backward",
    "zb_h1",
    "zb_v",
]
