#!/usr/bin/env bash
# What a run says and leaves behind, beside its numbers:
# - going on with another configuration names the keys, old and new value, once;
# - more threads than cores, and another part of the network than was saved, are told with the cure;
# - workers with too few images for BatchNormalization are a warning with the cure;
# - checkpoints by the clock fall in mid-epoch, on several ranks, and change no number;
# - best.h5 is the best epoch of those that were evaluated, or without validation that of training,
#   also of a run in parts; an epoch whose validation loss is no number has nothing right and is not it;
# - losses on validation and test images have the regulariser's part;
# - what cannot be written beside the checkpoints costs a warning, and is an error at the end;
# - a folder has one run at a time, a killed one leaves it free, a job queued again waits for it;
# - a closed session (SIGHUP) saves, unless the signal is ignored;
# - train.log holds what was said, also of a quiet run, of its parts and its end;
# - the run's folder holds the files that the README names, the model card among them.
# usage: test_run.sh BUILD_DIR SOURCE_DIR
source "$(dirname "$0")/common.sh"
begin "$@"

small_run 3 64 data.validation_split=0.2 train.batch=16

# says NAME COUNT TEXT: how many lines of the log hold the text.
says() { test "$(grep -cF -- "$3" "$work/$1.log")" = "$2"; }

train straight 2
(($(nproc) < 2)) || check "no warning where nothing is odd" says straight 0 "warning"
threads=$(($(nproc) + 1))
train threads 2 -s run.threads=$threads --dry-run
check "more threads than cores, once" says threads 1 "warning: $threads threads a rank, but a rank's share is "
check "and the cure" says threads 1 "work is many times slower; leave [run] threads out to have "
train changed 2 -s train.epochs=1
train changed 2 -s optimizer.momentum=0.8
check "what differs is named, by rank 0 alone" says changed 1 \
  "[train] epochs = 1 -> 2, [optimizer] momentum = 0.9 -> 0.8; this run goes on with the new one"

train small 2 -s train.batch=6 -s train.steps_per_epoch=1
check "workers with three images" says small 1 \
  "each of the 2 virtual workers sees 3 images of a batch of 6"
check "and the cure" says small 1 "raise [train] batch to 8"
train frozen 2 -s train.batch=6 -s train.steps_per_epoch=1 -s model.fine_tune=no
check "a frozen backbone does not mind" says frozen 0 "BatchNormalization"

# A 20th of a second: after every step or two.
train clock 2 -s checkpoint.every_epochs=0 -s checkpoint.every_minutes=0.0008 -s checkpoint.keep=99
steps=$(cd "$work/clock" && ls model-*.h5 | sed 's/.*-0*\([0-9]*\).h5/\1/')
check "checkpoints by the clock lie within epochs" awk '$1 % 9 { n++ } END { exit n < 2 }' <<<"$steps"
check "and the last step has one" grep -qx 18 <<<"$steps"
check "they change no number" "$build/imgcls" h5 diff "$work/straight/last.h5" "$work/clock/last.h5"
train rest 2 -s checkpoint.resume="$(ls "$work"/clock/model-000000-*.h5 | tail -1)"
check "one of them goes on to the same end" \
  "$build/imgcls" h5 diff "$work/straight/last.h5" "$work/rest/last.h5"
code=0
train clock 1 -s model.fine_tune=no -s train.epochs=9 || code=$?
check "another part of the network is refused" test $code = 65
check "and the cure" says clock 1 "begin anew with --resume=none or in another run folder"
train hours 2 -s checkpoint.every_epochs=0 -s checkpoint.every_minutes=60 -s train.evaluate_every=0
check "an hour is not over yet" test "$(ls "$work"/hours/model-*.h5 | wc -l)" = 1

