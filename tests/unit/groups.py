"""Groups of workers of which the others' answers are made up."""

from kparallel.comm.group import SingleWorker


class Answers(SingleWorker):
    """Worker 0 of several: the others answer as this one, but for some changes each."""

    def __init__(self, *changes):
        super().__init__()
        self.workers, self._changes = 1 + len(changes), changes

    def exchange(self, doing, value):
        return [value, *(value | change for change in self._changes)]
