"""The plans that every case is held against: keyword arguments of `kparallel.wrap`, by name."""

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
}
