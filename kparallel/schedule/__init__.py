"""Schedules as data: which (stage, microbatch) runs forward or backward when. Knows nothing of TensorFlow."""

from kparallel.schedule.action import Action
from kparallel.schedule.clock import linear_order
from kparallel.schedule.forward import forward_only
from kparallel.schedule.gpipe import gpipe
from kparallel.schedule.names import by_name
from kparallel.schedule.one_f_one_b import one_f_one_b

__all__ = ["Action", "by_name", "forward_only", "gpipe", "linear_order", "one_f_one_b"]
