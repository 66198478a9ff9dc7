"""Train on scikit-learn's 1,797 handwritten digits over two replicas, then load the saved file with plain Keras."""

import tempfile
from pathlib import Path

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kparallel


def build() -> keras.Model:
    """Return a small convolutional network."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu", padding="same"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ],
        name="digits",
    )


def main() -> None:
    """Train, save, load without kparallel, and compare."""
    kparallel.virtual_devices(2)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    keras.utils.set_random_seed(0)
    model = kparallel.wrap(build(), replicas=2)
    print(model.plan)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=25, validation_data=(x_test, y_test))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.keras"
        model.save(path)
        accuracy = keras.models.load_model(path).evaluate(x_test, y_test, verbose=0)[1]
    print(f"test accuracy of the saved model, loaded by plain Keras: {accuracy:.4f}")


if __name__ == "__main__":
    main()