# best NAME COLUMN: best.h5 is of the epoch with the highest value of a column of history.json, the
# first of equals, and the last line and the model card name that value.
best() {
  python3 - "$work/$1" "$2" <<'PYTHON'
import json, os, sys
folder, column = sys.argv[1:]
values = json.load(open(f"{folder}/history.json"))[column]
value, place = max((v, -i) for i, v in enumerate(values) if v is not None)
link = os.readlink(f"{folder}/best.h5")
assert link.startswith(f"model-{1 - place:06d}-") and os.path.exists(f"{folder}/{link}"), (link, values)
kind = "validation" if column.startswith("val") else "training"
card, done = (open(f"{folder}/{name}").read() for name in ("model_card.md", "train.log"))
assert f"| best {kind} accuracy (best.h5) | {value:.4f} |" in card, (value, card)
done = done.splitlines()[-1]
assert f"; {kind} accuracy {values[-1]:.4f}, best {value:.4f}" in done, (value, done)
PYTHON
}
train third 2 -s train.epochs=6 -s train.evaluate_every=3
check "an epoch that was not evaluated is not the best" best third val_accuracy
train alone 2 -s train.epochs=4 -s data.validation_split=0 -s checkpoint.every_epochs=0 \
  -s checkpoint.every_steps=7
check "without validation the training says which is best" best alone accuracy
train parts 2 -s train.epochs=3 -s checkpoint.every_epochs=0
train parts 2 -s train.epochs=6 -s checkpoint.every_epochs=4
check "a run in parts knows its best, whatever is saved when" best parts val_accuracy

# The weights stay as they begin, so a penalty moves the training loss, which tests/keras/train_steps.py
# holds against Keras', and the others by the same.
for l2 in 0 1; do
  train "l2_$l2" 2 -s model.l2=$l2 -s optimizer.learning_rate=0 -s train.epochs=1 \
    -s data.test_dir="$work/images"
done
check "losses with a penalty" python3 - "$work" <<'PYTHON'
import re, sys
def losses(l2):
    text = open(f"{sys.argv[1]}/l2_{l2}/train.log").read()
    return [float(x) for x in re.search(r" loss (\S+) .*val_loss (\S+) ", text).groups()
            + re.search(r"test .* loss ([0-9.]+),", text).groups()]
by = [b - a for a, b in zip(losses(0), losses(1))]
assert by[0] > 0.1 and max(by) - min(by) < 3e-4, by  # each is printed to 1e-4
PYTHON

# One step so long that scores overflow behind it, however they are rounded.
train overflow 2 -s model.backbone=mobilenet_v3_small_075_224 -s optimizer.learning_rate=1000 \
  -s train.epochs=1 -s train.steps_per_epoch=1 -s data.test_dir="$work/images"
check "no score, no hit" grep -q '"val_loss":\[null\],"val_accuracy":\[0.0\]' \
  "$work/overflow/history.json"
check "nor among five" grep -q "test .*accuracy 0.0000, top-5 0.0000" "$work/overflow.log"
check "which is said" says overflow 1 "the loss on the validation images is not a finite number"
check "and not the best" test ! -e "$work/overflow/best.h5"

# Going on with fewer epochs than are done.
events=$(ls "$work"/parts/events.* | wc -l)
train parts 2 -s train.epochs=2
check "nothing is left to do" says parts 1 "resume    nothing is left to do: the run has 18 steps; raise"
check "so there are no curves of it" test "$(ls "$work"/parts/events.* | wc -l)" = "$events"

# Folders stand in the place of files.
mkdir -p "$work/room"/{history.json,accuracy.svg,model_card.md}
code=0
train room 2 -s train.epochs=3 || code=$?
check "files that cannot be written are an error at the end" test $code = 73
check "which says that the model is saved" says room 1 "the model is saved in $work/room, but not every"
check "a warning while the run goes on" says room 2 "; the run goes on and will write it again"
check "the last checkpoint" test -s "$work/room/$(readlink "$work/room/last.h5")"
check "is that of the last epoch" test "$(readlink "$work/room/last.h5")" = model-000003-0000000027.h5
check "the other files" test -s "$work/room/history.csv" -a -s "$work/room/loss.svg"
rmdir "$work/room"/{history.json,accuracy.svg,model_card.md}
check "the same command writes them" train room 2 -s train.epochs=3
check "of all epochs" grep -q '"loss":\[[0-9.]*,[0-9.]*,[0-9.]*\]' "$work/room/history.json"

