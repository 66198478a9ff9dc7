"""The line of the user's own code at which something stands."""

from types import SimpleNamespace

import keras

from kparallel.ownstep import user_code
from kparallel.ownstep.user_code import line_of


def frames(*files):
    return [SimpleNamespace(filename=name, lineno=number) for number, name in enumerate(files, start=1)]


def test_the_innermost_frame_outside_of_libraries_is_named():
    stack = frames("/home/me/train.py", "/home/me/model.py", keras.__file__, user_code.__file__)
    assert line_of(stack) == " at /home/me/model.py:2"


def test_what_was_generated_is_no_line_of_the_users():
    generated = ["/tmp/__autograph_generated_file0.py", "<string>", "<frozen runpy>"]
    assert line_of(frames("/home/me/train.py", *generated)) == " at /home/me/train.py:1"
    assert line_of(frames(*generated)) == ""
