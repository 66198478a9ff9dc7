"""The one place of tolerances, with the measured controls that justify them.

A difference is relative to the larger of 1 and the wanted number, on every weight, slot, metric and history entry.
"""

import ml_dtypes
import numpy as np

FLOAT64 = 1e-9
# Wherever plain Keras meets it against itself with the rows of each batch permuted; elsewhere FACTOR times the control.
FLOAT32 = 1e-5
FACTOR = 4.0
# Mixed precision: what the compute dtype can tell from 1. Its partial sums are rounded to it on each replica, while a
# permutation leaves the one sum of plain Keras as it is, so that the control says too little here.
MIXED = {
    "mixed_float16": float(np.finfo(np.float16).eps),
    "mixed_bfloat16": float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps),
}

# case: the control, the largest difference of plain Keras from itself in float32 (in the case's own policy where it has
# one), over three permutations of the rows inside each batch. `python -m tests.equality.control` measures it.
CONTROLS = {
    "sgd_momentum": 1.2e-07,
    "nesterov": 1.2e-07,
    "adam": 1.8e-07,
    "amsgrad": 1.2e-07,
    "adamw": 1.2e-07,
    "decay_without_biases": 1.0e-07,
    "adafactor": 6.0e-08,
    "lion": 6.0e-08,
    "muon": 3.5e-07,
    "rmsprop": 1.8e-07,
    "clipnorm": 1.1e-07,
    "global_clipnorm": 2.0e-07,
    "clipvalue": 2.0e-07,
    "ema": 1.8e-07,
    "ema_at_the_end": 1.8e-07,
    "accumulation": 6.0e-08,
    "accumulation_with_clipping": 3.0e-08,
    "exponential_decay": 6.0e-08,
    "cosine_with_warmup": 6.0e-08,
    "sum": 6.0e-08,
    "weights": 8.9e-08,
    "weighted_mean": 1.2e-07,
    "class_weight": 6.0e-08,
    "scalar_loss": 6.0e-08,
    "scalar_sum": 1.2e-07,
    "scalar_of_keras": 6.0e-08,
    "ratio_of_sums": 6.0e-08,
    "rows_compared": 6.0e-08,
    "mean_by_column": 3.0e-08,
    "dice": 6.0e-08,
    "tversky": 3.0e-08,
    "dice_by_name": 6.0e-08,
    "circle_by_name": 1.9e-04,
    "own_call": 1.2e-07,
    "own_call_of_a_mask": 1.1e-07,
    "label_smoothing": 1.0e-07,
    "dict_of_losses": 1.8e-07,
    "dict_of_weights": 6.0e-08,
    "list_of_losses": 3.3e-07,
    "logits": 9.6e-07,
    "regularizers": 9.8e-08,
    "regularizers_and_weights": 6.0e-08,
    "add_loss": 1.1e-07,
    "add_loss_of_keras": 1.6e-07,
    "mask": 1.1e-07,
    "mask_and_weights": 6.0e-08,
    "lstm": 3.0e-08,
    "gru": 1.1e-07,
    "metrics": 6.0e-08,
    "sequential": 1.2e-07,
    "subclassed": 1.1e-07,
    "frozen_in_part": 1.1e-07,
    "masked_kernels": 1.2e-07,
    "spectral": 1.7e-07,
    "spectral_lookup": 1.1e-07,
    "observed": 1.9e-07,
    "convolution": 6.0e-08,
    "synchronized": 1.2e-07,
    "synchronized_adam": 2.5e-07,
    "validation_split": 9.6e-08,
    "validation_data": 8.9e-08,
    "steps_per_execution": 1.8e-07,
    "some_steps": 9.5e-08,
    "later_epochs": 1.2e-07,
    "xla": 1.2e-07,
    "xla_of_a_mask": 3.0e-08,
    "mixed_float16": 0.0e00,
    "mixed_float16_adam": 9.9e-06,
    "mixed_bfloat16": 8.4e-04,
    "positions": 6.0e-08,
    "positions_clipped": 1.5e-08,
    "positions_accumulated": 8.9e-08,
    "positions_xla": 3.0e-08,
    "positions_eagerly": 6.0e-08,
    "positions_mixed_float16": 4.6e-04,
    "held_positions": 1.8e-07,
    "tiled_positions": 1.8e-07,
    "one_table": 2.4e-07,
    "one_table_clipped": 2.2e-07,
    "positions_from_another_stage": 1.2e-07,
    "sparse_inputs": 6.0e-08,
    "sparse_inputs_clipped": 1.2e-07,
    "scalar_loss_and_weights": 3.0e-08,
    "no_reduction": 6.0e-08,
    "shares_without_weight": 6.0e-08,
    "shares_without_tokens": 1.2e-07,
    "add_loss_in_two_stages": 1.2e-07,
    "mixed_float16_regularizers": 0.0e00,
    "mixed_float16_clipping": 1.0e-07,
    "mixed_float16_accumulation": 2.0e-07,
    "ema_and_executions": 1.2e-07,
    "accumulation_and_ema": 1.5e-08,
}


def tolerance(name: str, policy: str) -> float:
    """Return what a case may differ by under a dtype policy."""
    if policy == "float64":
        return FLOAT64
    if policy in MIXED:
        return MIXED[policy]
    return FLOAT32 if CONTROLS[name] <= FLOAT32 else FACTOR * CONTROLS[name]
