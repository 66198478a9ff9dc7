"""The environment of the processes that tests start."""

import os
from pathlib import Path

# Without GPUs, and without the optional packages that Keras imports: they are a third of the time of a start.
_OWN = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("bare")), os.environ.get("PYTHONPATH", "")]),
}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"} | _OWN
