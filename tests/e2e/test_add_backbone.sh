#!/usr/bin/env bash
# docs/adding-a-backbone.md, done: the programs built from the page's code (tests.cmake) list the new
# family with the counts that the page says, train it on two ranks, save it, load it, go on with it
# and predict with it; the tests of names and recipes pass on a tree that is as the page says. With
# PYTHON, one that has torchvision, features and gradients are compared with the page's oracle instead.
# usage: test_add_backbone.sh BUILD_DIR SOURCE_DIR [PYTHON]
# shellcheck source=tests/e2e/common.sh
source "$(dirname "$0")/common.sh"
begin "$@"

example=$build/example tree=$work/tree
mkdir "$tree"
cp -r "$source"/{configs,docs,src,tests} "$tree"
cp -r "$example/source/." "$tree"
if [[ $# == 3 ]]; then
  trap - ERR # it has words of its own, and skips with 77
  "$source/tests/keras/run.sh" "$3" "$tree/tests/backbone/backbone_check.py" "$example/imgcls" \
    "$example/backbone_bridge" "$work/exchange" 65 4 vgg11_bn
  exit
fi

grep -qx '  src/model/vgg.c' "$tree/CMakeLists.txt"
"$example/test_model" >"$work/counts.log" 2>&1
"$example/imgcls" models >"$work/list.log"
for name in vgg11_bn vgg16_bn; do grep -q "^$name  *224 " "$work/list.log"; done
python3 "$tree/tests/backbone/names_check.py" "$example/imgcls" >"$work/names.log"
"$tree/tests/e2e/test_recipes.sh" "$example" "$tree" vgg
if "$build/imgcls" models vgg11_bn >"$work/none.log" 2>&1; then false; fi # not without the page

python3 "$source/tests/tools/make_images.py" "$work/images" 3 16 32
cat >"$work/vgg.ini" <<C
[model]
backbone = vgg11_bn
image_size = 32
batch_norm_momentum = 0.5
[data]
dir = $work/images
validation_split = 0
loader_threads = 1
[train]
batch = 16
epochs = 6
precision = fp32
[optimizer]
learning_rate = 0.002
[run]
threads = 1
C
train() { mpirun --bind-to none -np 2 "$example/imgcls-train" "$work/vgg.ini" -q -o "$work/run" "$@"; }
train -s train.epochs=2 >"$work/first.log" 2>&1
train >"$work/second.log" 2>&1 # goes on with the file
python3 - "$work/run/history.json" <<'P'
import json, sys
loss = json.load(open(sys.argv[1]))["loss"]
assert len(loss) == 6 and loss[-1] < 0.8 * loss[0], loss
P
"$example/imgcls" eval "$work/run/last.h5" "$work/images" >"$work/eval.log"
"$example/imgcls" predict "$work/run/last.h5" "$work/images/class00/0000.png" >"$work/predict.log"
grep -q 'class0' "$work/predict.log"
# A file tells its own graph: a program that does not know the name reads it all the same.
"$build/imgcls" predict "$work/run/last.h5" "$work/images/class00/0000.png" | cmp - "$work/predict.log"
cat "$work/eval.log"
