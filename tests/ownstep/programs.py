"""Training steps as users write them, one model each: what a wrapped `fit` has to leave as plain Keras does.

Noise is data here, so that one device and several replicas see the same.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import kparallel

L = keras.layers
ROWS, FEATURES, CLASSES, LATENT = 15, 6, 3, 4  # In batches of 7, 7 and 1: uneven shares, and empty ones.


def mlp(*units, features=FEATURES, activation="tanh", name=None):
    hidden = [L.Dense(unit, activation=activation) for unit in units[:-1]]
    return keras.Sequential([keras.Input((features,)), *hidden, L.Dense(units[-1])], name=name)


def rows(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(ROWS, *shape)) for shape in shapes]


def labels(seed=1):
    return np.random.default_rng(seed).integers(0, CLASSES, ROWS)


@dataclasses.dataclass(frozen=True)
class Program:
    """A model with a step of its own.

    Args:
        model: Makes it, compiled.
        data: Makes what `fit` is given by name, x and y and perhaps more.
        options: Of `kparallel.wrap`.
    """

    model: Callable[[], keras.Model]
    data: Callable[[], dict[str, Any]]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


PROGRAMS: dict[str, Program] = {}


def program(data, **options):
    def note(make):
        PROGRAMS[make.__name__] = Program(make, data, options)
        return make

    return note


def classified():
    return {"x": rows((FEATURES,))[0], "y": labels()}


def regressed():
    x, y = rows((FEATURES,), (1,))
    return {"x": x, "y": y}


class Guide(keras.Model):
    """The first step of Keras's guide."""

    def __init__(self, net, **options):
        super().__init__()
        self.net = net
        self.options = options

    def call(self, x, training=False):
        return self.net(x, training=training)

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred, sample_weight=sample_weight)
        return {m.name: m.result() for m in self.metrics}


@program(regressed)
def guide():
    model = Guide(mlp(8, 1))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


@program(lambda: classified() | {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}})
def guide_with_class_weight():
    model = Guide(mlp(8, CLASSES))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


@program(regressed)
def inherited():
    """Calls Keras's own step, and adds to it."""

    class Model(Guide):
        def __init__(self, net):
            super().__init__(net)
            self.steps_done = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False)

        def train_step(self, data):
            logs = keras.Model.train_step(self, data)
            self.steps_done.assign_add(1)
            return logs | {"steps": self.steps_done.value}

        def test_step(self, data):
            return keras.Model.test_step(self, data) | {"more": tf.constant(1.0, tf.float64)}

    model = Model(mlp(8, 1))
    model.compile(keras.optimizers.Adam(0.01, global_clipnorm=0.1), "mse", metrics=["mae"], steps_per_execution=2)
    return model


