"""How a run speaks: a progress line on a terminal, lines alone in a file, both also under mpirun,
JSON, colours, and what the first and the last lines say.

usage: test_messages.py BUILD_DIR SOURCE_DIR
"""
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import time

build, source = map(os.path.abspath, sys.argv[1:])
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if not name.startswith("IMGCLS_") and name != "NO_COLOR"}
ENVIRONMENT.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                   OMPI_MCA_mpi_yield_when_idle="1", OMP_WAIT_POLICY="passive")
STEPS = 80
PROGRESS = re.compile(r"epoch 1/1  step \d+/80  loss [\d.]+  accuracy [\d.]+  [\d.]+ img/s  "
                      r"\d+ ms/step  wait [\d.]+ %  left \d+:\d\d$")
# Three images for BatchNormalization are a warning.
CONFIG = """
[model]
backbone = mobilenet_v2_100_224
image_size = 32
[data]
dir = {folder}/images
validation_split = 0.2
loader_threads = 1
[train]
batch = 3
epochs = 1
steps_per_epoch = 80
precision = fp32
[run]
threads = 1
[log]
every_steps = 20
"""


def run(*arguments, status=0, **variables):
    """Standard output and standard error, each into a pipe."""
    done = subprocess.run([f"{build}/imgcls-train", *arguments], capture_output=True, text=True,
                          env={**ENVIRONMENT, **variables})
    assert done.returncode == status, (arguments, done)
    return done.stdout, done.stderr


def run_on_terminal(*arguments, launch=(), **variables):
    """All that appears on a terminal, and the seconds that it took."""
    main, end = pty.openpty()
    start = time.monotonic()
    with subprocess.Popen([*launch, f"{build}/imgcls-train", *arguments], stdout=end, stderr=end,
                          env={**ENVIRONMENT, **variables}) as process:
        os.close(end)
        shown = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
    os.close(main)
    assert process.returncode == 0, shown
    return shown.decode(), time.monotonic() - start


def check_terminal(config, folder):
    shown, seconds = run_on_terminal(config, "-o", f"{folder}/terminal")
    progress = [piece.split("\r\n")[0] for piece in shown.split("\r\033[K")[1:]]
    assert 1 <= len(progress) <= 4 * seconds + 1, (len(progress), seconds)
    for line in progress:
        assert PROGRESS.match(line), line
    assert "\033[33mimgcls-train: warning: each of the 1 virtual workers sees 3" in shown, shown
    shown, _ = run_on_terminal(config, "-o", f"{folder}/plain", "-s", "train.steps_per_epoch=2",
                               NO_COLOR="1")
    assert "warning: each of" in shown and "\033[33m" not in shown, shown


def check_launcher(config, folder):
    """Open MPI gives its ranks a terminal, whatever its own output is."""
    ranks = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2"]
    through_shell = [*ranks, "sh", "-c", '"$@"; exit $?', "sh"]
    train = [f"{build}/imgcls-train", config, "-s", "train.batch=8", "-s", "train.steps_per_epoch=40",
             "-s", "optimizer.learning_rate=0.0001"]
    model = f"{folder}/ranks/last.h5"
    for command in ([*ranks, *train, "-o", f"{folder}/ranks"],
                    [*through_shell, *train, "-o", f"{folder}/shell"],
                    [*ranks[:-1], "1", f"{build}/imgcls", "eval", model, f"{folder}/images"]):
        with open(f"{folder}/launched.log", "w+b") as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, env=ENVIRONMENT)
            assert done.returncode == 0, (command, done)
            log.seek(0)
            shown = log.read()
        assert shown and not re.search(rb"[^\n -~]", shown), shown
    shown, _ = run_on_terminal(*train[1:], "-o", f"{folder}/watched", launch=ranks)
    assert shown.count("\r\033[K") >= 1, shown


