#!/usr/bin/env bash
# Loss scaling, in fp32: a power of two changes no bit; gradients that overflow leave the step out and
# halve the scale, on all ranks alike; a run that is stopped and goes on is the same as an unbroken
# one.
# usage: test_loss_scale.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

python3 "$source/tests/tools/make_images.py" "$work/images" 2 24 32
cat >"$work/base.ini" <<C
[model]
backbone = mobilenet_v2_100_224
image_size = 32
[data]
dir = $work/images
validation_split = 0.25
loader_threads = 1
[train]
batch = 12
epochs = 2
steps_per_epoch = 4
precision = fp32
virtual_workers = 2
reproducible = yes
loss_scale_growth_steps = 3
[optimizer]
clip_norm = 1
[run]
threads = 1
C

# train NAME RANKS [OPTION...]
train() {
  local name=$1 ranks=$2
  shift 2
  mpirun --bind-to none -np "$ranks" "$build/imgcls-train" "$work/base.ini" -o "$work/$name" "$@" \
    >"$work/$name.log" 2>&1
}
same() { "$build/imgcls" h5 diff "$work/$1/last.h5" "$work/$2/last.h5" >"$work/diff.log" 2>&1; }
# The last scale that a run has said, and how many steps it has left out.
scale_of() { grep -oE 'loss scale [^,]+, [0-9]+ steps' "$work/$1.log" | tail -1; }

train plain 1
train scaled 1 -s train.loss_scale=1024
[[ $(scale_of scaled) == "loss scale 4096, 0 steps" ]]
same plain scaled

huge=(-s train.loss_scale=8.5e37)
train overflows 1 "${huge[@]}"
echo "$(scale_of overflows)"
grep -q "gradients overflow" "$work/overflows.log"
! same plain overflows
train two_ranks 2 "${huge[@]}"
same overflows two_ranks
[[ $(scale_of two_ranks) == "$(scale_of overflows)" ]]

train broken 1 "${huge[@]}" -s train.epochs=1
train broken 1 "${huge[@]}"
same overflows broken
[[ $(scale_of broken) == "$(scale_of overflows)" ]]
echo "ok"
