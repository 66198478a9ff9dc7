"""Keras's tests that fail wrapped and pass plain, by mode, as patterns of names, with the reason."""

STRATEGY = "The test compiles inside a strategy of its own, where wrap refuses."
TRAIN_STEP = "Refused: the class has a train_step or test_step of its own."
METRIC = "Refused: a metric is updated in compute_loss, which sees the rows of one replica."
SPARSE = "Refused: sparse inputs with an optimizer that squares gradients."
PREDICT_STATE = "To be mended: predict leaves seeds as they are."

TRAINER = "trainers/trainer_test.py::TestTrainer::"
OF_REPLICAS = {
    "callbacks/swap_ema_weights_test.py::*::test_swap_ema_weights_with_tf_distribute": STRATEGY,
    TRAINER + "test_compute_loss_no_training_backwards_compatibility": METRIC,
    TRAINER + "test_evaluate_with_custom_compute_loss": METRIC,
    TRAINER + "test_evaluate_with_custom_test_step_*": TRAIN_STEP,
    TRAINER + "test_fit_sparse_scipy_*": SPARSE,
    TRAINER + "test_fit_sparse_tf_*": SPARSE,
    TRAINER + "test_fit_with_custom_train_step": TRAIN_STEP,
    TRAINER + "test_fwd_pass_loss_presence_in_compute_loss": METRIC,
    TRAINER + "test_metric_update_in_compute_loss": METRIC,
    TRAINER + "test_retracing": TRAIN_STEP,
    TRAINER + "test_rng_updated_during_predict": PREDICT_STATE,
}
OF_STAGES: dict[str, str] = {}
KNOWN = {"replicas": OF_REPLICAS, "stages": OF_STAGES}
