#!/usr/bin/env bash
# Everything that only a GPU can show, on a bare CUDA machine without network. Needs an NVIDIA driver,
# cuDNN 9 and cuBLASLt (also those inside PyTorch's wheels are found), for two ranks NCCL; nothing is
# installed. What else is needed travels along: `tests/gpu/pack.sh` collects it in a folder on a
# Debian 12 machine with the toolkit; carry that folder over and start the run.sh in it. Without
# packing, it uses the programs of build/cuda (cmake --preset cuda -DIMGCLS_TESTS=ON; target
# gpu_tests).
#
# The parts (tests/gpu/parts.sh) stand in the order of what their evidence is worth. Each has a time
# limit, writes OUT/PART.log and, where it has figures, OUT/PART.json, and fails alone, or is skipped
# and says why. Run again with the same OUT, what passed is left out, and what was cut off goes on
# where it stopped; a part that is named begins anew. The last line is "N passed, N failed, N skipped".
# usage: run.sh [PART...]
#   OUT       where results go (gpu-results)
#   LIMIT     seconds in all (none)
#   PROGRAMS  the folder of the programs (bin beside this script, else build/cuda)
#   PLANS     plans of convolutions made on another machine (plans beside this script)
#   SIZE      full, or small for a device that is slow, with ten times the limits (full)
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-gpu-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
limit=${LIMIT:-0} size=${SIZE:-full}
wanted=" $* "
known=' ' passed=0 failed=0 skipped=0
if [[ -d $here/bin ]]; then programs=$here/bin tests=$here/tests
else programs=$here/../../build/cuda tests=$here/.. ; fi
programs=$(cd "${PROGRAMS:-$programs}" && pwd) || exit 64
plans=${PLANS:-$here/plans} data=$out/images
export out programs tests data plans size

# --- the machine ---
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=passive
export OMPI_MCA_mpi_yield_when_idle=1
libraries=$(find /usr/local/cuda*/lib64 /usr/local/cuda*/compat /usr/lib/python3*/ /usr/local/lib/python3* \
  /opt "${HOME:-/root}"/.local/lib ${VIRTUAL_ENV:-} ${CONDA_PREFIX:-} \
  \( -name 'libcudnn.so.9' -o -name 'libcublasLt.so.1[23]' -o -name 'libnvrtc.so.1[23]' -o -name 'libnccl.so.2' \) \
  -printf '%h\n' 2>/dev/null | sort -u | tr '\n' ':')
export given_libraries=${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries
export PATH=$programs:$PATH:/usr/local/cuda/bin

# What the parts share: images, a configuration, and one cache of plans.
export XDG_CACHE_HOME=$out/cache
mkdir -p "$out/cache/imgcls"
[[ ! -d $plans || -d $out/cache/imgcls/plans ]] || cp -r "$plans" "$out/cache/imgcls/plans"
if [[ -d $here/images ]]; then data=$here/images
elif [[ ! -d $data ]]; then "$tests/gpu/parts.sh" make_images || exit 1; fi
"$tests/gpu/parts.sh" write_configuration >"$out/run.ini" || exit 1

said=$(imgcls-train --check 2>&1)
gpu=$(grep -m 1 '^backend cuda:' <<<"$said") || gpu="imgcls-train --check: $(tail -n 1 <<<"$said")"
[[ $gpu == 'backend cuda: '[1-9]* ]] && there=yes || there=no

# --- the parts ---
# part NAME SECONDS COMMAND...: exit code 77 is a skip, whose reason is the last line.
part() {
  local name=$1 seconds=$2 start=$SECONDS code cut=no
  shift 2
  known+="$name "
  [[ $size == full ]] || seconds=$((10 * seconds))
  [[ $wanted == '  ' || $wanted == *" $name "* ]] || return 0
  if [[ $there == no ]]; then
    echo "skipped $name: no GPU here: $gpu"
    skipped=$((skipped + 1))
    return 0
  fi
  if [[ -e $out/$name.passed && $wanted == '  ' ]]; then
    echo "passed  $name before"
    passed=$((passed + 1))
    return 0
  fi
  if (( limit > 0 && SECONDS + 20 > limit )); then
    echo "skipped $name: no time left of $limit s"
    skipped=$((skipped + 1))
    return 0
  fi
  [[ ! -e $out/$name.passed ]] || rm -f "$out/$name.passed" "$out/$name.json"
  (( limit > 0 && SECONDS + seconds > limit )) && { seconds=$((limit - SECONDS)); cut=yes; }
  json=$out/$name.json timeout --kill-after=10 "$seconds" "$tests/gpu/parts.sh" "$@" \
    >"$out/$name.log" 2>&1 </dev/null
  code=$?
  case $code in
    0) passed=$((passed + 1)); touch "$out/$name.passed"; echo "passed  $name ($((SECONDS - start)) s)" ;;
    77) skipped=$((skipped + 1)); echo "skipped $name: $(tail -n 1 "$out/$name.log")" ;;
    124|137)
      if [[ $cut == yes ]]; then skipped=$((skipped + 1)); echo "skipped $name: cut off after $seconds s"
      else failed=$((failed + 1)); echo "FAILED  $name: not done in $seconds s"; fi ;;
    *) failed=$((failed + 1)); echo "FAILED  $name: exit code $code; $(tail -n 1 "$out/$name.log")" ;;
  esac
}

part machine 60 machine
part step_contract 600 step_contract
part flat 60 program test_gpu_flat cuda
part augment 60 program test_gpu_augment cuda
part goals 900 bench goals bf16
part peers 900 peers goals
part goals_met 30 goals_met
part graph_on_and_off 240 graph_on_and_off
part nccl_in_graphs 400 nccl_in_graphs
part parity_goals 900 parity goals bf16 fp32 fp16
part kill_and_resume 400 kill_and_resume
part two_runs_same_bits 200 two_runs_same_bits
part memory 300 memory
part recompute 120 recompute
part resident 120 resident
part micro_batch 120 micro_batch
part kept_plans 120 kept_plans
part cpu_and_gpu_train_alike 240 trains_alike run.device=cpu run.device=cuda
part two_ranks_one_gpu 900 program "$tests/gpu/nccl_two_ranks.sh" "$programs"
part operations 300 bench goals bf16 --operations
for tool in memcheck racecheck; do
  part "$tool"_flat 600 sanitize $tool test_gpu_flat cuda
  part "$tool"_augment 900 sanitize $tool test_gpu_augment cuda
  part "$tool"_steps 1800 sanitize_steps $tool
done
part bench_fp16 1800 bench goals fp16
part bench_others 1800 bench others bf16
part peers_others 900 peers others
for precision in bf16 fp32 fp16; do
  part parity_$precision 3600 parity all $precision
done

for name in $wanted; do
  [[ $known == *" $name "* ]] || { echo "FAILED  $name: no such part"; failed=$((failed + 1)); }
done
echo "$passed passed, $failed failed, $skipped skipped"
(( failed == 0 && passed + skipped > 0 ))
