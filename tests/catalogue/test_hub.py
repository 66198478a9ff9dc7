"""The law over KerasHub's tasks: a classifier and a language model with small random backbones."""

import keras
import numpy as np
import pytest

import kparallel
from tests.catalogue.measure import PLANS, beyond
from tests.equality.measure import use
from tests.equality.tolerances import FLOAT32, FLOAT64

hub = pytest.importorskip("keras_hub", reason="the extra `hub` is not installed")

WORDS = ["red", "green", "blue", "black", "white"]
# Two full batches of four rows and one of three.
TEXTS = [" ".join(np.random.default_rng(row).choice(WORDS, size=4)) for row in range(11)]
LABELS = np.arange(11) % 3
SIZE = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 8}


def classifier():
    """Make a text classifier that takes strings."""
    tokenizer = hub.tokenizers.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    backbone = hub.models.BertBackbone(vocabulary_size=10, dropout=0.0, **SIZE)
    preprocessor = hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=8)
    model = hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=preprocessor, dropout=0.0)
    model.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    return model


def language_model():
    """Make a causal language model whose tokens are letters, and one pair of them."""
    letters = sorted({letter for text in TEXTS for letter in text if letter != " "})
    vocabulary = {token: number for number, token in enumerate(["<|endoftext|>", *letters, "Ġ", "re"])}
    tokenizer = hub.tokenizers.GPT2Tokenizer(vocabulary, merges=["r e"])
    backbone = hub.models.GPT2Backbone(vocabulary_size=len(vocabulary), dropout=0.0, **SIZE)
    preprocessor = hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=8)
    model = hub.models.GPT2CausalLM(backbone, preprocessor)
    model.compile(optimizer=keras.optimizers.Adam(0.01), sampler="greedy", jit_compile=False)
    return model


TASKS = {"classifier": (classifier, (TEXTS, LABELS)), "language_model": (language_model, (TEXTS,))}


def lora(model):
    model.backbone.enable_lora(2)
    model.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)


def fitted(task, plan, before=None, after=None):
    """Make and fit a task, plain or wrapped.

    Args:
        task: One of `TASKS`.
        plan: One of `PLANS`, or None.
        before, after: Called with the model before and after it is wrapped.
    """
    use("float64")
    keras.utils.set_random_seed(0)
    make, data = TASKS[task]
    model = make()
    if before:
        before(model)
    if plan:
        model = kparallel.wrap(model, **PLANS[plan])
    if after:
        after(model)
    history = model.fit(*data, batch_size=4, shuffle=False, verbose=0).history
    found = {f"weight {number}": value for number, value in enumerate(model.get_weights())}
    return model, found | {f"history {key}": np.asarray(values) for key, values in history.items()}


# A task that is loaded from a preset is compiled anew.
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer:UserWarning")
@pytest.mark.parametrize(
    ("task", "plan"),
    [
        pytest.param("classifier", "stages", marks=pytest.mark.full),
        pytest.param("language_model", "replicas", marks=pytest.mark.full),
        pytest.param("classifier", "replicas", marks=pytest.mark.full),
        pytest.param("language_model", "stages", marks=pytest.mark.full),
    ],
)
def test_a_task_fits_texts_as_in_plain_keras(task, plan, tmp_path):
    arms = [fitted(task, each) for each in (None, plan)]
    assert not beyond(arms[1][1], arms[0][1], FLOAT64)
    (plain, _), (wrapped, _) = arms
    np.testing.assert_allclose(*(model.predict(TEXTS, verbose=0) for model in (plain, wrapped)), atol=FLOAT64)
    if task == "language_model":
        texts = [model.generate(TEXTS[:3], max_length=8) for model in (plain, wrapped)]
        assert texts[0] == texts[1]
    wrapped.save_to_preset(str(tmp_path / "preset"))
    again = type(plain).from_preset(str(tmp_path / "preset"))
    for value, saved in zip(again.get_weights(), wrapped.get_weights(), strict=True):
        np.testing.assert_array_equal(value, saved)


@pytest.mark.full
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_lora_trains_as_in_plain_keras(when, plan):
    """Keras holds the factors in float32, whatever the dtype."""
    arms = [fitted("language_model", each, **{when: lora}) for each in (None, plan)]
    assert not beyond(arms[1][1], arms[0][1], FLOAT32)
    keras.utils.set_random_seed(0)
    # The backbone's own weights are frozen.
    np.testing.assert_array_equal(arms[1][1]["weight 0"], language_model().get_weights()[0])
