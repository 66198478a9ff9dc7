"""Rings of workers, each in a thread of one process."""

import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kparallel.comm.neighbors import LostError, RingPosition
from kparallel.comm.ring import Ring

SECONDS = 30


class Rings:
    """Makes rings over sockets of its own."""

    def __init__(self):
        self.ends = {}

    def __call__(self, workers, frozen=()):
        """Return one ring for each worker; some find that another is frozen."""
        pairs = [socket.socketpair() for _ in range(workers)]
        seen = dict(frozen)
        rings = []
        for index in range(workers):
            ends = pairs[index][0], pairs[index - 1][1]
            rings.append(Ring(RingPosition(index, workers, lambda index=index: seen.get(index)), *ends))
            self.ends[rings[-1]] = ends
        return rings

    def kill(self, ring):
        """Do as the kernel does for a process that is killed."""
        for end in self.ends[ring]:
            end.shutdown(socket.SHUT_RDWR)


def at_once(calls):
    """Return what each call returns or raises, all running at the same time; one that hangs fails."""

    def caught(call):
        try:
            return call()
        except (LostError, ValueError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return [answer.result(SECONDS) for answer in [pool.submit(caught, call) for call in calls]]


def add(own, total):
    np.add(own, total, out=total)
