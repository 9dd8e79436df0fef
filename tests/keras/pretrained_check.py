"""What keras.applications saves comes in: weights for a run, and whole classifiers to predict with.

pretrained_check.py IMGCLS_TRAIN IMGCLS H5_BRIDGE FOLDER [brief] BACKBONE...

For each backbone, with settled random weights in the place of the public ones (nothing is
downloaded; Keras 2 loads them as it loads those of "imagenet"), and both generations:
- Weights from the backbone alone and from classifiers around it, whole and weights only, stand bit
  for bit in the model of a run; ResNet50's first kernel with red and blue exchanged, unless the
  file's model scales its input itself.
- A frozen run from such a file has the features that Keras has behind its own preprocess_input, or
  behind the scaling inside the classifier: what `imgcls predict` says of the run's file is what
  Keras' features and the file's head give.
- `imgcls predict` and `imgcls eval` on the classifier as Keras saved it say what Keras says.
- A file of another backbone is refused, with the first weight that does not fit.
With `brief`, for families that are made of the same parts: the weights from the backbone alone and
from one classifier, the features of one file, the predictions of the classifier and of the whole
network with classes, where that scales its pixels; and the refusal for a backbone of equal shapes.
Predictions agree to 2e-5 of the largest logit: both Keras and imgcls may be 1e-5 off the truth, see
whole_model_check.py. A wrong order of channels moves features by more than a hundredth.
"""
import json
import os
import shutil
import sys

from h5_common import (bridge, centered, import_keras, predict, read_dump, run, same_arrays,
                       settle, train, weights_by_path, write_images)

k2, k3 = import_keras("k2"), import_keras("k3")
import h5py
import numpy as np
from tf_keras.src.utils import data_utils

CLASSES, IMAGES = 5, 5
APPLICATIONS = {"ResNet50": ("ResNet50", "resnet50"),
                "mobilenet_v2_100_224": ("MobileNetV2", "mobilenet_v2"),
                "efficientnet_b0": ("EfficientNetB0", "efficientnet"),
                "efficientnetv2-b0": ("EfficientNetV2B0", "efficientnet_v2"),
                "EfficientNetV2S": ("EfficientNetV2S", "efficientnet_v2"),
                "ResNet50V2": ("ResNet50V2", "resnet_v2"),
                "MobileNetV3Small": ("MobileNetV3Small", "mobilenet_v3"),
                "MobileNetV3Large": ("MobileNetV3Large", "mobilenet_v3"),
                "NASNetMobile": ("NASNetMobile", "nasnet"),
                "InceptionV3": ("InceptionV3", "inception_v3"),
                "InceptionResNetV2": ("InceptionResNetV2", "inception_resnet_v2")}


# Of the same shapes and another function.
TWINS = {"ResNet50V2": "resnet_v2_50", "NASNetMobile": "nasnet_mobile"}


def side_of(name):
    return 96 if name.startswith("Inception") else 64


def application(keras, name, weights=None):
    build = getattr(keras.applications, APPLICATIONS[name][0])
    side = side_of(name)
    return build(include_top=False, weights=weights, input_shape=(side, side, 3), pooling="avg")


def preprocess(keras, name, pixels):
    module = getattr(keras.applications, APPLICATIONS[name][1])
    return module.preprocess_input(pixels.astype("f4"))


def set_statistics(backbone, mean, variance):
    """Of EfficientNetB0's Normalization, the only one that keeps them among its weights."""
    for layer in backbone.layers:
        if type(layer).__name__ == "Normalization" and layer.weights:
            layer.set_weights([np.array(mean), np.array(variance), np.array(0)])


