#!/usr/bin/env bash
# Installs what the tests need, builds, runs all of them, and ends with one line
# "N passed, N failed, N skipped": the whole suite as users run it, once more under AddressSanitizer
# and UndefinedBehaviorSanitizer but for the Keras oracles, with the fuzzers, and what uses threads
# under ThreadSanitizer; where nvcc is found, the CUDA programs and those of tests/gpu are compiled and
# linked, for one architecture, and their machine code is looked at. What is too slow for every day
# (label nightly) it leaves out; docs/tests.md says how to run that. --quick leaves out the oracles with
# their 2 GB, the sanitizers and nvcc.
# usage: tests/run.sh [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."

case "$#:${1:-}" in
0:) quick=no ;;
1:--quick) quick=yes ;;
1:--help | 1:-h)
  sed -n '2,/^# usage/s/^# \{0,1\}//p' "tests/run.sh"
  exit 0
  ;;
*)
  echo "run.sh: wrong arguments: $*; usage: tests/run.sh [--quick]" >&2
  exit 64
  ;;
esac

launch/install-debian.sh --tests

# oracle NAME PACKAGE...: a Python with these packages under build/NAME, installed once.
oracle() {
  local folder=build/$1
  [[ $quick == no && ! -e $folder/ready ]] || return 0
  echo "oracles: installing ${*:2} under $folder"
  python3 -m venv "$folder"
  "$folder/bin/pip" install -q "${@:2}"
  touch "$folder/ready"
}
# Beside the builds; tests wait for them.
mkdir -p build
{
  oracle keras tensorflow-cpu==2.21.0 tf-keras==2.21.0 keras==3.15.1 tf-slim==1.1.0 h5py==3.14.0 \
    pillow==13.0.0 mlperf-logging==4.1.68
  oracle torch torch==2.15.0 torchvision==0.29.2 timm==1.0.31 safetensors==0.8.0 h5py==3.16.0 \
    pillow==13.0.0
} &
oracles=$!

nvcc=$(PATH=$PATH:/usr/local/cuda/bin command -v nvcc || true)
disassembler=build/cuda-tools
if [[ $quick == no && -n $nvcc && ! -e ${nvcc%/*}/cuobjdump && ! -e $disassembler/ready ]]; then
  python3 -m venv "$disassembler"
  "$disassembler/bin/pip" install -q nvidia-cuda-cuobjdump==13.2.51 nvidia-cuda-nvdisasm==13.2.86 &&
    touch "$disassembler/ready" # without it the test is skipped and says so
fi

# One more than cores, as many tests wait for time or for the disk. Oracles take 2 GB each, so many
# cores do not mean many at a time.
jobs=$(($(nproc) + 1))
(( jobs <= 5 )) || jobs=5

rm -f build/ctest.*.log

# build PRESET [TARGETS]
build() {
  cmake --preset "$1" -DIMGCLS_TESTS=ON -DIMGCLS_WERROR=ON -DIMGCLS_CUDA_ARCHITECTURES=90 >build/configure.log 2>&1 ||
    { cat build/configure.log; exit 1; }
  # shellcheck disable=SC2086 # several targets
  cmake --build --preset "$1" --target ${2:-all}
}

# check PRESET CTEST_OPTION...: runs the tests of a preset.
check() {
  ctest --test-dir "build/$1" --output-on-failure --no-tests=error --parallel "$jobs" "${@:2}" |
    tee "build/ctest.$1.log" || true
  grep -q '% tests passed' "build/ctest.$1.log" || { echo "$1: no test ran"; exit 1; }
}

build cpu
if [[ $quick == yes ]]; then
  check cpu --label-exclude 'keras|nightly'
else
  build asan
  build tsan tsan_tests
  wait "$oracles" || { echo "the oracles cannot be installed"; exit 1; }
  check cpu --label-exclude nightly
  check asan --label-exclude 'keras|nightly'
  check tsan --label-regex tsan
fi
if [[ $quick == no && -n $nvcc ]]; then
  export CUDACXX=$nvcc
  build cuda "imgcls imgcls-train gpu_tests"
  check cuda --label-regex nvcc --label-exclude nightly
fi

# count PATTERN: in the logs of all suites.
count() { cat build/ctest.*.log | grep -cE "$1" || true; }
passed=$(count ' Passed +[0-9.]+ sec')
failed=$(count '\*\*\*(Failed|Timeout|Exception|Not Run)')
skipped=$(count '\*\*\*Skipped')
echo "$passed passed, $failed failed, $skipped skipped"
(( failed == 0 && passed > 0 ))
