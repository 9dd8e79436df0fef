# Two ranks on one GPU over the real NCCL. Sourced, with `mpiexec` set; `seconds` is how long a job may
# take. Their sums show that NCCL is right; they say nothing about speed.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
seconds=300

two_ranks() { timeout $seconds "$mpiexec" --oversubscribe --bind-to none -np 2 "$@"; }

# share_gpu PROGRAM: PROGRAM (test_gpu_comm) has the right sums.
share_gpu() {
  two_ranks "$1" nccl && return 0
  echo "FAILED: sums of two ranks on one GPU" >&2
  return 1
}
