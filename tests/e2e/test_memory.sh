#!/usr/bin/env bash
# What --dry-run says of memory is what the kernel counts, within 10 %: on one rank and on two with
# virtual workers, with averaged weights, with one save and with many, on the features of a frozen
# backbone, also with a save after each of many epochs, of small and of larger networks; and `imgcls
# bench` says how it came to its figures.
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
  ((10 * planned >= 9 * peak && 10 * planned <= 11 * peak))
}
small=(-s model.backbone=mobilenet_v2_100_224 -s model.image_size=32)
compare alone 1
compare workers 2 -s train.virtual_workers=4 -s train.reproducible=yes
compare one_save 1 "${small[@]}" -s train.epochs=1
compare averaged 1 "${small[@]}" -s train.epochs=3 -s optimizer.use_ema=yes
compare frozen 1 -s model.image_size=224 -s model.fine_tune=no
compare frozen_long 1 -s model.backbone=efficientnet_b3 -s model.image_size=64 \
  -s model.fine_tune=no -s train.epochs=24
compare frozen_large 1 -s model.backbone=ResNet50 -s model.image_size=64 -s model.fine_tune=no

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
