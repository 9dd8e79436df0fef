#!/usr/bin/env bash
# Every recipe of configs/ passes --dry-run on two ranks, with images and a batch of the test's own;
# its head says on what it runs, how long, what to expect and how that was checked, with figures
# that follow from what is measured (recipe_figures.py); and each family of backbones has one.
# usage: test_recipes.sh BUILD_DIR SOURCE_DIR [RECIPE...]: dry runs of these alone
# shellcheck source=tests/e2e/common.sh
source "$(dirname "$0")/common.sh"
begin "$@"

python3 "$source/tests/e2e/recipe_figures.py" "$build/imgcls" "$source"
python3 "$source/tests/tools/make_images.py" "$work/images" 3 40 16
recipes=("$source"/configs/*.ini)
backbones=$(sed -n 's/^backbone = / /p' "${recipes[@]}")
(($# == 2)) || recipes=("${@:3}")
for recipe in "${recipes[@]}"; do
  name=$(basename "$recipe" .ini)
  mpirun --bind-to none -np 2 "$build/imgcls-train" --dry-run -o "$work/$name" \
    -s data.dir="$work/images" -s train.batch=8 "$source/configs/$name.ini" >"$work/$name.log" 2>&1
  test ! -e "$work/$name/last.h5"
  echo "ok: $name"
done
# A family is a table in a file of src/model, which holds its names or what they begin with.
for family in "$source"/src/model/*.c; do
  grep -q '^const ModelFamily ' "$family" || continue
  found=no
  for start in $(grep -oE '"[A-Za-z0-9_-]{6,}"' "$family" | tr -d '"'); do
    [[ $backbones == *" $start"* ]] && found=yes
  done
  [[ $found == yes ]] || { echo "FAILED: no recipe for $(basename "$family")"; exit 1; }
done
