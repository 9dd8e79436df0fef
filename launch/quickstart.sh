#!/usr/bin/env bash
# From a fresh Debian 12 to a trained classifier: installs what is missing, builds, makes a folder
# of real images (Fashion-MNIST: 70,000 grey pictures of clothes), trains on two ranks, evaluates
# on the 10,000 test images, predicts a few and says where everything is. As root or with sudo.
# Can be run again: what is there is kept, an interrupted training goes on.
# usage: launch/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
work=build/quickstart
images=$work/fashion-mnist
run=$work/run
program=build/cpu

say "1/6 packages"
launch/install-debian.sh

say "2/6 build"
mkdir -p "$images"
cmake --preset cpu -DIMGCLS_TESTS=OFF >"$work/configure.log" 2>&1 || { cat "$work/configure.log"; exit 1; }
cmake --build --preset cpu

say "3/6 images"
source=/usr/share/datasets/fashion-mnist
classes=t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle-boot
for part in train:train test:t10k; do
  "$program/imgcls" data import-idx --class-names="$classes" \
    "$source/${part#*:}-images-idx3-ubyte.gz" "$source/${part#*:}-labels-idx1-ubyte.gz" \
    "$images/${part%:*}"
done

say "4/6 training on two ranks"
if (( EUID == 0 )); then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# Ranks share the cores with mpirun and the loader: a short spin between parallel regions, not a long one.
export GOMP_SPINCOUNT=1000
mpirun --quiet --oversubscribe --bind-to none -np 2 "$program/imgcls-train" configs/quickstart.ini -o "$run"

say "5/6 evaluation on the test images"
"$program/imgcls" eval "$run/best.h5" "$images/test" --output "$run/eval"

say "6/6 predictions"
"$program/imgcls" predict "$run/best.h5" \
  "$(find "$images/test/sneaker" -name '*.png' | sort | head -n 1)" \
  "$(find "$images/test/bag" -name '*.png' | sort | head -n 1)" \
  "$(find "$images/test/shirt" -name '*.png' | sort | head -n 1)"

say "done"
cat <<END
model             $run/best.h5 (Keras opens it: keras.models.load_model)
curves            $run/loss.svg, $run/accuracy.svg
confusion matrix  $run/eval/confusion.svg, $run/eval/confusion.csv
history           $run/history.csv, $run/history.json
END
