#!/usr/bin/env python3
"""PyTorch's training steps, timed as `imgcls bench` times ours. Run by launch/bench_peers.py.

fp32, channels_last, SGD with momentum; eager, or with --compile through torch.compile. A step takes
the uint8 pixels of a batch that is already in memory through upload, forward, loss, backward and
update.
"""
import os
import time

import timm
import torch
import torchvision

import bench_peer


def keras_resnet(name):
    """torchvision's, turned into Keras' graph: strides in the first 1x1, biases in convolutions."""
    def build(classes):
        model = getattr(torchvision.models, name)(num_classes=classes)
        for module in list(model.modules()):
            if isinstance(module, torchvision.models.resnet.Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.bias = torch.nn.Parameter(torch.zeros(module.out_channels))
        return model
    return build


def from_timm(name, **options):
    return lambda classes: timm.create_model(name, num_classes=classes, drop_rate=0.2, **options)


# The peer of each of our backbones: torchvision's or timm's module of the same graph. timm's tf_
# models are TensorFlow's graphs, padding included. Not there: TF-Slim's and Keras' ResNets v2 and
# TF-Slim's v1, which stride in a stage's last unit; MobileNetV2 1.3; NASNet mobile.
MODELS = {
    "mobilenet_v2_100_224": lambda classes: torchvision.models.mobilenet_v2(num_classes=classes),
    "mobilenet_v2_140_224": from_timm("mobilenetv2_140"),
    "inception_v3": from_timm("inception_v3"),
    "inception_resnet_v2": from_timm("inception_resnet_v2"),
    "nasnet_large": from_timm("nasnetalarge"),
    "pnasnet_large": from_timm("pnasnet5large"),
    "bit_s-r50x1": from_timm("resnetv2_50x1_bit"),
    "efficientnetv2-xl-21k": from_timm("tf_efficientnetv2_xl", drop_path_rate=0.2),
}
for layers in (50, 101, 152):
    MODELS[f"ResNet{layers}"] = keras_resnet(f"resnet{layers}")
    MODELS[f"resnet{layers}_v1_5"] = from_timm(f"resnet{layers}")
for size in ("small_100", "small_075", "large_100", "large_075"):
    MODELS[f"mobilenet_v3_{size}_224"] = from_timm(f"tf_mobilenetv3_{size}")
for size in range(8):
    MODELS[f"efficientnet_b{size}"] = from_timm(f"tf_efficientnet_b{size}", drop_path_rate=0.2)
for size in ("b0", "b1", "b2", "b3", "s", "m", "l"):
    MODELS[f"efficientnetv2-{size}"] = from_timm(f"tf_efficientnetv2_{size}", drop_path_rate=0.2)


def main():
    args = bench_peer.parse_arguments(__doc__, MODELS)
    torch.set_num_threads(args.threads)
    torch.manual_seed(bench_peer.BATCH_SEED)
    model = MODELS[args.model](args.classes).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    loss_of = torch.nn.CrossEntropyLoss()
    pixels = torch.randint(0, 256, (args.batch, args.image_size, args.image_size, 3),
                           dtype=torch.uint8)
    labels = torch.randint(0, args.classes, (args.batch,))

    def forward(pixels, labels):
        images = pixels.permute(0, 3, 1, 2).float().mul_(1 / 127.5).sub_(1.0)
        return loss_of(model(images), labels)

    if args.compile:
        if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2":  # its code obeys another switch
            from torch._inductor import config
            config.cpp.simdlen = 256
        forward = torch.compile(forward)

    def step():
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = forward(pixels, labels)
        value = loss.item()
        after_forward = time.perf_counter()
        loss.backward()
        after_backward = time.perf_counter()
        optimizer.step()
        return value, {"forward": after_forward - start, "backward": after_backward - after_forward,
                       "update": time.perf_counter() - after_backward}

    bench_peer.serve(args, {"program": "pytorch", "version": torch.__version__,
                            "parameters": sum(p.numel() for p in model.parameters())}, step)


if __name__ == "__main__":
    main()
