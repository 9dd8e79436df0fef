#!/usr/bin/env python3
"""What a step takes in is uploaded, augmentation included, while the device computes what comes before:
over the stand-ins, by the order in which the kernels are done, and with the same losses on a device
that does its work early and on one that does it late. Mistakes must show: a stream that does not wait
for the others, and an input that is overwritten before its step has read it (tests/standin/baking.c).

`imgcls bench` gives the steps, because it looks at none of them before the last: training looks once a
second, which would decide on a slow machine what overlaps. Behind them it gives as many in parts and
waits for each, so that nothing overlaps.

usage: test_cuda_overlap.py BUILD_DIR SOURCE_DIR all|some
"""
import json
import os
import subprocess
import sys
import tempfile

BUILD, SOURCE, EXTENT = sys.argv[1:]
STEPS, RUNS = 3, 2  # random images, then the configuration's own
COMPUTE, TRANSFERS, UPLOADS = "123"  # streams, as backend/cuda/device.c makes them
ONE, TWO = ("train.virtual_workers=1",), ("train.virtual_workers=2", "run.cuda_graph=no")
failures = []
INI = """
[model]
backbone = mobilenet_v3_small_075_224
image_size = 32
[data]
dir = {work}/images
validation_split = 0
loader_threads = 1
[augment]
enabled = yes
[train]
batch = 4
precision = fp32
[run]
autotune = no
threads = 1
device = cuda
"""


def check(true, what, detail=""):
    print(f"{'ok' if true else 'FAILED'}: {what}", flush=True)
    if not true:
        failures.append(what)
        print(detail, flush=True)


def bench(settings, program="tool", **variables):
    """The losses of the first and the last step of each run, and the kernels in the order in which they
    were done, each with the number of its stream."""
    command = [f"{BUILD}/standin_{program}", "bench", f"{WORK}/base.ini", "--json", "-s", str(STEPS),
               "-w", "0"]
    for setting in settings:
        command += ["--set", setting]
    trace = f"{WORK}/trace"
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "XDG_CACHE_HOME": f"{WORK}/cache",
                   "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "STANDIN_TRACE": trace, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    said = done.stdout + done.stderr
    if done.returncode != 0:
        check(False, f"{settings} {variables}: exit code {done.returncode}", said)
        return None, []
    with open(trace) as file:
        kernels = [tuple(line.split(maxsplit=1)) for line in file.read().splitlines()]
    os.remove(trace)
    runs = json.loads(said[said.index("{"):])["runs"]
    return [(run["first_loss"], run["last_loss"]) for run in runs], kernels


def in_words(kernels):
    """U: a step's first upload is done; u: one beside a worker of its own; l: a worker's loss; S: a step."""
    updates = sum(name == "sgd_kernel" for _, name in kernels) // (2 * STEPS * RUNS)
    words, seen = "", 0
    for stream, name in kernels:
        if name == "upload":
            words += {TRANSFERS: "U", UPLOADS: "u"}.get(stream, "?")
        elif name == "loss_kernel":
            words += "l"
        elif name == "sgd_kernel":
            seen += 1
            words += "S" if seen % updates == 0 else ""
    return words


with tempfile.TemporaryDirectory() as WORK:
    subprocess.run([sys.executable, f"{SOURCE}/tests/tools/make_images.py", f"{WORK}/images", "2",
                    "8", "32"], check=True)
    with open(f"{WORK}/base.ini", "w") as ini:
        ini.write(INI.format(work=WORK))

    # The stand-in does everything as late as it may: a step when the one behind the next needs its place.
    one, kernels = bench(ONE)
    words = in_words(kernels)
    check(words == ("UUlSUlSlS" + STEPS * "UlS") * RUNS, "the next batch is uploaded before a step is done", words)
    mistakes = [("transfers wait for no step", ONE, one, {"STANDIN_DEAF": TRANSFERS})]
    if EXTENT == "all":
        two, kernels = bench(TWO)
        words = in_words(kernels)
        check(words == ("UuUllSuUllSullS" + STEPS * "UlulS") * RUNS,
              "the second worker's input before the first has its loss", words)
        check(bench(TWO, STANDIN_EAGER=COMPUTE)[0] == two,
              "the same losses where steps are done early")
        early = {"STANDIN_DEAF": COMPUTE, "STANDIN_EAGER": COMPUTE}
        mistakes += [("uploads wait for no worker", TWO, two, {"STANDIN_DEAF": UPLOADS}),
                     ("steps wait for no upload", TWO, two, early),
                     ("an input is overwritten early", ONE, one, {"STANDIN_BAKE": "input"})]
    for mistake, settings, right, variables in mistakes:
        program = "baking_tool" if "STANDIN_BAKE" in variables else "tool"
        losses, _ = bench(settings, program, **variables)
        check(losses and losses != right, f"found out: {mistake}", f"{losses} {right}")
sys.exit(1 if failures else 0)
