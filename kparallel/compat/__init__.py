"""Every private name of TensorFlow and Keras that kparallel uses, by what it is about.

Nothing outside this package touches a private name of theirs. `tests/unit/test_compat.py` names one that
a release moved.
"""