@program(classified)
def distillation():
    class Distiller(keras.Model):
        def __init__(self):
            super().__init__()
            self.teacher, self.student = mlp(12, CLASSES, name="teacher"), mlp(6, CLASSES, name="student")
            self.teacher.trainable = False

        def compile(self, student_loss, distillation_loss, alpha=0.3, temperature=3.0, **rest):
            super().compile(**rest)
            self.student_loss, self.distillation_loss = student_loss, distillation_loss
            self.alpha, self.temperature = alpha, temperature

        def call(self, x):
            return self.student(x)

        def train_step(self, data):
            x, y = data
            soft = tf.nn.softmax(self.teacher(x, training=False) / self.temperature)
            with tf.GradientTape() as tape:
                logits = self.student(x, training=True)
                own = self.student_loss(y, logits)
                told = self.distillation_loss(soft, tf.nn.softmax(logits / self.temperature)) * self.temperature**2
                loss = self.alpha * own + (1 - self.alpha) * told
            weights = self.student.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            self.compiled_metrics_update(y, logits)
            return {m.name: m.result() for m in self.metrics} | {"student": own, "distillation": told}

        def compiled_metrics_update(self, y, logits):
            for metric in self.metrics:
                if metric.name != "loss":
                    metric.update_state(y, logits)

    model = Distiller()
    model.compile(
        student_loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        distillation_loss=keras.losses.KLDivergence(),
        optimizer=keras.optimizers.Adam(0.01),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    return model


class Adversaries(keras.Model):
    """A critic with a gradient penalty, updated three times for each update of its generator."""

    def __init__(self):
        super().__init__()
        self.generator = mlp(8, FEATURES, features=LATENT, name="generator")
        self.critic = mlp(8, 1, name="critic")

    def compile(self, critic_optimizer, generator_optimizer):
        super().compile()
        self.critic_optimizer, self.generator_optimizer = critic_optimizer, generator_optimizer
        self.critic_loss = keras.metrics.Mean(name="critic_loss")
        self.generator_loss = keras.metrics.Mean(name="generator_loss")

    @property
    def metrics(self):
        return [self.critic_loss, self.generator_loss]

    def penalty(self, real, fake, mix):
        between = real + mix * (fake - real)
        with tf.GradientTape() as tape:
            tape.watch(between)
            score = self.critic(between, training=True)
        slope = tape.gradient(score, [between])[0]
        return tf.reduce_mean((tf.sqrt(tf.reduce_sum(tf.square(slope), axis=1)) - 1.0) ** 2)

    def train_step(self, data):
        real, noise, mix = data["real"], data["noise"], data["mix"]
        for turn in range(3):
            with tf.GradientTape() as tape:
                fake = self.generator(noise[:, turn], training=True)
                loss = tf.reduce_mean(self.critic(fake)) - tf.reduce_mean(self.critic(real))
                loss += 10.0 * self.penalty(real, fake, mix)
            gradients = tape.gradient(loss, self.critic.trainable_variables)
            self.critic_optimizer.apply_gradients(zip(gradients, self.critic.trainable_variables, strict=True))
        with tf.GradientTape() as tape:
            score = -tf.reduce_mean(self.critic(self.generator(noise[:, 3], training=True)))
        gradients = tape.gradient(score, self.generator.trainable_variables)
        self.generator_optimizer.apply_gradients(zip(gradients, self.generator.trainable_variables, strict=True))
        self.critic_loss.update_state(loss)
        self.generator_loss.update_state(score)
        return {"critic": self.critic_loss.result(), "generator": self.generator_loss.result()}


def noisy():
    real, noise, mix = rows((FEATURES,), (4, LATENT), (1,))
    return {"x": {"real": real, "noise": noise, "mix": mix}}


@program(noisy)
def adversaries():
    model = Adversaries()
    model.compile(keras.optimizers.Adam(0.01, beta_1=0.5), keras.optimizers.RMSprop(0.01))
    return model


class LossState(keras.Model):
    """Keeps losses in metrics that it makes itself."""

    def __init__(self, *names):
        super().__init__()
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    @property
    def metrics(self):
        return list(self.trackers.values())

    def track(self, **values):
        for name, value in values.items():
            self.trackers[name].update_state(value)
        return {name: self.trackers[name].result() for name in values}

    def minimize(self, tape, loss, weights):
        self.optimizer.apply(tape.gradient(loss, weights), weights)


@program(lambda: {"x": dict(zip(("x", "noise"), rows((FEATURES,), (LATENT,)), strict=True))})
def variational():
    class Variational(LossState):
        def __init__(self):
            super().__init__("loss", "reconstruction", "kl")
            self.encoder, self.decoder = mlp(8, 2 * LATENT), mlp(8, FEATURES, features=LATENT)

        def train_step(self, data):
            x, noise = data["x"], data["noise"]
            with tf.GradientTape() as tape:
                mean, log_variance = tf.split(self.encoder(x), 2, axis=1)
                decoded = self.decoder(mean + tf.exp(0.5 * log_variance) * noise)
                reconstruction = tf.reduce_mean(tf.reduce_sum((x - decoded) ** 2, axis=1))
                kl = -0.5 * (1 + log_variance - tf.square(mean) - tf.exp(log_variance))
                kl = tf.reduce_mean(tf.reduce_sum(kl, axis=1))
                loss = reconstruction + kl
            self.minimize(tape, loss, self.trainable_weights)
            return self.track(loss=loss, reconstruction=reconstruction, kl=kl)

    model = Variational()
    model.compile(keras.optimizers.Adam(0.01))
    return model


@program(lambda: {"x": tuple(rows((FEATURES,), (FEATURES,), (1,)))})
def diffusion():
    """A diffusion step, its time drawn before, with a moving average of the network that is written by hand."""

    class Diffusion(LossState):
        def __init__(self):
            super().__init__("noise_loss", "image_loss")
            self.norm = L.Normalization()
            self.norm.build((None, FEATURES))
            self.network, self.average = (mlp(8, FEATURES, features=FEATURES + 1) for _ in range(2))
            self.average.set_weights(self.network.get_weights())

        def train_step(self, data):
            x, noise, time = data[0]
            x = self.norm(x, training=True)
            angle = tf.sigmoid(time)
            mixed = tf.cos(angle) * x + tf.sin(angle) * noise
            with tf.GradientTape() as tape:
                guessed = self.network(tf.concat([mixed, angle], 1), training=True)
                noise_loss = self.loss(noise, guessed)
                image_loss = self.loss(x, (mixed - tf.sin(angle) * guessed) / tf.cos(angle))
            self.minimize(tape, noise_loss, self.network.trainable_weights)
            for weight, average in zip(self.network.weights, self.average.weights, strict=True):
                average.assign(0.9 * average + 0.1 * weight)
            return self.track(noise_loss=noise_loss, image_loss=image_loss)

    model = Diffusion()
    model.compile(keras.optimizers.AdamW(0.01), loss=keras.losses.MeanAbsoluteError())
    return model


def two_views():
    return {"x": tuple(rows((FEATURES,), (FEATURES,)))}


@program(two_views)
def siamese():
    """SimSiam."""

    class SimSiam(LossState):
        def __init__(self):
            super().__init__("loss")
            self.encoder, self.predictor = mlp(8, LATENT), mlp(4, LATENT, features=LATENT)

        def train_step(self, data):
            one, two = data[0]
            with tf.GradientTape() as tape:
                z1, z2 = self.encoder(one), self.encoder(two)
                p1, p2 = self.predictor(z1), self.predictor(z2)
                loss = 0.5 * (self.apart(p1, z2) + self.apart(p2, z1))
            weights = self.encoder.trainable_variables + self.predictor.trainable_variables
            gradients = tape.gradient(loss, weights)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
            self.trackers["loss"].update_state(loss)
            return {"loss": self.trackers["loss"].result()}

        @staticmethod
        def apart(p, z):
            z = tf.stop_gradient(z)
            return -tf.reduce_mean(tf.reduce_sum(tf.nn.l2_normalize(p, 1) * tf.nn.l2_normalize(z, 1), axis=1))

    model = SimSiam()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    return model


@program(two_views)
def momentum_contrast():
    """MoCo: a momentum encoder, and a queue of keys."""

    class MoCo(LossState):
        def __init__(self):
            super().__init__("loss")
            self.queries, self.keys = mlp(8, LATENT), mlp(8, LATENT)
            self.keys.set_weights(self.queries.get_weights())
            self.queue = self.add_weight(shape=(12, LATENT), initializer="glorot_uniform", trainable=False)

        def train_step(self, data):
            one, two = data[0]
            key = tf.nn.l2_normalize(self.keys(two), 1)
            with tf.GradientTape() as tape:
                query = tf.nn.l2_normalize(self.queries(one), 1)
                positive = tf.reduce_sum(query * key, axis=1, keepdims=True)
                logits = tf.concat([positive, query @ tf.transpose(self.queue)], 1) / 0.2
                loss = tf.reduce_mean(tf.reduce_logsumexp(logits, 1) - logits[:, 0])
            self.minimize(tape, loss, self.queries.trainable_weights)
            for weight, average in zip(self.queries.weights, self.keys.weights, strict=True):
                average.assign(average * 0.9 + weight * 0.1)
            self.queue.assign(tf.concat([kparallel.gather(key), self.queue], 0)[:12])
            return self.track(loss=loss)

    model = MoCo()
    model.compile(keras.optimizers.SGD(0.1))
    return model


class Contrast(LossState):
    def __init__(self):
        super().__init__("loss", "accuracy")
        self.one, self.two = mlp(8, LATENT), mlp(8, LATENT)

    def views(self, data):
        one, two = data[0]
        return tf.nn.l2_normalize(self.one(one), 1), tf.nn.l2_normalize(self.two(two), 1)


@program(two_views)
def rows_against_all():
    """CLIP, each replica its own rows against all."""

    class Clip(Contrast):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                text, image = self.views(data)
                texts, images = kparallel.gather(text), kparallel.gather(image)
                own = tf.reduce_sum(text * image, 1)
                loss = tf.reduce_logsumexp(text @ tf.transpose(images), 1) - own
                loss += tf.reduce_logsumexp(image @ tf.transpose(texts), 1) - own
                loss = tf.reduce_mean(loss)
            self.minimize(tape, loss, self.trainable_weights)
            return self.track(loss=loss)

    model = Clip()
    model.compile(keras.optimizers.Adam(0.01))
    return model


@program(two_views)
def all_against_all():
    """SimCLR, the loss of all rows computed by every replica."""

    class SimClr(Contrast):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                one, two = self.views(data)
                z = tf.concat([kparallel.gather(one), kparallel.gather(two)], 0)
                n = tf.shape(z)[0] // 2
                similar = z @ tf.transpose(z) - 1e9 * tf.eye(2 * n, dtype=z.dtype)
                partner = tf.concat([tf.range(n, 2 * n), tf.range(n)], 0)
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(partner, similar))
            self.minimize(tape, loss, self.trainable_weights)
            right = tf.reduce_mean(tf.cast(tf.argmax(similar, 1, tf.int32) == partner, z.dtype))
            return self.track(loss=loss, accuracy=right)

    model = SimClr()
    model.compile(keras.optimizers.Adam(0.01))
    return model


