"""`imgcls bench`: its JSON says where and how it was measured, its figures fit together, and a rate
that is too low fails.

usage: test_bench.py IMGCLS
"""
import json
import os
import socket
import subprocess
import sys

imgcls = sys.argv[1]
BENCH = ["bench", "mobilenet_v2_100_224", "--image-size=32", "--batch=3", "--classes=10",
         "--steps=5", "--warmup=1", "--threads=1"]
PARTS = {"step", "data", "forward", "backward", "all-reduce", "update", "processor"}


def run(*more, status=0):
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "UNRELATED": "1"}
    done = subprocess.run([imgcls, *BENCH, *more], capture_output=True, text=True, env=environment)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done


result = json.loads(run("--json", "--min-images-per-second=1").stdout)
assert result["host"] == socket.gethostname(), result["host"]
version = subprocess.run([imgcls, "--version"], capture_output=True, text=True).stdout
for key in ("version", "commit", "compiler", "libraries"):
    assert result[key] and result[key] in version, (key, result[key], version)
assert result["environment"]["OMP_WAIT_POLICY"] == "passive", result["environment"]
assert "UNRELATED" not in result["environment"]
assert len(result["config_hash"]) >= 16 and result["time"].endswith("Z") and result["device"]
(times,) = (one["times"] for one in result["runs"])
assert set(times) == PARTS, times
for part, t in times.items():
    assert 0 <= t["p5_ms"] <= t["median_ms"] <= t["p95_ms"], (part, t)
    # Mean and median are never further apart than the deviation.
    assert abs(t["mean_ms"] - t["median_ms"]) <= t["sd_ms"] + 1e-9, (part, t)
    assert t["sd_ms"] > 0 or part not in ("step", "forward", "backward"), (part, t)
inside = sum(times[part]["mean_ms"] for part in PARTS - {"step", "processor"})
assert inside <= times["step"]["mean_ms"] * 1.001, times
rate = result["runs"][0]["images_per_second"]
assert abs(rate - 3 / (times["step"]["median_ms"] / 1e3)) < 1e-6 * rate, (rate, times)



def operations(*more):
    """The rows of --operations, each checked, and the training's images a step."""
    given = json.loads(run("--json", "--operations", *more).stdout)
    table = given["operations"]
    for row in table["rows"]:
        floor = max(row["bytes"] / table["bytes_per_second"],
                    row["multiplications"] / table["multiplications_per_second"])
        assert abs(row["floor_ms"] - 1e3 * row["uses"] * floor) <= 1e-9 * row["floor_ms"], row
        assert row["ms"] > 0 and row["uses"] >= 1, row
    keys = [(row["operation"], row["pass"], row["bytes"]) for row in table["rows"]]
    assert len(set(keys)) == len(keys), keys
    assert table["steps"] == given["steps"], table["steps"]
    return given


def total(given, what, which, words=""):
    return sum(row[what] * (row["uses"] if what != "ms" else 1) for row in given["operations"]["rows"]
               if row["pass"] in which and words in row["operation"])


given = operations()
whole = sum(given["runs"][0]["times"][part]["mean_ms"] for part in ("forward", "backward"))
timed = total(given, "ms", ("forward", "backward", "rebuild"))
assert whole / 3 < timed < 3 * whole, (whole, timed)  # other steps, other disturbances
assert total(given, "ms", ("rebuild",)) == 0
assert total(operations("--recompute"), "ms", ("rebuild",)) > 0
# torchvision gives 4.089 billion for its ResNet-50; a training step has three times as many, but for
# the gradient of the images, 118 million.
resnet = json.loads(subprocess.run(
    [imgcls, "bench", "resnet50_v1_5", "--batch=1", "--steps=1", "--warmup=0", "--json", "--operations"],
    capture_output=True, text=True, check=True).stdout)
forward = total(resnet, "multiplications", ("forward",))
assert abs(forward / 4.089e9 - 1) < 2e-4, forward
stem = total(resnet, "multiplications", ("forward",), "224x224x3")
assert abs(stem / 118e6 - 1) < 1e-2, stem
assert total(resnet, "multiplications", ("backward",)) == 2 * forward - stem
slow = run("--operations","--min-images-per-second=1000000000", status=1)
assert "img/s" in slow.stdout and "sd ms" in slow.stdout, slow.stdout
assert "x floor" in slow.stdout and slow.stdout.splitlines()[-1].startswith("all "), slow.stdout
assert "fewer than the 1000000000 of --min-images-per-second" in slow.stderr, slow.stderr
run("--min-images-per-second=many", status=64)
many = run(f"--threads={os.cpu_count() + 1}", "--steps=1").stderr
assert many.count("threads take turns, and work is many times slower; leave --threads out") == 1, many
print(f"{rate:.1f} images a second, {len(result)} keys")
