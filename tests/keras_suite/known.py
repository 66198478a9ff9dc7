"""Keras's tests that fail wrapped and pass plain, by mode, as patterns of names, with the reason."""

STRATEGY = "The test compiles inside a strategy of its own, where wrap refuses."
TRACES = "The test counts traces of a train_step, of which there is one for each replica and each number of rows."
ADDED = "Refused: the class has a compute_loss of its own and layers that add losses."

TRAINER = "trainers/trainer_test.py::TestTrainer::"
OF_REPLICAS = {
    "callbacks/swap_ema_weights_test.py::*::test_swap_ema_weights_with_tf_distribute": STRATEGY,
    TRAINER + "test_compute_loss_no_training_backwards_compatibility": ADDED,
    TRAINER + "test_evaluate_with_custom_compute_loss": ADDED,
    TRAINER + "test_fwd_pass_loss_presence_in_compute_loss": ADDED,
    TRAINER + "test_retracing": TRACES,
}
OF_STAGES: dict[str, str] = {}
KNOWN = {"replicas": OF_REPLICAS, "stages": OF_STAGES}
