#!/usr/bin/env python3
"""Training rates of PyTorch on this GPU: torchvision's networks in bf16, channels_last, eager and
compiled, on random images that are there already; forward, loss, backward, SGD with momentum. Adds one
line of JSON each to a file, with batch and size as tests/gpu/parts.sh gives them to `imgcls bench`;
rates that are there already are not measured again. Exits with 1 where one could not be measured.

usage: bench_torch.py FILE [NAME...]: imgcls' names; all
"""
import json
import os
import sys
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
    ("inception_v3", "inception_v3", 128, 299),
    ("efficientnet_b4", "efficientnet_b4", 64, 380),
]
OPTIONS = {"inception_v3": {"aux_logits": False, "init_weights": False}}
WARMUP, STEPS = 10, 30


def rate(name, batch, side, compiled):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=1000, **OPTIONS.get(name, {})).cuda()
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


def measured(path):
    if not os.path.exists(path):
        return set()
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {(row["imgcls"], row["compiled"]) for row in rows if "error" not in row}


def main():
    path, *names = sys.argv[1:]
    done = measured(path)
    torch.backends.cudnn.benchmark = True
    failed = 0
    for compiled in (False, True):
        for name, ours, batch, side in ROWS:
            if (ours, compiled) in done or ours not in (names or [ours]):
                continue
            row = {"program": "PyTorch " + torch.__version__, "model": name, "imgcls": ours,
                   "batch": batch, "image_size": side, "precision": "bf16", "compiled": compiled,
                   "device": torch.cuda.get_device_name()}
            try:
                row["images_per_s"] = rate(name, batch, side, compiled)
            except Exception as error:  # a compiler that is not there is no reason to stop
                row["error"] = str(error)[:300]
                failed += 1
            with open(path, "a", encoding="utf-8") as file:
                print(json.dumps(row), file=file)
            print(json.dumps(row), flush=True)
            torch._dynamo.reset()
            torch.cuda.empty_cache()
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