@program(regressed)
def accumulation():
    """Gradients accumulated by hand."""

    class Accumulating(Guide):
        def __init__(self, net):
            super().__init__(net)
            self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)
            self.sums = [self.add_weight(shape=w.shape, initializer="zeros", trainable=False) for w in net.weights]

        def train_step(self, data):
            x, y = data
            self.count.assign_add(1)
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            for total, gradient in zip(self.sums, tape.gradient(loss, self.net.trainable_weights), strict=True):
                total.assign_add(gradient)
            tf.cond(tf.equal(self.count % 2, 0), self.update, lambda: None)
            return {"loss": loss}

        def update(self):
            self.optimizer.apply([total / 2 for total in self.sums], self.net.trainable_weights)
            for total in self.sums:
                total.assign(tf.zeros_like(total))

    model = Accumulating(mlp(8, 1))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.optimizer.build(model.net.trainable_weights)
    return model


@program(regressed)
def sharpness_aware():
    """Two passes: up along the gradient of the whole batch, and down by the one found there."""

    class Sharp(Guide):
        def train_step(self, data):
            x, y = data
            gradients, loss = self.slope(x, y)
            norm = tf.linalg.global_norm(gradients)
            steps = [g * 0.05 / (norm + 1e-12) for g in gradients]
            for weight, step in zip(self.trainable_weights, steps, strict=True):
                weight.assign_add(step)
            gradients, _ = self.slope(x, y)
            for weight, step in zip(self.trainable_weights, steps, strict=True):
                weight.assign_sub(step)
            gradients, _ = tf.clip_by_global_norm(gradients, 0.1)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            return {"loss": loss, "norm": norm}

        def slope(self, x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(keras.losses.mean_squared_error(y, self(x, training=True)))
            return tape.gradient(loss, self.trainable_weights), loss

    model = Sharp(mlp(8, 1))
    model.compile(keras.optimizers.SGD(0.1))
    return model


@program(classified)
def averaged_teacher():
    class Taught(Guide):
        def __init__(self, net, teacher):
            super().__init__(net)
            self.teacher = teacher
            teacher.trainable = False
            teacher.set_weights(net.get_weights())

        def train_step(self, data):
            x, y = data
            target = tf.nn.softmax(self.teacher(x))
            with tf.GradientTape() as tape:
                logits = self(x, training=True)
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))
                loss += 0.3 * tf.reduce_mean(keras.losses.mean_squared_error(target, tf.nn.softmax(logits)))
            self.optimizer.apply(tape.gradient(loss, self.net.trainable_weights), self.net.trainable_weights)
            for mine, other in zip(self.net.weights, self.teacher.weights, strict=True):
                other.assign(0.99 * other + 0.01 * mine)
            return {"loss": loss}

    model = Taught(mlp(8, CLASSES), mlp(8, CLASSES))
    model.compile(keras.optimizers.Adam(0.01))
    return model


