"""Compares the graphs of imgcls with those of keras.applications, layer by layer.

usage: model_check.py IMGCLS [NAME...]

For each backbone with a Keras counterpart: the same sequence of weighted layers with the same
kinds, weight shapes, strides, padding in pixels, output shapes and BatchNorm epsilon; the same
names where Keras names them; the same joins and poolings; the same multiply-accumulates. Images of
even and odd sizes. NASNet's cells and Inception's branches have no natural order: layers are
compared by name in NASNet, as a collection in Inception, whose names are numbers. Keras' own padding
layers are folded into the layer after them on both sides.
Exits with 77 where Keras cannot be imported.
"""
import json
import math
import re
import sys

from h5_common import import_keras, run

keras = import_keras("k3")
A = keras.applications


def slim_v3(builder, alpha):
    """Keras' MobileNetV3 up to the convolution behind the pool: the hub's graph."""
    def build(input_shape, **_):
        whole = builder(input_shape=input_shape, alpha=alpha, weights=None)
        index = [layer.name for layer in whole.layers].index("conv_2")
        features = keras.layers.Flatten()(whole.layers[index + 1].output)
        return keras.Model(whole.input, features)
    return build


# name: (Keras' builder, image sizes)
BACKBONES = {
    "mobilenet_v2_100_224": (lambda **k: A.MobileNetV2(alpha=1.0, **k), (224, 97)),
    "mobilenet_v2_130_224": (lambda **k: A.MobileNetV2(alpha=1.3, **k), (224,)),
    "mobilenet_v2_140_224": (lambda **k: A.MobileNetV2(alpha=1.4, **k), (224,)),
    "mobilenet_v3_small_100_224": (slim_v3(A.MobileNetV3Small, 1.0), (224, 97)),
    "mobilenet_v3_small_075_224": (slim_v3(A.MobileNetV3Small, 0.75), (224,)),
    "mobilenet_v3_large_100_224": (slim_v3(A.MobileNetV3Large, 1.0), (224, 97)),
    "mobilenet_v3_large_075_224": (slim_v3(A.MobileNetV3Large, 0.75), (224,)),
    "MobileNetV3Small": (A.MobileNetV3Small, (224, 97)),
    "MobileNetV3Large": (A.MobileNetV3Large, (224, 97)),
    "NASNetMobile": (A.NASNetMobile, (224, 97)),
    "NASNetLarge": (A.NASNetLarge, (331,)),
    "ResNet50": (A.ResNet50, (224, 65)),
    "ResNet101": (A.ResNet101, (224,)),
    "ResNet152": (A.ResNet152, (224,)),
    "ResNet50V2": (A.ResNet50V2, (224, 65)),
    "ResNet101V2": (A.ResNet101V2, (224,)),
    "ResNet152V2": (A.ResNet152V2, (224,)),
    "InceptionV3": (A.InceptionV3, (299, 107)),
    "InceptionResNetV2": (A.InceptionResNetV2, (299, 107)),
    "efficientnet_b0": (A.EfficientNetB0, (224, 75)),
    "efficientnet_b1": (A.EfficientNetB1, (240,)),
    "efficientnet_b2": (A.EfficientNetB2, (260,)),
    "efficientnet_b3": (A.EfficientNetB3, (300,)),
    "efficientnet_b4": (A.EfficientNetB4, (380,)),
    "efficientnet_b5": (A.EfficientNetB5, (456,)),
    "efficientnet_b6": (A.EfficientNetB6, (528,)),
    "efficientnet_b7": (A.EfficientNetB7, (600,)),
    "efficientnetv2-b0": (A.EfficientNetV2B0, (224, 75)),
    "efficientnetv2-b1": (A.EfficientNetV2B1, (240,)),
    "efficientnetv2-b2": (A.EfficientNetV2B2, (260,)),
    "efficientnetv2-b3": (A.EfficientNetV2B3, (300,)),
    "efficientnetv2-s": (A.EfficientNetV2S, (384,)),
    "efficientnetv2-m": (A.EfficientNetV2M, (480,)),
    "efficientnetv2-l": (A.EfficientNetV2L, (480,)),
}
REQUIRED = ["mobilenet_v2_100_224", "mobilenet_v2_130_224", "mobilenet_v2_140_224", "ResNet50",
            "efficientnet_b0", "efficientnetv2-b0"]
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")
POOLS = ("MaxPooling2D", "AveragePooling2D")
WINDOWS = CONVOLUTIONS + POOLS
BY_NAME = ("NASNetMobile", "NASNetLarge")
WITHOUT_ADD = BY_NAME + ("InceptionResNetV2",)  # which adds in a layer of its own that scales
NUMBERED = re.compile(r"(conv2d|batch_normalization|(max|average)_pooling2d)(_\d+)?")


