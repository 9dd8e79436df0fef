#!/usr/bin/env python3
"""Trains on the CUDA backend over its stand-ins, through imgcls-train itself, and compares with the
CPU backend: losses, checkpoints, evaluation, and what is said where no GPU is. In a run of each kind
device memory is guarded: a host line that touches it ends the run (tests/standin/standin.h).

The tolerance is measured: the same steps on the CPU under other instruction sets and thread counts
differ by rounding alone, as CPU and GPU do, and this network and these steps amplify both alike.

usage: test_cuda.py BUILD_DIR SOURCE_DIR [PART...]; without parts, all of them
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

BUILD, SOURCE, *PARTS = sys.argv[1:]
TRAIN, TOOL = f"{BUILD}/standin_train", f"{BUILD}/standin_tool"
STEPS = 4
SPREADS = 10          # rounding of two machines may differ by so many times that of two builds
FLOOR = 1e-5          # relative: a hundred roundings of fp32
GUARD = {"STANDIN_GUARD": "1"}
failures = []
INI = """
[model]
backbone = mobilenet_v3_small_075_224
image_size = 32
[data]
dir = {work}/images
validation_split = 0.25
loader_threads = 1
[train]
batch = 12
epochs = {steps}
steps_per_epoch = 1
evaluate_every = 0
precision = fp32
[run]
autotune = no
threads = 1
"""


def check(true, what, detail=""):
    print(f"{'ok' if true else 'FAILED'}: {what}", flush=True)
    if not true:
        failures.append(what)
        print(detail, flush=True)


def run(command, ranks=1, **variables):
    if ranks > 1:
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)] + command
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "XDG_CACHE_HOME": f"{WORK}/cache",
                   "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_mpi_yield_when_idle": "1",
                   "OMPI_MCA_btl_vader_single_copy_mechanism": "none", **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def train(name, device, *settings, ranks=1, **variables):
    """The losses of all steps, and of the evaluation behind them; NaNs where the run failed."""
    command = [TRAIN, f"{WORK}/base.ini", "-o", f"{WORK}/{name}", "-s", f"run.device={device}"]
    for setting in settings:
        command += ["-s", setting]
    code, said = run(command, ranks, **variables)
    if code != 0:
        check(False, f"{name}: exit code {code}", said)
        return [float("nan")] * (STEPS + 1)
    with open(f"{WORK}/{name}/history.json") as file:
        history = json.load(file)
    return history["loss"] + [x for x in history["val_loss"] if x is not None]


def close(name, losses, wanted, tolerance):
    off = [abs(a - b) for a, b in zip(losses, wanted)]
    good = len(losses) == len(wanted) and all(o <= t for o, t in zip(off, tolerance))
    check(good, f"{name}: losses as on the CPU", f"{losses}\n{wanted}\n{off}\n{tolerance}")


def measure_cpu(*settings):
    """The CPU's losses, and by how much rounding may move each."""
    runs = [train(f"cpu.{isa}.{threads}", "cpu", f"run.threads={threads}", "checkpoint.resume=none",
                  *settings, IMGCLS_CPU_ISA=isa)
            for isa, threads in (("baseline", 1), ("avx2", 1), ("avx512", 1), ("avx512", 2))]
    spreads = [max(r[i] for r in runs) - min(r[i] for r in runs) for i in range(STEPS + 1)]
    tolerance = [SPREADS * max(spreads[:i + 1]) + FLOOR * runs[0][i] for i in range(STEPS + 1)]
    print("losses", runs[0], "tolerance", tolerance, flush=True)
    check(max(tolerance) < 1e-3, "rounding alone moves the losses little")
    return runs[0], tolerance


def same_file(what, a, b):
    code, said = run([TOOL, "h5", "diff", f"{WORK}/{a}/last.h5", f"{WORK}/{b}/last.h5"])
    check(code == 0, what, said[:2000])


