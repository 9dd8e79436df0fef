#!/bin/sh
# `imgcls h5`: what it says of sound, different and damaged files, and its exit status.
# h5_tool.sh IMGCLS H5_BRIDGE FOLDER
imgcls=$1 bridge=$2 folder=$3
mkdir -p "$folder" || exit 1
cd "$folder" || exit 1

# expect STATUS WORDS ARGUMENT...: runs `imgcls h5 ARGUMENT...`.
expect() {
  status=$1 words=$2
  shift 2
  "$imgcls" h5 "$@" >out 2>&1
  got=$?
  if [ "$got" != "$status" ] || ! grep -qF -e "$words" out; then
    echo "imgcls h5 $*: exit status $got, expected $status and \"$words\" in:"
    cat out
    exit 1
  fi
}

"$bridge" write nested a.h5 a && "$bridge" write partly b.h5 b && "$bridge" write flat c.h5 c ||
  exit 1
expect 0 'whole model, dialect of Keras 2.15.0, written by imgcls' show a.h5
# a.bin holds each float and its momentum.
expect 0 "35 arrays, $(($(wc -c <a.bin) / 8)) parameters" show a.h5
expect 0 '"class_name": "Sequential"' show --config a.h5
expect 0 'no difference in 35 arrays' diff a.h5 a.h5
expect 1 'configuration, model/backbone/stem_bn.trainable' diff a.h5 b.h5
expect 1 'configuration, model/backbone' diff a.h5 c.h5
expect 0 'a.h5: sound' verify a.h5 b.h5

# A bit of a weight: the file still opens, the weight is named.
"$bridge" flip nested a.h5 flipped.h5 || exit 1
expect 65 'stem_conv/kernel:0 is damaged' verify a.h5 flipped.h5
expect 65 'stem_conv/kernel:0 is damaged' show flipped.h5
head -c 9000 a.h5 >cut.h5
expect 65 'cut.h5' verify cut.h5
echo text >text.h5
expect 65 'no HDF5 file' show text.h5
expect 66 'absent.h5' show absent.h5
expect 64 'expected' show
expect 64 'expected' compare a.h5
expect 0 'Usage' --help
echo "imgcls h5: all as documented"