def same_pads(size, kernel, stride):
    """TensorFlow's padding SAME."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def keras_rows(model):
    rows, macs, pending = [], 0, {}
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "ZeroPadding2D":
            (top, bottom), (left, right) = layer.padding
            pending[layer.output.name] = (top, bottom, left, right)
            continue
        if kind == "Add":
            rows.append({"kind": kind, "name": layer.name, "shape": list(layer.output.shape[1:])})
        if kind not in WINDOWS + ("BatchNormalization",):
            continue
        row = {"kind": kind, "name": layer.name, "shape": list(layer.output.shape[1:]),
               "weights": [list(w.shape) for w in layer.weights]}
        if kind == "BatchNormalization":
            row["epsilon"] = layer.epsilon
        else:
            kernel = layer.pool_size if kind in POOLS else layer.kernel_size
            row["window"], row["strides"] = list(kernel), list(layer.strides)
            pads = pending.get(layer.input.name, (0, 0, 0, 0))
            if layer.padding == "same":
                height, width = layer.input.shape[1:3]
                pads = (same_pads(height, kernel[0], layer.strides[0])
                        + same_pads(width, kernel[1], layer.strides[1]))
            row["pads"] = list(pads)
        if kind in CONVOLUTIONS:
            kernels = [math.prod(shape) for shape in row["weights"] if len(shape) == 4]
            macs += row["shape"][0] * row["shape"][1] * sum(kernels)
        rows.append(row)
    return rows, macs


def our_rows(imgcls, name, size):
    """Rows, feature length and multiply-accumulates."""
    model = json.loads(run(imgcls, "models", name, f"--image-size={size}", "--json").stdout)
    rows, pending = [], {}
    layers = [layer for layer in model["layers"] if layer["nested"]]
    for layer in layers:
        kind = layer["class"]
        if kind == "ZeroPadding2D":
            pending[layer["name"]] = layer["pads"]
        if kind not in WINDOWS + ("BatchNormalization", "Add"):
            continue
        row = {"kind": kind, "name": layer["name"], "shape": layer["shape"]}
        if kind != "Add":
            row["weights"] = [p["shape"] for p in layer["parameters"]]
        if kind == "BatchNormalization":
            row["epsilon"] = layer["epsilon"]
        if kind in WINDOWS:
            row["window"] = layer["pool_size" if kind in POOLS else "kernel_size"]
            row["strides"] = layer["strides"]
            row["pads"] = layer.get("pads") or pending.get(layer["inputs"][0], [0, 0, 0, 0])
        rows.append(row)
    return rows, model["feature_length"], model["gmac"] * 1e9


def check(imgcls, name):
    build, sizes = BACKBONES[name]
    problems = 0
    for size in sizes:
        keras.backend.clear_session()
        model = build(include_top=False, weights=None, pooling="avg", input_shape=(size, size, 3))
        theirs, macs = keras_rows(model)
        ours, features, counted = our_rows(imgcls, name, size)
        if features != model.output.shape[1]:
            print(f"{name} {size}: feature length {features}, Keras {model.output.shape[1]}")
            problems += 1
        if name in BY_NAME:
            ours, theirs = (sorted(rows, key=lambda row: row["name"]) for rows in (ours, theirs))
        if name in WITHOUT_ADD:
            ours, theirs = ([row for row in rows if row["kind"] != "Add"]
                            for rows in (ours, theirs))
        if name.startswith("Inception"):
            ours, theirs = (sorted(({**row, "name": ""} for row in rows), key=str)
                            for rows in (ours, theirs))
        if len(ours) != len(theirs):
            print(f"{name} {size}: {len(ours)} layers, Keras {len(theirs)}")
            problems += 1
        for mine, other in zip(ours, theirs):
            if NUMBERED.fullmatch(other["name"]):
                other["name"] = mine["name"]
            if mine != other:
                print(f"{name} {size}:\n  ours  {mine}\n  Keras {other}")
                problems += 1
                break
        if abs(counted - macs) > 0.5:
            print(f"{name} {size}: {counted:.0f} multiply-accumulates, Keras {macs}")
            problems += 1
        print(f"{name} {size}: {len(ours)} layers, {macs / 1e9:.3f} GMAC")
    return problems


def main():
    imgcls, names = sys.argv[1], sys.argv[2:] or REQUIRED
    if names == ["all"]:
        names = list(BACKBONES)
    problems = sum(check(imgcls, name) for name in names)
    print(f"{len(names)} backbones, {problems} problems")
    sys.exit(problems != 0)


main()
