#!/usr/bin/env bash
# The parts of run.sh, which starts this for each of them: `parts.sh PART ARGUMENT...`. Exit code 0: shown;
# 77: cannot be shown here, and the last line says why; any other: wrong. From run.sh come the programs
# on the PATH and, as variables, the folders out, programs, tests, data and plans, the size, and the
# part's file json.
set -euo pipefail

# What a small part takes: the stand-ins' kernels run on one core.
case $size in
  full) backbone=mobilenet_v2_100_224 side=96 batch=16 images=16 epochs=6 many=200 ;;
  small) backbone=mobilenet_v3_small_075_224 side=32 batch=4 images=4 epochs=1 many=6 ;;
  *) echo "SIZE=$size: full or small"; exit 64 ;;
esac
# imgcls, batch, side, images a second of an H200 to be reached (0: none set)
goals=("resnet50_v1_5 256 224 7950" "efficientnet_b0 256 224 14000" "mobilenet_v2_100_224 256 224 17000"
  "efficientnetv2-s 128 300 4000")
others=("mobilenet_v3_large_100_224 256 224 0" "inception_v3 128 299 0" "nasnet_large 32 331 0"
  "efficientnet_b4 64 380 0")
measured=("${goals[@]}") steps=30 row_seconds=600 # of the part memory; of a bench; of a parity
if [[ $size == small ]]; then
  goals=("$backbone 4 32 0") others=("$backbone 4 64 0") steps=2 row_seconds=6000
  measured=("mobilenet_v3_large_075_224 4 32") # weights enough to be more than what is rounded up
fi
# Programs that compute on the processor's cores at one time.
jobs=$(( ($(nproc) + 3) / 4 ))

fail() { echo "$*"; exit 1; }
skip() { echo "$*"; exit 77; }
program() { "$@"; }

make_images() {
  python3 "$tests/tools/make_images.py" "$data" 3 "$images" 40
}

write_configuration() {
  cat <<END
[model]
backbone = $backbone
image_size = $side
[data]
dir = $data
validation_split = 0.25
[train]
batch = $batch
epochs = $epochs
evaluate_every = 0
[log]
tensorboard = no
[run]
device = cuda
END
}

# --- trainings ---

# train NAME SETTING...: a run into OUT/NAME; what it says also lies in OUT/NAME.said.
train() {
  local name=$1 setting settings=()
  shift
  for setting in "$@"; do settings+=(-s "$setting"); done
  ${launch:-} imgcls-train "$out/run.ini" -o "$out/$name" "${settings[@]}" 2>&1 | tee "$out/$name.said"
}

afresh() { rm -rf "${out:?}/$1" && train "$@"; }

says() { grep -qE "$2" "$out/$1.said" || fail "$1 does not say: $2"; }
never_says() { if grep -qE "$2" "$out/$1.said"; then fail "$1 says: $2"; fi; }
same() { imgcls h5 diff "$out/$1/last.h5" "$out/$2/last.h5" || fail "$1 and $2 are not the same"; }

first_loss() { tr -d ' \n' <"$out/$1/history.json" | sed 's/.*"loss":\[\([^],]*\).*/\1/'; }

# alike A B: the losses of the first epoch. Later ones tell nothing: at this learning rate the CPU's own
# instruction sets are 10 % apart after three epochs; the parity parts go on.
alike() {
  awk -v a="$(first_loss "$1")" -v b="$(first_loss "$2")" \
    'BEGIN { d = a > b ? a - b : b - a; print "losses", a, b, "apart by", d; exit !(a > 0 && d <= 0.001 * a) }'
}

# --- parts: what is computed ---

machine() {
  nvidia-smi || true
  imgcls-train --check
  imgcls-train --dry-run "$out/run.ini" -o "$out/dry"
}

# Every case of every step, shared out: cuDNN compiles engines on one core, a second each.
step_contract() {
  local k shares=$((2 * jobs)) code=0 cases=()
  [[ $size == full ]] || cases=("${kernel_cases[@]}")
  rm -f "$out"/step_contract.*.failed
  for k in $(seq $shares); do
    { test_gpu_step_contract cuda "$k/$shares" "${cases[@]}" >"$out/step_contract.$k.log" 2>&1 ||
        touch "$out/step_contract.$k.failed"; } &
  done
  wait
  for k in $(seq $shares); do
    tail -n 4 "$out/step_contract.$k.log"
    [[ ! -e $out/step_contract.$k.failed ]] || code=1
  done
  return $code
}

# Deterministic mode gives the same file twice.
two_runs_same_bits() {
  local precision run
  for precision in fp32 bf16 fp16; do
    for run in once again; do
      afresh $run train.reproducible=yes train.virtual_workers=2 "train.precision=$precision" \
        model.dropout=0.5 augment.enabled=yes
    done
    same once again
  done
}

