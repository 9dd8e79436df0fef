#!/usr/bin/env bash
# One fuzzer for some seconds, from a corpus made on the spot, always with the same seed. What it
# finds is left as BUILD_DIR/fuzz/TARGET-crash-...; an input worth keeping goes to
# tests/fuzz/found/TARGET and is tried first each time. With SECONDS given it goes on from what
# earlier runs have learned (BUILD_DIR/fuzz/learned).
# usage: run.sh BUILD_DIR SOURCE_DIR TARGET [SECONDS [SEED]]
set -euo pipefail
build=$1 source=$2 target=$3 seconds=${4:-5} seed=${5:-1}
if [[ ! -x $build/fuzz/fuzz_$target ]]; then
  echo "fuzz_$target was not built: it needs clang with libFuzzer"
  exit 77
fi
corpus=$build/fuzz/corpus
learned=$build/fuzz/learned/$target
(( $# > 3 )) || rm -rf "$learned"
found=$source/tests/fuzz/found/$target
mkdir -p "$learned" "$corpus/$target" "$corpus/ini" "$corpus/packed"
"$build/make_corpus" "$corpus"
cp "$source"/configs/*.ini "$corpus/ini"
if [[ $target == packed && -z $(ls "$corpus/packed") ]]; then
  images=$(mktemp -d)
  trap 'rm -rf "$images"' EXIT
  python3 "$source/tests/tools/make_images.py" "$images" 2 2 8
  "$build/imgcls" data pack --encoded "$images" "$corpus/packed/encoded" >/dev/null
  "$build/imgcls" data pack --size=4 "$images" "$corpus/packed/pixels" >/dev/null
fi
options=(-seed="$seed" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1
  -artifact_prefix="$build/fuzz/$target-")
if [[ -d $found ]]; then "$build/fuzz/fuzz_$target" "${options[@]}" "$found"/*; fi
"$build/fuzz/fuzz_$target" "${options[@]}" -max_total_time="$seconds" "$learned" "$corpus/$target"
