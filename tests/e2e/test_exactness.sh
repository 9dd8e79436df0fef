#!/usr/bin/env bash
# The promises about numbers, on a small data set with augmentation, dropout and BatchNorm on:
# - reproducible = yes: the same weights for 1, 2, 4 and 8 ranks, bit for bit;
# - 2 epochs and 2 more resumed = 4 at once, also on another number of ranks, also from the middle of an
#   epoch;
# - two runs of an evaluation that a request to stop has interrupted, the second at the very end, leave
#   what an unbroken run leaves;
# - fast mode: the same weights from run to run.
# usage: test_exactness.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

small_run 3 64 data.validation_split=0.2 augment.enabled=yes augment.rotation=0.05 \
  augment.zoom_height=0.1 augment.flip=horizontal train.batch=48 train.epochs=4 \
  train.virtual_workers=8


reproducible=(-s train.reproducible=yes)
train r1 1 "${reproducible[@]}"
for ranks in 2 4 8; do
  train "r$ranks" "$ranks" "${reproducible[@]}"
  check "reproducible: 1 rank and $ranks ranks" same r1 "r$ranks"
done

three=("${reproducible[@]}" -s train.virtual_workers=3)
train one_of_three 1 "${three[@]}"
train three 3 "${three[@]}"
check "reproducible: 1 rank and 3 ranks" same one_of_three three

train straight 2
train again 2
check "fast: two runs" same straight again

train halves 2 -s train.epochs=2
train halves 2
check "fast: 2 + 2 epochs and 4" same straight halves

train moved 2 "${reproducible[@]}" -s train.epochs=3
train moved 4 "${reproducible[@]}"
check "reproducible: 3 epochs on 2 ranks, 1 on 4, and 4 on 1" same r1 moved
train saves 2 "${reproducible[@]}" -s checkpoint.every_steps=1 -s checkpoint.keep=99
middle=$work/saves/model-000002-0000000007.h5 # behind the first of three steps of epoch 3
train onward 4 "${reproducible[@]}" -r "$middle"
check "reproducible: from the middle of an epoch of 2 ranks on 4, and 4 epochs on 1" same r1 onward

# Some hundred validation images of a size that takes long enough to be interrupted, in an order that
# Keras draws for each epoch.
long=(-s train.epochs=3 -s train.batch=4 -s train.steps_per_epoch=2 -s model.image_size=128
  -s data.validation_split=0.8 -s data.compat=keras -s augment.enabled=no -s train.virtual_workers=2
  -s model.l2=0.01 -s log.mllog=yes)
train unbroken 2 "${long[@]}"
# interrupt EPOCH STEP: starts the run, and asks it to stop when it begins to evaluate the epoch.
interrupt() {
  local code=0
  mpirun --bind-to none -np 2 "$build/imgcls-train" "$work/base.ini" -o "$work/interrupted" \
    "${long[@]}" >>"$work/interrupted.log" 2>&1 &
  until grep -q "eval_start.*\"epoch_num\": $1[,}]" "$work/interrupted/mllog.txt" 2>/dev/null; do
    kill -0 $! 2>/dev/null || break
    sleep 0.02
  done
  kill -USR1 $! 2>/dev/null || true
  wait $! || code=$?
  check "stopped in the evaluation of epoch $1" test $code = 75
  check "with the steps of the epoch saved" grep -q '"epoch_end": false' \
    "$work/interrupted/model-$(printf %06d-%010d $(($1 - 1)) "$2").json"
}
interrupt 2 4
interrupt 3 6
train interrupted 2 "${long[@]}"
check "the interrupted run's weights" same unbroken interrupted
for file in history.json history.csv loss.svg; do
  check "its $file" cmp "$work/unbroken/$file" "$work/interrupted/$file"
done
for link in last.h5 best.h5; do
  check "its $link" test "$(readlink "$work/unbroken/$link")" = "$(readlink "$work/interrupted/$link")"
done
events() { grep -oE '"(epoch|eval)_(start|stop)"' "$work/$1/mllog.txt"; }
check "its mllog.txt" diff <(events unbroken) <(events interrupted)
train interrupted 2 "${long[@]}"
check "and then nothing is left" grep -q "resume    nothing is left to do" "$work/interrupted.log"
exit $failed
