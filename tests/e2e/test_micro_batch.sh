#!/usr/bin/env bash
# A batch that is cut to fit in memory: micro_batch and memory_limit choose virtual workers, and give
# the bits of that number of them; a run that goes on keeps its parts, with more memory or on more
# ranks; without batch statistics the losses are those of the whole batch.
# usage: test_micro_batch.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

small_run 2 24 model.image_size=64 train.batch=32 train.epochs=1

says() { grep -qE "$2" "$work/$1.log"; } # says NAME PATTERN

train workers 1 -s train.virtual_workers=4
train micro 1 -s train.micro_batch=8
says micro "cut into 4 virtual workers .*, as \[train\] micro_batch says: a rank computes 8 images"
same workers micro

# A limit below what the whole batch plans, with activations recomputed or not.
planned=$(sed -n 's/.*memory *\([0-9]*\) MiB a rank planned.*/\1/p' "$work/workers.log")
train limited 1 -s run.memory_limit="$planned MiB"
says limited "cut into .* to fit in memory"
says limited "recompute [0-9]+ results"
parts=$(sed -n 's/.*cut into \([0-9]*\) virtual.*/\1/p' "$work/limited.log")
train as_many 1 -s train.virtual_workers="$parts"
same limited as_many
now=$(sed -n 's/.*memory *\([0-9]*\) MiB a rank planned.*/\1/p' "$work/limited.log")
((now <= planned))

# Two epochs at once, and two of one epoch, the second with more memory or on two ranks.
train straight 1 -s train.virtual_workers="$parts" -s train.epochs=2
train limited 1 -s train.epochs=2
says limited "cut into $parts .* as in the checkpoint"
same straight limited
train micro 2 -s train.epochs=2 -s train.micro_batch=auto
says micro "cut into 4 virtual workers .* as in the checkpoint"

# Group normalisation knows no batch: the same loss and, to rounding, the same weights after a step.
# Of an untrained network later steps make more of it.
bit=(-s model.backbone=bit_s-r50x1 -s train.batch=8 -s train.steps_per_epoch=1 -s train.seed=5)
train whole 1 "${bit[@]}"
train cut 1 "${bit[@]}" -s train.virtual_workers=1 -s train.micro_batch=3
says cut "cut into 3 virtual workers, as"
python3 - "$work/whole/history.json" "$work/cut/history.json" <<'P'
import json
import sys

whole, cut = (json.load(open(path)) for path in sys.argv[1:])
for key in ("loss", "val_loss"):
    for a, b in zip(whole[key], cut[key], strict=True):
        print(key, a, b)
        assert abs(a - b) < 2e-5 * a, (key, a, b)
P

# What cannot be is said.
! train refused 1 -s train.virtual_workers=2 -s train.micro_batch=4
says refused "micro_batch = 4: each of the 2 virtual workers has 16 images"
! train too_small 1 -s run.memory_limit=64MiB
says too_small "memory_limit: 64 MiB, and a rank needs [0-9]+ at least"
echo "ok"