def public(name, backbone, base):
    """The backbone as Keras 2 loads "imagenet" weights, which are those of `backbone`, and their
    file. EfficientNet's hold deviations in the place of variances."""
    set_statistics(backbone, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    path = base + "_notop.h5"
    backbone.save_weights(path)
    original = data_utils.get_file
    data_utils.get_file = lambda *_, **__: path
    try:
        return application(k2, name, weights="imagenet"), path
    finally:
        data_utils.get_file = original


def sequential(keras, backbone):
    """The tutorial's: pixels as they are."""
    layers = keras.layers
    return keras.Sequential([keras.Input(backbone.input_shape[1:]), backbone, layers.Dropout(0.2),
                             layers.Dense(CLASSES)])


def functional(keras, backbone):
    """Keras' guide's: augmentation and, where the backbone has none inside, scaling."""
    layers = keras.layers
    x = image = keras.Input(backbone.input_shape[1:])
    x = layers.RandomFlip("horizontal")(x)
    if not any(type(layer).__name__ == "Rescaling" for layer in backbone.layers):
        x = layers.Rescaling(1 / 127.5, offset=-1.0)(x)
    x = layers.Dropout(0.2)(backbone(x, training=False))
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


def save_all(keras, generation, base, backbone, models):
    """Every kind of file: {path: whether a classifier around the backbone scales pixels}."""
    files = {}
    for kind, model, inside in (("alone", backbone, False), ("sequential", models[0], False),
                                ("functional", models[1], True)):
        model.save(f"{base}_{kind}.h5")
        model.save_weights(f"{base}_{kind}.weights.h5")
        files[f"{base}_{kind}.h5"] = files[f"{base}_{kind}.weights.h5"] = inside
        if generation == "k2":
            model.save_weights(f"{base}_{kind}_weights.h5")
            files[f"{base}_{kind}_weights.h5"] = inside
    return files


def by_content(expected, got):
    """Under the same keys, where Keras calls layers otherwise: the arrays of a role, sorted. That each
    is in its place, the features tell."""
    if expected.keys() == got.keys():
        return expected, got
    key = lambda entry: (entry[0].split("/")[-1], entry[1].shape, entry[1].tobytes())
    sort = lambda arrays: {str(i): entry[1]
                           for i, entry in enumerate(sorted(arrays.items(), key=key))}
    return sort(expected), sort(got)


def check_values(program, name, files, base, expected):
    """All weights of the backbone, and with `inside` the first kernel as it is."""
    kernels = ["conv1_conv/kernel"] if name == "ResNet50" else []
    for path, inside in files.items():
        bridge(program, "pretrained", name, path, base)
        dump = read_dump(base)
        got = {key: value for key, value in dump["values"].items() if not key.startswith("logits")}
        for key in kernels if not inside else []:
            got[key] = np.ascontiguousarray(got[key][:, :, ::-1])
        same_arrays(*by_content(expected, got), path)
        has_head = "alone" not in path
        assert dump["head"] == has_head and dump["left"] == (0 if has_head else 2), (path, dump)
    print(f"{name}: {len(expected)} weights equal from {len(files)} files", flush=True)


def off(ours, theirs):
    return np.abs(centered(np.log(ours)) - centered(theirs)).max() / np.abs(theirs).max()


def check_twin(trainer, name, path, folder):
    """A whole model is refused for the backbone of its shapes that strides or pads otherwise; of
    weights alone the log says that shapes are all that was compared."""
    said = "the file does not tell its network: shapes alone were compared"
    with open(f"{path}.ini", "w", encoding="utf-8") as file:
        file.write(f"[model]\nimage_size = {side_of(name)}\n"
                   f"[data]\ndir = {folder}\nvalidation_split = 0\n"
                   "[train]\nbatch = 5\nepochs = 1\nsteps_per_epoch = 1\n"
                   "[checkpoint]\nresume = none\n")

    def told(backbone, weights, status=0):
        done = run(trainer, f"{path}.ini", "-o", path + ".run", "-s", f"model.backbone={backbone}",
                   "-s", f"model.weights={weights}", status=status)
        return done.stdout + done.stderr

    assert said not in told(name, f"{path}_sequential.h5")
    assert said in told(name, f"{path}_alone.weights.h5")
    refusal = told(TWINS[name], f"{path}_sequential.h5", status=65)
    assert "strides or pads otherwise" in refusal and f"it fits {name}" in refusal, refusal
    shutil.rmtree(path + ".run")


def check_features(trainer, imgcls, name, weights, folder, features, what):
    """A frozen run from `weights`: its features, seen through its head."""
    path = train(trainer, name, folder, side_of(name), weights + ".run", model_weights=weights,
                 model_fine_tune="no")
    with h5py.File(path) as file:
        head = file["model_weights/logits/logits"]
        logits = features.astype("f8") @ head["kernel:0"][...] + head["bias:0"][...]
    found = off(predict(imgcls, path, folder, CLASSES), logits)
    print(f"{name}: features of {what} off by {found:.1e}", flush=True)
    assert found <= 2e-5, what
    shutil.rmtree(weights + ".run")


def check_classifier(imgcls, path, folder, logits, what):
    found = off(predict(imgcls, path, folder, CLASSES), logits)
    figures = json.loads(run(imgcls, "eval", path, folder, "--json").stdout)
    labels = np.arange(CLASSES).repeat(IMAGES)
    chances = centered(logits) - np.log(np.exp(centered(logits)).sum(1, keepdims=True))
    loss = -chances[np.arange(len(labels)), labels].mean()
    print(f"{what} off by {found:.1e}, loss {loss:.4f}", flush=True)
    assert found <= 2e-5 and abs(figures["loss"] - loss) <= 1e-4, (figures, loss)
    assert abs(figures["accuracy"] - (logits.argmax(1) == labels).mean()) < 1e-6


def check_top(imgcls, name, path, folder, keras, pixels):
    """The whole classifier of keras.applications, of classes of one's own."""
    side = side_of(name)
    model = getattr(keras.applications, name)(weights=None, classes=CLASSES,
                                              input_shape=(side, side, 3))
    settle(model, pixels.astype("f4"))
    last = next(x for x in reversed(model.layers) if x.weights)
    kernel, bias = last.get_weights()
    last.set_weights([kernel, bias + np.linspace(-0.5, 0.5, CLASSES)])
    model.save(path)
    logits = np.log(np.asarray(model(pixels.astype("f4"), training=False), "f8"))
    check_classifier(imgcls, path, folder, logits, f"{name}: {os.path.basename(path)}")
    os.remove(path)


def check(trainer, imgcls, program, out, name, generation, keras, pixels):
    folder, base = f"{out}/images{side_of(name)}", f"{out}/{name}_{generation}"
    keras.utils.set_random_seed(4)
    bytes_, unit = pixels.astype("f4"), pixels.astype("f4") / np.float32(255)
    backbone = application(keras, name)
    settle(backbone, preprocess(keras, name, pixels))
    if generation == "k2":
        twin, weights = public(name, backbone, base)
        features = np.asarray(twin(preprocess(k2, name, pixels), training=False))
        check_features(trainer, imgcls, name, weights, folder, features, "public weights")
        set_statistics(backbone, [0.4, 0.5, 0.6], [0.3, 0.2, 0.1])
    features = np.asarray(backbone(preprocess(keras, name, pixels), training=False))
    turned = np.asarray(backbone(preprocess(keras, name, pixels[..., ::-1]), training=False))
    assert np.abs(turned - features).max() > 0.01 * np.abs(features).max(), "grey images"
    expected = weights_by_path(backbone)
    models = sequential(keras, backbone), functional(keras, backbone)
    for model in models:
        kernel, bias = model.layers[-1].get_weights()
        model.layers[-1].set_weights([kernel, bias + np.linspace(-0.5, 0.5, CLASSES)])
    files = save_all(keras, generation, base, backbone, models)
    check_values(program, name, files, base, expected)
    scaled = any(type(layer).__name__ == "Rescaling" for layer in backbone.layers)
    head = lambda model, x: np.log(np.asarray(model(x, training=False), "f8"))
    check_classifier(imgcls, f"{base}_functional.h5", folder, head(models[1], bytes_),
                     f"{name}: functional classifier of {generation}")
    logits = np.asarray(models[0](bytes_ if scaled else unit, training=False))
    check_classifier(imgcls, f"{base}_sequential.h5", folder, logits,
                     f"{name}: sequential classifier of {generation}")
    check_features(trainer, imgcls, name, f"{base}_alone.weights.h5", folder, features,
                   f"weights of {generation}")
    if generation == "k3":
        inner = keras.Model(models[1].inputs, models[1].layers[-2].output)
        features = np.asarray(inner(bytes_, training=False))
        check_features(trainer, imgcls, name, f"{base}_functional.h5", folder, features,
                       "the functional classifier")
    other, first = (("ResNet50", "conv1_conv") if name != "ResNet50" else
                    ("mobilenet_v2_100_224", "Conv1"))
    for path in list(files)[:2]:
        done = run(program, "pretrained", other, path, base, status=65)
        assert path in done.stderr and first in done.stderr, done.stderr


def check_brief(trainer, imgcls, program, out, name, generation, keras, pixels):
    folder, base = f"{out}/images{side_of(name)}", f"{out}/{name}_{generation}"
    keras.utils.set_random_seed(4)
    keras.backend.clear_session()
    inputs = preprocess(keras, name, pixels)
    backbone = application(keras, name)
    settle(backbone, inputs)
    features = np.asarray(backbone(inputs, training=False))
    expected = weights_by_path(backbone)
    files = {}
    backbone.save(f"{base}_alone.h5")
    backbone.save_weights(f"{base}_alone.weights.h5")
    files[f"{base}_alone.h5"] = files[f"{base}_alone.weights.h5"] = False
    model = sequential(keras, backbone)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias + np.linspace(-0.5, 0.5, CLASSES)])
    model.save(f"{base}_sequential.h5")
    files[f"{base}_sequential.h5"] = False
    check_values(program, name, files, base, expected)
    scaled = any(type(layer).__name__ == "Rescaling" for layer in backbone.layers)
    classified = pixels.astype("f4") if scaled else pixels.astype("f4") / np.float32(255)
    logits = np.asarray(model(classified, training=False))
    check_classifier(imgcls, f"{base}_sequential.h5", folder, logits,
                     f"{name}: sequential classifier of {generation}")
    check_features(trainer, imgcls, name, f"{base}_alone.weights.h5", folder, features,
                   f"weights of {generation}")
    if name in TWINS:
        check_twin(trainer, name, base, folder)
    if scaled:
        check_top(imgcls, name, f"{base}_top.h5", folder, keras, pixels)
    for path in files:
        os.remove(path)


def main():
    trainer, imgcls, program, out, *names = sys.argv[1:]
    brief = names[0] == "brief"
    shutil.rmtree(out, ignore_errors=True)
    for name in names[brief:]:
        side = side_of(name)
        folder = f"{out}/images{side}"
        shutil.rmtree(folder, ignore_errors=True)
        pixels = write_images(folder, CLASSES, IMAGES, side)
        for generation, keras in (("k2", k2), ("k3", k3)):
            run_check = check_brief if brief else check
            run_check(trainer, imgcls, program, out, name, generation, keras, pixels)
    shutil.rmtree(out)


main()
