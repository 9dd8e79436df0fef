#!/usr/bin/env bash
# What --dry-run says of memory is what the kernel counts: within 5 % and 10 MiB (the parts of
# libraries that only steps touch), on one rank and on two with virtual workers; and `imgcls bench` of the same configuration says how it came to its figures.
# usage: test_memory.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

small_run 2 24 model.backbone=efficientnet_b0 model.image_size=96 train.batch=16

# compare NAME RANKS [OPTION...]: the plan of a dry run against the peak of the run.
compare() {
  local name=$1 ranks=$2 planned peak
  shift 2
  mpirun --bind-to none -np "$ranks" "$build/imgcls-train" "$work/base.ini" -o "$work/$name" "$@" \
    --dry-run >"$work/$name.dry.log" 2>&1
  mpirun --bind-to none -np "$ranks" "$build/imgcls-train" "$work/base.ini" -o "$work/$name" "$@" \
    >"$work/$name.log" 2>&1
  planned=$(sed -n 's/.*memory *\([0-9]*\) MiB a rank planned.*/\1/p' "$work/$name.dry.log")
  peak=$(sed -n 's/.*memory *\([0-9]*\) MiB a rank at the peak.*/\1/p' "$work/$name.log")
  echo "$name: $planned MiB planned, $peak MiB at the peak"
  ((100 * (planned + 10) >= 95 * peak && 100 * planned <= 105 * peak))
}
compare alone 1
compare workers 2 -s train.virtual_workers=4 -s train.reproducible=yes

"$build/imgcls" bench "$work/base.ini" --steps 2 --warmup 1 --json >"$work/bench.json" \
  2>"$work/bench.log"
python3 - "$work/bench.json" <<'P'
import json
import sys

figures = json.load(open(sys.argv[1]))
assert [run["data"] for run in figures["runs"]] == ["synthetic", "real"], figures
for run in figures["runs"]:
    times = {part: row["median_ms"] for part, row in run["times"].items()}
    parts = sum(times[p] for p in ("data", "forward", "backward", "all-reduce", "update"))
    assert 0.5 * times["step"] < parts < 1.5 * times["step"], times
ratio = figures["planned_bytes"] / figures["peak_bytes"]
assert 0.9 <= ratio <= 1.1, ratio
P
echo "ok"
