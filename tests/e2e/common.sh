# What the end-to-end tests share; they source it first: `source "$(dirname "$0")/common.sh"`, then
# `begin "$@"`, which sets `build` and `source` from the arguments BUILD_DIR and SOURCE_DIR, makes
# the folder `work`, removed at the end, and lets a failure tell its line and what the program said.
set -Eeuo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# More ranks than cores: waiting ones give way.
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 OMP_WAIT_POLICY=passive

begin() {
  build=$1 source=$2
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'grep -h imgcls "$work"/*.log; echo "FAILED: line $LINENO"' ERR
}

# small_run CLASSES IMAGES [SECTION.KEY=VALUE...]: a folder of so many images a class, and base.ini,
# which trains a small network on them within seconds, with these keys besides or instead.
small_run() {
  local settings=(model.backbone=mobilenet_v2_100_224 model.image_size=32 data.dir="$work/images"
    data.validation_split=0.25 data.loader_threads=1 train.batch=12 train.epochs=2
    train.precision=fp32 run.threads=1 "${@:3}")
  python3 "$source/tests/tools/make_images.py" "$work/images" "$1" "$2" 32
  "$build/imgcls-train" --print-config "${settings[@]/#/--set=}" >"$work/base.ini"
}

# train NAME RANKS [OPTION...]: base.ini into the folder NAME; what is said is added to NAME.log.
train() {
  local launch=(mpirun --bind-to none -np "$2")
  (($2 > 1)) || launch=()
  "${launch[@]}" "$build/imgcls-train" "$work/base.ini" -o "$work/$1" "${@:3}" \
    >>"$work/$1.log" 2>&1
}

# same A B: all weights and the momentum, not the state that names the rank count.
same() { "$build/imgcls" h5 diff "$work/$1/last.h5" "$work/$2/last.h5" >"$work/diff.log" 2>&1; }

# check WHAT COMMAND...: tells whether it succeeds, and goes on; the test ends by `exit $failed`.
failed=0
check() {
  if "${@:2}" >"$work/check.out" 2>&1; then
    echo "ok: $1"
  else
    echo "FAILED: $1"
    head -20 "$work/check.out"
    failed=1
  fi
}
