#!/bin/sh
# The data plane over the real NCCL, on a machine with one GPU: a self-check of the library by one
# rank, then two ranks that share the GPU, and the ways out when one of them dies or stops.
#
# NCCL refuses two ranks on one GPU unless it is told otherwise: since 2.30 by a variable of its own,
# before by names that make the ranks look like two hosts, so that data goes over sockets. Either
# shows that sums are right; neither says anything about speed. Exit 77: no GPU.
#   nccl_two_ranks.sh BUILD_DIR [MPIEXEC]
build=$1 mpiexec=${2:-mpirun}
here=$(cd "$(dirname "$0")" && pwd)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export NCCL_NVLS_ENABLE=0 NCCL_IB_DISABLE=1 NCCL_SOCKET_IFNAME=lo NCCL_MAX_CTAS=4

one_rank() { timeout 120 "$@"; }

one_rank "$build/test_gpu_comm" nccl || {
  code=$?
  [ $code -eq 77 ] && exit 77
  echo "FAILED: NCCL by one rank, exit code $code" >&2
  exit 1
}

# Each rank's own view of the host, as the launcher counts them.
cat >"$build/other_host.sh" <<'END'
#!/bin/sh
NCCL_HOSTID="rank$OMPI_COMM_WORLD_RANK" exec "$@"
END
chmod +x "$build/other_host.sh"

two_ranks() { timeout 300 "$mpiexec" --oversubscribe --bind-to none -np 2 "$@"; }

if NCCL_MULTI_RANK_GPU_ENABLE=1 two_ranks "$build/test_gpu_comm" nccl >"$build/two_ranks.log" 2>&1
then
  export NCCL_MULTI_RANK_GPU_ENABLE=1
  wrapper=
  echo "two ranks on one GPU, as NCCL knows them"
else
  wrapper=$build/other_host.sh
  echo "two ranks on one GPU, as two hosts to NCCL"
  two_ranks "$wrapper" "$build/test_gpu_comm" nccl || {
    echo "FAILED: sums of two ranks on one GPU; the other way:" >&2
    cat "$build/two_ranks.log" >&2
    exit 1
  }
fi
two_ranks $wrapper "$build/test_gpu_reduce_tree" nccl || { echo "FAILED: the tree" >&2; exit 1; }

# The stall job's ranks, seen through the same glasses.
cat >"$build/gpu_stall.sh" <<END
#!/bin/sh
[ "\$1" = json ] && exec "$build/test_gpu_stall" "\$@"
exec $wrapper "$build/test_gpu_stall" "\$@"
END
chmod +x "$build/gpu_stall.sh"
set -- "$mpiexec" "$build/gpu_stall.sh"
. "$here/../dist/jobs.sh"

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
