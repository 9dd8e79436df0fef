#!/usr/bin/env python3
"""Training rates of PyTorch on this GPU: torchvision's networks in bf16, channels_last, eager and
compiled, on random images that are there already; forward, loss, backward, SGD with momentum. One
line of JSON each, with batch and size as tests/gpu/run.sh gives them to `imgcls bench`."""
import json
import time

import torch
import torchvision

ROWS = [
    # torchvision, imgcls, batch, side
    ("resnet50", "resnet50_v1_5", 256, 224),
    ("efficientnet_b0", "efficientnet_b0", 256, 224),
    ("mobilenet_v2", "mobilenet_v2_100_224", 256, 224),
    ("efficientnet_v2_s", "efficientnetv2-s", 128, 300),
    ("mobilenet_v3_large", "mobilenet_v3_large_100_224", 256, 224),
    ("efficientnet_b4", "efficientnet_b4", 64, 380),
]
WARMUP, STEPS = 10, 30


def rate(name, batch, side, compiled):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=1000).cuda()
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    images = torch.randn(batch, 3, side, side, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,), device="cuda")
    forward = torch.compile(model) if compiled else model

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for _ in range(WARMUP):
        step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return STEPS * batch / (time.perf_counter() - start)


def main():
    torch.backends.cudnn.benchmark = True
    for name, ours, batch, side in ROWS:
        for compiled in (False, True):
            row = {"program": "PyTorch " + torch.__version__, "model": name, "imgcls": ours,
                   "batch": batch, "image_size": side, "precision": "bf16", "compiled": compiled,
                   "device": torch.cuda.get_device_name()}
            try:
                row["images_per_s"] = rate(name, batch, side, compiled)
            except Exception as error:  # a compiler that is not there is no reason to stop
                row["error"] = str(error)[:300]
            print(json.dumps(row), flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
