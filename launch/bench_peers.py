#!/usr/bin/env python3
"""Times training steps of imgcls and of other programs side by side: in turn, round by round, on
the same cores, with the same batch, in fp32. Run by launch/bench-peers.sh, which says how.

Prints the median over the rounds with its spread (least and greatest), and ratios; above 1, imgcls
is faster or takes less. "processor" compares the time of all threads: on one thread it is what
other programs on the machine disturb least. A round in which others took more than a few percent of
the processors is run again, a few times at most.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

LAUNCH = pathlib.Path(__file__).resolve().parent
# Name: title, script, options, environment variable that names its Python.
PEERS = {
    "pytorch": ("PyTorch eager", "bench_pytorch.py", [], "IMGCLS_TORCH"),
    "compiled": ("PyTorch compiled", "bench_pytorch.py", ["--compile"], "IMGCLS_TORCH"),
    "keras": ("Keras", "bench_keras.py", [], "IMGCLS_KERAS"),
    "keras-xla": ("Keras, XLA", "bench_keras.py", ["--compile"], "IMGCLS_KERAS"),
}
# What keeps every program to an instruction set. TensorFlow leaves oneDNN on only where a processor
# has AVX512-VNNI or newer, so for AVX2 it is told to do as it does on a processor without.
ISA_VARIABLES = {
    "avx2": {"IMGCLS_CPU_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2",
             "TF_ENABLE_ONEDNN_OPTS": "0"},
    "avx512": {"IMGCLS_CPU_ISA": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
               "ATEN_CPU_CAPABILITY": "avx512"},
}
MOST_DISTURBANCE, MOST_ATTEMPTS = 0.04, 4
PARTS = ("step", "forward", "backward", "update", "processor")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="bench-peers.sh", description=__doc__)
    parser.add_argument("model", help="a backbone that the peer has: bench_pytorch.py and "
                        "bench_keras.py list them")
    parser.add_argument("--peers", default="pytorch,compiled,keras",
                        help="of: " + ", ".join(PEERS) + " (the first three)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=5, help="of a round (5)")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them (1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--isa", choices=ISA_VARIABLES, help="the most that all may use")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    args = parser.parse_args()
    args.peers = args.peers.split(",")
    unknown = [name for name in args.peers if name not in PEERS]
    if unknown:
        parser.error(f"--peers: {unknown[0]}: choose from {', '.join(PEERS)}")
    return args


def step_options(args):
    return [args.model, "--batch", str(args.batch), "--image-size", str(args.image_size), "--steps",
            str(args.steps), "--warmup", str(args.warmup), "--threads", str(args.threads)]


class Peer:
    """A peer's process, which runs a round when asked."""

    def __init__(self, name, args):
        self.title, script, options, python = PEERS[name]
        command = [os.environ[python], str(LAUNCH / script), *step_options(args), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench-peers.sh: {self.title} ended with {self.process.wait()}")
        return json.loads(line)

    def run_round(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()

    def seconds(self):
        """Processor time of all its threads so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Ours:
    """imgcls, a process a round."""

    title = "imgcls"

    def __init__(self, args):
        self.command = [os.environ["IMGCLS"], "bench", *step_options(args), "--json"]

    def run_round(self):
        done = subprocess.run(self.command, check=True, stdout=subprocess.PIPE)
        figures = json.loads(done.stdout)
        return figures | figures["runs"][0]

    def seconds(self):
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime


def busy_seconds():
    """That the machine's processors have worked, for anybody."""
    fields = pathlib.Path("/proc/stat").read_text().split(maxsplit=9)
    user, nice, system, _, _, interrupt, soft, steal = map(int, fields[1:9])
    return (user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK")


def run_undisturbed(program):
    """A round's figures, and the share of the processors that others took meanwhile."""
    best = None
    for _ in range(MOST_ATTEMPTS):
        start, busy, own = time.monotonic(), busy_seconds(), program.seconds()
        figures = program.run_round()
        others = busy_seconds() - busy - (program.seconds() - own)
        figures["others"] = others / (time.monotonic() - start) / os.cpu_count()
        if best is None or figures["others"] < best["others"]:
            best = figures
        if best["others"] <= MOST_DISTURBANCE:
            break
    return best


def milliseconds(rounds, part):
    return [r["times"][part]["median_ms"] for r in rounds]


def ratios(ours, theirs):
    """Of each part that both have, round by round; and of memory."""
    table = {part: [b / a for a, b in zip(milliseconds(ours, part), milliseconds(theirs, part))]
             for part in PARTS if part in ours[0]["times"] and part in theirs[0]["times"]}
    table["memory"] = [b["peak_bytes"] / a["peak_bytes"] for a, b in zip(ours, theirs)]
    return {part: {"median": statistics.median(values), "least": min(values),
                   "greatest": max(values)} for part, values in table.items()}


def tell_speed(title, rounds, batch):
    times = milliseconds(rounds, "step")
    print(f"{title:18}{1e3 * batch / statistics.median(times):8.2f} img/s"
          f"{statistics.median(times):10.1f} ms a step ({min(times):.1f} to {max(times):.1f})"
          f"{max(r['peak_bytes'] for r in rounds) / 2**20:8.0f} MiB"
          f"   others took {100 * max(r['others'] for r in rounds):.1f} %")


def tell_ratios(title, table):
    print(f"{title:18}" + "  ".join(
        f"{part} {row['median']:.2f} ({row['least']:.2f} to {row['greatest']:.2f})"
        for part, row in table.items()))


def main():
    args = parse_arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.threads])
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ.update(ISA_VARIABLES.get(args.isa, {}))
    peers = {name: Peer(name, args) for name in args.peers}
    program = Ours(args)
    ours, theirs = [], {name: [] for name in peers}
    for _ in range(args.rounds):
        ours.append(run_undisturbed(program))
        for name, peer in peers.items():
            theirs[name].append(run_undisturbed(peer))
    for peer in peers.values():
        peer.end()
    results = {name: ratios(ours, rounds) for name, rounds in theirs.items()}
    print(f"{args.model}, batch {args.batch}, fp32, {args.rounds} rounds of {args.steps} steps; "
          f"{ours[0]['device']}")
    tell_speed(program.title, ours, args.batch)
    for name, peer in peers.items():
        tell_speed(peer.title, theirs[name], args.batch)
    print("ratios, median of the rounds (least to greatest):")
    for name, peer in peers.items():
        tell_ratios(peer.title, results[name])
    if args.json:
        report = {"model": args.model, "batch": args.batch, "threads": args.threads,
                  "isa": args.isa, "imgcls": ours, "peers": theirs, "ratios": results}
        pathlib.Path(args.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
