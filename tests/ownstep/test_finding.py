"""What is said of a difference between a whole and its parts."""

from kparallel.ownstep.finding import Finding, described


def test_the_reason_is_what_was_said_of_losses():
    """Twice the whole's is no mean that is taken for a sum where nobody has said that losses are sums."""
    for ratio, sums, words in (
        (0.5, False, 'Say wrap(..., loss_reduction="sum")'),
        (2.0, True, 'Leave out loss_reduction="sum"'),
        (2.0, False, "Likely the step compares rows"),
        (0.5, True, "Likely the step compares rows"),
    ):
        assert words in described(Finding("the gradient", 1.0, ratio), "Model", "train_step", 2, 5, sums)
