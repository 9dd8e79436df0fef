#!/usr/bin/env bash
# Averaged weights: with momentum 0 they are the weights themselves; a run that goes on is the same as
# an unbroken one, averages, weights of the last step and figures; a run can begin to average, and
# stop.
# usage: test_ema.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

small_run 2 24 optimizer.use_ema=yes optimizer.ema_momentum=0.9

same_figures() { cmp "$work/$1/history.json" "$work/$2/history.json"; }

train plain 1 -s optimizer.use_ema=no
train at_once 1 -s optimizer.ema_momentum=0
same_figures plain at_once

train straight 1
train broken 1 -s train.epochs=1
train broken 1
same straight broken
same_figures straight broken
! same_figures straight plain
"$build/imgcls" h5 verify "$work/straight/last.h5"

# What stops averaging goes on with the weights of the last step.
train stops 1 -s train.epochs=1
train stops 1 -s optimizer.use_ema=no
python3 - "$work/plain/history.json" "$work/stops/history.json" <<'P'
import json
import sys

plain, stops = (json.load(open(path)) for path in sys.argv[1:])
assert plain["loss"] == stops["loss"], (plain, stops)
assert plain["val_loss"][0] != stops["val_loss"][0]
assert plain["val_loss"][1] == stops["val_loss"][1], (plain, stops)
P
echo "ok"
