"""Keras's tests that fail wrapped and pass plain, by mode, as patterns of names, with the reason."""

STRATEGY = "The test compiles inside a strategy of its own, where wrap refuses."
TRACES = "The test counts traces of a train_step, of which there is one for each replica and each number of rows."
FILES = "The test looks for the two files that Keras writes; a wrapped model's backup is a folder, whole or not there."
ROWS = "The test fits 16,000 rows of input to 80 rows of target; where rows are divided, that is refused."

BACKUP = "callbacks/backup_and_restore_test.py::BackupAndRestoreCallbackTest::test_backup_corrupted"
OF_REPLICAS = {
    "backend/tensorflow/distribute_test.py::*::test_correctness_with_fit_and_regularizer": STRATEGY,
    BACKUP: FILES,
    "layers/preprocessing/mel_spectrogram_test.py::*::test_mel_spectrogram_basics": ROWS,
    "callbacks/swap_ema_weights_test.py::*::test_swap_ema_weights_with_tf_distribute": STRATEGY,
    "trainers/trainer_test.py::TestTrainer::test_retracing": TRACES,
}
OF_STAGES = {BACKUP: FILES}
KNOWN = {"replicas": OF_REPLICAS, "stages": OF_STAGES}
