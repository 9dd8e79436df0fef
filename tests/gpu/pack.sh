#!/usr/bin/env bash
# Collects in FOLDER what tests/gpu/run.sh needs on a machine that has only a driver, cuDNN, cuBLASLt
# and, for two ranks, NCCL: the programs of `cmake --preset cuda` with the libraries of Debian they
# are linked with (C library and loader too, for older systems), Open MPI's modules, scripts, images.
# Run it on the Debian 12 machine that builds; below 64 MiB packed. Plans of convolutions for a GPU
# travel too, made by the cuDNN of the toolkit: those of the trainings, or with `all` those of the goals
# as well. In 16 bits a plan of a weight gradient takes a second of a core for each engine to be timed.
# usage: tests/gpu/pack.sh FOLDER [ARCHITECTURES [GPU [all]]]
#   ARCHITECTURES   compute capabilities, "80;90" (90)
#   GPU             h200, h100, a100, l40s or none (h200)
set -euo pipefail
[[ $# -ge 1 ]] || { sed -n 's/^# usage: //p' "$0"; exit 64; }
source=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$source"
cmake --preset cuda -DIMGCLS_TESTS=ON "-DIMGCLS_CUDA_ARCHITECTURES=${2:-90}" >/dev/null
gpu=${3:-h200}
cmake --build --preset cuda --target gpu_tests $([[ $gpu == none ]] || echo standin_libcuda)

programs=(imgcls imgcls-train gpu_parity test_gpu_comm test_gpu_reduce_tree
  test_gpu_stall test_gpu_step_contract test_gpu_flat test_gpu_augment)
rm -rf "$folder"/{bin,real,lib,tests,images,plans,openmpi,pmix}
mkdir -p "$folder"/{bin,real,lib,tests/gpu,tests/dist,openmpi,pmix}

# Stripped: what they print is what counts there.
for program in "${programs[@]}"; do strip -o "$folder/real/$program" "build/cuda/$program"; done
launchers=()
for launcher in orterun orted; do
  launchers+=("$(readlink -f "$(command -v $launcher)")")
  cp "${launchers[-1]}" "$folder/real/$launcher"
done

# Open MPI finds its modules and texts under OPAL_PREFIX.
modules=/usr/lib/x86_64-linux-gnu
cp -r "$modules"/openmpi/lib/openmpi3 "$folder/openmpi/modules"
rm -f "$folder"/openmpi/modules/*{ofi,ucx,psm,oshmem,openib,portals}* # of networks that are not there
cp -rL /usr/share/openmpi "$folder/openmpi/share"
cp -r "$modules"/pmix2/lib/pmix "$folder/pmix/modules"

# Libraries of all of these, but for those that belong to the driver or the toolkit.
{
  ldd "$folder"/real/* "$folder"/openmpi/modules/*.so "$folder"/pmix/modules/*.so 2>/dev/null || true
} | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | grep -v ':$' | sort -u |
  grep -vE '/lib(cuda|nvidia|cudnn|cublas|cublasLt|nvrtc|nccl)[.-]' |
  while read -r library; do cp -L "$library" "$folder/lib/"; done
strip --strip-unneeded "$folder"/lib/*.so* "$folder"/openmpi/modules/*.so 2>/dev/null || true

# Each program through one script, which takes the machine's own loader where its C library is new
# enough, as tools that look into programs want it, and else the one that came along.
cat >"$folder/bin/with-libraries" <<'END'
#!/bin/sh
folder=$(cd "$(dirname "$0")/.." && pwd)
name=$(basename "$0")
export OPAL_PREFIX="$folder/openmpi" OPAL_PKGDATADIR="$folder/openmpi/share"
export OMPI_MCA_mca_base_component_path="$folder/openmpi/modules"
export PMIX_MCA_mca_base_component_path="$folder/pmix/modules"
export OMPI_MCA_orte_launch_agent="$folder/bin/orted"
case $name in mpirun) name=orterun ;; esac
version=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/.* 2\.//')
if [ "${version:-0}" -ge 36 ]; then
  rest="$folder/lib-rest"
  LD_LIBRARY_PATH="$rest${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$folder/real/$name" "$@"
fi
exec "$folder/lib/ld-linux-x86-64.so.2" \
  --library-path "$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$folder/real/$name" "$@"
END
chmod +x "$folder/bin/with-libraries"
for name in "${programs[@]}" orterun orted mpirun; do ln -sf with-libraries "$folder/bin/$name"; done
# For the machine's own loader: all but what belongs to the C library.
mkdir -p "$folder/lib-rest"
find "$folder/lib-rest" -type l -delete
for library in "$folder"/lib/*; do
  case ${library##*/} in
    ld-linux*|libc.so*|libm.so*|libdl.so*|libpthread.so*|librt.so*|libresolv.so*|libutil.so*) ;;
    *) ln -s "../lib/${library##*/}" "$folder/lib-rest/" ;;
  esac
done

cp tests/gpu/{parts,share_gpu,nccl_two_ranks}.sh tests/gpu/bench_torch.py "$folder/tests/gpu/"
python3 tests/backbone/oracle_names.py >"$folder/tests/gpu/graphs.txt"
cp tests/dist/jobs.sh "$folder/tests/dist/"
cp tests/gpu/run.sh "$folder/run.sh"

export size=full tests=$source/tests out=$folder data=$folder/images plans=$folder/plans
tests/gpu/parts.sh make_images >/dev/null
if [[ $gpu != none ]]; then
  tests/gpu/parts.sh write_configuration >"$folder/run.ini"
  # A stand-in for the driver, so that engines are compiled.
  PATH=$source/build/cuda:$PATH LD_LIBRARY_PATH=$source/build/cuda/standin:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-} \
    tests/gpu/parts.sh make_plans "$gpu" "${4:-some}"
  rm "$folder/run.ini"
fi
packed=$(tar -C "$folder" -cz . | wc -c)
echo "$folder: $(du -sm "$folder" | cut -f1) MiB, $((packed >> 20)) MiB packed"
(( packed < 64 << 20 )) || { echo "more than 64 MiB packed" >&2; exit 1; }
