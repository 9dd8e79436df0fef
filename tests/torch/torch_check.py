"""Weights of torch's networks come in, and ours go there.

torch_check.py IMGCLS_TRAIN TORCH_BRIDGE FOLDER BACKBONE...

For each backbone, with settled random weights in the place of the public ones:
- A state_dict of timm's network as safetensors and as .h5, in F16 and BF16, and under a prefix, gives
  the features of timm's network; the head's weights stand where its shape agrees.
- For ResNet v1.5, EfficientNetV2, BiT, NASNet-A and PNASNet-5 the other way: what imgcls-train wrote, moved by names.py
  as docs/weights.md tells, fills timm's network to the last tensor and gives the same features.
- A file of another network is refused with the first difference and the backbone that it fits.

The tolerance: timm in float64 is the truth. An error is the largest of all features relative to the
largest feature. Both compute the same function in fp32 and differ from the truth by roundings in
unlike orders of summation, so ours may be four times timm's, of which the largest of a few thousand
is taken, plus 1e-6, and never above 2e-5. One element of the first kernel that is 1 % off must move
features further than that, or the comparison could not tell right from wrong.
"""
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import types
from functools import partial

try:
    import h5py
    import numpy as np
    import timm
    import torch
    import torch.nn.functional as functional
    from safetensors.torch import load_file, save_file
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import names

CLASSES, IMAGES, BOUND = 5, 6, 2e-5
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIGNED = ((0.5,) * 3, (0.5,) * 3)
BYTES = ((128 / 255,) * 3, (128 / 255,) * 3)  # google/automl's (255 x - 128) / 128
# name: (timm's, mean and deviation, side)
NETWORKS = {
    "resnet50_v1_5": ("resnet50", IMAGENET, 64),
    "efficientnetv2-b0": ("tf_efficientnetv2_b0", IMAGENET, 64),
    "efficientnetv2-s": ("tf_efficientnetv2_s", BYTES, 64),
    "efficientnet_b0": ("tf_efficientnet_b0", IMAGENET, 64),
    "bit_s-r50x1": ("resnetv2_50x1_bit", SIGNED, 64),
    "mobilenet_v3_large_100_224": ("tf_mobilenetv3_large_100", SIGNED, 64),
    "mobilenet_v3_small_075_224": ("tf_mobilenetv3_small_075", SIGNED, 64),
    "inception_v3": ("inception_v3", SIGNED, 128),
    "inception_resnet_v2": ("inception_resnet_v2", SIGNED, 128),
    "nasnet_large": ("nasnetalarge", SIGNED, 64),
    "pnasnet_large": ("pnasnet5large", SIGNED, 64),
}
BOTH_WAYS = ("resnet50_v1_5", "efficientnetv2-b0", "bit_s-r50x1", "nasnet_large", "pnasnet_large")


def average_of_pixels(pool, images):
    """timm's AvgPool2dSame, but for the padding, which does not count."""
    def sums(x):
        padded = timm.layers.pad_same(x, pool.kernel_size, pool.stride)
        return functional.avg_pool2d(padded, pool.kernel_size, pool.stride)
    return sums(images) / sums(torch.ones_like(images))


# timm averages the padding in, TF-Slim, whose weights it carries, does not: all of Inception v3's
# pools, those of NASNet that stride.
sys.modules["timm.models.inception_v3"].F = types.SimpleNamespace(
    **vars(functional) | {"avg_pool2d": partial(functional.avg_pool2d, count_include_pad=False)})
timm.layers.pool2d_same.AvgPool2dSame.forward = average_of_pixels
torch.manual_seed(3)
torch.set_num_threads(2)


def create(name, classes=CLASSES):
    options = {"aux_logits": False} if name == "inception_v3" else {}
    model = timm.create_model(NETWORKS[name][0], pretrained=False, num_classes=classes, **options)
    for module in model.modules():
        if type(module).__name__ == "StdConv2d":
            module.eps = 1e-10  # as in the original; timm has 1e-8
    return model


