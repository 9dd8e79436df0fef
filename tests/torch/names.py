"""Which module of a torch network holds the weights of a layer, as docs/weights.md tells it, and how
its tensors lie there. Written for itself: the program has its own tables.

names.py MODEL.h5 OUT.safetensors [HEAD] writes a file of imgcls as the state_dict of timm's network;
HEAD is the name of the classifier there ("fc", "classifier", "head.fc").
"""
import re
import sys

import h5py
import numpy as np

HEADS = {"resnet": "fc", "efficientnet": "classifier", "bit": "head.fc", "nasnet": "last_linear",
         "pnasnet": "last_linear"}


def family(backbone):
    if backbone.endswith("_v1_5"):
        return "resnet"
    start = re.match("[a-z]+", backbone)[0]
    return start if start in HEADS else "efficientnet"


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


def cells(layer, layers):
    """NASNet-A large and PNASNet-5 large, whose cells number their pairs from 0 in timm."""
    nasnet = any("_normal_" in other for other in layers)
    if found := re.fullmatch(r"stem_(conv|bn)1", layer):
        return ("conv0." if nasnet else "conv_0.") + found[1]
    body, kind, number = re.fullmatch(r"(.*?)_(?:(stem|reduce)_)?(\d+)", layer).groups()
    number = int(number)
    cell = {"stem": f"cell_stem_{number - 1}.", "reduce": f"reduction_cell_{number // 6 - 1}.",
            # The first reduction of NASNet has a normal cell's number in Keras.
            None: f"cell_{number - (nasnet and number > 6)}."}[kind]
    before = cell + "conv_prev_1x1."
    halved = layer.replace(body, "adjust_conv_1", 1) in layers
    if body.startswith("adjust"):
        halving = cell if nasnet else before
        return {"adjust_conv_projection": before + "conv", "adjust_conv_1": halving + "path_1.conv",
                "adjust_conv_2": halving + "path_2.conv",
                "adjust_bn": halving + "final_path_bn" if halved else before + "bn"}[body]
    if found := re.fullmatch(r"(?:cell|normal|reduction)_(conv|bn)_1", body):
        return f"{cell}conv_1x1.{found[1]}"
    turn, norm, part, side, pair, alone = re.fullmatch(
        r"(?:separable_conv_(\d)(_bn)?_)?(cell|normal|reduction)_(left|right)(\d)(?:_(conv|bn))?",
        body).groups()
    # Keras calls the separable convolution of a reduction's fifth pair left4.
    place = 4 if (part, side, pair) == ("reduction", "left", "4") else int(pair) - 1
    return (f"{cell}comb_iter_{place}_{side}." +
            (alone or ("bn_sep_" if norm else "separable_") + turn))


MODULES = {"resnet": resnet, "bit": bit, "efficientnet": efficientnet, "nasnet": cells,
           "pnasnet": cells}
ROLES = {"kernel": "weight", "depthwise_kernel": "weight", "gamma": "weight", "bias": "bias",
         "beta": "bias", "pointwise_kernel": "weight", "moving_mean": "running_mean", "moving_variance": "running_var"}
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
    module_of = MODULES[family(backbone)]
    state = {}
    for path, array in weights.items():
        layer, role = path.split("/")
        module = head if layer == "logits" else module_of(layer, layers)
        if f"{layer}/pointwise_kernel" in weights:
            module += f".{role.removesuffix('_kernel')}_conv2d"
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
