"""Hides the optional packages that Keras imports where it finds them, as on a machine that has kparallel alone."""

import sys

sys.modules.update(dict.fromkeys(("matplotlib", "pandas", "sklearn")))
