#!/usr/bin/env python3
"""A step as one CUDA graph gives the bits of the same step launched part by part: over the stand-ins, for
1, 2 and 4 ranks, with all that changes from step to step. What would be wrong must show: values that
are read when a step is recorded instead of when it runs (tests/standin/baking.c) change the bits, and
each failing call of a recording ends in plain launches with the same bits, or in a message.

usage: test_cuda_graph.py BUILD_DIR SOURCE_DIR all|some
"""
import os
import subprocess
import sys
import tempfile

BUILD, SOURCE, EXTENT = sys.argv[1:]
failures = []
# A pass is two batches and a short one, so each size comes in both slots, plain, recorded and replayed.
INI = """
[model]
backbone = mobilenet_v3_small_075_224
image_size = 32
dropout = 0.5
[data]
dir = {work}/images
validation_split = 0.25
loader_threads = 1
[augment]
enabled = yes
[train]
batch = 4
epochs = 2
evaluate_every = 1
precision = fp32
virtual_workers = 2
[optimizer]
learning_rate = 0.01
[schedule]
warmup_epochs = 1
[run]
autotune = no
threads = 1
device = cuda
"""
MANY = ["optimizer.clip_norm=1", "optimizer.use_ema=yes", "optimizer.weight_decay=0.01"]
# The scale rises behind each good step until gradients overflow.
HALF = ["train.precision=fp16", "train.loss_scale=256", "train.loss_scale_growth_steps=1",
        "train.recompute=yes", "train.virtual_workers=1"]
DEPTH = ["model.backbone=efficientnet_b0", "model.stochastic_depth=0.5", "train.virtual_workers=1"]


def check(true, what, detail=""):
    print(f"{'ok' if true else 'FAILED'}: {what}", flush=True)
    if not true:
        failures.append(what)
        print(detail, flush=True)


def train(name, *settings, ranks=1, program="train", last=(), code=0, **variables):
    """What the run says; its file is WORK/name/last.h5. `last` are variables of the last rank alone,
    `code` is how it must end."""
    command = [f"{BUILD}/standin_{program}", f"{WORK}/base.ini", "-o", f"{WORK}/{name}"]
    for setting in settings:
        command += ["-s", setting]
    if ranks > 1:
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks - 1), *command,
                   ":", "-np", "1", "env", *last, *command]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "XDG_CACHE_HOME": f"{WORK}/cache",
                   "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_mpi_yield_when_idle": "1", "STANDIN_GPUS": str(ranks),
                   "OMPI_MCA_btl_vader_single_copy_mechanism": "none", **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    said = done.stdout + done.stderr
    if done.returncode != code:
        check(False, f"{name}: exit code {done.returncode}", said)
    return said


def same(a, b):
    paths = [f"{WORK}/{name}/last.h5" for name in (a, b)]
    if not all(os.path.exists(path) for path in paths):
        return False
    with open(f"{WORK}/{a}/history.json") as one, open(f"{WORK}/{b}/history.json") as other:
        if one.read() != other.read():
            return False
    return subprocess.run([f"{BUILD}/standin_tool", "h5", "diff", *paths],
                          capture_output=True).returncode == 0


def both(name, *settings, **how):
    on = train(f"{name}.on", *settings, **how)
    off = train(f"{name}.off", *settings, "run.cuda_graph=no", **how)
    check("a step is one CUDA graph" in on and "cannot be recorded" not in on, f"{name}: a graph", on)
    check("one by one: [run] cuda_graph = no" in off, f"{name}: none where it is switched off", off)
    check(same(f"{name}.on", f"{name}.off"), f"{name}: the same bits with and without", on + off)
    return on


with tempfile.TemporaryDirectory() as WORK:
    subprocess.run([sys.executable, f"{SOURCE}/tests/tools/make_images.py", f"{WORK}/images", "2",
                    "7", "32"], check=True)
    with open(f"{WORK}/base.ini", "w") as ini:
        ini.write(INI.format(work=WORK))

    both("one", *MANY)
    said = both("half", *HALF)
    check("gradients overflow" in said and "no overflow for long" in said,
          "half: the loss scale rises and falls", said)
    # Sums in symmetric memory, and ranks that meet while they record.
    both("two", *MANY, ranks=2, STANDIN_NCCL="version=23007,meet")
    if EXTENT == "all":
        both("depth", *DEPTH)
        both("four", *MANY, "train.reproducible=yes", "train.virtual_workers=4", ranks=4)

    # A run that stops and goes on is an unbroken one; no line of the host touches device memory.
    train("broken", *MANY, "train.epochs=1", STANDIN_GUARD="1")
    train("broken", *MANY)
    check(same("broken", "one.on"), "a run that goes on")

    # Planted mistakes.
    mistakes = ("rate", MANY, "one"), ("key", MANY, "one"), ("scale", HALF, "half")
    for what, settings, right in mistakes if EXTENT == "all" else mistakes[:1]:
        train(f"baked.{what}", *settings, program="baking", STANDIN_BAKE=what)
        check(not same(f"baked.{what}", f"{right}.on"), f"a baked {what} is found out")
    if EXTENT == "all":
        train("baked.nothing", *MANY, program="baking")
        check(same("baked.nothing", "one.on"), "and nothing where nothing is baked")

    # Failing calls, in the recording and around it. The first clears errors: nothing depends on it.
    calls = (2, 20, 100, "begin", "instantiate")
    for call in calls if EXTENT == "all" else calls[4:]:
        report = f"{WORK}/report"
        said = train(f"failed.{call}", *MANY, STANDIN_FAIL_RECORDING=str(call), STANDIN_REPORT=report)
        check(isinstance(call, str) or os.path.exists(report), f"call {call} of a recording fails")
        check("a step cannot be recorded: " in said, f"call {call}: it says so", said)
        check(same(f"failed.{call}", "one.on"), f"call {call}: plain launches, the same bits")
        if os.path.exists(report):
            os.remove(report)
    said = train("failed.two", *MANY, ranks=2, last=["STANDIN_FAIL_RECORDING=30"])
    check("a step cannot be recorded: " in said and "one by one: a step cannot be" in said and
          same("failed.two", "two.on"), "a recording fails on one rank: plain launches on both", said)
    # Ranks that meet while they record wait for nobody who has not begun, and for others until the
    # time is over.
    meet = {"ranks": 2, "STANDIN_NCCL": "meet"}
    said = train("begin.two", *MANY, "run.comm_timeout_s=60", last=["STANDIN_FAIL_RECORDING=begin"], **meet)
    check("a step cannot be recorded: " in said and "one by one: a step cannot be" in said and
          same("begin.two", "two.on"), "a recording begins on one rank: plain launches on both", said)
    if EXTENT == "all":
        said = train("middle.two", *MANY, "run.comm_timeout_s=10", last=["STANDIN_FAIL_RECORDING=30"],
                     code=75, **meet)
        check("for 10 s" in said, "one that fails in the middle is waited for until then", said)

    # NCCL that cannot put an operation into a graph takes no other afterwards: the cure is told.
    last = ["STANDIN_NCCL=record_error"]
    said = train("nccl", *MANY, ranks=2, last=last, code=78)
    check("NCCL: cannot put an operation into a CUDA graph; set [run] cuda_graph = no" in said,
          "NCCL cannot record: the cure", said)
    check("lost the other ranks" not in said, "and no rank is said to be lost", said)
    train("nccl", *MANY, "run.cuda_graph=no", ranks=2, last=last)
    check(same("nccl", "two.on"), "which helps")
sys.exit(1 if failures else 0)
