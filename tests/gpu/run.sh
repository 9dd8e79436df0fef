#!/usr/bin/env bash
# Everything that only a GPU can show, on a bare CUDA machine without network. Needs an NVIDIA driver,
# cuDNN 9 and cuBLASLt (also those inside PyTorch's wheels are found), for two ranks NCCL; nothing is
# installed. What else is needed travels along: `tests/gpu/pack.sh` collects it in a folder on a
# Debian 12 machine with the toolkit; carry that folder over and start the run.sh in it. Without
# packing, it uses the programs of build/cuda (cmake --preset cuda -DIMGCLS_TESTS=ON; target
# gpu_tests).
#
# Each part has a time limit, writes OUT/PART.log and, where it has figures, OUT/PART.json, and fails
# alone, or is skipped and says why. Parts: those named, else all. The last line is "N passed, N failed, N skipped".
# usage: run.sh [PART...]; OUT: where results go (gpu-results); LIMIT: seconds in all (none)
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-gpu-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
limit=${LIMIT:-0}
wanted=" $* "
passed=0 failed=0 skipped=0
if [[ -d $here/bin ]]; then bin=$here/bin data=$here/images tests=$here/tests
else bin=$here/../../build/cuda data=$out/images tests=$here/.. ; fi

# --- the machine's libraries ---
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=passive
libraries=$(find /usr/local/cuda*/lib64 /usr/local/cuda*/compat /usr/lib/python3*/ /usr/local/lib/python3* \
  /opt "$HOME"/.local/lib ${VIRTUAL_ENV:-} ${CONDA_PREFIX:-} \
  \( -name 'libcudnn.so.9' -o -name 'libcublasLt.so.1[23]' -o -name 'libnvrtc.so.1[23]' -o -name 'libnccl.so.2' \) \
  -printf '%h\n' 2>/dev/null | sort -u | tr '\n' ':')
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries
export PATH=$bin:$PATH:/usr/local/cuda/bin
[[ -d $data ]] || python3 "$tests/tools/make_images.py" "$data" 3 16 40 >/dev/null 2>&1

gpu=no
ls /dev/nvidia[0-9]* >/dev/null 2>&1 && gpu=yes

# --- parts ---
# part NAME SECONDS COMMAND...: exit code 77 is a skip, whose reason is the last line.
part() {
  local name=$1 seconds=$2 start=$SECONDS code
  shift 2
  [[ $wanted == '  ' || $wanted == *" $name "* ]] || return 0
  if (( limit > 0 && SECONDS + 30 > limit )); then
    echo "skipped $name: no time left of $limit s"
    skipped=$((skipped + 1))
    return 0
  fi
  (( limit > 0 && SECONDS + seconds > limit )) && seconds=$((limit - SECONDS))
  export -f machine_says steps_repeat graph_on_and_off trains_alike kill_and_go_on parity_all bench_all peers sanitizers
  timeout --kill-after=10 "$seconds" bash -c '"$@"' part "$@" >"$out/$name.log" 2>&1 </dev/null
  code=$?
  case $code in
    0) passed=$((passed + 1)); echo "passed  $name ($((SECONDS - start)) s)" ;;
    77) skipped=$((skipped + 1)); echo "skipped $name: $(tail -n 1 "$out/$name.log")" ;;
    124|137) failed=$((failed + 1)); echo "FAILED  $name: not done in $seconds s" ;;
    *) failed=$((failed + 1)); echo "FAILED  $name: exit code $code; $(tail -n 1 "$out/$name.log")" ;;
  esac
}
export bin data out tests gpu

no_gpu() { [[ $gpu == yes ]] || { echo "no GPU here"; exit 77; }; }
on_gpu() { no_gpu; "$@"; }
export -f no_gpu on_gpu

machine_says() {
  no_gpu
  nvidia-smi || true
  cat >"$out/run.ini" <<END
[model]
backbone = mobilenet_v2_100_224
image_size = 96
[data]
dir = $data
validation_split = 0.25
[train]
batch = 16
epochs = 6
evaluate_every = 3
[run]
device = cuda
END
  imgcls-train --check "$out/run.ini" -o "$out/check"
}

# Two runs in deterministic arithmetic give the same file.
steps_repeat() {
  no_gpu
  for run in once again; do
    rm -rf "${out:?}/$run"
    imgcls-train "$out/run.ini" -o "$out/$run" -s run.device=cuda || exit 1
  done
  imgcls h5 diff "$out/once/last.h5" "$out/again/last.h5"
}

# A step as one CUDA graph and as its launches: the same file, with all that changes from step to step.
graph_on_and_off() {
  no_gpu
  local precision graph
  set -o pipefail
  for precision in fp32 bf16 fp16; do
    for graph in yes no; do
      rm -rf "${out:?}/graph.$graph"
      imgcls-train "$out/run.ini" -o "$out/graph.$graph" -s "run.cuda_graph=$graph" -s run.autotune=no \
        -s "train.precision=$precision" -s model.dropout=0.5 -s optimizer.clip_norm=1 \
        -s optimizer.use_ema=yes -s schedule.warmup_epochs=2 -s train.virtual_workers=2 \
        -s augment.enabled=yes -s train.reproducible=yes 2>&1 | tee "$out/graph.$graph.said" || exit 1
    done
    grep -q "a step is one CUDA graph" "$out/graph.yes.said" || exit 1
    ! grep -q "cannot be recorded" "$out/graph.yes.said" || exit 1
    imgcls h5 diff "$out/graph.yes/last.h5" "$out/graph.no/last.h5" || exit 1
  done
}

