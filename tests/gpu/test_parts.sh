#!/usr/bin/env bash
# tests/gpu/run.sh over the stand-ins, so that it is right when a GPU comes: its parts pass each by
# itself, a wrong program makes them fail, and where no GPU is they say so.
# usage: test_parts.sh BUILD_DIR SOURCE_DIR PART...
set -euo pipefail
build=$(realpath "$1") source=$(realpath "$2")
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PROGRAMS=$build/gpu_programs OUT=$work/results PLANS=$work/plans SIZE=small
export STANDIN_NAME="NVIDIA H200" OMPI_MCA_btl_vader_single_copy_mechanism=none
run=$source/tests/gpu/run.sh

fail() { echo "FAILED: $*"; for log in "$OUT"/*.log; do echo "--- $log"; tail -n 20 "$log"; done; exit 1; }

STANDIN_GPUS=0 "$run" machine >"$work/none" || fail "without a GPU"
grep -q "skipped machine: no GPU here: backend cuda: .*shows none" "$work/none" || fail "without a GPU"

if "$run" no_such_part >"$work/none"; then fail "a part that does not exist"; fi
"$PROGRAMS/imgcls" plan "$OUT/run.ini" --device h200 --set "run.plan_cache=$PLANS" --set run.autotune=no
for part in "$@"; do
  "$run" "$part" | tee "$work/said" || true
  grep -q "^passed  $part" "$work/said" || fail "$part"
done

# A program whose graphs keep the learning rate of the recording.
if [[ " $* " == *" graph_on_and_off "* ]]; then
  mkdir "$work/baking"
  ln -s "$PROGRAMS"/* "$work/baking"
  ln -sf "$build/standin_baking" "$work/baking/imgcls-train"
  PROGRAMS=$work/baking STANDIN_BAKE=rate "$run" graph_on_and_off | tee "$work/said" || true
  grep -q "^FAILED  graph_on_and_off" "$work/said" || fail "a baked learning rate is not found"
fi