def check_file(config, folder):
    out, error = run(config, "-o", f"{folder}/file")
    assert not re.search(r"[^\n -~]", out + error), (out, error)
    lines = [line for line in out.splitlines() if "step " in line and "loss" in line]
    assert len(lines) == STEPS // 20 - 1 and all(map(PROGRESS.match, lines)), lines
    names = [line[:10].strip() for line in out.splitlines()]
    assert re.match(r"imgcls-train \S+ \(commit \S+\), 1 rank, configuration \S+ [0-9a-f]{16}",
                    out.splitlines()[0]), out
    for name in ("device", "data", "model", "training", "memory", "output", "resume"):
        assert name in names, (name, out)
    assert "1 rank on 1 host" in out and "resume    nothing: the run begins" in out, out
    assert names[-3:] == ["memory", "time", "done"], names
    rate = re.search(r"time      \d+:\d\d from the first step; ([\d.]+) img/s in training", out)
    epoch = re.search(r"epoch 1/1 .* ([\d.]+) img/s$", out, re.M)
    assert rate and epoch and rate[1] == epoch[1], out  # one epoch: the same figure
    assert re.search(r"accuracy (0\.\d{4}|1\.0000), best \1$", out.splitlines()[-1]), out

    out, _ = run(config, "-o", f"{folder}/file")  # there is nothing left to do
    assert "no step was left to do" in out and re.search(r"resume .*: step 80$", out, re.M), out


def check_forms(config, folder):
    short = [config, "-s", "train.steps_per_epoch=2"]
    _, error = run(*short, "-o", f"{folder}/colored", "--color=always")
    assert error.startswith("\033[33m") and error.endswith("\033[0m\n"), error
    out, error = run(*short, "-o", f"{folder}/json", "--log-format=json", "--color=always")
    for level, text in (("info", out), ("warning", error)):
        for line in text.splitlines():
            entry = json.loads(line)
            assert set(entry) == {"level", "host", "rank", "text"}, entry
            assert entry["level"] == level, entry
    # Every problem is told, with its line or its option, and the form holds for them too.
    with open(f"{folder}/wrong.ini", "w", encoding="utf-8") as file:
        file.write("[data]\ndirr = x\n[train]\nbatch = 0\n")
    wrong = [f"{folder}/wrong.ini", "-s", "model.backbon=x"]
    for more in ([], ["--log-format=json"]):
        _, error = run(*wrong, *more, status=78)
        for text in ("did you mean dir?", "wrong.ini:4: [train] batch = 0: must be",
                     "did you mean backbone?"):
            assert error.count(text) == 1, (text, error)
        for line in error.splitlines():
            assert (json.loads(line)["level"] == "error" if more
                    else line.startswith("imgcls-train: ")), line


def check_batch(config, folder):
    """The learning rate is scaled with the images that a step has, and said."""
    for batch, images, scale, rate in ((3, 3, "none", "0.032"), (3, 3, "linear", "0.008"),
                                       (3, 3, "sqrt", "0.016"), (1048576, 48, "linear", "0.128")):
        out, error = run(config, "-o", f"{folder}/batch", "--dry-run", "-s", f"train.batch={batch}",
                         "-s", "optimizer.learning_rate=0.032", "-s", "schedule.base_batch=12",
                         "-s", f"schedule.scale_with_batch={scale}")
        scaled = "" if scale == "none" else " (scaled with the batch)"
        line = rf"^training  batch {images}, .*, learning rate {rate}{re.escape(scaled)}$"
        assert re.search(line, out, re.M), (line, out)
        warning = (f"[train] batch = {batch}, but there are 48 training images: a step has all of "
                   f"them, and counts as a batch of 48")
        assert error.count(warning) == (batch > 48), error


def main():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, f"{source}/tests/tools/make_images.py", f"{folder}/images",
                        "2", "30", "32"], check=True)
        config = f"{folder}/run.ini"
        with open(config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(folder=folder))
        check_terminal(config, folder)
        check_launcher(config, folder)
        check_file(config, folder)
        check_forms(config, folder)
        check_batch(config, folder)
        out, _ = run("--help")
        assert len(out.splitlines()) <= 60 and max(map(len, out.splitlines())) <= 80, out
    print("a terminal, a file, mpirun, JSON and colours are as they should be")


main()
