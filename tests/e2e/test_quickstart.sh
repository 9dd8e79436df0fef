#!/usr/bin/env bash
# launch/quickstart.sh as a new user runs it, in a copy of the sources alone: on two cores at most six
# minutes, three of them training, and at least 88 % of the test images right. Once more, it says
# what is there and trains nothing. Where packages are missing it installs them.
#   test_quickstart.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

git -C "$source" rev-parse --git-dir >/dev/null 2>&1 || { echo "no git checkout: $source"; exit 77; }
mkdir "$work/copy"
git -C "$source" ls-files -z | tar -C "$source" --null --ignore-failed-read -T - -c | tar -C "$work/copy" -x

# quickstart NAME: each line of what it says into NAME.log, behind the second when it came.
quickstart() {
  local line start=$SECONDS
  "$work/copy/launch/quickstart.sh" 2>&1 |
    while IFS= read -r line; do echo "$((SECONDS - start)) $line"; done >"$work/$1.log"
  seconds=$((SECONDS - start))
}
second_of() { awk -v stage="$1" '$2 == "==" && $3 == stage { print $1 }' "$work/first.log"; }

quickstart first
check "$seconds s in all, at most 360" test "$seconds" -le 360
trained=$(($(second_of 5/6) - $(second_of 4/6)))
check "$trained s of training, at most 180" test "$trained" -le 180
run=$work/copy/build/quickstart/run
"$work/copy/build/cpu/imgcls" eval "$run/best.h5" "$work/copy/build/quickstart/fashion-mnist/test" --json \
  >"$work/eval.json" 2>"$work/eval.log"
accuracy=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["accuracy"])' "$work/eval.json")
check "accuracy $accuracy of 10,000 test images, at least 0.88" \
  python3 -c 'import sys; sys.exit(float(sys.argv[1]) < 0.88)' "$accuracy"
for file in best.h5 loss.svg accuracy.svg eval/confusion.svg eval/confusion.csv history.csv history.json; do
  check "$file" test -s "$run/$file"
  check "$file is named at the end" grep -q "${file#eval/}" "$work/first.log"
done

cp "$run/history.csv" "$work/history.csv"
quickstart again
check "again: $seconds s, at most 60" test "$seconds" -le 60
check "again: the same history" cmp "$work/history.csv" "$run/history.csv"
exit $failed
