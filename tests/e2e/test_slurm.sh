#!/usr/bin/env bash
# The batch files of launch/slurm, with stand-ins for srun and scontrol: a warning signal saves, the
# job is queued again by exit code 75, and the second start finishes the run.
# usage: test_slurm.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

small_run 2 24 data.validation_split=0.2 train.epochs=300 checkpoint.every_epochs=0 \
  checkpoint.every_steps=2 run.output="$work/run"

mkdir "$work/bin"
cat >"$work/bin/srun" <<'C'
#!/bin/bash
# srun OPTION... PROGRAM ARGUMENT...: two ranks.
echo "srun $*" >>"$LOG"
while [[ $1 == -* ]]; do shift; done
exec mpirun --quiet --bind-to none -np 2 "$@"
C
printf '#!/bin/bash\necho "scontrol $*" >>"$LOG"\n' >"$work/bin/scontrol"
printf '#!/bin/bash\n' >"$work/bin/sleep" # of the batch file, after the requeue
chmod +x "$work/bin/"*
ln -s "$build/imgcls-train" "$work/bin/imgcls-train"
readonly STEPS=3 # of an epoch: 38 images in batches of 12
export PATH=$work/bin:$PATH LOG=$work/calls.log SLURM_JOB_ID=4711

wait_for_checkpoint() {
  for _ in $(seq 600); do
    compgen -G "$work/run/model-*.json" >/dev/null && return
    /bin/sleep 0.05
  done
  return 1
}

for how in srun mpirun; do
  rm -rf "$work/run" "$LOG"
  setsid "$source/launch/slurm/$how.sbatch" "$work/base.ini" >"$work/$how.1.log" 2>&1 &
  batch=$!
  wait_for_checkpoint
  # Slurm signals the steps, or with B: the batch file alone.
  if [[ $how == srun ]]; then pkill -USR1 -P "$batch"; else kill -USR1 "$batch"; fi
  code=0
  wait "$batch" || code=$?
  [[ $code == 75 ]]
  grep -qx 'scontrol requeue 4711' "$LOG"
  grep -q 'stopped by signal 10' "$work/$how.1.log"

  # The second start goes on from there and reaches an end that is now near.
  step=$(basename "$(readlink -f "$work/run/last.h5")" .h5 | sed 's/.*-0*//')
  SLURM_RESTART_COUNT=1 "$source/launch/slurm/$how.sbatch" "$work/base.ini" \
    -s train.epochs=$((step / STEPS + 2)) >"$work/$how.2.log" 2>&1
  grep -q "step $step" "$work/$how.2.log"
  grep -q '^done' "$work/$how.2.log"
  [[ $(grep -c scontrol "$LOG") == 1 ]]
  echo "ok: $how"
done