def settle(model, images):
    """Weights whose roundings stay small, as those of trained networks do: see h5_common.py."""
    scaled = "inception" not in type(model).__name__.lower()
    norms = [(name, m) for name, m in model.named_modules()
             if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.GroupNorm))]
    for name, norm in norms:
        last = bool(re.search(r"\d\.bn3$", name))
        with torch.no_grad():
            if scaled:
                norm.weight.uniform_(0.7, 1.3).mul_(0.3 if last else 1)
            norm.bias.uniform_(-0.3, 0.3).add_(0 if last else 0.7 if scaled else 1.5)
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def pixels_of(side):
    """Patches of colors with noise."""
    rng = np.random.default_rng(5)
    patches = rng.integers(20, 236, (IMAGES, side // 8, side // 8, 3))
    images = patches.repeat(8, 1).repeat(8, 2) + rng.integers(-20, 20, (IMAGES, side, side, 3))
    return images.astype("u1")


def normalise(name, pixels, dtype=torch.float32):
    mean, deviation = (torch.tensor(v, dtype=dtype) for v in NETWORKS[name][1])
    unit = torch.tensor(pixels).to(dtype) / 255
    return ((unit - mean) / deviation).permute(0, 3, 1, 2).contiguous()


def features_of(model, images):
    with torch.no_grad():
        return model.forward_head(model.forward_features(images), pre_logits=True).flatten(1).numpy()


class Checker:
    def __init__(self, trainer, bridge, out):
        self.trainer, self.bridge, self.out = trainer, bridge, out

    def ours(self, name, path, pixels, fails=None):
        pixels.tofile(f"{self.out}/pixels")
        done = subprocess.run([self.bridge, name, path, str(pixels.shape[1]), f"{self.out}/pixels",
                               f"{self.out}/features"], capture_output=True, text=True)
        if fails:
            assert done.returncode == 65 and all(t in done.stderr for t in fails), done.stderr
            return None
        assert done.returncode == 0, f"{name} {path}: {done.stderr}"
        flat = np.fromfile(f"{self.out}/features", "<f4")
        length = len(flat[:-CLASSES]) // (IMAGES + CLASSES)
        features, head = np.split(flat, [IMAGES * length])
        return (features.reshape(IMAGES, length), head[:-CLASSES].reshape(length, CLASSES),
                head[-CLASSES:], json.loads(done.stdout))

    def compare(self, name, path, model, pixels, what):
        """Our features of a file against those of the network in fp32 and in float64."""
        theirs = features_of(model, normalise(name, pixels))
        exact = features_of(model.double(), normalise(name, pixels, torch.float64))
        model.float()
        got = self.ours(name, path, pixels)
        scale = np.abs(exact).max()
        assert got[0].shape == theirs.shape, (got[0].shape, theirs.shape)
        mine, other = (np.abs(f - exact).max() / scale for f in (got[0], theirs))
        print(f"{name}: {what}: off by {mine:.1e}, timm by {other:.1e}", flush=True)
        assert mine <= min(BOUND, 4 * other + 1e-6), (name, what, mine, other)
        return got, exact

    def check_in(self, name, model, pixels):
        base = f"{self.out}/{name}"
        state = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file(state, base + ".safetensors")
        got, exact = self.compare(name, base + ".safetensors", model, pixels, "safetensors")
        head = [v.detach().numpy() for v in model.get_classifier().parameters()]
        assert got[3]["head"] and got[3]["left"] == 0, got[3]
        assert np.array_equal(got[1], head[0].reshape(CLASSES, -1).T), "the head's kernel"
        assert np.array_equal(got[2], head[1])
        first = next(p for p in model.parameters() if p.ndim == 4)
        with torch.no_grad():
            place = first.abs().flatten().argmax()
            first.view(-1)[place] *= 1.01
            moved = np.abs(features_of(model, normalise(name, pixels)) - exact).max()
            first.view(-1)[place] /= 1.01
        assert moved > 3 * BOUND * np.abs(exact).max(), "a wrong weight would not be seen"

    def check_formats(self, name, model, pixels):
        """The same tensors otherwise stored give the same features to the last bit."""
        base = f"{self.out}/{name}"
        expected = self.ours(name, base + ".safetensors", pixels)[0]
        state = model.state_dict()
        with h5py.File(base + "_flat.h5", "w") as file:
            for key, value in state.items():
                file[key] = value.numpy()
        with h5py.File(base + "_nested.h5", "w") as file:
            for key, value in state.items():
                file[key.replace(".", "/")] = value.numpy()
        save_file({"module." + k: v.contiguous() for k, v in state.items()}, base + "_m.safetensors")
        for suffix in ("_flat.h5", "_nested.h5", "_m.safetensors"):
            assert np.array_equal(self.ours(name, base + suffix, pixels)[0], expected), suffix
        for dtype in (torch.float16, torch.bfloat16):
            short = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
            save_file(short, base + "_short.safetensors")
            save_file({k: v.float() if v.is_floating_point() else v for k, v in short.items()},
                      base + "_long.safetensors")
            got = [self.ours(name, f"{base}_{kind}.safetensors", pixels)[0]
                   for kind in ("short", "long")]
            assert np.array_equal(*got) and not np.array_equal(got[0], expected), dtype

    def check_other_head(self, name, pixels):
        save_file(create(name, 7).state_dict(), f"{self.out}/other.safetensors")
        fit = self.ours(name, f"{self.out}/other.safetensors", pixels)[3]
        assert not fit["head"] and fit["left"] == 2 and fit["unused"] >= 2, fit

    def check_out(self, name, pixels):
        """Trained here, moved to timm."""
        side, base = NETWORKS[name][2], f"{self.out}/{name}"
        images = base + "_images"
        for label in range(CLASSES):
            os.makedirs(f"{images}/c{label}")
        from PIL import Image
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(f"{images}/c{i % CLASSES}/{i}.png")
        with open(base + ".ini", "w", encoding="utf-8") as file:
            file.write(f"[model]\nbackbone = {name}\nimage_size = {side}\n"
                       f"weights = {base}.safetensors\n[data]\ndir = {images}\n"
                       "validation_split = 0\n[train]\nbatch = 6\nepochs = 1\nsteps_per_epoch = 2\n"
                       "precision = fp32\n[optimizer]\nlearning_rate = 0.001\n"
                       "[checkpoint]\nresume = none\n")
        subprocess.run([self.trainer, base + ".ini", "-q", "-o", base + "_run"], check=True)
        with open(base + "_run/train.log", encoding="utf-8") as file:
            taken_for = re.search(r"; taken for \w+'s ([^,\n]+)", file.read())[1]
        assert fnmatch.fnmatch(NETWORKS[name][0], taken_for), (NETWORKS[name][0], taken_for)
        path = base + "_run/last.h5"
        backbone, weights = names.own_weights(path)
        assert backbone == name
        head = names.HEADS[names.family(name)]
        state = {k: torch.tensor(v) for k, v in names.to_torch(name, weights, head).items()}
        model = create(name).eval()
        expected = model.state_dict()
        for key, value in expected.items():
            if key.endswith("num_batches_tracked"):
                state[key] = value
            elif state[key].ndim == 2 and value.ndim == 4:
                state[key] = state[key][:, :, None, None]
        before = load_file(base + ".safetensors")
        model.load_state_dict(state, strict=True)
        assert any(not torch.equal(before[k], v) for k, v in state.items()), "nothing was trained"
        self.compare(name, path, model, pixels, "trained here, in timm")

    def check_refusals(self, pixels):
        """The first difference and what the file is."""
        path = f"{self.out}/wrong.safetensors"
        state = timm.create_model("resnet101", pretrained=False).state_dict()
        save_file(state, path)
        self.ours("resnet50_v1_5", path, pixels,
                  ["layer3.10.bn1.bias of shape (256,)", "it fits resnet101_v1_5\n"])
        self.ours("nasnet_mobile", path, pixels, ["nasnet_mobile", "it fits resnet101_v1_5\n"])
        self.ours("efficientnetv2-b0", path, pixels,
                  ["conv_stem.weight of shape (32, 3, 3, 3)", "stem_conv/kernel",
                   "it fits resnet101_v1_5\n"])
        self.ours("mobilenet_v2_100_224", path, pixels,
                  ["torch's networks are not backbone mobilenet_v2_100_224: they pad",
                   "it fits resnet101_v1_5\n"])
        missing = dict(state)
        del missing["layer4.2.bn2.running_var"]
        save_file(missing, path)
        self.ours("resnet101_v1_5", path, pixels,
                  ["layer4.2.bn2.running_var of shape (512,)", "conv5_block3_2_bn/moving_variance",
                   "fits no backbone"])
        wide = timm.create_model("wide_resnet50_2", pretrained=False).state_dict()
        save_file(wide, path)
        self.ours("resnet50_v1_5", path, pixels,
                  ["layer1.0.conv1.weight has shape (128, 64, 1, 1)", "needs (64, 64, 1, 1)"])
        model = create("inception_v3")
        with torch.no_grad():
            model.Mixed_5b.branch1x1.bn.weight[7] = 1.5
        save_file(model.state_dict(), path)
        self.ours("inception_v3", path, pixels_of(128),
                  ["Mixed_5b.branch1x1.bn.weight is not all 1", "mixed_5b_b0_0_bn"])


def main():
    trainer, bridge, out, *wanted = sys.argv[1:]
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    checker = Checker(trainer, bridge, out)
    for name in wanted:
        pixels = pixels_of(NETWORKS[name][2])
        model = settle(create(name), normalise(name, pixels))
        checker.check_in(name, model, pixels)
        if name in BOTH_WAYS:
            checker.check_out(name, pixels)
        if name == "mobilenet_v3_small_075_224":
            checker.check_formats(name, model, pixels)
            checker.check_other_head(name, pixels)
        if name == "resnet50_v1_5":
            checker.check_refusals(pixels)
    shutil.rmtree(out)


main()
