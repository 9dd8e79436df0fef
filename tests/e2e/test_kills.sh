#!/usr/bin/env bash
# SIGKILL at random times and at each point of a save, on 1, 2 and 4 ranks. After every kill:
# - nothing of the job is left running;
# - at most the save under way and the interval before it are lost;
# - the next start resumes from the newest checkpoint that has a sidecar: its checksum is right.
# A job killed until it is done ends with the weights, the momentum, the history and the links of an
# unbroken one, bit for bit; its files are sound, and no temporary file is left.
# usage: test_kills.sh BUILD_DIR SOURCE_DIR [RANDOM_KILLS [SEED]]
source "$(dirname "$0")/common.sh"
begin "$@"
random_kills=${3:-10} seed=${4:-1}
pid=
# tree: the job's processes, the launcher first, then rank 0, 1, ...
tree() { echo "$pid" $(pgrep -P "$pid" | sort -n || true); }
trap '[[ -z $pid ]] || kill -9 $(tree) 2>/dev/null || true; rm -rf "$work"' EXIT
RANDOM=$seed
kills=0 kills_in_save=0
echo "seed $seed"

small_run 2 20 data.validation_split=0.2 augment.enabled=yes augment.rotation=0.05 \
  augment.flip=horizontal train.batch=16 train.epochs=6 train.virtual_workers=4 \
  checkpoint.every_steps=1 log.every_steps=1

fail() {
  echo "FAILED: $*"
  [[ -e ${log:-} ]] && tail -5 "$log"
  failed=1
}

# start NAME RANKS [OPTION...]: a job in the background; sets `pid` and `log`.
start() {
  local launch=(mpirun --bind-to none -np "$2")
  (( $2 == 1 )) && launch=()
  log=$work/$1.log
  : >"$log" # here, not in the child: the log is read at once
  "${launch[@]}" "$build/imgcls-train" "$work/base.ini" -o "$work/$1" "${@:3}" >"$log" 2>&1 &
  pid=$!
}

# finish: waits for the job's end and returns its exit code; from then on its number may be another's.
finish() {
  local code=0
  { wait "$pid" || code=$?; } 2>/dev/null
  pid=
  return $code
}

# await PATTERN: until the log has such a line, or the job has ended.
await() {
  local deadline=$((SECONDS + 60))
  until grep -q "$1" "$log" || ! kill -0 "$pid" 2>/dev/null; do
    (( SECONDS < deadline )) || { fail "no line '$1' in the log"; return; }
    sleep 0.05
  done
}

# kill_job VICTIM: a number of a process of the tree, or all of them; waits until all are gone.
kill_job() {
  local process processes victims deadline=$((SECONDS + 20))
  read -ra processes < <(tree)
  if [[ $1 == all ]]; then victims=("${processes[@]}")
  else victims=("${processes[$1 % ${#processes[@]}]}"); fi
  kill -9 "${victims[@]}" 2>/dev/null || true
  finish || true
  for process in "${processes[@]}"; do
    while kill -0 "$process" 2>/dev/null; do
      (( SECONDS < deadline )) || { fail "process $process is left after a kill"; return; }
      sleep 0.05
    done
  done
  kills=$((kills + 1))
}

