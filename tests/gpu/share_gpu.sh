# How two ranks run on one GPU over the real NCCL. Sourced, with `mpiexec` set;
# `seconds` is how long a job may take.
#
# NCCL refuses two ranks on one GPU unless it is told otherwise: since 2.30 by a variable of its own,
# before by names that make the ranks look like two hosts, so that data goes over sockets. Either
# shows that sums are right; neither says anything about speed.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export NCCL_NVLS_ENABLE=0 NCCL_IB_DISABLE=1 NCCL_SOCKET_IFNAME=lo NCCL_MAX_CTAS=4
wrapper='' seconds=300

two_ranks() { timeout $seconds "$mpiexec" --oversubscribe --bind-to none -np 2 $wrapper "$@"; }

# share_gpu PROGRAM FOLDER: finds the way, in which PROGRAM (test_gpu_comm) has the right sums; two_ranks
# goes it from then on. What it needs and what the other way said lies in FOLDER.
share_gpu() {
  export NCCL_MULTI_RANK_GPU_ENABLE=1
  if two_ranks "$1" nccl >"$2/two_ranks.log" 2>&1; then
    echo "two ranks on one GPU, as NCCL knows them"
    return 0
  fi
  unset NCCL_MULTI_RANK_GPU_ENABLE
  # Each rank's own view of the host, as the launcher counts them.
  printf '#!/bin/sh\nNCCL_HOSTID="rank$OMPI_COMM_WORLD_RANK" exec "$@"\n' >"$2/other_host.sh"
  chmod +x "$2/other_host.sh"
  wrapper=$2/other_host.sh
  echo "two ranks on one GPU, as two hosts to NCCL"
  two_ranks "$1" nccl && return 0
  echo "FAILED: sums of two ranks on one GPU; the other way:" >&2
  cat "$2/two_ranks.log" >&2
  return 1
}
