#!/usr/bin/env python3
"""The losses of five steps of a small seeded training, as losses.json keeps them, with the kernels of
every instruction set: whatever changes the numbers of training is seen here at once.

usage: test_losses.py BUILD_DIR SOURCE_DIR [--refresh]

With --refresh losses.json gets those of the best instruction set here, after a change that is meant to
change them. Rounding is all that differs between instruction sets, and TOLERANCE is ten times what
it came to in these steps (SPREAD). From the sixth on each step multiplies it by about ten, as networks
with BatchNormalization do at the beginning: hence five. A momentum of 0.89 in place of 0.9 must be
seen, or the test would guard nothing.
"""
import json
import os
import subprocess
import sys
import tempfile

build, source = map(os.path.abspath, sys.argv[1:3])
KEPT = f"{source}/tests/e2e/losses.json"
SETS = ("avx512_bf16", "avx512", "avx2", "baseline")
STEPS = 5
SPREAD = 1.7e-5  # relative, the largest between SETS
TOLERANCE = 10 * SPREAD
SETTINGS = ("model.backbone=mobilenet_v3_small_100_224", "model.image_size=32", "data.validation_split=0",
            "data.loader_threads=1", "augment.enabled=yes", "train.batch=12", f"train.epochs={STEPS}",
            "train.steps_per_epoch=1", "train.precision=fp32", "optimizer.learning_rate=0.001",
            "optimizer.weight_decay=0.001", "schedule.name=cosine", "schedule.warmup_epochs=2",
            "checkpoint.every_epochs=0", "run.threads=1", "run.device=cpu", "log.tensorboard=no")


def losses(folder, isa, *more):
    """Of each step, an epoch each."""
    output = f"{folder}/{isa}{len(more)}"
    settings = (*SETTINGS, f"data.dir={folder}/images", *more)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IMGCLS_")}
    with open(f"{folder}/run.ini", "w", encoding="utf-8"):
        pass
    run = subprocess.run([f"{build}/imgcls-train", f"{folder}/run.ini", "-o", output,
                          *(f"--set={setting}" for setting in settings)],
                         capture_output=True, text=True, env={**environment, "IMGCLS_CPU_ISA": isa})
    assert run.returncode == 0, run
    with open(f"{output}/history.json", encoding="utf-8") as file:
        return json.load(file)["loss"]


def worst(ours, kept):
    assert len(ours) == len(kept) == STEPS, (ours, kept)
    return max(abs(a / b - 1) for a, b in zip(ours, kept))


def main():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, f"{source}/tests/tools/make_images.py", f"{folder}/images",
                        "3", "16", "32"], check=True)
        if "--refresh" in sys.argv:
            with open(KEPT, "w", encoding="utf-8") as file:
                json.dump(losses(folder, SETS[0]), file, indent=1)
                file.write("\n")
        with open(KEPT, encoding="utf-8") as file:
            kept = json.load(file)
        off = {isa: worst(losses(folder, isa), kept) for isa in SETS}
        other = worst(losses(folder, SETS[0], "optimizer.momentum=0.89"), kept)
    print(f"losses {kept[0]:.4f} to {kept[-1]:.4f}, off by",
          ", ".join(f"{off[isa]:.1e} with {isa}" for isa in SETS), f"; another momentum {other:.1e}")
    assert max(off.values()) <= TOLERANCE, "see --refresh in this file, where that is meant"
    assert other > 10 * TOLERANCE, other


main()