@program(regressed)
def learned_noise():
    """A regression that learns its noise, with metrics of its own."""

    class Noisy(Guide):
        def __init__(self, net):
            super().__init__(net)
            self.log_scale = self.add_weight(shape=(), initializer="zeros", name="log_scale")
            self.tracker = keras.metrics.Mean(name="nll")
            self.error = keras.metrics.MeanAbsoluteError(name="mae")
            self.largest = keras.metrics.RootMeanSquaredError(name="rmse")

        @property
        def metrics(self):
            return [self.tracker, self.error, self.largest]

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                nll = tf.reduce_mean((y - y_pred) ** 2 * tf.exp(-2.0 * self.log_scale) / 2.0 + self.log_scale)
            self.optimizer.apply_gradients(
                zip(tape.gradient(nll, self.trainable_weights), self.trainable_weights, strict=True)
            )
            self.tracker.update_state(nll, sample_weight=tf.shape(x)[0])
            self.error.update_state(y, y_pred)
            self.largest.update_state(y, y_pred)
            return {m.name: m.result() for m in self.metrics}

        def test_step(self, data):
            x, y = data
            y_pred = self(x, training=False)
            self.tracker.update_state(tf.reduce_mean((y - y_pred) ** 2))
            self.error.update_state(y, y_pred)
            return {m.name: m.result() for m in (self.tracker, self.error)}

        def predict_step(self, data):
            x = data[0] if isinstance(data, tuple) else data
            return {"mean": self(x, training=False), "scale": tf.exp(self.log_scale) * tf.ones_like(x[:, :1])}

    model = Noisy(mlp(8, 1))
    model.compile(keras.optimizers.Adam(0.01))
    return model


