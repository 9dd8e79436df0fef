#!/usr/bin/env bash
# Averaged weights: with momentum 0 they are the weights themselves; a run that goes on is the same as
# an unbroken one, averages, weights of the last step and figures; a run can begin to average, and
# stop.
# usage: test_ema.sh BUILD_DIR SOURCE_DIR
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
precision = fp32
[optimizer]
use_ema = yes
ema_momentum = 0.9
[run]
threads = 1
C

# train NAME [OPTION...]
train() {
  local name=$1
  shift
  "$build/imgcls-train" "$work/base.ini" -o "$work/$name" "$@" >"$work/$name.log" 2>&1
}
same() { "$build/imgcls" h5 diff "$work/$1/last.h5" "$work/$2/last.h5" >"$work/diff.log" 2>&1; }
same_figures() { cmp "$work/$1/history.json" "$work/$2/history.json"; }

train plain -s optimizer.use_ema=no
train at_once -s optimizer.ema_momentum=0
same_figures plain at_once

train straight
train broken -s train.epochs=1
train broken
same straight broken
same_figures straight broken
! same_figures straight plain
"$build/imgcls" h5 verify "$work/straight/last.h5"

# What stops averaging goes on with the weights of the last step.
train stops -s train.epochs=1
train stops -s optimizer.use_ema=no
python3 - "$work/plain/history.json" "$work/stops/history.json" <<'P'
import json
import sys

plain, stops = (json.load(open(path)) for path in sys.argv[1:])
assert plain["loss"] == stops["loss"], (plain, stops)
assert plain["val_loss"][0] != stops["val_loss"][0]
assert plain["val_loss"][1] == stops["val_loss"][1], (plain, stops)
P
echo "ok"