def trainings():
    wanted, tolerance = measure_cpu()
    close("one rank", train("cuda", "cuda", **GUARD), wanted, tolerance)
    train("again", "cuda")
    same_file("two runs give the same bits", "cuda", "again")

    for first, second in (("cuda", "cpu"), ("cpu", "cuda")):
        name = f"{first}.{second}"
        train(name, first, "train.epochs=2", **GUARD)
        losses = train(name, second)
        # The first half has an evaluation of its own.
        losses = losses[:STEPS] + losses[-1:]
        close(f"two steps on {first}, two more on {second}", losses, wanted, tolerance)

    def scores(device):
        code, said = run([TOOL, "eval", f"{WORK}/cuda/last.h5", f"{WORK}/images", "--json",
                          f"--device={device}", "--threads=1"], **GUARD)
        check(code == 0, f"eval on {device}", said)
        return json.loads(said[said.index("{"):]) if code == 0 else {"loss": float("nan")}

    on_cpu, on_cuda = scores("cpu"), scores("cuda")
    check(abs(on_cpu["loss"] - on_cuda["loss"]) <= tolerance[0], "eval: loss as on the CPU",
          f"{on_cpu}\n{on_cuda}")


def ranks():
    """Eight virtual workers on any number of ranks, summed over NCCL: the CPU's losses on one. Four
    images to a BatchNorm make gradients so large that longer steps would drown in rounding."""
    settings = ("train.virtual_workers=8", "train.batch=32", "optimizer.learning_rate=0.00002")
    wanted, tolerance = measure_cpu(*settings)
    for ranks in (1, 2, 8):
        close(f"{ranks} ranks", train(f"np{ranks}", "cuda", *settings, ranks=ranks,
                                      STANDIN_GPUS=str(ranks)), wanted, tolerance)


def frozen():
    settings = ("model.fine_tune=no", "data.cache_features=yes")
    wanted, tolerance = measure_cpu(*settings)
    close("a frozen backbone's features", train("features", "cuda", *settings, **GUARD),
          wanted, tolerance)


def reproducible():
    settings = ("train.reproducible=yes", "train.virtual_workers=4")
    train("r1", "cuda", *settings, **GUARD)
    for ranks in (2, 4):
        train(f"r{ranks}", "cuda", *settings, ranks=ranks, STANDIN_GPUS=str(ranks))
        same_file(f"reproducible: 1 rank and {ranks} ranks", "r1", f"r{ranks}")


def planned_is_taken(name, *settings, ranks=1, **variables):
    """What is planned of a GPU, and what the stand-in's runtime counts at its peak: within 5 %."""
    peaks = f"{WORK}/{name}.peaks"
    command = [TRAIN, f"{WORK}/base.ini", "-o", f"{WORK}/{name}", "-s", "run.device=cuda",
               "-s", "train.epochs=1", "-s", "optimizer.learning_rate=0.0001"]
    for setting in settings:
        command += ["-s", setting]
    dry_code, dry = run(command + ["--dry-run"], ranks, **variables)
    code, said = run(command, ranks, STANDIN_MEMORY=peaks, **variables)
    check(code == 0 and dry_code == 0, f"memory, {name}: runs", dry + said)
    pattern = r"memory    GPU: (\d+) MiB a rank planned"
    plans = [int(re.search(pattern, text).group(1)) for text in (dry, said)]
    taken = int(re.search(r"memory    GPU: (\d+) MiB a rank taken", said).group(1))
    with open(peaks) as file:
        peak = max(int(line.split()[0]) for line in file) / 2**20
    print(f"memory, {name}: {plans} MiB planned, {taken} taken, {peak:.1f} at the peak", flush=True)
    check(all(0.95 * peak <= x <= 1.05 * peak for x in plans + [taken]),
          f"memory, {name}: the plan is within 5 % of the peak", dry + said)
    check("memory    host: " in dry and "memory    host: " in said, f"memory, {name}: and the host's")


