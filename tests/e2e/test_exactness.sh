#!/usr/bin/env bash
# The promises about numbers, on a small data set with augmentation, dropout and BatchNorm on:
# - reproducible = yes: the same weights for 1, 2, 4 and 8 ranks, bit for bit;
# - 2 epochs and 2 more resumed = 4 at once, also resumed in the middle of an epoch and on another
#   number of ranks;
# - fast mode: the same weights from run to run.
# usage: test_exactness.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

python3 "$source/tests/tools/make_images.py" "$work/images" 3 64 32
cat >"$work/base.ini" <<C
[model]
backbone = mobilenet_v2_100_224
image_size = 32
[data]
dir = $work/images
validation_split = 0.2
loader_threads = 1
[augment]
enabled = yes
rotation = 0.05
zoom_height = 0.1
flip = horizontal
[train]
batch = 48
epochs = 4
precision = fp32
virtual_workers = 8
[checkpoint]
every_epochs = 1
[run]
threads = 1
C

# train NAME RANKS [OPTION...]
train() {
  local name=$1 ranks=$2
  shift 2
  mpirun --bind-to none -np "$ranks" "$build/imgcls-train" "$work/base.ini" -q \
    -o "$work/$name" "$@" >"$work/$name.log" 2>&1
}
failed=0
same() { # same WHAT A B: all weights and the momentum, not the state that names the rank count
  if "$build/imgcls" h5 diff "$work/$2/last.h5" "$work/$3/last.h5" >"$work/diff.log" 2>&1; then
    echo "ok: $1"
  else
    echo "FAILED: $1"
    head -20 "$work/diff.log"
    failed=1
  fi
}

reproducible=(-s train.reproducible=yes)
train r1 1 "${reproducible[@]}"
for ranks in 2 4 8; do
  train "r$ranks" "$ranks" "${reproducible[@]}"
  same "reproducible: 1 rank and $ranks ranks" r1 "r$ranks"
done

train straight 2
train again 2
same "fast: two runs" straight again

# Stopped after a number of steps by a limit on the epochs, then by a signal in mid-epoch.
train halves 2 -s train.epochs=2
train halves 2
same "fast: 2 + 2 epochs and 4" straight halves

train moved 2 "${reproducible[@]}" -s train.epochs=3
train moved 4 "${reproducible[@]}"
same "reproducible: 3 epochs on 2 ranks, 1 on 4, and 4 on 1" r1 moved
exit $failed
