#!/usr/bin/env python3
"""`imgcls plan` with the real cuDNN and no GPU: what it lists, keeps and finds again; what it leaves
to a run on the GPU where there is no driver; a configuration under mpirun; mistakes.

usage: test_plan_tool.py BUILD SOURCE"""

import json
import os
import subprocess
import sys
import tempfile

BUILD, SOURCE = sys.argv[1:3]
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "--quiet", "-np"]


def plan(*arguments, driver=True, ranks=1, code=0, environment=None):
    env = dict(os.environ, **(environment or {}))
    if driver:
        env["LD_LIBRARY_PATH"] = f"{BUILD}/standin"
    command = (MPIRUN + [str(ranks)] if ranks > 1 else []) + [f"{BUILD}/cudnn_tool", "plan"]
    run = subprocess.run(command + list(arguments), env=env, capture_output=True, text=True)
    assert run.returncode == code, (arguments, run.returncode, run.stdout, run.stderr)
    return run.stdout + run.stderr


def plans(*arguments, **options):
    return json.loads(plan("--json", *arguments, **options))["plans"]


def files(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def check_model(folder):
    cache = f"{folder}/model"
    arguments = ["mobilenet_v2_100_224", "--device", "h200", "--precision", "fp32", "--set",
                 f"run.plan_cache={cache}", "--set", "run.autotune=no"]
    first, second = plans(*arguments), plans(*arguments)
    assert len(first) == len(second) == len(files(cache)) > 40, len(first)
    assert not any(p["kept_before"] for p in first) and all(p["kept_before"] for p in second)
    assert {p["pass"] for p in first} == {"forward", "data gradient", "weight gradient"}
    for a, b in zip(first, second):
        assert a["engine"] == b["engine"] and a["workspace_bytes"] == b["workspace_bytes"], (a, b)
    text = plan(*arguments)
    assert f"{len(first)} plans for NVIDIA H200" in text and "in fp32" in text, text
    # Another GPU, another batch: nothing of it is found.
    for other in (["--device", "a100"], ["--batch", "32"]):
        assert not any(p["kept_before"] for p in plans(*arguments, *other))


# Without a driver cuDNN compiles nothing: what it would have compiled is not kept.
def check_without_driver(folder):
    arguments = ["mobilenet_v2_100_224", "--device", "h200", "--image-size", "96", "--batch", "2",
                 "--set", f"run.plan_cache={folder}/half", "--set", "run.autotune=no"]
    half = plans(*arguments, driver=False)
    left = [p for p in half if p["left"]]
    assert {p["pass"] for p in half} == {"forward", "data gradient", "weight gradient"}
    for p in half:  # conversions and additions behind a convolution are compiled
        assert p["left"] == (p["pass"] == "weight gradient" or " bias" in p["problem"]), p
    assert len(files(f"{folder}/half")) == len(half) - len(left)
    assert "libcuda.so.1" in plan(*arguments, driver=False)
    environment = {"XDG_CACHE_HOME": f"{folder}/xdg"}
    plan("mobilenet_v2_100_224", "--device", "l40s", "--precision", "fp32", "--batch", "1",
         driver=False, environment=environment)
    assert files(f"{folder}/xdg/imgcls/plans")


def check_config(folder):
    subprocess.run([sys.executable, f"{SOURCE}/tests/tools/make_images.py", f"{folder}/images",
                    "2", "12", "32"], check=True)
    with open(f"{folder}/a.ini", "w", encoding="utf-8") as file:
        file.write(f"[data]\ndir = {folder}/images\n"
                   "[model]\nbackbone = mobilenet_v3_small_075_224\nimage_size = 32\n"
                   "[train]\nbatch = 8\nprecision = fp32\n"
                   f"[run]\nautotune = no\nplan_cache = {folder}/config\n")
    alone = plans(f"{folder}/a.ini", "--device", "h200")
    shared = plans(f"{folder}/a.ini", "--device", "h200", ranks=2)
    assert not any(p["kept_before"] for p in alone)
    assert not all(p["kept_before"] for p in shared) # half the batch
    again = plans(f"{folder}/a.ini", "--device", "h200", ranks=2)
    assert all(p["kept_before"] for p in again)


def check_mistakes(folder):
    assert "h100" in plan("mobilenet_v2_100_224", "--device", "voodoo", code=78)
    assert "which MODEL" in plan("--device", "h200", code=64)
    assert "unknown" in plan("no_such_net", "--device", "h200", code=78).lower()
    assert "--batch" in plan(f"{folder}/a.ini", "--batch", "3", code=64)
    assert "device = cuda" in plan("mobilenet_v2_100_224", driver=False, code=78)
    bad = plan("mobilenet_v2_100_224", "--device", "h200", "--precision", "fp32", "--set",
               f"run.plan_cache={folder}/a.ini/plans")
    assert "plans are not kept" in bad, bad


with tempfile.TemporaryDirectory() as scratch:
    check_config(scratch)
    check_mistakes(scratch)
    check_model(scratch)
    check_without_driver(scratch)