# All that changes from step to step, and epochs enough that each recorded step is run again.
everything=(run.autotune=no model.dropout=0.5 optimizer.clip_norm=1 optimizer.use_ema=yes
  train.epochs=6 schedule.warmup_epochs=4 augment.enabled=yes)

# with_and_without SETTING...: a step as one CUDA graph, and as its launches.
with_and_without() {
  local graph
  for graph in yes no; do
    afresh graph.$graph "run.cuda_graph=$graph" "${everything[@]}" "$@"
  done
  says graph.yes "a step is one CUDA graph"
  never_says graph.yes "cannot be recorded"
  says graph.no "cuda_graph = no"
}

graph_on_and_off() {
  local precision
  for precision in fp32 bf16 fp16; do
    with_and_without "train.precision=$precision" train.virtual_workers=2 train.reproducible=yes
    same graph.yes graph.no
  done
}

# Sums over two ranks inside the graph. In plain mode cuDNN may take engines that add in any order.
nccl_in_graphs() {
  local mpiexec=mpirun launch mode
  source "$tests/gpu/share_gpu.sh"
  [[ $size == full ]] || seconds=3000
  share_gpu "$programs/test_gpu_comm"
  launch=two_ranks
  for mode in "no 2" "yes 4"; do
    set -- $mode
    with_and_without run.share_gpu=yes run.comm_timeout_s=$((seconds / 5)) train.reproducible="$1" \
      train.virtual_workers="$2"
    [[ $1 == yes ]] || alike graph.yes graph.no
  done
  same graph.yes graph.no
  launch=
  afresh alone "${everything[@]}" train.reproducible=yes train.virtual_workers=4
  same alone graph.yes
}

trains_alike() {
  afresh way.a "$1" train.precision=fp32
  afresh way.b "$2" train.precision=fp32
  alike way.a way.b
}

# killed NAME SETTING...: after a checkpoint of its own.
killed() {
  local job before code=0
  before=$(stat -c %y.%s "$out/$1/last.h5" 2>/dev/null) || before=none
  set -m
  train "$@" >/dev/null &
  job=$!
  set +m
  for _ in $(seq 2000); do
    [[ ! -e $out/$1/last.h5 || $(stat -c %y.%s "$out/$1/last.h5") == "$before" ]] || break
    kill -0 $job 2>/dev/null || break
    sleep 0.05
  done
  kill -9 -- -$job 2>/dev/null || fail "$1 ended before it could be killed: $(tail -n 1 "$out/$1.said")"
  wait $job || code=$?
  (( code == 137 )) || fail "$1 ended with exit code $code"
  imgcls h5 verify "$out/$1/last.h5"
}

# Killed, a run goes on to the end of an unbroken one. And from device to device.
kill_and_resume() {
  local exact=(train.reproducible=yes train.virtual_workers=2 train.epochs=$many) device
  afresh unbroken "${exact[@]}"
  rm -rf "${out:?}/broken" "${out:?}/moved"
  killed broken "${exact[@]}"
  train broken "${exact[@]}"
  same unbroken broken
  for device in cuda cpu cuda cpu; do
    killed moved "run.device=$device" train.epochs=100000
  done
  imgcls eval "$out/moved/last.h5" "$data" --json --device=cuda
}

# --- parts: how ---

# What is planned of the GPU's memory and what is taken: within 5 %.
memory() {
  local row
  for row in "${measured[@]}"; do
    set -- $row
    imgcls bench "$1" --device=cuda --batch="$2" --image-size="$3" --precision=bf16 --steps=2 \
      --warmup=2 --json
  done | tee "$json"
  tr ',' '\n' <"$json" | awk -F: '
    /"model"/ { model = $2 } /device_taken_bytes/ { taken = $2 } /device_planned_bytes/ { planned = $2 }
    taken && planned { n++; off = planned / taken - 1; print model, taken, planned, off
                       bad += off > 0.05 || off < -0.05; taken = planned = 0 }
    END { print n, "backbones,", bad + 0, "beyond 5 %"; exit !n || bad }'
}

recompute() {
  local how
  for how in yes no; do
    afresh recompute.$how "train.recompute=$how" train.reproducible=yes train.virtual_workers=2
  done
  says recompute.yes "recompute [0-9]+ results"
  same recompute.yes recompute.no
}

resident() {
  local how
  for how in yes no; do
    afresh resident.$how "data.resident=$how" train.reproducible=yes train.virtual_workers=2 \
      augment.enabled=yes augment.fill_mode=reflect
  done
  says resident.yes "of training are kept on the GPU"
  same resident.yes resident.no
}