first_loss() { tr -d ' \n' <"$1/history.json" | sed 's/.*"loss":\[\([^]]*\)\].*/\1/; s/,.*//'; }
export -f first_loss

# trains_alike A B TOLERANCE: the loss of the first epoch, trained in two ways. Later ones tell nothing:
# at this learning rate the CPU's own instruction sets are 10 % apart after three; gpu_parity goes on.
trains_alike() {
  no_gpu
  local a=$1 b=$2 tolerance=$3
  rm -rf "${out:?}/way.a" "${out:?}/way.b"
  imgcls-train "$out/run.ini" -o "$out/way.a" -s "$a" -s train.precision=fp32 || exit 1
  imgcls-train "$out/run.ini" -o "$out/way.b" -s "$b" -s train.precision=fp32 || exit 1
  awk -v a="$(first_loss "$out/way.a")" -v b="$(first_loss "$out/way.b")" -v t="$tolerance" \
    'BEGIN { d = a - b; if (d < 0) d = -d; print a, b, d; exit !(a > 0 && d <= t * a) }'
}

# Killed on one device after its first checkpoint, gone on with on the other, and back.
kill_and_go_on() {
  no_gpu
  rm -rf "${out:?}/killed"
  set -m
  for device in cuda cpu cuda; do
    imgcls-train "$out/run.ini" -o "$out/killed" -s "run.device=$device" -s train.epochs=40 &
    job=$!
    before=$(stat -c %Y.%s "$out/killed/last.h5" 2>/dev/null)
    for _ in $(seq 600); do
      [[ -e $out/killed/last.h5 && $(stat -c %Y.%s "$out/killed/last.h5") != "$before" ]] && break
      kill -0 $job 2>/dev/null || break
      sleep 0.2
    done
    kill -9 -- -$job 2>/dev/null
    wait $job 2>/dev/null
    imgcls h5 verify "$out/killed/last.h5" || exit 1
  done
  imgcls-train "$out/run.ini" -o "$out/killed" -s run.device=cpu -s train.epochs=40 || exit 1
  imgcls eval "$out/killed/last.h5" "$data" --json
}

# Every backbone at the smallest size that suits it, or at 64 pixels, in a precision.
parity_all() {
  no_gpu
  local precision=$1 names name side bad=0
  names=$(imgcls models --json | tr -d ' \n' | grep -o '{"name":"[^"]*"[^}]*}' |
    sed 's/{"name":"\([^"]*\)".*"smallest_image":\([0-9]*\).*/\1 \2/')
  : >"$out/parity.$precision.json"
  while read -r name side; do
    (( side < 64 )) && side=64
    timeout 300 gpu_parity "$name" "$side" "$precision" >>"$out/parity.$precision.json" ||
      { echo "DIFFERS $name"; bad=1; }
  done <<<"$names"
  (( bad == 0 )) && [[ -s $out/parity.$precision.json ]]
}

# Images a second, batch and backbone as in the goals.
bench_all() {
  no_gpu
  local precision=$1 row bad=0
  : >"$out/bench.$precision.json"
  for row in "resnet50_v1_5 256 224" "efficientnet_b0 256 224" "mobilenet_v2_100_224 256 224" \
    "efficientnetv2-s 128 300" "mobilenet_v3_large_100_224 256 224" "inception_v3 128 299" \
    "nasnet_large 32 331" "efficientnet_b4 64 380"; do
    set -- $row
    timeout 180 imgcls bench "$1" --device=cuda --batch="$2" --image-size="$3" \
      --precision="$precision" --steps=30 --warmup=5 --json >>"$out/bench.$precision.json" || bad=1
  done
  return $bad
}

peers() {
  no_gpu
  python3 -c 'import torch, torchvision' 2>/dev/null || { echo "no PyTorch with torchvision"; exit 77; }
  python3 "$tests/gpu/bench_torch.py" >"$out/torch.json"
}

sanitizers() {
  no_gpu
  command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer"; exit 77; }
  compute-sanitizer --tool "$1" --error-exitcode 9 test_gpu_flat cuda
}

part machine 60 machine_says
part step_contract 400 on_gpu test_gpu_step_contract cuda
part flat 60 on_gpu test_gpu_flat cuda
part augment 60 on_gpu test_gpu_augment cuda
part two_runs_same_bits 120 steps_repeat
part graph_on_and_off 240 graph_on_and_off
part cpu_and_gpu_train_alike 240 trains_alike run.device=cpu run.device=cuda 0.001
part kill_and_resume 300 kill_and_go_on
part two_ranks_one_gpu 900 on_gpu "$tests/gpu/nccl_two_ranks.sh" "$bin"
part bench_bf16 900 bench_all bf16
part bench_fp16 900 bench_all fp16
part peers 900 peers
part steps_against_floor 300 on_gpu gpu_bench_steps 8 "" cuda
for precision in fp32 bf16 fp16; do
  part parity_$precision 3600 parity_all $precision
done
part memcheck 900 sanitizers memcheck
part racecheck 900 sanitizers racecheck

echo "$passed passed, $failed failed, $skipped skipped"
(( failed == 0 && passed + skipped > 0 ))
