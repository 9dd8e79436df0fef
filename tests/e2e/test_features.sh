#!/usr/bin/env bash
# A frozen backbone's features, cached: the head learns what it learns without the cache.
# - losses and accuracies of every epoch agree, with a broken image and with Keras' shuffling too;
# - the model file has the same layers, and its weights agree; frozen ones bit for bit;
# - reproducible = yes: the same weights for 1, 2, 3 and 4 ranks, bit for bit;
# - 2 epochs and 2 more resumed = 4 at once, also in mid-epoch;
# - what is done is said, each image is read once, and broken ones stand in bad_files.txt.
# usage: test_features.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

small_run 3 47 model.fine_tune=no model.dropout=0.3 data.validation_split=0.2 train.batch=24 \
  train.epochs=4 train.virtual_workers=12 optimizer.learning_rate=0.02

curves() { # curves A B: every number of the history within 1e-5
  python3 - "$work/$1/history.json" "$work/$2/history.json" <<'P'
import json, sys
a, b = (json.load(open(path)) for path in sys.argv[1:])
assert a.keys() == b.keys() and len(a["loss"]) == 4, (a, b)
for key in a:
    for x, y in zip(a[key], b[key]):
        assert abs(x - y) <= 1e-5 * max(1.0, abs(x)), (key, x, y)
assert len(set(a["loss"])) == 4, "no step changed anything"
P
}
says() { grep -q "$2" "$work/$1.log"; }

train plain 2 -s data.cache_features=no
train cached 2
check "the curves of the cache and of whole steps" curves plain cached
check "what is computed in every step is said" says plain "computed in every step: \[data\] cache_features = no"
check "the features of training are computed once" says cached "features  training: 113 images, 1280 values"
check "the features of validation are computed once" says cached "features  validation: 28 images, 1280 values"

python3 - "$build/imgcls" "$work" >"$work/model.out" 2>&1 <<'P' && echo "ok: one model file" || { cat "$work/model.out"; failed=1; }
import re, subprocess, sys
program, work = sys.argv[1:]
def show(name):
    return subprocess.run([program, "h5", "show", f"{work}/{name}/last.h5"], check=True,
                          capture_output=True, text=True).stdout.replace(name, "")
a, b = show("plain").splitlines(), show("cached").splitlines()
assert len(a) == len(b) and len(a) > 150, (len(a), len(b))
different = [x for x, y in zip(a, b) if x != y]
print("\n".join(different))
# Only what has learnt may differ in its last bits: a kernel, a bias, and their momentum.
assert len(different) <= 6, different
P

cp -r "$work/images" "$work/broken"
for class in "$work"/broken/*/; do
  for file in $(ls "$class" | sed -n '3p;11p;30p'); do echo broken >"$class/$file"; done
done
train bad_plain 2 -s data.cache_features=no -s data.max_bad_fraction=0.2 -s data.dir="$work/broken"
train bad_cached 3 -s data.max_bad_fraction=0.2 -s data.dir="$work/broken"
check "the curves with broken images" curves bad_plain bad_cached

# bad_files.txt, with the cache and without, on one rank and on several, also of a run continued.
bad=(-s data.max_bad_fraction=0.2 -s data.dir="$work/broken")
train bad_one 1 "${bad[@]}" -s data.cache_features=no
train bad_twice 2 "${bad[@]}" -s train.epochs=1
train bad_twice 2 "${bad[@]}" -s train.epochs=2
for class in "$work"/broken/*; do
  for file in $(ls "$class" | sed -n '3p;11p;30p'); do
    printf '%s\t%s\n' "$class/$file" \
      "the content is not JPEG, PNG, GIF or BMP; convert or remove the file"
  done
done | LC_ALL=C sort >"$work/bad_files.txt"
for run in bad_plain bad_cached bad_one bad_twice; do
  check "$run: bad_files.txt" diff "$work/$run/bad_files.txt" "$work/bad_files.txt"
done

# However many ranks, passes and parts of a run meet an image, it is named once.
named_once() { # named_once RUN: in the output and in train.log
  local file path
  for file in "$work/$1.log" "$work/$1/train.log"; do
    while read -r path _; do
      test "$(grep -cF "$path" "$file")" = 1 || { grep -F "$path" "$file" || echo "not $path"; return 1; }
    done <"$work/bad_files.txt"
  done
}
for run in bad_plain bad_cached bad_one bad_twice; do
  check "$run: each broken image is named once" named_once "$run"
done
check "a run that goes on says how many there were" \
  test "$(grep -c '^bad files 9 images could not be read; ' "$work/bad_twice.log")" = 3

# In an epoch of many steps they are named long before its end.
train bad_soon 2 "${bad[@]}" -s data.cache_features=no -s train.epochs=1 -s train.batch=4 \
  -s train.virtual_workers=2 -s log.every_steps=1
soon() {
  sed '/  step 15\//q' "$work/bad_soon/train.log" >"$work/soon.log"
  grep -q '  step 15/' "$work/soon.log" && grep -q 'left out' "$work/soon.log"
}
check "broken images are named while an epoch runs" soon

# Where a rank meets too many and ends the run, those that it met are named and written down too.
train too_many 1 -s data.max_bad_fraction=0.02 -s data.dir="$work/broken" -s data.cache_features=no ||
  code=$?
check "too many broken images end a run" test "${code:-0}" = 65
check "which names them" test "$(grep -c 'left out' "$work/too_many.log")" -ge 4
check "in bad_files.txt too" test "$(wc -l <"$work/too_many/bad_files.txt")" = \
  "$(grep -c 'left out' "$work/too_many.log")"
check "a run without broken images has no such file" test ! -e "$work/plain/bad_files.txt"

# Going on with fewer epochs than are done.
computed() { grep -c "^features  training: .* values each" "$work/bad_twice.log"; }
before=$(computed)
train bad_twice 2 "${bad[@]}" -s train.epochs=1
check "nothing is left to do, and no features are computed for it" test "$(computed)" = "$before"

train keras_plain 2 -s data.cache_features=no -s data.compat=keras -s train.evaluate_every=1
train keras_cached 2 -s data.cache_features=yes -s data.compat=keras
check "the curves with Keras' shuffling" curves keras_plain keras_cached

train one 1 -s train.reproducible=yes
for ranks in 2 3 4; do
  train "np$ranks" "$ranks" -s train.reproducible=yes
  check "reproducible: 1 rank and $ranks ranks" same one "np$ranks"
done

train halves 2 -s train.epochs=2
train halves 2
check "2 + 2 epochs and 4" same cached halves
train whole 2 -s checkpoint.every_steps=3 -s checkpoint.keep=9
train middle 2 -s checkpoint.resume="$work/whole/model-000001-0000000006.h5"
check "resumed in mid-epoch" same cached middle

check "augmentation is why there is no cache" bash -c "! grep -q 'features  training' <($build/imgcls-train $work/base.ini -o $work/dry --dry-run -s augment.enabled=yes)"
exit $failed
