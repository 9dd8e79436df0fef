"""Training against Keras: the same model, batches and optimizer give the same losses, weights and
moving statistics step by step; trained files predict the same in both Keras generations.

train_steps.py TRAIN_STEPS FOLDER [tiny|BACKBONE]...
"""
import os
import shutil
import sys

from h5_common import import_keras, leaves, run, settle, weights_by_path

k2, k3 = import_keras("k2"), import_keras("k3")
import numpy as np
import tensorflow as tf

BATCH, CLASSES, STEPS, TINY_SIDE = 16, 5, 20, 24
JITTER = 2**-23  # one rounding of fp32
BACKBONES = ("mobilenet_v2_100_224", "efficientnet_b0", "efficientnetv2-b0", "resnet_v1_50",
             "ResNet50")


def build_tiny():
    layers = k2.layers
    norm = lambda: layers.BatchNormalization(momentum=0.9)
    x = image = k2.Input((TINY_SIDE, TINY_SIDE, 3))
    x = layers.Rescaling(2.0, offset=-1.0)(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x)
    x = shortcut = layers.ReLU(6.0)(norm()(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.Activation("swish")(norm()(x))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="swish")(gate)
    gate = layers.Conv2D(16, 1, activation="sigmoid")(gate)
    x = layers.Multiply()([x, gate])
    x = layers.Conv2D(16, 1, use_bias=False)(x)
    x = layers.Add()([norm()(x), shortcut])
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(CLASSES, kernel_regularizer=k2.regularizers.L2(1e-4))(x)
    return k2.Model(image, x)


def randomize(model, seed):
    """Norms that are not the identity, so that each of their four parts counts."""
    rng = np.random.default_rng(seed)
    for layer in leaves(model):
        if type(layer).__name__ == "BatchNormalization":
            shape = layer.gamma.shape
            layer.set_weights([rng.uniform(0.7, 1.3, shape), rng.uniform(-0.3, 0.3, shape),
                               rng.uniform(-0.3, 0.3, shape), rng.uniform(0.5, 1.5, shape)])
        elif layer.weights and type(layer).__name__ != "Normalization":
            layer.set_weights([w if w.ndim > 1 else rng.uniform(-0.3, 0.3, w.shape)
                               for w in layer.get_weights()])


def write_data(path, steps, side):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, (steps, BATCH)).astype("<i4")
    # A color of each class below the noise: something to learn.
    colors = rng.integers(60, 196, (CLASSES, 1, 1, 3))
    noise = rng.integers(-60, 60, (steps, BATCH, side // 8, side // 8, 3))
    noise = noise.repeat(8, 2).repeat(8, 3) // 2 + rng.integers(-30, 30, (steps, BATCH, side, side, 3))
    pixels = (colors[labels] + noise).astype("u1")
    with open(path, "wb") as file:
        file.write(labels.tobytes() + pixels.tobytes())
    return labels, pixels.astype("f4") / np.float32(255)


def state(model, momentum):
    """Weights by path, and the momentum of the trained ones."""
    paths = [v.name.split(":")[0] for v in model.trainable_variables]
    assert len(paths) == len(momentum)
    return weights_by_path(model) | {"momentum of " + p: m for p, m in zip(paths, momentum)}


def jittered(arrays, rng, jitter):
    """The arrays, each number that much off, up or down."""
    return [(a * (1 + jitter * rng.choice([-1, 1], a.shape))).astype("f4") for a in arrays]


def train_keras(path, labels, images, how, rate, jitter=0.0):
    """Losses, weights and momentum. With `jitter` weights and pixels are that much off."""
    model = k2.models.load_model(path, compile=False)
    rng = np.random.default_rng(6)
    model.set_weights(jittered(model.get_weights(), rng, jitter))
    # Pixels too: what is alike for all images, batch normalisation takes out again.
    images, = jittered([images], rng, jitter)
    optimizer = k2.optimizers.SGD(0.005, momentum=0.9, nesterov="n" in how, use_ema="e" in how,
                                  ema_momentum=0.9)
    criterion = k2.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = criterion(tf.one_hot(y, CLASSES), logits) + tf.add_n(model.losses)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    losses = []
    for i, (x, y) in enumerate(zip(images, labels)):
        optimizer.learning_rate.assign(rate * (i + 1) / len(labels))
        losses.append(float(step(x, y)))
    if "e" in how:
        optimizer.finalize_variable_values(model.trainable_variables)  # the averages
    return np.array(losses), state(model, [v.numpy() for v in optimizer.momentums])


def apart(expected, got):
    """Of each array, the largest difference relative to its largest value."""
    assert expected.keys() == got.keys(), expected.keys() ^ got.keys()
    return {path: float(np.abs(got[path] - value).max() / max(np.abs(value).max(), 1e-3))
            for path, value in expected.items()}


def check_training(program, folder, name, path, data, labels, images, hows, rate):
    failed = []
    start = weights_by_path(k2.models.load_model(path, compile=False))
    for how in hows:
        losses, expected = train_keras(path, labels, images, how, rate)
        # Two right programs differ by the roundings of fp32 and by what the network makes of them.
        # A start that is off by one rounding shows how much that is, for each array.
        moved_losses, moved = train_keras(path, labels, images, how, rate, JITTER)
        drift = apart(expected, moved)
        floor = max(1e-5, 5 * float(np.median(list(drift.values()))))
        out = f"{folder}/{name}_{how}.h5"
        told = run(program, "train", path, data, len(labels), how, rate, out).stdout
        ours = np.array([float(x) for x in told.split()])
        model = k2.models.load_model(out)
        off = apart(expected, state(model, model.optimizer.get_weights()[1:]))
        over = {key: value / max(floor, 20 * drift[key]) for key, value in off.items()}
        worst = max(over, key=over.get)
        loss_off = np.abs(ours / losses - 1)
        print(f"{name} {how}: loss {losses[0]:.4f} to {losses[-1]:.4f}, off by {loss_off.max():.1e} "
              f"(drift {np.abs(moved_losses / losses - 1).max():.1e}); {len(off)} arrays: median off "
              f"by {np.median(list(off.values())):.1e}, floor {floor:.1e}, at most {over[worst]:.2f} "
              f"of what is allowed ({worst}: {off[worst]:.1e})", flush=True)
        change = apart({key: expected[key] for key in start}, start)
        if name == "tiny":
            assert floor < 0.01 * min(change.values()), "too little was learned to tell"
        if not (loss_off.max() <= 1e-4 and floor <= 1e-2):
            failed.append((name, how, "losses", ours, losses, floor))
        bad = {key: off[key] for key, value in over.items() if not value <= 1}
        if bad:
            failed.append((name, how, "arrays", len(bad), dict(list(bad.items())[:12])))
    return out, failed


def check_prediction(program, folder, name, path, data, images):
    out = f"{folder}/{name}.logits"
    run(program, "predict", path, data, out)
    ours = np.fromfile(out, "<f4").reshape(BATCH, CLASSES)
    failed = []
    for generation, keras in (("k2", k2), ("k3", k3)):
        model = keras.models.load_model(path, compile=False)
        logits = np.asarray(model(images[0], training=False))
        off = np.abs(logits - ours).max() / np.abs(logits).max()
        # As for the steps: what one rounding of weights and pixels does to the answers.
        rng = np.random.default_rng(6)
        model.set_weights(jittered(model.get_weights(), rng, JITTER))
        moved = np.asarray(model(*jittered([images[0]], rng, JITTER), training=False))
        drift = np.abs(logits - moved).max() / np.abs(logits).max()
        print(f"{name}: prediction in {generation} off by {off:.1e} (drift {drift:.1e})", flush=True)
        assert np.abs(logits - logits[0]).max() > 1e-3 * np.abs(logits).max(), "one answer for all"
        if not off <= max(1e-5, 2 * drift):
            failed.append((name, generation, "prediction", off))
    return failed


def main():
    program, folder, *names = sys.argv[1:]
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    failed = []
    for name in names or ("tiny", *BACKBONES):
        path, data = f"{folder}/{name}.h5", f"{folder}/{name}.data"
        k2.utils.set_random_seed(1)
        if name == "tiny":
            model, steps, hows, rate = build_tiny(), STEPS, ("1", "2", "2n", "2e"), 0.05
        else:
            run(program, "make", name, path)
            model, steps, hows, rate = k2.models.load_model(path, compile=False), 1, ("2",), 1e-3
        randomize(model, 2)
        labels, images = write_data(data, steps, model.input_shape[1])
        if name != "tiny":
            settle(model, images[0])
        model.save(path)
        out, bad = check_training(program, folder, name, path, data, labels, images, hows,
                                  rate)
        failed += bad + check_prediction(program, folder, name, out, data, images)
        for file in (path, data, out):
            os.remove(file)
    for failure in failed:
        print("FAILED", *failure)
    sys.exit(1 if failed else 0)


main()
