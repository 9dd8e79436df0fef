#!/usr/bin/env bash
# Loss scaling, in fp32: a power of two changes no bit; gradients that overflow leave the step out and
# halve the scale, on all ranks alike; a run that is stopped and goes on is the same as an unbroken
# one.
# usage: test_loss_scale.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

small_run 2 24 train.steps_per_epoch=4 train.virtual_workers=2 train.reproducible=yes \
  train.loss_scale_growth_steps=3 optimizer.clip_norm=1

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