micro_batch() {
  afresh cut run.autotune=no train.micro_batch=$((batch / 2))
  afresh workers run.autotune=no train.virtual_workers=2
  says cut "cut into 2 virtual workers"
  alike cut workers
}

# Plans made on another machine are read, and nothing is planned anew.
kept_plans() {
  local listed all kept before
  [[ -d $plans ]] || skip "no plans were made on another machine (pack.sh)"
  rm -rf "${out:?}/plans" && cp -r "$plans" "$out/plans"
  before=$(ls "$out/plans" | wc -l)
  listed=$(imgcls plan "$out/run.ini" --set "run.plan_cache=$plans" --set run.autotune=no --json)
  all=$(grep -o '"kept_before": *[a-z]*' <<<"$listed" | wc -l)
  kept=$(grep -o '"kept_before": *true' <<<"$listed" | wc -l)
  echo "$kept of $all plans were made on another machine; $before lie there"
  (( kept > 0 )) || skip "the plans are of another GPU, CUDA or cuDNN: $(imgcls-train --check | grep cuDNN)"
  (( kept == all )) || fail "only $kept of $all plans are found"
  afresh planned run.autotune=no "run.plan_cache=$out/plans"
  (( $(ls "$out/plans" | wc -l) == before )) || fail "the run has made plans of its own"
}

# --- parts: speed ---

rows_of() { local -n rows_found=$1; printf '%s\n' "${rows_found[@]}"; }
is_done() { [[ -e $json ]] && grep -q "\"$1\":\"$2\"" "$json"; }

# The known names of this GPU for `imgcls plan --device`.
gpu_model() {
  imgcls-train --check | awk -F': ' '/^GPU 0:/ { print $2 }' |
    sed -n 's/^NVIDIA \(H200\|H100\|A100\|L40S\)\b.*/\L\1/p'
}

plan_row() { imgcls plan --device "$1" --precision "$2" --batch "$4" --image-size "$5" "$3" | tail -n 2; }

# plan_rows GPU PRECISION: of rows from standard input, on all cores.
plan_rows() { xargs -r -L 1 -P $((4 * jobs)) "$tests/gpu/parts.sh" plan_row "$1" "$2"; }

# For pack.sh, make_plans GPU some|all: into the folder plans, those of the configuration or of the goals too.
make_plans() {
  export IMGCLS_RUN_PLAN_CACHE=$plans
  IMGCLS_RUN_AUTOTUNE=no imgcls plan "$out/run.ini" --device "$1" | tail -n 2
  [[ $2 != all ]] || rows_of goals | cut -d' ' -f1-3 | plan_rows "$1" bf16
}

# bench LIST PRECISION [OPTION...]: plans first; what only the GPU can do, timing them, is left to the
# bench itself.
bench() {
  local list=$1 precision=$2 model name images side
  shift 2
  model=$(gpu_model)
  rows_of "$list" | while read -r name images side _; do
    is_done model "$name" || echo "$name $images $side"
  done >"$out/rows"
  [[ -z $model ]] || plan_rows "$model" "$precision" <"$out/rows"
  while read -r name images side; do
    imgcls bench "$name" --device=cuda --precision="$precision" --batch="$images" --image-size="$side" \
      --steps=$steps --warmup=5 --json "$@" </dev/null | tee -a "$json"
  done <"$out/rows"
}

# The same in PyTorch, eager and compiled, with the libraries that PyTorch brings.
peers() {
  local names
  export LD_LIBRARY_PATH=$given_libraries
  python3 -c 'import torch, torchvision' 2>/dev/null || skip "no PyTorch with torchvision"
  names=$(rows_of "$1" | cut -d' ' -f1)
  python3 "$tests/gpu/bench_torch.py" "$json" $names
}

# Rates beside the goals of an H200, and on the depthwise families beside 1.5 times compiled PyTorch.
goals_met() {
  [[ $(gpu_model) == h200 ]] || skip "goals are those of an H200"
  [[ -s $out/goals.json ]] || skip "the part goals comes first"
  judge_goals
}

