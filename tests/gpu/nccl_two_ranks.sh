#!/bin/sh
# The data plane over the real NCCL, on a machine with one GPU: a self-check of the library by one
# rank, then two ranks that share the GPU, and the ways out when one of them dies or stops. Exit 77:
# no GPU.
#   nccl_two_ranks.sh PROGRAMS [MPIEXEC]
build=$1 mpiexec=${2:-mpirun}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/share_gpu.sh"

timeout 120 "$build/test_gpu_comm" nccl || {
  code=$?
  [ $code -eq 77 ] && exit 77
  echo "FAILED: NCCL by one rank, exit code $code" >&2
  exit 1
}

set -- "$mpiexec" "$build/test_gpu_stall"
. "$here/../dist/jobs.sh"
share_gpu "$build/test_gpu_comm" || exit 1
two_ranks "$build/test_gpu_reduce_tree" nccl || { echo "FAILED: the tree" >&2; exit 1; }

start 2 60 60 40 none nccl
mark
finish 'nothing wrong' 0 60000

start 2 60 60 100000 none nccl
mark
kill -9 "$(pid_of 1)"
finish 'kill -9 of a rank' fails 10000

start 2 5 60 100000 none nccl
mark
kill -STOP "$(pid_of 1)"
finish 'a rank stopped for good' 75 20000
flights 'a rank stopped for good' 0

start 2 5 60 100000 hang nccl
mark
finish 'a rank that hangs' 75 20000
flights 'a rank that hangs' 0 1

finish_all
