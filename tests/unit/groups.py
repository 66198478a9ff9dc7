"""Groups of workers of which the others' answers are made up."""

import json

from kparallel.comm.group import SingleWorker


class Answers(SingleWorker):
    """Worker 0 of several: the others answer as this one, but for some changes each."""

    def __init__(self, *changes):
        super().__init__()
        self.workers, self._changes = 1 + len(changes), changes

    def all_gather_text(self, text):
        own = json.loads(text)
        return [text, *(json.dumps(own | change) for change in self._changes)]