# await NAME TEXT: until the log has it.
await() {
  for ((i = 0; i < 600; i++)); do
    grep -qF -- "$2" "$work/$1.log" && return
    sleep 0.1
  done
  return 1
}
# first [COMMAND...]: a long run in the folder `one`, in the background, once it trains; sets `pid`.
first() {
  : >"$work/one.log"
  "$@" "$build/imgcls-train" "$work/base.ini" -o "$work/one" -s train.epochs=100000 \
    -s log.every_steps=1 >>"$work/one.log" 2>&1 &
  pid=$!
  await one "  step "
}
code() { local got=0; "${@:2}" || got=$?; test $got = "$1"; }
one_step=(-s train.epochs=1 -s train.steps_per_epoch=1 -s checkpoint.resume=none)
first
check "a second run in one folder ends with 73" code 73 train one 1 "${one_step[@]}"
check "and names the first" says one 1 \
  "one/run.lock: another run works in this folder: process $pid on $(hostname)"
check "which goes on" kill -0 $pid
(sleep 2; kill -9 $pid) &
check "a job queued again waits" env SLURM_RESTART_COUNT=1 \
  "$build/imgcls-train" "$work/base.ini" -o "$work/one" "${one_step[@]}"
wait $pid 2>/dev/null || true
check "a killed run leaves its folder free" train one 1 "${one_step[@]}"
first
kill -HUP $pid
check "SIGHUP saves and ends with 75" code 75 wait $pid
check "with the cure" says one 1 "the state is saved: start again with the same command to continue"
check "as the log says" says one 1 "stopped by signal 1 after step"
first nohup
kill -HUP $pid
sleep 1
check "not under nohup" kill -0 $pid
kill -TERM $pid
check "where SIGTERM does" code 75 wait $pid
: >"$work/one.log"
"$build/imgcls-train" "$work/base.ini" -o "$work/one" -s train.epochs=100000 -s log.every_steps=1 \
  --resume none >>"$work/one.log" 2>&1 &
pid=$!
await one "  step "
kill -TERM $pid
check "and of a run that began anew" code 75 wait $pid
check "with the cure for it" says one 1 "start again with --resume auto to continue"
step=$(sed -nE 's|.* stopped by signal 15 after step ([0-9]+) .*|\1|p' "$work/one.log")
train one 1 -s train.epochs=100001 --dry-run
check "which goes on from its own step" test -e "$(echo "$work"/one/model-*-"$(printf %010d "$step")"-run*.h5)"

# logged NAME COUNT TEXT: how many lines of train.log hold the text.
logged() { test "$(grep -cF -- "$3" "$work/$1/train.log")" = "$2"; }
check "train.log has the first line" logged straight 1 "configuration $work/base.ini"
check "train.log has the epochs" logged straight 2 "  val_accuracy "
check "train.log has the last line" logged straight 1 "done      "
check "each line with its time" bash -c \
  "! grep -vE '^20[0-9-]{8}T[0-9:]{8}Z ' '$work/straight/train.log'"
check "a run in two parts has one train.log" logged changed 2 "imgcls-train 0"
check "with its warnings" logged changed 1 "the configuration differs"
train quiet 2 -q -s train.epochs=1 -s data.test_dir="$work/images"
(($(nproc) < 2)) || check "a quiet run says nothing" test ! -s "$work/quiet.log"
check "and has a train.log" logged quiet 1 "test      "
# The penalty drives the head's kernel out of fp32 whatever rounding makes of the rest.
train stop 2 -s optimizer.learning_rate=1000 -s model.l2=100 || true
check "train.log ends with the error" logged stop 1 "the loss is not a finite number"

for file in last.h5 best.h5 history.json history.csv loss.svg accuracy.svg config.resolved.ini \
  train.log model_card.md; do
  check "$file" test -s "$work/quiet/$file"
done
card() { check "model card: $1" grep -qF -- "$1" "$work/quiet/model_card.md"; }
card "# mobilenet_v2_100_224_classifier"
card "2. class02"
card "RGB, 32 x 32 pixels"
card "| training images | 154 |"
card "| batch | 16 |"
card "## Results after epoch 1 (last.h5)"
accuracy=$(python3 -c "import json; print('%.4f' % json.load(open('$work/quiet/history.json'))['val_accuracy'][0])")
card "| validation accuracy | $accuracy |"
card "| test accuracy | $(grep -o 'accuracy [0-9.]*, top-5' "$work/quiet/train.log" | grep -o '0\.[0-9]*\|1\.0*') |"
check "a run without test images has no figure of them" \
  bash -c "! grep -q 'test accuracy' '$work/straight/model_card.md'"
exit $failed
