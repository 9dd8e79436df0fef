"""mllog.txt as MLPerf's own compliance checker reads it, beside history.json.

mllog_check.py IMGCLS_TRAIN MPIEXEC OUT
A run that a signal stops within an epoch, with what a killed part leaves behind added by hand, goes
on with two ranks and must be one run to the checker, for the open and for the closed division; so
must the same run without a break.
"""
import json
import os
import shutil
import signal
import subprocess
import sys

from h5_common import run, write_images

try:
    from mlperf_logging.compliance_checker import mlp_compliance
    from mlperf_logging.compliance_checker.mlp_parser import parse_file
    from mlperf_logging.mllog import constants
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

RULES = "4.0.0"  # the last with image classification

# The closed division fixes the end of the learning rate and the steps of rate and decay.
CONFIG = """
[model]
backbone = mobilenet_v2_100_224
image_size = 32
[data]
dir = {folder}/images
validation_split = 0.25
[train]
batch = 8
epochs = 40
seed = 7
evaluate_every = 2
[optimizer]
learning_rate = 0.016
weight_decay = 0.0001
[schedule]
name = polynomial
end_factor = 0.00625
warmup_epochs = 1
[run]
threads = 1
stop_deadline_s = 200
[log]
every_steps = 1
mllog = yes
"""


def problems(path):
    """What the checker has to say, warnings included."""
    checker = mlp_compliance.make_checker("training", RULES, quiet=False, werror=True)
    checker.check_file(path, f"training_{RULES}/common.yaml")
    return [*checker.overwritable.values(), *checker.not_overwritable]


def check_log(folder, evaluated):
    """One complete run that says what history.json says; returns its lines."""
    path = f"{folder}/mllog.txt"
    assert not problems(path), problems(path)
    lines, errors = parse_file(path, ruleset=RULES)
    assert not errors, errors
    times = [line.timestamp for line in lines]
    assert times == sorted(times) and times[0] > 1e12, times
    with open(f"{folder}/history.json", encoding="utf-8") as file:
        history = json.load(file)
    epochs = len(history["loss"])
    values = {}
    for line in lines:
        values.setdefault(line.key, []).append(line.value)
    for key in ("epoch_start", "epoch_stop"):
        assert [v["metadata"]["epoch_num"] for v in values[key]] == [*range(1, epochs + 1)], key
    accuracy = {v["metadata"]["epoch_num"]: v["value"] for v in values["eval_accuracy"]}
    assert [*accuracy] == evaluated, accuracy
    for epoch, value in accuracy.items():
        assert abs(value - history["val_accuracy"][epoch - 1]) < 1e-12, (epoch, value)
    for key in ("block", "eval"):
        assert len(values[key + "_start"]) == len(values[key + "_stop"]) == len(evaluated), key
    known = {value for value in vars(constants).values() if isinstance(value, str)}
    unknown = [key for key in values if key not in known and not key.startswith("sgd_opt_")]
    assert not unknown, unknown
    expected = {"seed": 7, "global_batch_size": 8, "train_samples": 30, "eval_samples": 10,
                "opt_name": "sgd", "opt_base_learning_rate": 0.016,
                "opt_learning_rate_warmup_epochs": 1.0}
    for key, value in expected.items():
        assert [v["value"] for v in values[key]] == [value], (key, values[key])
    assert values["run_stop"][0]["metadata"]["status"] == "success"
    return values


def stop_within(program, config, folder, epoch):
    """Starts the run and asks it to stop in this epoch."""
    with subprocess.Popen([program, config, "-o", folder], stdout=subprocess.PIPE,
                          text=True) as running:
        for line in running.stdout:
            if line.startswith(f"epoch {epoch}/"):
                running.send_signal(signal.SIGTERM)
                break
        running.stdout.read()
    assert running.returncode == 75, running.returncode


def main():
    program, mpiexec, folder = sys.argv[1:]
    shutil.rmtree(folder, ignore_errors=True)
    write_images(f"{folder}/images", 2, 20, 32)
    config = f"{folder}/run.ini"
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(folder=folder))

    broken = f"{folder}/broken"
    log = f"{broken}/mllog.txt"
    stop_within(program, config, broken, 3)
    lines, _ = parse_file(log, ruleset=RULES)
    assert lines[-1].key == "run_stop", lines[-1]
    end = lines[-1].value["metadata"]
    assert end["status"] == "aborted", end
    step, epochs = end["step_num"], end["epoch_num"] + 2
    with open(log, "a", encoding="utf-8") as file:  # as if it had gone on and been killed
        for key in ("epoch_stop", "eval_accuracy"):
            file.write(":::MLLOG " + json.dumps({
                "namespace": "", "time_ms": lines[-1].timestamp, "event_type": "POINT_IN_TIME",
                "key": key, "value": 0.5,
                "metadata": {"epoch_num": epochs, "step_num": step + 1}}) + "\n")
        file.write(':::MLLOG {"namespace": "", "time_')
    run(mpiexec, "--oversubscribe", "--bind-to", "none", "-np", 2, program, config, "-o", broken,
        "-s", f"train.epochs={epochs}")
    evaluated = sorted({*range(2, epochs + 1, 2), epochs})
    values = check_log(broken, evaluated)
    assert [v["value"] for v in values["init_checkpoint_step"]] == [step], values
    with open(log, encoding="utf-8") as file:
        text = file.read()
    run(program, config, "-o", broken, "-s", f"train.epochs={epochs}")  # there is nothing to do
    with open(log, encoding="utf-8") as file:
        assert file.read() == text

    whole = f"{folder}/whole"
    os.environ["MLPERF_SUBMISSION_DIVISION"] = "closed"
    os.environ["MLPERF_SUBMISSION_ORG"] = "An Organization"
    run(program, config, "-o", whole, "-s", "train.epochs=2")
    log = f"{whole}/mllog.txt"
    others = [text for text in problems(log) if "eval_accuracy" not in text]  # it has a target
    assert not others, others
    lines, _ = parse_file(log, ruleset=RULES)
    assert [x.value["value"] for x in lines if x.key == "submission_org"] == ["An Organization"]

    os.remove(log)
    os.mkdir(log)
    done = run(program, config, "-o", whole, "-s", "train.epochs=3")
    assert "no more lines in mllog.txt" in done.stderr, done.stderr
    print(f"one run of {epochs} epochs, resumed at step {step}; the checker of {RULES} agrees")


main()