# newest NAME: the newest checkpoint's step; 0: there is none.
newest() {
  local sidecars=("$work/$1"/model-*.json) last
  last=${sidecars[-1]}
  if [[ -e $last ]]; then last=${last%.json}; echo $((10#${last##*-})); else echo 0; fi
}

# inspect NAME: what a kill left. Sets `step` to the newest checkpoint.
inspect() {
  local logged
  step=$(newest "$1")
  logged=$(sed -nE 's|^epoch ([0-9]+)/[0-9]+ +step ([0-9]+)/([0-9]+).*|\1 \2 \3|p' "$log" |
    awk 'END { print NR ? ($1 - 1) * $3 + $2 : 0 }')
  (( step + 2 >= logged )) || fail "step $logged was done, but only step $step saved"
}

# resumes NAME STEP: whether the job that was started begins where it should.
resumes() {
  local said
  said=$(sed -nE 's|^resume .*: step ([0-9]+)$|\1|p' "$log")
  [[ ${said:-0} == "$2" ]] || fail "resumed from step ${said:-0} instead of $2"
  ! grep -q "passed over" "$log" || fail "a checkpoint was passed over"
}

# same_end REFERENCE NAME
same_end() {
  "$build/imgcls" h5 diff "$work/$1/last.h5" "$work/$2/last.h5" >"$work/diff.log" 2>&1 ||
    { fail "$2: other weights than an unbroken run"; head "$work/diff.log"; }
  cmp "$work/$1/history.csv" "$work/$2/history.csv" || fail "$2: another history"
  local link
  for link in last.h5 best.h5; do
    [[ $(readlink "$work/$1/$link") == $(readlink "$work/$2/$link") ]] || fail "$2: $link differs"
  done
  [[ -z $(find "$work/$2" -name '*.tmp.*') ]] || fail "$2: temporary files left"
  local sidecar
  for sidecar in "$work/$2"/model-*.json; do
    "$build/imgcls" h5 verify "${sidecar%.json}.h5" >"$work/verify.log" 2>&1 ||
      { fail "$2: a checkpoint is damaged"; cat "$work/verify.log"; }
  done
}

# complete REFERENCE NAME RANKS: lets the job run to its end and compares.
complete() {
  step=$(newest "$2")
  start "$2" "$3"
  finish || fail "$2: exit code $?"
  resumes "$2" "$step"
  same_end "$1" "$2"
}

# For each number of ranks: points of a save in their order, with a part of the path, %s being the
# step, and how many steps further than before the newest checkpoint is.
declare -A points=(
  [1]="after_snapshot:%s.h5=0 mid_write:%s.h5=0 before_fsync:%s.h5=0 before_rename:%s.h5=0
       before_dirsync:%s.h5=0 between_renames:%s.h5=0 mid_write:%s.json=0 before_rename:%s.json=0
       before_dirsync:%s.json=1 before_links:%s.h5=1"
  [2]="after_snapshot:%s.h5=0 mid_write:%s.h5=0 before_rename:%s.h5=0 between_renames:%s.h5=0
       before_rename:%s.json=0 before_dirsync:%s.json=1 before_links:%s.h5=1"
  [4]="mid_write:%s.h5=0 between_renames:%s.h5=0 before_dirsync:%s.json=1 before_links:%s.h5=1")

# held NAME RANKS POINT: runs the job to the point and kills it there.
held() {
  local point=${3%=*} before expected
  before=$(newest "$1")
  expected=$((before + ${3#*=}))
  export IMGCLS_TEST_HOLD
  printf -v IMGCLS_TEST_HOLD "${point/:/:-}" "$(printf %010d $((before + 1)))"
  start "$1" "$2"
  unset IMGCLS_TEST_HOLD
  await '^held at'
  case $((RANDOM % 3)) in 0) kill_job all ;; 1) kill_job 0 ;; 2) kill_job 1 ;; esac
  resumes "$1" "$before"
  inspect "$1"
  kills_in_save=$((kills_in_save + 1))
  (( step == expected )) || fail "$point: newest step is $step instead of $expected"
}

for ranks in 1 2 4; do
  start "straight$ranks" "$ranks"
  finish || fail "exit code $?"
  for point in ${points[$ranks]}; do held "held$ranks" "$ranks" "$point"; done
  complete "straight$ranks" "held$ranks" "$ranks"
  echo "ok: $ranks ranks, killed at $(wc -w <<<"${points[$ranks]}") points of a save ($SECONDS s)"
done

# A pair of which retention has removed the first half goes with the next save.
IMGCLS_TEST_HOLD=mid_retention:model start retention 1
await '^held at'
kill_job all
kills_in_save=$((kills_in_save + 1))
complete straight1 retention 1
for sidecar in "$work"/retention/*.json; do
  [[ $sidecar == */history.json || -e ${sidecar%.json}.h5 ]] || fail "$sidecar stands alone"
done

# A run that begins anew where another one has ended, killed in its first save: until its sidecar is
# there the other's checkpoints are the newest, from then on its own, and none of the other's is lost.
cp -a "$work/straight1" "$work/anew"
last=$(newest straight1)
for point in between_renames:0001-run2.h5=$last before_rename:0001-run2.json=$last \
  before_links:0001-run2.h5=1; do
  IMGCLS_TEST_HOLD=${point%=*} start anew 1 --resume none
  await '^held at'
  kill_job all
  kills_in_save=$((kills_in_save + 1))
  start anew 1
  finish || fail "anew: exit code $?"
  resumes anew "${point#*=}"
done
"$build/imgcls" h5 diff "$work/straight1/last.h5" "$work/anew/last.h5" >"$work/diff.log" 2>&1 ||
  { fail "anew: other weights than an unbroken run"; head "$work/diff.log"; }
cmp "$work/straight1/history.csv" "$work/anew/history.csv" || fail "anew: another history"
for link in last.h5 best.h5; do
  [[ $(readlink "$work/anew/$link") == *-run2.h5 ]] || fail "anew: $link is the other run's"
done
for file in "$work"/straight1/model-*; do
  cmp "$file" "$work/anew/${file##*/}" || fail "anew: a file of the other run has changed"
done
echo "ok: a run that begins anew in a used folder ($SECONDS s)"

ends=0 mix=(1 2 1 4 2 1)
for ((i = 0; i < random_kills;)); do
  ranks=${mix[i % 6]}
  name=random$ranks
  step=$(newest "$name")
  start "$name" "$ranks"
  # A quarter of the kills comes while the job starts, the rest after its first step.
  (( i % 4 == 0 )) || await '^epoch'
  sleep "$(printf 0.%03d $((RANDOM % 500)))"
  if kill -0 "$pid" 2>/dev/null; then
    case $((RANDOM % 6)) in 0 | 1 | 2) kill_job all ;; 3) kill_job 0 ;; 4) kill_job 1 ;; 5) kill_job 2 ;; esac
    ! grep -q "^resume" "$log" || resumes "$name" "$step"
    inspect "$name"
    i=$((i + 1))
  else
    finish || fail "exit code $?"
    same_end "straight$ranks" "$name"
    rm -r "${work:?}/$name"
    ends=$((ends + 1))
  fi
done
for ranks in 1 2 4; do
  [[ -d $work/random$ranks ]] && complete "straight$ranks" "random$ranks" "$ranks" && ends=$((ends + 1))
done
echo "$kills kills, $kills_in_save of them held in a save; $ends jobs killed at random times ended as unbroken ones ($SECONDS s)"
exit $failed
