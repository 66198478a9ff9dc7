"""The plans that every case is held against: keyword arguments of `kparallel.wrap`, by name."""

from tests.choice import some

PLANS = {
    "1x1": {"replicas": 1},
    "2x1": {"replicas": 2},
    "3x1": {"replicas": 3},
    "2x1_microbatches": {"replicas": 2, "stages": 1, "microbatches": 2},
    "1x2": {"replicas": 1, "stages": 2, "microbatches": 1},
    "1x2_1f1b": {"replicas": 1, "stages": 2, "microbatches": 3},
    "2x2_gpipe_recompute": {"replicas": 2, "stages": 2, "microbatches": 2, "schedule": "gpipe", "recompute": "always"},
    "1x2_except_last": {"replicas": 1, "stages": 2, "microbatches": 4, "recompute": "except_last"},
    "2x1_two_on_one_device": {"replicas": 2, "stages": 2, "microbatches": 2, "devices": ["CPU:0", "CPU:1"]},
    "2x2_zb_h1": {"replicas": 2, "stages": 2, "microbatches": 3, "schedule": "zb_h1"},
    "1x3_zb_h1_recompute": {
        "replicas": 1,
        "stages": 3,
        "microbatches": 4,
        "schedule": "zb_h1",
        "recompute": "except_last",
    },
    "2x1_sharded": {"replicas": 2, "shard": "optimizer"},
    "3x1_sharded": {"replicas": 3, "shard": "optimizer"},
    "2x2_sharded": {"replicas": 2, "stages": 2, "microbatches": 2, "shard": "optimizer"},
    "2x1_weights": {"replicas": 2, "shard": "weights"},
    "2x2_weights": {"replicas": 2, "stages": 2, "microbatches": 2, "shard": "weights"},
    "3x1_weights_of_three_stages": {
        "replicas": 3,
        "stages": 3,
        "microbatches": 1,
        "devices": ["CPU:0", "CPU:1", "CPU:2"],
        "shard": "weights",
    },
}

# Plans of one kind divide a batch by the same means; by default a feature meets one plan of each.
KINDS = {
    "1x1": "one replica",
    "2x1": "replicas",
    "3x1": "replicas",
    "2x1_microbatches": "microbatches of replicas",
    "1x2": "pipeline",
    "1x2_1f1b": "pipeline",
    "1x2_except_last": "pipeline",
    "2x2_gpipe_recompute": "pipelines of replicas",
    "2x1_two_on_one_device": "pipelines of replicas",
    "2x2_zb_h1": "split backward passes",
    "1x3_zb_h1_recompute": "split backward passes",
    "2x1_sharded": "sharded optimizer",
    "3x1_sharded": "sharded optimizer",
    "2x2_sharded": "sharded optimizer",
    "2x1_weights": "sharded weights",
    "2x2_weights": "sharded weights",
    "3x1_weights_of_three_stages": "sharded weights",
}


def plans(*names, default=("2x2_gpipe_recompute",)):
    """Return the plans of a test as parameters, all but those of `default` marked `full`."""
    return some(names, *(name for name in names if name in default))
