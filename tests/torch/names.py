"""Which module of a torch network holds the weights of a layer, as docs/weights.md tells it, and how
its tensors lie there. Written for itself: the program has its own tables.

names.py MODEL.h5 OUT.safetensors [HEAD] writes a file of imgcls as the state_dict of timm's network;
HEAD is the name of the classifier there ("fc", "classifier", "head.fc").
"""
import re
import sys

import h5py
import numpy as np

HEADS = {"resnet": "fc", "efficientnet": "classifier", "bit": "head.fc"}


def family(backbone):
    if backbone.endswith("_v1_5"):
        return "resnet"
    return "bit" if backbone.startswith("bit_") else "efficientnet"


def resnet(layer, _):
    if found := re.fullmatch(r"conv1_(conv|bn)", layer):
        return "conv1" if found[1] == "conv" else "bn1"
    stage, unit, number, kind = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", layer).groups()
    block = f"layer{int(stage) - 1}.{int(unit) - 1}."
    if number == "0":
        return block + ("downsample.0" if kind == "conv" else "downsample.1")
    return block + kind + number


def bit(layer, _):
    if layer == "conv1_conv":
        return "stem.conv"
    if layer == "post_gn":
        return "norm"
    stage, unit, part = re.fullmatch(r"conv(\d)_block(\d+)_(.*)", layer).groups()
    block = f"stages.{int(stage) - 2}.blocks.{int(unit) - 1}."
    return block + {"preact_gn": "norm1", "0_conv": "downsample.conv", "1_conv": "conv1",
                    "1_gn": "norm2", "2_conv": "conv2", "2_gn": "norm3", "3_conv": "conv3"}[part]


def efficientnet(layer, layers):
    outside = {"stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2"}
    if layer in outside:
        return outside[layer]
    stage, repeat, part = re.fullmatch(r"block(\d+)([a-z]+)_(.*)", layer).groups()
    place = ord(repeat[-1]) - 97 + 26 * (len(repeat) - 1)
    wide, deep = (f"block{stage}{repeat}_{x}" in layers for x in ("expand_bn", "bn"))
    if part in ("dwconv", "dwconv2"):
        module = "conv_dw"
    elif part.startswith("se_"):
        module = "se.conv_" + part[3:]
    elif part == "expand_conv":
        module = "conv_pw" if deep else "conv_exp"
    elif part == "project_conv":
        module = "conv_pwl" if wide else "conv_pw" if deep else "conv"
    else:
        module = "bn" + str({"expand_bn": 1, "bn": 1 + wide, "project_bn": 1 + wide + deep}[part])
    return f"blocks.{int(stage) - 1}.{place}.{module}"


ROLES = {"kernel": "weight", "depthwise_kernel": "weight", "gamma": "weight", "bias": "bias",
         "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
AXES = {"depthwise_kernel": (2, 3, 0, 1), 4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}


def own_weights(path):
    """The backbone's name and {"LAYER/role": array} of a file of imgcls, BiT's kernels as they are
    trained."""
    found = {}
    with h5py.File(path) as file:
        groups = [g for g in file["model_weights"].attrs["layer_names"]]
        raw = file.get("imgcls/raw", {})
        for group in groups:
            group = group if isinstance(group, str) else group.decode()
            def visit(name, item):
                if isinstance(item, h5py.Dataset):
                    layer, role = name.split("/")[-2], name.split("/")[-1].split(":")[0]
                    found[f"{layer}/{role}"] = (raw[layer]["kernel"] if role == "kernel" and
                                                layer in raw else item)[...]
            file["model_weights"][group].visititems(visit)
            backbone = group if "logits" not in group and group != "dropout" else backbone
    return backbone, found


def to_torch(backbone, weights, head):
    layers = {path.split("/")[0] for path in weights}
    module_of = {"resnet": resnet, "bit": bit, "efficientnet": efficientnet}[family(backbone)]
    state = {}
    for path, array in weights.items():
        layer, role = path.split("/")
        module = head if layer == "logits" else module_of(layer, layers)
        axes = AXES.get(role) or AXES[array.ndim]
        state[f"{module}.{ROLES[role]}"] = np.ascontiguousarray(array.transpose(axes))
    return state


def main():
    from safetensors.numpy import save_file
    backbone, weights = own_weights(sys.argv[1])
    head = sys.argv[3] if len(sys.argv) > 3 else HEADS[family(backbone)]
    save_file(to_torch(backbone, weights, head), sys.argv[2])


if __name__ == "__main__":
    main()
