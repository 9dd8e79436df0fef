#!/usr/bin/env python3
"""Lets calls of the CUDA libraries' stand-ins fail in a short training run, one in each run: the first
call from every place that calls them, or from each STRIDE-th. The program must end by itself, in time,
with a documented exit code, and say why; only a few functions may pass over a failure. Then a call of
one rank of two fails: both must end.

usage: test_cuda_faults.py BUILD_DIR SOURCE_DIR [STRIDE]
"""
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile

BUILD, SOURCE = sys.argv[1:3]
STRIDE = int(sys.argv[3]) if len(sys.argv) > 3 else 1
CODES = {71, 78}
# They try the next plan, do without a fusion, a graph or memory of NCCL's own, say less, or have nobody
# to tell: the run may go on and end well.
PASS_OVER = {"graph_plan", "plan_chain", "append_mode", "cuda_device_describe", "cuda_memory_free",
             "cuda_device_close", "time_candidates", "fill_buffer"}
AT_ONCE = 2
INI = """
[model]
backbone = mobilenet_v3_small_075_224
image_size = 32
[data]
dir = {work}/images
validation_split = 0.25
loader_threads = 1
[train]
batch = 4
epochs = 1
reproducible = yes
virtual_workers = 2
steps_per_epoch = 4
precision = fp32
[optimizer]
clip_norm = 1
[run]
threads = 1
device = cuda
"""


def functions(where):
    """The names of the functions that led to a failure, innermost first."""
    addresses = re.findall(r"standin_train\(\+(0x[0-9a-f]+)\)", where)
    done = subprocess.run(["addr2line", "-f", "-e", f"{BUILD}/standin_train", *addresses],
                          capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1:2]


def run(place, ranks=1):
    """Whether a call failed, and what was wrong with the answer to it. The last rank's call fails."""
    report = f"{WORK}/report.{ranks}.{place}"
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "STANDIN_GPUS": str(ranks),
                   "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
    train = [f"{BUILD}/standin_train", f"{WORK}/run.ini", "-o", f"{WORK}/run.{ranks}.{place}"]
    failing = ["env", f"STANDIN_FAIL_PLACE={place}", f"STANDIN_REPORT={report}"] + train
    command = failing if ranks == 1 else [
        "mpirun", "--quiet", "--oversubscribe", "--bind-to", "none", "-np", str(ranks - 1), *train,
        ":", "-np", "1", *failing]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return True, "hangs"
    if not os.path.exists(report):
        wrong = done.returncode != 0
        return False, f"exit code {done.returncode} without a failure: {done.stderr}" if wrong else ""
    with open(report) as file:
        where = file.read()
    if done.returncode == 0:
        names = functions(where)
        # Or what they call. Whatever fails in a recording, steps go on without it.
        passed = PASS_OVER & set(names[:4]) or "record" in names
        return True, "" if passed else f"exit code 0 after a failure in {names}"
    if done.returncode not in CODES:
        return True, f"exit code {done.returncode}: {done.stderr[-600:]}\n{functions(where)}"
    said = [line for line in done.stderr.split("\n") if line.startswith("imgcls-train: ")]
    return True, "" if said else f"says nothing: {done.stderr}\n{functions(where)}"


with tempfile.TemporaryDirectory() as WORK:
    subprocess.run([sys.executable, f"{SOURCE}/tests/tools/make_images.py", f"{WORK}/images", "2",
                    "4", "32"], check=True)
    with open(f"{WORK}/run.ini", "w") as ini:
        ini.write(INI.format(work=WORK))
    failing, wrong, first = 0, [], 1
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        while True:
            places = [first + i * STRIDE for i in range(4 * AT_ONCE)]
            results = list(pool.map(run, places))
            failing += sum(failed for failed, _ in results)
            wrong += [f"place {p}: {w}" for p, (_, w) in zip(places, results) if w]
            if not results[-1][0]:
                break
            first = places[-1] + STRIDE
    print(f"{failing} failing calls", flush=True)
    # Opening the device, planning, the memory, the first steps, the end.
    places = range(failing * STRIDE // 3, failing * STRIDE, max(60, 3 * STRIDE))
    for place in [6, 20, *places]:
        failed, what = run(place, ranks=2)
        print(f"two ranks, place {place}: {what or ('ends' if failed else 'no such')}", flush=True)
        wrong += [f"two ranks, place {place}: {what}"] if what else []
    print(*wrong, sep="\n")
    if failing * STRIDE < 400:
        sys.exit("hardly a call failed: the test is blind")
    sys.exit(1 if wrong else 0)