judge_goals() {
  rows_of goals | while read -r name _ _ goal; do
    awk -v name="$name" -v goal="$goal" '
      function rate(line) { sub(/.*"images_per_s(econd)?": ?/, "", line); return line + 0 }
      index($0, "\"" name "\"") && /"program":"imgcls"/ { ours = rate($0) }
      index($0, "\"" name "\"") && /PyTorch/ && /images_per_s/ { if (/"compiled": true/) compiled = rate($0); else eager = rate($0) }
      END { times = name ~ /^(efficientnet|mobilenet)/ ? 1.5 : 0
            verdict = times > 0 && compiled == 0 ? "met, but compiled PyTorch is unknown" : "met"
            if (ours < goal || ours < times * compiled) verdict = "missed"
            printf "%s: %d img/s, goal %d, PyTorch eager %d, compiled %d: %s\n", name, ours, goal, eager,
                   compiled, verdict }' \
      "$out/goals.json" $([[ ! -e $out/peers.json ]] || echo "$out/peers.json")
  done | tee "$out/goals_met.txt"
  if grep -q missed "$out/goals_met.txt"; then fail "$(grep -c missed "$out/goals_met.txt") goals missed"; fi
  if grep -q unknown "$out/goals_met.txt"; then
    skip "goals are met, but of $(grep -c unknown "$out/goals_met.txt") compiled PyTorch has no rate: see the part peers"
  fi
}

# --- parts: backbones against the CPU ---

# One of each graph; pack.sh writes the list down for machines without Python.
graphs() {
  if [[ -e $tests/gpu/graphs.txt ]]; then cat "$tests/gpu/graphs.txt"
  else python3 "$tests/backbone/oracle_names.py"; fi | cut -d';' -f1
}

parity_row() {
  timeout $row_seconds gpu_parity "$1" "$2" "$3" "$XDG_CACHE_HOME/imgcls/plans" >>"$json" || echo "DIFFERS: $*"
}

# parity goals|all PRECISION...: at the smallest size that suits a backbone, or at 64 pixels.
parity() {
  local names precision name least
  case $1 in
    goals) names=$(rows_of goals | cut -d' ' -f1) ;;
    all) names=$(graphs) ;;
  esac
  shift
  imgcls models --json | tr -d ' \n' | sed 's/},{/\n/g' |
    sed 's/.*"name":"\([^"]*\)".*"smallest_image":\([0-9]*\).*/\1 \2/' >"$out/sides"
  touch "$json"
  for precision in "$@"; do
    for name in $names; do
      least=$(awk -v name="$name" '$1 == name { print $2 }' "$out/sides")
      [[ $size == small || $least -ge 64 ]] || least=64
      grep -q "\"$name\", \"precision\": \"$precision\"" "$json" || echo "$name $least $precision"
    done
  done | xargs -r -L 1 -P $jobs "$tests/gpu/parts.sh" parity_row
  (( $(grep -c '"differs": false' "$json") == $(wc -w <<<"$names") * $# ))
}

# --- parts: compute-sanitizer ---

sanitize() {
  command -v compute-sanitizer >/dev/null || skip "no compute-sanitizer"
  compute-sanitizer --tool "$1" --target-processes all --error-exitcode 9 "${@:2}"
}

# Cases in which every kernel of kernels/ that a step calls is called; the others are those of
# test_flat and test_augment.
kernel_cases=('conv2d 1x1 3->8' 'conv2d 3x3 17->24' 'conv2d 3x3 standardised 8->17 bias'
  'conv2d 3x3 groups 4 24->40' 'conv norm relu add 1x1 24->17 bias' 'conv2d with statistics 1x1 8->24'
  'depthwise 3x3 8' 'depthwise 3x3 17 bias' 'depthwise 3x3 stride 2 odd size 40' 'depthwise 5x5 24'
  'depthwise 5x5 stride 2 odd size 40 bias' 'depthwise 7x7 24' 'depthwise 3x5 8'
  'depthwise 3x3 dilation 2 8' 'average 3x3 stride 2 17, pads' 'max 3x3 stride 2 17, pads'
  'dense 129->33 bias' 'norm batch residual swish (5, 7, 17)' 'norm moving residual relu (3, 3, 24)'
  'norm of sums residual (3, 3, 24)' 'norm of many pixels*' 'norm of many samples*'
  'group norm relu 8 of (3, 3, 24)' 'group norm swish 32 of (4, 3, 64)' 'group norm far from zero*'
  'activation swish (5, 7, 17)' 'activation softmax*' 'add relu (3, 3, 24)' 'add scaled (5, 7, 17)'
  'squeeze swish sigmoid (5, 7, 17)' 'squeeze relu hard_sigmoid (3, 3, 64)' 'dropout residual (5, 7, 17)'
  'dropout by sample (3, 3, 24)' 'global pool (5, 7, 17)' 'flatten (5, 7, 17)' 'multiply (5, 7, 17)'
  'pad 1 2 0 3 of (5, 7, 17)' 'crop 1 0 1 0 of (5, 7, 17)' 'rescale by channel*' 'concat 3 1 5 8'
  'concat 8 8 8 8' 'concat 44 44 44 44 44 44')
sanitize_steps() {
  sanitize "$1" test_gpu_step_contract cuda "${kernel_cases[@]}"
}

"$@"; exit
