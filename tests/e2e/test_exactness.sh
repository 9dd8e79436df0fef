#!/usr/bin/env bash
# The promises about numbers, on a small data set with augmentation, dropout and BatchNorm on:
# - reproducible = yes: the same weights for 1, 2, 4 and 8 ranks, bit for bit;
# - 2 epochs and 2 more resumed = 4 at once, also on another number of ranks (test_kills.sh resumes in
#   the middle of an epoch);
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

train straight 2
train again 2
check "fast: two runs" same straight again

train halves 2 -s train.epochs=2
train halves 2
check "fast: 2 + 2 epochs and 4" same straight halves

train moved 2 "${reproducible[@]}" -s train.epochs=3
train moved 4 "${reproducible[@]}"
check "reproducible: 3 epochs on 2 ranks, 1 on 4, and 4 on 1" same r1 moved
exit $failed
