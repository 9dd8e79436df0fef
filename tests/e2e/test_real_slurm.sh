#!/usr/bin/env bash
# The batch files of launch/slurm under a real Slurm: a controller and two nodes on this machine, each
# node with a host name and a /dev/shm of its own, on the loopback network alone. The warning before
# the time limit saves and queues again, and the end has the bits of an unbroken run; scancel and a
# killed rank end a job. Stops what it starts. Exit 77 where Slurm is not, or cannot run.
# EPOCHS = length of the run, which must outlast a minute on this machine.
# usage: test_real_slurm.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"

skip() {
  echo "skipped: $1"
  exit 77
}

for program in slurmctld slurmd munged sbatch scontrol srun setpriv; do
  PATH=$PATH:/usr/sbin command -v $program >/dev/null ||
    skip "no $program: install slurm-wlm, slurm-wlm-basic-plugins and munge"
done
((EUID == 0)) || skip "only root can give two nodes names of their own"
unshare --mount --uts true 2>/dev/null || skip "this container may not unshare its mounts"
begin "$@"
PATH=$PATH:/usr/sbin

# --- a cluster ------------------------------------------------------------------------------------

readonly NODES=2
host=$(hostname -s) port=$((20000 + $$ % 20000))
export SLURM_CONF=$work/slurm.conf
export OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo

stop_cluster() {
  local file pid
  scancel --user=root 2>/dev/null || true
  for _ in $(seq 50); do
    [[ -z $(ranks 2>/dev/null) ]] && break
    sleep 0.2
  done
  for file in "$work"/slurmd.*.pid "$work/slurmctld.pid" "$work/munge/pid"; do
    [[ -s $file ]] && pid=$(<"$file") && kill "$pid" 2>/dev/null
  done
  sleep 1
  rm -rf "$work" # the nodes' mounts went with their processes
}
trap stop_cluster EXIT

start_cluster() {
  local i
  chmod 755 "$work"
  mkdir -p "$work/state" "$work/log"
  install -d -o munge -g munge -m 0755 "$work/munge"
  (umask 077 && dd if=/dev/urandom of="$work/munge/key" bs=128 count=1 status=none)
  chown munge:munge "$work/munge/key"
  setpriv --reuid=munge --regid=munge --clear-groups munged --key-file="$work/munge/key" \
    --socket="$work/munge/sock" --pid-file="$work/munge/pid" --seed-file="$work/munge/seed" \
    --log-file="$work/munge/log"
  cat >"$SLURM_CONF" <<C
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/sock,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MpiDefault=pmix
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
SlurmdTimeout=15
SlurmctldTimeout=15
SchedulerParameters=sched_interval=5
TmpFS=$work/tmp.%n
SlurmdSpoolDir=$work/spool.%n
StateSaveLocation=$work/state
SlurmctldPidFile=$work/slurmctld.pid
SlurmctldLogFile=$work/log/slurmctld.log
SlurmdPidFile=$work/slurmd.%n.pid
SlurmdLogFile=$work/log/slurmd.%n.log
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
C
  for i in $(seq $NODES); do
    mkdir -p "$work/spool.n$i"
    install -d -m 1777 "$work/tmp.n$i"
    echo "NodeName=n$i NodeHostname=n$i NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=2" \
      "RealMemory=2000 State=UNKNOWN" >>"$SLURM_CONF"
  done
  echo "PartitionName=all Nodes=n[1-$NODES] Default=YES MaxTime=INFINITE State=UP" >>"$SLURM_CONF"
  echo "127.0.0.1 localhost $host $(seq -s' ' -f n%g $NODES)" >"$work/hosts"
  slurmctld -f "$SLURM_CONF"
  for i in $(seq $NODES); do
    unshare --mount --uts bash -c "mount --make-rprivate / && mount -t tmpfs tmpfs /dev/shm &&
      mount --bind '$work/hosts' /etc/hosts && hostname n$i &&
      exec slurmd -N n$i -f '$SLURM_CONF'"
  done
  for _ in $(seq 100); do
    [[ $(sinfo --noheader --format=%D --states=idle 2>/dev/null) == "$NODES" ]] && return
    sleep 0.2
  done
  tail "$work"/log/*
  skip "the nodes of this Slurm do not come up"
}

# ranks: the processes of imgcls-train that work in our folder.
ranks() {
  local process
  for process in /proc/[0-9]*; do
    [[ $(<"$process/comm") == imgcls-train ]] &&
      grep -qF "$work" "$process/cmdline" && echo "${process##*/}"
  done 2>/dev/null || true
}