def masked_tokens():
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(0, 10, (ROWS, 5)), rng.random((ROWS, 5)) < 0.4
    return {"x": np.where(mask, 0, tokens), "y": tokens, "sample_weight": mask.astype("float64")}


@program(masked_tokens, loss_reduction="sum")
def masked_language():
    """Masked language modelling with a sum of losses over tokens, decay, and lookups of tokens and positions."""

    class Masked(keras.Model):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions, self.head = L.Embedding(10, 6), L.Embedding(5, 6), L.Dense(10)
            self.loss_sum = keras.metrics.Sum(name="loss")
            self.per_token = keras.metrics.Mean(name="per_token")

        def call(self, x):
            return self.head(self.tokens(x) + self.positions(tf.range(5)))

        def train_step(self, data):
            x, y, mask = data
            with tf.GradientTape(persistent=True) as tape:
                losses = keras.losses.sparse_categorical_crossentropy(y, self(x), from_logits=True)
                loss = tf.reduce_sum(losses * mask)
                decay = tf.nn.l2_loss(self.head.kernel.value)  # No sum over rows: it is the same on all replicas.
            gradients = tape.gradient(loss, self.trainable_variables)
            place = next(i for i, weight in enumerate(self.trainable_variables) if weight is self.head.kernel)
            gradients[place] += tape.gradient(decay, self.head.kernel)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            self.loss_sum.update_state(loss)
            self.per_token.update_state(losses, sample_weight=mask)
            return {"loss": self.loss_sum.result(), "per_token": self.per_token.result()}

    model = Masked()
    model.compile(keras.optimizers.Adam(0.01))
    return model


@program(regressed)
def logs_only():
    class Logging(Guide):
        def train_step(self, data):
            x, y = data
            y_pred = self(x, training=True)
            error = y - y_pred
            return {
                "mean": tf.reduce_mean(error),
                "sum": tf.reduce_sum(error),
                "rows": tf.shape(x)[0],
                "steps": self.optimizer.iterations,
            }

    model = Logging(mlp(8, 1))
    model.compile("sgd", "mse")
    return model


@program(lambda: {"x": rows((FEATURES,))[0]})
def reconstruction():
    """No targets, a penalty on weights, and a count of rows and a mean of activations kept by hand."""

    class Reconstructing(Guide):
        def __init__(self, net):
            super().__init__(net)
            self.seen = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False)
            self.center = self.add_weight(shape=(FEATURES,), initializer="zeros", trainable=False)

        def train_step(self, data):
            (x,) = data if isinstance(data, tuple) else (data,)
            with tf.GradientTape() as tape:
                decoded = self(x, training=True)
                penalty = 1e-2 * tf.add_n([tf.nn.l2_loss(w) for w in self.trainable_weights])
                loss = tf.reduce_mean((x - decoded) ** 2) + penalty
            self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
            self.seen.assign_add(tf.shape(x, tf.int64)[0])
            self.center.assign(0.9 * self.center + 0.1 * tf.reduce_mean(x, 0))
            return {"loss": loss, "seen": self.seen.value}

    model = Reconstructing(mlp(4, FEATURES))
    model.compile(keras.optimizers.Nadam(0.01))
    return model


