#!/usr/bin/env python3
"""Times training steps of every backbone at its own image size, and of PyTorch eager where timm or
torchvision has the graph; writes the table of docs/benchmarks.md.

usage: launch/bench_zoo.py [--threads N] [--steps N] [--work GMAC] [--rows FILE] [--peak GFLOPS] [NAME...]

Names of one graph run once. The batch is 32, or the largest whose forward pass takes at most `work`
GMAC. Each row is written to FILE as it is done, and those that stand there are not run again, so the
table can be made in parts; at the end all of FILE is printed as Markdown. "of the peak" compares three
times the multiply-accumulates of the forward pass (forward, gradients of data and of weights) with
the fastest fp32 matrix product of numpy (OpenBLAS) on the same threads. IMGCLS and IMGCLS_TORCH as in
bench-peers.sh.
"""
import argparse
import json
import os
import pathlib
import subprocess

LAUNCH = pathlib.Path(__file__).resolve().parent
ROOT = LAUNCH.parent
IMGCLS = os.environ.get("IMGCLS", ROOT / "build/cpu/imgcls")
TORCH = os.environ.get("IMGCLS_TORCH", ROOT / "build/torch/bin/python")
PEAK = """
import time, numpy
a, b = (numpy.random.rand(2048, 2048).astype(numpy.float32) for _ in range(2))
best = 1e9
for _ in range(12):
    start = time.perf_counter()
    a @ b
    best = min(best, time.perf_counter() - start)
print(2e-9 * 2048 ** 3 / best)
"""
HEADER = """| name | pixels | batch | img/s | peak MiB | of the peak | PyTorch img/s | ratio | of processor time | of memory |
|---|---|---|---|---|---|---|---|---|---|"""


def output(*command, **options):
    return subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True,
                          **options).stdout


def graphs():
    """One row of `imgcls models` for each graph: its first name."""
    rows = {}
    for row in json.loads(output(IMGCLS, "models", "--json")):
        layers = json.loads(output(IMGCLS, "models", row["name"], "--json"))["layers"]
        for layer in layers:
            layer.pop("momentum", None)
        rows.setdefault(json.dumps(layers).replace(f'"{row["name"]}', '"'), row)
    return rows.values()


def figures(told):
    """Images a second, processor ms a step, peak MiB of the last line of JSON."""
    told = json.loads(told.splitlines()[-1])
    told |= told.get("runs", [{}])[0]
    return (told["images_per_second"], told["times"]["processor"]["median_ms"],
            told["peak_bytes"] / 2**20)


def measure(row, args, peers):
    batch = max(1, min(32, int(args.work / row["gmac"])))
    options = [row["name"], "--batch", batch, "--image-size", row["image_size"], "--threads",
               args.threads, "--steps", args.steps, "--warmup", 1]
    speed, processor, memory = figures(output(IMGCLS, "bench", *options, "--json"))
    done = {"name": row["name"], "pixels": row["image_size"], "batch": batch, "speed": speed,
            "memory": memory, "gflops": 2 * 3 * row["gmac"] * speed}
    if row["name"] in peers:
        theirs = figures(output(TORCH, LAUNCH / "bench_pytorch.py", *options, input="\n"))
        done |= {"peer": theirs[0], "ratio": speed / theirs[0], "processor": theirs[1] / processor,
                 "less_memory": theirs[2] / memory}
    return done


def line(done, peak):
    cells = [done["name"], done["pixels"], done["batch"], f"{done['speed']:.2f}",
             f"{done['memory']:.0f}", f"{100 * done['gflops'] / peak:.0f} %"]
    if "peer" in done:
        cells += [f"{done['peer']:.2f}", f"{done['ratio']:.2f}", f"{done['processor']:.2f}",
                  f"{done['less_memory']:.2f}"]
    else:
        cells += ["", "", "", ""]
    return "| " + " | ".join(map(str, cells)) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--work", type=float, default=64, help="GMAC of a batch's forward pass (64)")
    parser.add_argument("--rows", default=ROOT / "build/bench_zoo.jsonl", type=pathlib.Path)
    parser.add_argument("--peak", type=float, help="GFLOP/s, where it is known already")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.threads])
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
    peak = args.peak or float(output(TORCH, "-c", PEAK))
    peers = output(TORCH, "-c", f"import sys; sys.path.insert(0, '{LAUNCH}'); import bench_pytorch; "
                   "print(*bench_pytorch.MODELS)").split()
    known = args.rows.read_text().splitlines() if args.rows.exists() else []
    done = {row["name"]: row for row in map(json.loads, known)}
    for row in graphs():
        if row["name"] in done or args.names and row["name"] not in args.names:
            continue
        done[row["name"]] = measure(row, args, peers)
        with args.rows.open("a") as file:
            file.write(json.dumps(done[row["name"]]) + "\n")
    print(f"{args.threads} threads, matrix product at {peak:.0f} GFLOP/s\n\n{HEADER}")
    for row in done.values():
        print(line(row, peak))


main()
