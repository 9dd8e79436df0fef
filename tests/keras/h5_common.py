"""What the tests against Keras share: both generations, our programs, weights by path, models whose
roundings stay small, and images."""
import json
import os
import subprocess
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # tf.keras is Keras 2; Keras 3 is imported by its own name


def import_keras(generation):
    """tf-keras for "k2", Keras 3 for "k3"; ends the test as skipped where they are absent."""
    try:
        import numpy  # noqa: F401
        if generation == "k2":
            import tf_keras as keras
        else:
            import keras
    except ImportError as error:
        print(f"skipped: {error}")
        sys.exit(77)
    return keras


def run(program, *arguments, status=0):
    """Runs a program of ours, which must end with this status."""
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == status, \
        f"{program} {arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done


def bridge(program, *arguments, fails=None):
    """Runs h5_bridge; with `fails` it must refuse with these words."""
    done = run(program, *arguments, status=0 if fails is None else 65)
    assert fails is None or fails in done.stderr, f"{arguments}: {done.stderr}"


def read_dump(path):
    """OUT.json with the arrays of OUT.bin: values and momentum as {path: array} in order."""
    import numpy as np
    with open(path + ".json", encoding="utf-8") as file:
        dump = json.load(file)
    flat = np.fromfile(path + ".bin", dtype="<f4")
    for key in ("values", "momentum"):
        entries = dump[key]
        dump[key] = {}
        for entry in entries:
            count = int(np.prod(entry["shape"]))
            start = entry["offset"]
            dump[key][entry["path"]] = flat[start:start + count].reshape(entry["shape"])
        dump[key + "_standardize"] = {e["path"]: e["standardize"] for e in entries
                                      if e["standardize"] > 0}
        dump[key + "_trained"] = [e["path"] for e in entries if e["trained"]]
    return dump


def leaves(model):
    """The layers of a model and of the models in it, in Keras' order."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from leaves(layer)
        else:
            yield layer


def weights_by_path(model):
    """{"LAYER/role": array} in the order of the layers, without Normalization's."""
    found = {}
    for layer in leaves(model):
        if type(layer).__name__ == "Normalization":
            continue
        for weight in layer.weights:
            name = getattr(weight, "path", None) or weight.name
            role = name.split("/")[-1].split(":")[0]
            if type(layer).__name__ == "DepthwiseConv2D" and role == "kernel":
                role = "depthwise_kernel"
            if "seed_generator" in role:
                continue
            found[f"{layer.name}/{role}"] = weight.numpy()
    return found


def same_arrays(expected, got, what):
    """Bit for bit, and the same paths."""
    import numpy as np
    assert expected.keys() == got.keys(), f"{what}: {expected.keys() ^ got.keys()}"
    for path, array in expected.items():
        assert array.shape == got[path].shape, f"{what}: {path}: {array.shape} {got[path].shape}"
        assert np.array_equal(array.view("u4"), got[path].view("u4")), f"{what}: {path} differs"


def settle(model, images, seed=2):
    """Weights whose roundings stay small, as those of trained networks do: norms that let most
    units pass, residual branches weaker than what they are added to, and the moving statistics of
    these images. Every part of a norm counts. With weights from initializers alone, a deep network
    makes much of a rounding."""
    import numpy as np
    rng = np.random.default_rng(seed)
    norms = [x for x in leaves(model)
             if type(x).__name__ in ("BatchNormalization", "GroupNormalization")]
    for layer in norms:
        weights = dict(zip([w.name.split("/")[-1].split(":")[0] for w in layer.weights],
                           layer.get_weights()))
        last = ends_branch(layer)
        if layer.scale:
            weights["gamma"] = rng.uniform(0.7, 1.3, layer.gamma.shape) * (0.3 if last else 1)
        weights["beta"] = rng.uniform(-0.3, 0.3, layer.beta.shape) + (0 if last else 0.7)
        layer.set_weights(list(weights.values()))
    moving = [layer for layer in norms if hasattr(layer, "momentum")]
    momenta = [layer.momentum for layer in moving]
    for layer in moving:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, momentum in zip(moving, momenta):
        layer.momentum = momentum


def ends_branch(layer):
    """Whether an Add follows, perhaps behind stochastic depth."""
    for node in layer._outbound_nodes:
        user = getattr(node, "operation", None) or node.outbound_layer
        kind = type(user).__name__
        if kind == "Add" or (kind == "Dropout" and ends_branch(user)):
            return True
    return False


def picture(height, width, seed=0):
    """Smooth shapes, sharp edges and noise: what decoders and filters disagree about."""
    import numpy as np
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype("f8")
    rgb = np.stack([127 + 120 * np.sin(x / 7 + y / 11 + seed), 255 * ((x // 5 + y // 3) % 2),
                    255 * x / max(width - 1, 1)], axis=-1)
    return (rgb + rng.normal(0, 12, rgb.shape)).clip(0, 255).astype("u1")


def write_images(folder, classes, count, height, width=None):
    """A folder of PNG files for each class; returns their pixels in the order of the names. Patches
    of a class's color with noise."""
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(5)
    width = width or height
    pixels = []
    for label in range(classes):
        os.makedirs(f"{folder}/c{label}")
        color = rng.integers(60, 196, 3)
        for i in range(count):
            patches = rng.integers(-60, 60, (height // 8, width // 8, 3))
            image = color + patches.repeat(8, 0).repeat(8, 1) // 2
            image = image + rng.integers(-30, 30, image.shape)
            pixels.append(image.clip(0, 255).astype("u1"))
            Image.fromarray(pixels[-1]).save(f"{folder}/c{label}/{i:02d}.png")
    return np.stack(pixels)


def train(program, backbone, images, side, out, **settings):
    """imgcls-train for two steps of a small rate; returns the model's file. `settings` are more
    keys, spelled SECTION_KEY."""
    config = f"{out}.ini"
    with open(config, "w", encoding="utf-8") as file:
        file.write(f"[model]\nbackbone = {backbone}\nimage_size = {side}\n"
                   f"[data]\ndir = {images}\nvalidation_split = 0\n"
                   "[train]\nbatch = 8\nepochs = 1\nsteps_per_epoch = 2\nprecision = fp32\n"
                   "[optimizer]\nlearning_rate = 0.0001\n[checkpoint]\nresume = none\n")
    more = [f"--set={key.replace('_', '.', 1)}={value}" for key, value in settings.items()]
    run(program, config, "-q", "-o", out, *more)
    return f"{out}/last.h5"


def predict(program, model, images, classes):
    """The probabilities that `imgcls predict` tells for a folder, in the order of the names."""
    import numpy as np
    lines = run(program, "predict", model, images, "--json", "--top", classes).stdout.splitlines()
    probabilities = np.zeros((len(lines), classes))
    for row, line in zip(probabilities, lines):
        for entry in json.loads(line)["predictions"]:
            row[entry["label"]] = entry["probability"]
    return probabilities


def centered(logits):
    """Logits without what a softmax takes off, so that they follow from probabilities too."""
    import numpy as np
    logits = np.asarray(logits, "f8")
    return logits - logits.mean(axis=1, keepdims=True)


def softmax(logits):
    import numpy as np
    powers = np.exp(np.asarray(logits, "f8") - np.max(logits, axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
