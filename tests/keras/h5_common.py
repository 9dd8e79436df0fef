"""What the .h5 tests share: one Keras generation, the bridge, weights by path."""
import json
import os
import subprocess
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
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


def bridge(program, *arguments, fails=None):
    """Runs h5_bridge; with `fails` it must refuse with these words."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if fails is None:
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    else:
        assert done.returncode == 65 and fails in done.stderr, f"{arguments}: {done.stderr}"


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
