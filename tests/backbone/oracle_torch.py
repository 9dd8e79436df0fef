"""PyTorch's backbones as oracles: torchvision and timm, for the graphs that Keras has not."""
import re
import sys

import numpy as np

try:
    import timm
    import torch
    import torchvision
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def signed(x):
    return 2 * x - 1


def bytes_around_zero(x):
    """As google/automl: (255 x - 128) / 128."""
    return x * (255 / 128) - 1


def imagenet(x):
    return (x - x.new_tensor([0.485, 0.456, 0.406])) / x.new_tensor([0.229, 0.224, 0.225])


# From the name of our layer to that of PyTorch's module. None: by kind in order.

def resnet(name):
    stem = {"conv1_conv": "conv1", "conv1_bn": "bn1"}
    if name in stem:
        return stem[name]
    stage, block, place, kind = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", name).groups()
    unit = f"layer{int(stage) - 1}.{int(block) - 1}."
    if place == "0":
        return unit + ("downsample.0" if kind == "conv" else "downsample.1")
    return unit + kind + place


def bit(name):
    stem = {"conv1_conv": "stem.conv", "post_gn": "norm"}
    if name in stem:
        return stem[name]
    stage, block, what = re.fullmatch(r"conv(\d)_block(\d+)_(\w+)", name).groups()
    part = {"preact_gn": "norm1", "1_conv": "conv1", "1_gn": "norm2", "2_conv": "conv2",
            "2_gn": "norm3", "3_conv": "conv3", "0_conv": "downsample.conv"}[what]
    return f"stages.{int(stage) - 2}.blocks.{int(block) - 1}.{part}"


def pnasnet(halved):
    """halved: the numbers of the cells that halve the output of the cell before the last."""
    def rename(name):
        if name in ("stem_conv1", "stem_bn1"):
            return "conv_0.conv" if name == "stem_conv1" else "conv_0.bn"
        body, number = re.fullmatch(r"(.*?)_((?:stem_)?\d+)", name).groups()
        stem = number.startswith("stem_")
        cell = f"cell_stem_{int(number[5:]) - 1}." if stem else f"cell_{number}."
        before = cell + "conv_prev_1x1."
        fixed = {"adjust_conv_projection": before + "conv", "adjust_conv_1": before + "path_1.conv",
                 "adjust_conv_2": before + "path_2.conv",
                 "adjust_bn": before + ("final_path_bn" if number in halved else "bn"),
                 "cell_conv_1": cell + "conv_1x1.conv", "cell_bn_1": cell + "conv_1x1.bn"}
        if body in fixed:
            return fixed[body]
        turn, side, pair, part = re.fullmatch(
            r"(?:separable_conv_(\d(?:_bn)?)_)?cell_(left|right)(\d)_?(\w*)", body).groups()
        operation = f"{cell}comb_iter_{int(pair) - 1}_{side}."
        if not turn:
            return operation + part
        return operation + ("bn_sep_" if turn.endswith("bn") else "separable_") + turn[0]
    return rename


def timm_model(name):
    return lambda: timm.create_model(name, num_classes=0)


def torchvision_model(build):
    def make():
        model = build(weights=None)
        model.fc = torch.nn.Identity()
        return model
    return make


# name: (builder, what makes its inputs of an image in [0, 1], from our names to its modules)
ROWS = {
    "resnet50_v1_5": (torchvision_model(torchvision.models.resnet50), imagenet, resnet),
    "resnet101_v1_5": (torchvision_model(torchvision.models.resnet101), imagenet, resnet),
    "resnet152_v1_5": (torchvision_model(torchvision.models.resnet152), imagenet, resnet),
    "efficientnetv2-xl-21k": (timm_model("tf_efficientnetv2_xl"), bytes_around_zero, None),
    "bit_s-r50x1": (timm_model("resnetv2_50x1_bit"), signed, bit),
    "pnasnet_large": (timm_model("pnasnet5large"), signed,
                      pnasnet({"stem_2", "0", "5", "9"})),
}
ROLES = {"kernel": "weight", "depthwise_kernel": "weight", "bias": "bias", "gamma": "weight",
         "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def kind_of(module):
    if isinstance(module, torch.nn.Conv2d):
        depthwise = module.groups == module.in_channels > 1
        return "DepthwiseConv2D" if depthwise else "Conv2D"
    return "BatchNormalization" if isinstance(module, torch.nn.BatchNorm2d) else None


class Oracle:
    """One backbone, with parameters by our paths."""

    def __init__(self, name, parameters, side, dtype):
        build, self.prepare, rename = ROWS[name]
        self.dtype = getattr(torch, dtype)
        self.model = build().to(self.dtype)
        if rename is None:
            modules = self.in_order(parameters)
        else:
            modules = {p.layer: rename(p.layer) for p in parameters}
        state = self.model.state_dict(keep_vars=True)
        self.tensors = {p.path: state[self.key(p, modules[p.layer])] for p in parameters}
        count = len({id(t) for t in self.tensors.values()})
        unmapped = len([k for k in state if not k.endswith("num_batches_tracked")]) - count
        assert unmapped == 0 and count == len(parameters), (unmapped, count, len(parameters))

    def in_order(self, parameters):
        modules = {}
        for kind in ("Conv2D", "DepthwiseConv2D", "BatchNormalization"):
            theirs = [n for n, m in self.model.named_modules() if kind_of(m) == kind]
            ours = list(dict.fromkeys(p.layer for p in parameters if p.kind == kind))
            assert len(ours) == len(theirs), (kind, len(ours), len(theirs))
            modules |= zip(ours, theirs)
        return modules

    @staticmethod
    def key(parameter, module):
        if parameter.kind == "SeparableConv2D":
            part = "depthwise" if parameter.role == "depthwise_kernel" else "pointwise"
            return f"{module}.{part}_conv2d.weight"
        return f"{module}.{ROLES[parameter.role]}"

    def run(self, values, images, head, labels, training):
        """(features, {what: gradient of the loss}), what being a path, "images" or a part of the
        head, which is a kernel and a bias."""
        with torch.no_grad():
            for path, tensor in self.tensors.items():
                value = torch.from_numpy(values[path])
                if value.ndim == 4: # (kh, kw, in, out), depthwise (kh, kw, in, 1)
                    deep = path.endswith("depthwise_kernel")
                    value = value.permute(2, 3, 0, 1) if deep else value.permute(3, 2, 0, 1)
                assert value.shape == tensor.shape, (path, value.shape, tensor.shape)
                tensor.copy_(value)
        self.model.train(training)
        inputs = {"images": images} | head
        inputs = {what: torch.tensor(x, dtype=self.dtype, requires_grad=True)
                  for what, x in inputs.items()}
        features = self.model(self.prepare(inputs["images"]).permute(0, 3, 1, 2))
        logits = features @ inputs["logits/kernel"] + inputs["logits/bias"]
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        self.model.zero_grad()
        loss.backward()
        gradients = {what: x.grad.numpy() for what, x in inputs.items()}
        for path, tensor in self.tensors.items():
            if not tensor.requires_grad:
                continue
            grad = tensor.grad
            if grad.ndim == 4:
                deep = path.endswith("depthwise_kernel")
                grad = grad.permute(2, 3, 0, 1) if deep else grad.permute(2, 3, 1, 0)
            gradients[path] = grad.numpy()
        return features.detach().numpy(), gradients
