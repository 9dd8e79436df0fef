"""Files of one Keras generation are read here: every weight and the momentum are equal.

h5_load_check.py k2|k3 H5_BRIDGE FOLDER
"""
import os
import sys

from h5_common import bridge, import_keras, read_dump, same_arrays, weights_by_path


def train(keras, model):
    """One step, so that statistics and momentum are not those of the start."""
    import numpy as np
    rng = np.random.default_rng(2)
    _, height, width, _ = model.input_shape
    classes = model.output_shape[-1]
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9),
                  keras.losses.CategoricalCrossentropy(from_logits=True),
                  run_eagerly=True)  # compiling takes longer than one step
    images = rng.uniform(0, 255, (4, height, width, 3)).astype("f4")
    model.train_on_batch(images, np.eye(classes, dtype="f4")[np.arange(4) % classes])
    return model


def with_head(keras, backbone, shape, classes=5):
    layers = keras.layers
    augmentation = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)])
    return keras.Sequential([keras.Input(shape), augmentation, backbone, layers.Dropout(0.2),
                             layers.Dense(classes, kernel_regularizer=keras.regularizers.L2(1e-4))])


def residual(keras):
    """Branches whose layers Keras sorts by depth; activations inside of layers; shared names."""
    layers = keras.layers
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(image)
    for i in range(2):
        short = layers.Conv2D(8, 1, use_bias=False, name=f"b{i}_short")(x)
        short = layers.BatchNormalization(scale=False, name=f"b{i}_short_bn")(short)
        y = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"b{i}_1")(x)
        y = layers.BatchNormalization(name=f"b{i}_1_bn")(y)
        y = layers.Activation("relu")(y)
        y = layers.DepthwiseConv2D(3, padding="same", name=f"b{i}_2")(y)
        y = layers.BatchNormalization(center=False, name=f"b{i}_2_bn")(y)
        gate = layers.GlobalAveragePooling2D()(y)
        gate = layers.Dense(4, activation="swish", name=f"b{i}_reduce")(gate)
        gate = layers.Dense(8, activation="sigmoid", name=f"b{i}_expand")(gate)
        y = layers.Multiply()([y, layers.Reshape((1, 1, 8))(gate)])
        x = layers.Add()([short, y] if i else [y, short])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(6, name="head")(x), name="residual")


def models(keras):
    applications = keras.applications
    mobile = applications.MobileNetV2(input_shape=(64, 64, 3), alpha=0.35, include_top=False,
                                      weights=None, pooling="avg")
    yield "mobilenet", train(keras, with_head(keras, mobile, (64, 64, 3)))
    # The tutorial's second stage: the first layers frozen.
    mobile.trainable = True
    for layer in mobile.layers[:100]:
        layer.trainable = False
    yield "partly", train(keras, with_head(keras, mobile, (64, 64, 3)))
    mobile.trainable = False
    yield "frozen", train(keras, with_head(keras, mobile, (64, 64, 3)))
    efficient = applications.EfficientNetB0(input_shape=(32, 32, 3), weights=None, classes=10,
                                            classifier_activation=None)
    yield "efficientnet", train(keras, efficient)
    yield "residual", train(keras, residual(keras))


def momentum_of(model, generation):
    """{path: momentum} of the trained weights, in order."""
    variables = [v for v in model.optimizer.variables
                 if len(v.shape) > 0 and not v.name.startswith("learning_rate")]
    paths = []
    for weight in model.trainable_variables:
        parts = (getattr(weight, "path", None) or weight.name).split(":")[0].split("/")[-2:]
        paths.append("/".join(parts))
    assert len(variables) == len(paths), (len(variables), len(paths))
    return {path: v.numpy() for path, v in zip(paths, variables)}


def check(keras, generation, program, folder, name, model):
    expected = weights_by_path(model)
    base = os.path.join(folder, f"{generation}_{name}")
    model.save(base + ".h5")
    bridge(program, "read", base + ".h5", base)
    dump = read_dump(base)
    same_arrays(expected, dump["values"], f"{name} of {generation}")
    wanted = momentum_of(model, generation)
    got = {path: dump["momentum"][path] for path in dump["momentum_trained"]}
    if generation == "k3":  # calls the depthwise kernel by another name
        wanted = {path if path in got else path.replace("/kernel", "/depthwise_kernel"): v
                  for path, v in wanted.items()}
    same_arrays(wanted, got, f"momentum of {name} of {generation}")

    weights = [base + ".weights.h5"] + ([base + "_weights.h5"] if generation == "k2" else [])
    for path in weights:
        model.save_weights(path)
        bridge(program, "weights", base + ".h5", path, base)
        dump = read_dump(base)
        same_arrays(expected, dump["values"], path)
        assert dump["loaded"] == len(expected)
    print(f"{name}: {len(expected)} weights equal in {1 + len(weights)} files")


def check_backbone(keras, program, folder, generation):
    """Weights of a backbone alone, and with another head, into a model of ours."""
    applications = keras.applications
    base = os.path.join(folder, f"{generation}_mobilenet")
    alone = applications.MobileNetV2(input_shape=(96, 96, 3), alpha=0.35, include_top=False,
                                     weights=None)
    topped = applications.MobileNetV2(input_shape=(96, 96, 3), alpha=0.35, weights=None,
                                      classes=11)
    for name, model in (("alone", alone), ("topped", topped)):
        expected = {path: array for path, array in weights_by_path(model).items()
                    if not path.startswith("predictions")}
        paths = [f"{base}_{name}.weights.h5", f"{base}_{name}.h5"]
        if generation == "k2":
            paths.append(f"{base}_{name}_weights.h5")
        for path in paths:
            (model.save if path == paths[1] else model.save_weights)(path)
            bridge(program, "backbone", base + ".h5", path, base)
            dump = read_dump(base)
            assert dump["left"] == 2 and not dump["head"], dump
            assert dump["unused"] == (2 if name == "topped" else 0), dump
            values = {path: array for path, array in dump["values"].items()
                      if not path.startswith("dense")}
            same_arrays(expected, values, path)
    other = applications.MobileNetV2(input_shape=(96, 96, 3), alpha=0.5, include_top=False,
                                     weights=None)
    other.save_weights(base + "_other.weights.h5")
    bridge(program, "backbone", base + ".h5", base + "_other.weights.h5", base,
           fails="but block_1_project/kernel of the model has (1, 1, 48, 8)")
    print("backbone: weights alone and with another head are read, another width is refused")


def main():
    generation, program, folder = sys.argv[1:]
    keras = import_keras(generation)
    os.makedirs(folder, exist_ok=True)
    keras.utils.set_random_seed(3)
    for name, model in models(keras):
        check(keras, generation, program, folder, name, model)
    check_backbone(keras, program, folder, generation)


main()
