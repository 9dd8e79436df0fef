#!/usr/bin/env bash
# The part goals_met of run.sh judges invented rates: met, missed, missed beside compiled PyTorch, and
# not to be told where compiled PyTorch has no rate.
# usage: test_goals.sh SOURCE_DIR
set -eu
parts=$1/tests/gpu/parts.sh
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export out size=full
rows=(resnet50_v1_5 efficientnet_b0 mobilenet_v2_100_224 efficientnetv2-s)

# rates FILE PATTERN RATE...: a line for each row.
rates() {
  local file=$1 pattern=$2 i
  shift 2
  for i in "${!rows[@]}"; do
    # shellcheck disable=SC2059 # the pattern is the format
    printf "$pattern\n" "${rows[i]}" "${@:i+1:1}"
  done >>"$out/$file"
}
ours() { rates goals.json '{"program":"imgcls","model":"%s","images_per_second":%s}' "$@"; }
torch() { # COMPILED RATE...
  rates peers.json "{\"program\": \"PyTorch 2\", \"imgcls\": \"%s\", \"compiled\": $1, \"images_per_s\": %s}" "${@:2}"
}
# judged CODE COUNT VERDICT: how many rows have it.
judged() {
  local code=0
  "$parts" judge_goals >"$out/said" || code=$?
  [[ $code == "$1" && $(grep -c ": $3\$" "$out/goals_met.txt") == "$2" ]] ||
    { echo "FAILED: exit code $code, not $1, or not $2 times '$3':"; cat "$out/said"; exit 1; }
  rm -f "$out"/*.json
}
ours 7950 14000 17000 4000
torch false 5000 5000 5000 3000
torch true 7900 9000 11000 2600
judged 0 4 met
ours 7949 14000 17000 4000
torch true 7900 9000 11000 2600
judged 1 1 missed
ours 8000 14000 17000 4000
torch true 7900 9400 11000 2600
judged 1 1 missed
ours 8000 14000 17000 4000
torch false 5000 5000 5000 3000
rates peers.json '{"program": "PyTorch 2", "imgcls": "%s", "compiled": true, "error": "%s"}' a b c d
judged 77 3 'met, but compiled PyTorch is unknown'
ours 8000 14000 17000 4000
judged 77 3 'met, but compiled PyTorch is unknown'
