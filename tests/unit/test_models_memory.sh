#!/usr/bin/env bash
# `imgcls models`: what it says that an image takes in training is what steps with 32 images more
# take.
# usage: test_models_memory.sh IMGCLS
set -euo pipefail
imgcls=$1

value() { python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }
"$imgcls" models mobilenet_v2_100_224 -i 96 | grep -q '^Memory of each image in training: '

for name in mobilenet_v2_100_224 nasnet_mobile; do
  planned=$("$imgcls" models $name -i 96 --threads 1 --json |
    value '["training_bytes_per_image"]')
  peak() {
    "$imgcls" bench $name --image-size=96 --classes=10 --threads=1 --steps=1 --warmup=1 \
      --batch="$1" --json | value '["peak_bytes"]'
  }
  few=$(peak 16) many=$(peak 48)
  # Pixels and logits of the batch are not in the plan: 28 KB an image.
  awk -v p="$planned" -v m="$(((many - few) / 32))" -v name=$name 'BEGIN {
    printf "%s: planned %d, measured %d bytes an image\n", name, p, m
    exit !(m > 0.9 * p && m < 1.1 * p) }'
done
