"""What the peers of `imgcls bench` share: their options, rounds, and figures. Used by
bench_pytorch.py and bench_keras.py, which launch/bench_peers.py runs.

A peer makes its model ready once, then waits for lines on its standard input: each asks for one
round of steps, whose figures it answers as one line of JSON. So several programs can take turns
without making ready again. At the end of the input it ends.
"""
import argparse
import json
import math
import os
import resource
import statistics
import sys
import time

BATCH_SEED = 1


def parse_arguments(description, models):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", choices=models)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--warmup", type=int, default=3, help="steps before those of each round")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--compile", action="store_true", help="by the program's own compiler")
    return parser.parse_args()


def summarize(seconds):
    """Median, 5th and 95th percentile in ms, between neighbours linearly."""
    values = sorted(seconds)

    def quantile(q):
        place = q * (len(values) - 1)
        below = int(place)
        above = min(below + 1, len(values) - 1)
        return 1e3 * (values[below] + (place - below) * (values[above] - values[below]))

    return {"median_ms": 1e3 * statistics.median(values), "p5_ms": quantile(0.05),
            "p95_ms": quantile(0.95)}


def serve(args, about, step):
    """Answers rounds until the input ends. `step()` runs one training step and returns its loss and
    a dict of the seconds of its parts (which may be empty)."""
    begin = time.perf_counter()
    first_loss, _ = step()
    about = dict(about, model=args.model, batch=args.batch, threads=args.threads,
                 first_step_s=time.perf_counter() - begin, first_loss=first_loss)
    print(json.dumps(dict(about, ready=True)), flush=True)
    for _ in sys.stdin:
        seconds = {}
        for number in range(args.warmup + args.steps):
            start, processor_start = time.perf_counter(), time.process_time()
            loss, parts = step()
            parts["step"] = time.perf_counter() - start
            parts["processor"] = time.process_time() - processor_start
            for name, value in parts.items():
                if number >= args.warmup:
                    seconds.setdefault(name, []).append(value)
        assert math.isfinite(loss), "the loss is not a finite number"
        times = {name: summarize(values) for name, values in seconds.items()}
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(dict(about, times=times, last_loss=loss, peak_bytes=peak_bytes,
                              images_per_second=1e3 * args.batch / times["step"]["median_ms"])),
              flush=True)
