#!/usr/bin/env bash
# Times training steps of imgcls beside PyTorch (eager, channels_last, and compiled) and Keras on
# TensorFlow: in turn, on the same cores, with the same batch, in fp32; prints medians and ratios.
# usage: launch/bench-peers.sh MODEL [--peers pytorch,compiled,keras] [--batch N] [--steps N]
#          [--image-size N] [--rounds N] [--threads N] [--isa avx2|avx512] [--json FILE]
#   MODEL   one that the peers have: the tables of bench_pytorch.py and bench_keras.py
#   IMGCLS        the program (build/cpu/imgcls)
#   IMGCLS_TORCH  a Python with torch, torchvision and timm (build/torch, made where it is missing)
#   IMGCLS_KERAS  a Python with keras and tensorflow (build/keras, the same)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
export IMGCLS=${IMGCLS:-$root/build/cpu/imgcls}
export IMGCLS_TORCH=${IMGCLS_TORCH:-$root/build/torch/bin/python}
export IMGCLS_KERAS=${IMGCLS_KERAS:-$root/build/keras/bin/python}

[[ -x "$IMGCLS" ]] || {
  echo "bench-peers.sh: $IMGCLS is missing; build it or set IMGCLS" >&2
  exit 66
}

# make_environment PYTHON PACKAGE...: the virtual environment of PYTHON, where it is missing.
make_environment() {
  [[ -x "$1" ]] && return
  python3 -m venv "$(dirname "$(dirname "$1")")"
  "$1" -m pip install --quiet "${@:2}"
}
case " $* " in *" --help "* | *" -h "*) ;; *)
  make_environment "$IMGCLS_TORCH" torch torchvision timm
  make_environment "$IMGCLS_KERAS" tensorflow-cpu==2.21.0 tf-keras==2.21.0 keras h5py pillow
  ;;
esac

exec python3 "$root/launch/bench_peers.py" "$@"