@program(regressed)
def assigned():
    """A step that is assigned to a model of Keras's own class."""
    model = mlp(8, 1)

    def train_step(data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((y - model(x, training=True)) ** 2)
        model.optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
        return {"loss": loss}

    model.compile(keras.optimizers.Lion(0.01), "mse")
    model.train_step = train_step
    return model


@program(regressed)
def by_hand():
    """Gradients that no tape gave: summed where they reach the optimizer."""

    class ByHand(Guide):
        def train_step(self, data):
            x, y = data
            error = tf.matmul(x, self.net.weights[0]) + self.net.weights[1] - y
            number = tf.cast(tf.shape(x)[0], x.dtype)
            gradients = [tf.matmul(x, error, transpose_a=True) / number, tf.reduce_mean(error, 0)]
            self.optimizer.apply(gradients, self.net.trainable_weights)
            return {"loss": tf.reduce_mean(error**2)}

    model = ByHand(mlp(1))
    model.compile(keras.optimizers.SGD(0.1, clipnorm=0.1))
    return model


@program(regressed)
def unrolled():
    """A gradient of a gradient of weights: the step ahead is the whole batch's too."""

    class Ahead(Guide):
        def train_step(self, data):
            x, y = data
            kernel, bias = self.net.weights
            with tf.GradientTape() as outer:
                with tf.GradientTape() as inner:
                    loss = tf.reduce_mean((tf.matmul(x, kernel) + bias - y) ** 2)
                slopes = inner.gradient(loss, [kernel, bias])
                ahead = tf.matmul(x, kernel - 0.1 * slopes[0]) + bias - 0.1 * slopes[1]
                loss = tf.reduce_mean((ahead - y) ** 4)
            self.optimizer.apply(outer.gradient(loss, [kernel, bias]), [kernel, bias])
            return {"loss": loss}

    model = Ahead(mlp(1))
    model.compile(keras.optimizers.SGD(0.02))
    return model


@program(regressed)
def jacobians():
    """Gradients of each row, clipped by themselves, and a step of Newton's for one bias."""

    class Clipped(Guide):
        def train_step(self, data):
            x, y = data
            kernel, bias, *last = self.net.weights
            with tf.GradientTape() as outer:
                with tf.GradientTape(persistent=True) as tape:
                    losses = tf.reduce_sum((y - self(x, training=True)) ** 2, 1)
                    loss = tf.reduce_mean(losses)
                slope = tape.gradient(loss, bias)
            hessian = outer.jacobian(slope, bias) + tf.eye(3, dtype=slope.dtype)
            newton = tf.linalg.solve(hessian, slope[:, None])[:, 0]
            of_rows = tape.jacobian(losses, [kernel, *last])
            squares = [tf.reduce_sum(tf.reshape(each, [tf.shape(x)[0], -1]) ** 2, 1) for each in of_rows]
            scale = 1.0 / tf.maximum(tf.sqrt(tf.add_n(squares)), 1.0)
            clipped = [tf.reduce_mean(tf.einsum("b...,b->b...", each, scale), 0) for each in of_rows]
            center = tape.jacobian(loss, last[1])
            self.optimizer.apply([clipped[0], newton, *clipped[1:]], self.net.weights)
            return {"loss": loss, "curvature": tf.linalg.trace(hessian), "center": center[0]}

    model = Clipped(mlp(3, 1))
    model.compile(keras.optimizers.SGD(0.1))
    return model


@program(regressed)
def penalized():
    """No step of its own: its loss reads a weight, so that Keras's step runs whole. Its call is Python of its own."""

    class Penalized(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = L.Dense(5, "tanh"), L.Dense(1)

        def call(self, x):
            return self.head(self.hidden(x))

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean((y - y_pred) ** 2) + keras.ops.sum(self.head.kernel**2)

    model = Penalized()
    model.compile(keras.optimizers.Adam(0.01, global_clipnorm=0.5))
    return model
