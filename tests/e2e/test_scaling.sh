#!/usr/bin/env bash
# What measures scaling: `imgcls all-reduce` by each transport, and launch/slurm/scaling.sbatch with a
# stand-in for srun. The figures must agree with each other; how large they are is the machine's.
# usage: test_scaling.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

# check RANKS: the JSON of all-reduce on standard input.
check() {
  python3 -c '
import json, math, sys
ranks, transport, reproducible = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "yes"
got = json.load(sys.stdin)
assert got["ranks"] == ranks and got["transport"] == transport, got
assert got["reproducible"] == reproducible and got["hosts"] == 1, got
assert [size["bytes"] for size in got["sizes"]] == [1000, 2000, 4000, 8000, 16000], got
for size in got["sizes"]:
    speed = size["bytes"] / size["seconds"] / 1e9
    assert math.isclose(size["algorithm_gb_per_s"], speed, rel_tol=1e-9), size
    assert math.isclose(size["bus_gb_per_s"], speed * 2 * (ranks - 1) / ranks, rel_tol=1e-9), size
' "$@"
}

sizes="--min-bytes=1000 --max-bytes=20000 --steps=3 --threads=1"
for ranks in 2 3; do
  for reproducible in no yes; do
    flags=$sizes
    [[ $reproducible == no ]] || flags+=" --reproducible"
    # shellcheck disable=SC2086 # several options
    mpirun --quiet --bind-to none -np $ranks "$build/imgcls" all-reduce $flags --json \
      >"$work/sums.log"
    check $ranks mpi $reproducible <"$work/sums.log"
    if [[ -x $build/standin_tool ]]; then
      # shellcheck disable=SC2086
      STANDIN_GPUS=$ranks STANDIN_GUARD=1 mpirun --quiet --bind-to none -np $ranks \
        "$build/standin_tool" all-reduce $flags --json >"$work/sums.log"
      check $ranks nccl $reproducible <"$work/sums.log"
    fi
  done
done
echo "ok: all-reduce"

code=0
"$build/imgcls" all-reduce >"$work/alone.log" 2>&1 || code=$?
[[ $code == 64 ]] && grep -q 'one rank sums nothing' "$work/alone.log"
code=0
"$build/imgcls" all-reduce --min-bytes=8 --max-bytes=4 >"$work/order.log" 2>&1 || code=$?
[[ $code == 64 ]] && grep -q 'more than --max-bytes' "$work/order.log"
echo "ok: mistakes"

mkdir "$work/bin"
cat >"$work/bin/srun" <<'C'
#!/bin/bash
# srun OPTION... PROGRAM ARGUMENT...
while [[ $1 == -* ]]; do
  [[ $1 != --ntasks=* ]] || tasks=${1#*=}
  [[ $1 != --nodes=* ]] || nodes=${1#*=}
  shift
done
echo "$nodes nodes, $tasks tasks, $2" >>"$LOG"
[[ $2 != all-reduce ]] || set -- "$@" --max-bytes=65536 --steps=2 # a test needs no more
exec mpirun --quiet --bind-to none -np "$tasks" "$@"
C
chmod +x "$work/bin/srun"
ln -s "$build/imgcls" "$work/bin/imgcls"
export PATH=$work/bin:$PATH LOG=$work/calls.log
cd "$work"
SLURM_JOB_ID=7 SLURM_NTASKS=3 SLURM_NTASKS_PER_NODE=2 "$source/launch/slurm/scaling.sbatch" \
  mobilenet_v2_100_224 2 --image-size=32 --classes=10 --steps=1 --warmup=1 --threads=1
diff "$LOG" - <<'C'
1 nodes, 1 tasks, bench
1 nodes, 2 tasks, bench
1 nodes, 2 tasks, all-reduce
2 nodes, 3 tasks, bench
2 nodes, 3 tasks, all-reduce
C
python3 -c '
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert [line["ranks"] for line in lines] == [1, 2, 2, 3, 3], lines
assert [line["batch"] for line in lines if "runs" in line] == [2, 4, 6], lines
' imgcls-scaling-7.jsonl
echo "ok: scaling.sbatch"