def memory():
    images = ("model.image_size=96", "train.batch=32")
    planned_is_taken("activations", *images, "augment.enabled=yes")
    planned_is_taken("ranks", *images, "train.reproducible=yes", "train.virtual_workers=4",
                     "train.precision=bf16", ranks=2, STANDIN_GPUS="2")
    code, said = run([TOOL, "bench", "mobilenet_v3_small_075_224", "-b", "32", "-i", "96", "-s", "2",
                      "-w", "1", "--json", "--device=cuda"], STANDIN_MEMORY=f"{WORK}/bench.peaks")
    figures = json.loads(said[said.index("{"):])
    with open(f"{WORK}/bench.peaks") as file:
        peak = int(file.read().split()[0])
    check(all(0.95 * peak <= figures[x] <= 1.05 * peak
              for x in ("device_taken_bytes", "device_planned_bytes")),
          "memory: what bench says of it", f"{peak} {figures}")
    times = figures["runs"][0]["times"]
    check(figures["launches"] == "a step is one CUDA graph" and
          all(times[part]["median_ms"] > 0 for part in ("forward", "backward", "update")) and
          times["backward"]["mean_ms"] < 3 * times["step"]["mean_ms"],
          "bench: the parts of a step, and the whole", f"{figures}")


    # What two steps more copy from pageable memory is less than one image: pixels are not.
    unpinned = []
    for steps in ("2", "4"):
        path = f"{WORK}/bench.{steps}.bytes"
        code, said = run([TOOL, "bench", "mobilenet_v3_small_075_224", "-b", "4", "-i", "64", "-s",
                          steps, "-w", "1", "--device=cuda"], STANDIN_MEMORY=path)
        with open(path) as file:
            unpinned.append(int(file.read().split()[2]))
    check(unpinned[1] - unpinned[0] < 64 * 64 * 3, "bench: pixels lie where the device reads them",
          f"{unpinned} {said}")


def uploaded(name, steps, *settings):
    """The bytes that a run of so many steps copies to the device, and what it says."""
    path = f"{WORK}/{name}.bytes"
    command = [TRAIN, f"{WORK}/base.ini", "-o", f"{WORK}/{name}", "-s", "run.device=cuda", "-s",
               f"train.epochs={steps}", "-s", "data.validation_split=0"]
    for setting in settings:
        command += ["-s", setting]
    code, said = run(command, STANDIN_MEMORY=path)
    check(code == 0, f"{name}: runs", said)
    with open(path) as file:
        return int(file.read().split()[1]), said


