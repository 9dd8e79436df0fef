# What the end-to-end tests share; they source it first: `source "$(dirname "$0")/common.sh"`, then
# `begin "$@"`, which sets `build` and `source` from the arguments BUILD_DIR and SOURCE_DIR, makes
# the folder `work`, removed at the end, and lets a failure tell its line and what the program said.
set -Eeuo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# More ranks than cores: waiting ones give way.
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 OMP_WAIT_POLICY=passive

begin() {
  build=$1 source=$2
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'grep -h imgcls "$work"/*.log; echo "FAILED: line $LINENO"' ERR
}