# --- jobs -----------------------------------------------------------------------------------------

# submit HOW NAME SBATCH_OPTION...: sets `job`.
submit() {
  local how=$1 name=$2
  shift 2
  job=$(cd "$work" && sbatch --parsable --nodes=$NODES --ntasks-per-node=1 --cpus-per-task=1 \
    --output="$work/$name.log" "$@" "$source/launch/slurm/$how.sbatch" "$work/base.ini" \
    -o "$work/$name")
}

field() { scontrol show job "$job" | sed -n "s/.*\b$1=\([^ ]*\).*/\1/p" | head -1; }

# wait_until SECONDS COMMAND...
wait_until() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < until)) || {
      echo "waited too long: $*"
      scontrol show job "$job" || true
      return 1
    }
    sleep 0.3
  done
}

is_over() { [[ $(field JobState) =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)$ ]]; }
has_restarted() { (($(field Restarts) > 0)); }
has_restarted_or_ended() { has_restarted || is_over; }
has_checkpoint() { compgen -G "$work/$1/model-*.json" >/dev/null; }
has_no_ranks() { [[ -z $(ranks) ]]; }

small_run 2 24 data.validation_split=0.2 train.epochs="${EPOCHS:-800}" train.evaluate_every=0 \
  checkpoint.every_epochs=0 checkpoint.every_steps=100 run.comm_timeout_s=60
mkdir "$work/bin"
ln -s "$build/imgcls-train" "$work/bin/imgcls-train"
export PATH=$work/bin:$PATH

start_cluster
mpirun --quiet --bind-to none -np $NODES imgcls-train "$work/base.ini" -o "$work/unbroken" \
  >"$work/unbroken.log"
echo "ok: an unbroken run, $SECONDS s"

for how in srun mpirun; do
  to=USR1
  [[ $how == srun ]] || to=B:USR1
  submit $how $how --time=60 --signal=$to@60
  wait_until 120 has_checkpoint $how
  scontrol update JobId="$job" TimeLimit=2 # Slurm looks every half minute, and signals early
  wait_until 120 has_restarted_or_ended
  has_restarted || { echo "it ended before the signal: raise EPOCHS"; false; }
  grep -q 'stopped by signal 10' "$work/$how.log"
  scontrol update JobId="$job" TimeLimit=60
  wait_until 900 is_over
  [[ $(field JobState) == COMPLETED ]]
  grep -q '^done' "$work/$how.log"
  "$build/imgcls" h5 diff "$work/unbroken/last.h5" "$work/$how/last.h5" >"$work/diff.log"
  echo "ok: $how: the time limit, $(field Restarts) restart, the same bits, $SECONDS s"
done

submit srun cancelled --time=30
wait_until 120 has_checkpoint cancelled
scancel "$job"
wait_until 30 has_no_ranks
wait_until 30 is_over
[[ $(field JobState) == CANCELLED ]]
echo "ok: scancel"

for how in srun mpirun; do
  submit $how killed.$how --time=30
  wait_until 120 has_checkpoint killed.$how
  kill -9 "$(ranks | tail -1)"
  wait_until 15 has_no_ranks
  wait_until 30 is_over
  [[ $(field JobState) == FAILED && $(field Restarts) == 0 ]]
  echo "ok: $how: a killed rank"
done