def resident():
    """Images that lie on the GPU: the bits are those of images that are uploaded in every step, also
    where a broken image has another stand in for it, on whatever rank it is met."""
    shutil.copytree(f"{WORK}/images", f"{WORK}/broken")
    folder = f"{WORK}/broken/{sorted(os.listdir(f'{WORK}/broken'))[0]}"
    for name in sorted(os.listdir(folder))[1:3]:
        with open(f"{folder}/{name}", "wb") as file:
            file.write(b"\x89PNG no image")
    yes, no = "data.resident=yes", "data.resident=no"
    moves = ("augment.enabled=yes", "augment.fill_mode=reflect", "optimizer.learning_rate=0.0001")
    broken = (*moves, "train.virtual_workers=2", "train.reproducible=yes", f"data.dir={WORK}/broken",
              "data.validation_split=0", "data.max_bad_fraction=0.2")
    train("sent", "cuda", *broken, no)
    train("there", "cuda", *broken, yes, ranks=2, STANDIN_GPUS="2")
    same_file("resident: on two ranks, with broken images", "there", "sent")
    train("parts", "cuda", *broken, no, "train.epochs=2")
    train("parts", "cuda", *broken, yes, **GUARD)
    same_file("resident: from the middle of a run on", "parts", "sent")
    with open(f"{WORK}/there/bad_files.txt") as file:
        check(len(file.read().splitlines()) == 2, "resident: broken images are written down")
    code, said = run([TRAIN, f"{WORK}/base.ini", "-o", f"{WORK}/too_bad", "-s", "run.device=cuda",
                      "-s", f"data.dir={WORK}/broken", "-s", yes, "-s", "data.max_bad_fraction=0"])
    check(code == 65 and "bad image" in said, "resident: too many broken images end the run", said)

    few, said = uploaded("few", 1, *moves, yes)
    many, _ = uploaded("many", 3, *moves, yes)
    check(many - few == 2 * (12 * 56 + 28), "resident: 56 bytes an image, 28 of a step's key and rate",
          f"{few} {many}")
    check("of training are kept on the GPU" in said, "resident: the first lines say so", said)

    base = [TRAIN, f"{WORK}/base.ini", "--dry-run", "-o", f"{WORK}/dry", "-s", "train.epochs=8"]
    code, said = run(base + ["-s", "run.device=cpu", "-s", yes])
    check(code == 78 and "resident = yes" in said, "resident on the CPU", said)
    large = base + ["-s", "run.device=cuda", "-s", "model.image_size=256"]
    code, said = run(large)
    check("of training are kept on the GPU" in said, "resident: auto", said)
    planned = int(re.search(r"GPU: (\d+) MiB a rank planned", said).group(1))
    code, said = run(large + ["-s", f"run.memory_limit={planned - 3} MiB"]) # images take 7
    check(code == 0 and "they do not fit into its memory" in said and "virtual workers" not in said,
          "resident: no room", said)


def choice():
    dry = [TRAIN, f"{WORK}/base.ini", "--dry-run", "-o", f"{WORK}/dry", "-s"]
    for gpus, reason in (("-1", "no NVIDIA driver"), ("0", "the NVIDIA driver shows none")):
        code, said = run(dry + ["run.device=auto"], STANDIN_GPUS=gpus)
        check(code == 0 and reason in said and "device    cpu:" in said,
              f"auto without a GPU: {reason}", said)
        code, said = run(dry + ["run.device=cuda"], STANDIN_GPUS=gpus)
        check(code == 78 and reason in said and "cpu or auto" in said,
              f"cuda without a GPU: {reason}", said)
    code, said = run(dry + ["run.device=auto"], ranks=2, STANDIN_GPUS="1")
    check(code == 78 and "share_gpu = yes" in said, "two ranks on one GPU unasked", said)
    code, said = run(dry + ["run.share_gpu=yes"], ranks=2, STANDIN_GPUS="1")
    check(code == 0 and "device    cuda:" in said, "two ranks on one GPU where that is allowed", said)
    code, said = run([TRAIN, "--check"], ranks=4, STANDIN_GPUS="4")
    check(code == 0 and "over 4 ranks by nccl are right" in said, "--check tries NCCL", said)
    check("backend cuda: 4 devices" in said and "GPU 0 - GPU 1: NVLink" in said and
          all(f"at 0000:ff:0{i}.0" in said for i in range(4)),
          "--check shows devices, links and which rank has which", said)
    code, said = run([TRAIN, "--check"])
    check(code == 0 and all(library in said for library in (
        "driver for CUDA 13.", "CUDA 13.", "cuDNN 9.", "cuBLASLt 13.", "NCCL 2.28.9", "GiB free")),
          "--check shows the libraries' versions and the memory, also of one rank", said)


with tempfile.TemporaryDirectory() as WORK:
    subprocess.run([sys.executable, f"{SOURCE}/tests/tools/make_images.py", f"{WORK}/images", "3",
                    "16", "32"], check=True)
    with open(f"{WORK}/base.ini", "w") as ini:
        ini.write(INI.format(work=WORK, steps=STEPS))
    for part in choice, memory, resident, trainings, ranks, frozen, reproducible:
        if part.__name__ in (PARTS or part.__name__):
            part()
sys.exit(1 if failures else 0)
