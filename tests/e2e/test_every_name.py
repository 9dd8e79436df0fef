#!/usr/bin/env python3
"""Every backbone that `imgcls models` lists trains, on two ranks in fp32 at a small image size:

- `imgcls-train` makes three steps of it and evaluates on 8 images;
- every part of its gradient is the slope of the loss (overfit.c says how that is seen), so that no
  weight's gradient is missing, wrong, or left out of the sum over the ranks;
- the loss goes down as it overfits 8 images for 30 steps.

Of names of one graph, which start and move on differently, each makes its three steps; the rest is
done once. Those of more than LARGE parameters, but for one of a family that has no
smaller one, are left to the tests with label "nightly", which say what memory they take.
usage: test_every_name.py BUILD_DIR SOURCE_DIR e2e|nightly|NAME...
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

IMAGES, RANKS = 8, 2
# The smallest image leaves the last maps one pixel, and BatchNorm four numbers with little between
# them: its rounding hides the slopes of inception_v3. This many more leave four pixels.
MORE_PIXELS = 32
LARGE = 6_000_000
ONE_OF_A_FAMILY = {"resnet_v2_50", "bit_s-r50x1", "inception_v3"}
# A tensor whose gradient is zero by nature (a bias before BatchNorm) has no slope to measure. More
# than this part of the tensors has one in every graph.
LEAST_SHARP = 0.7
# Of the first loss, what the mean of the last five may be: half of what any graph needs is less.
MOST_LOSS = 0.6
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
               "OMP_WAIT_POLICY": "passive"}
CONFIG = """
[data]
dir = {images}
test_dir = {images}
validation_split = 0
loader_threads = 1
[train]
batch = 8
epochs = 1
steps_per_epoch = 3
precision = fp32
[run]
threads = 1
"""


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Suite:
    def __init__(self, build, source, work):
        self.build, self.work = build, work
        subprocess.run([sys.executable, source / "tests/tools/make_images.py", work / "images",
                        str(IMAGES), "1", "64"], check=True)
        (work / "base.ini").write_text(CONFIG.format(images=work / "images"))

    def imgcls(self, *arguments):
        return output(self.build / "imgcls", *arguments)

    def graphs(self):
        """[names of one graph, image size, parameters], in the order of the list."""
        graphs = {}
        for row in json.loads(self.imgcls("models", "--json")):
            name, side = row["name"], row["smallest_image"] + MORE_PIXELS
            layers = json.loads(self.imgcls("models", name, f"-i{side}", "--json"))["layers"]
            for layer in layers:  # weights start and move on differently; the sums are the same
                layer.pop("momentum", None)
            key = json.dumps(layers).replace(f'"{name}', '"')
            graphs.setdefault(key, ([], side, row["parameters"]))[0].append(name)
        return list(graphs.values())

    def run(self, *command):
        return subprocess.run(["mpirun", "--bind-to", "none", "-np", str(RANKS), *command],
                              capture_output=True, text=True, env=os.environ | ENVIRONMENT)

    def train(self, name, side):
        """What is wrong with three steps and an evaluation, or nothing."""
        folder = self.work / "run"
        shutil.rmtree(folder, ignore_errors=True)
        done = self.run(self.build / "imgcls-train", self.work / "base.ini", "-o", folder,
                        "-s", f"model.backbone={name}", "-s", f"model.image_size={side}")
        if done.returncode != 0:
            return [f"imgcls-train ended with {done.returncode}: {done.stderr.strip()}"]
        history = json.loads((folder / "history.json").read_text())
        wrong = []
        if not 0 < history["loss"][0] < 100:
            wrong.append(f"the loss of three steps is {history['loss']}")
        if f": {IMAGES} images, loss " not in (folder / "train.log").read_text():
            wrong.append("no evaluation")
        if not (folder / "last.h5").exists():
            wrong.append("no last.h5")
        return wrong

    def overfit(self, name, side):
        """What is wrong with gradients and losses, and the figures for the log."""
        done = self.run(self.build / "overfit", name, str(side))
        if done.returncode != 0:
            return [f"overfit ended with {done.returncode}: {done.stderr.strip()}"], ""
        figures = json.loads(done.stdout)
        losses, wrong = figures["losses"], []
        last = sum(losses[-5:]) / 5
        if not figures["worst"] <= figures["tolerance"]:
            wrong.append("a gradient is not the slope of the loss")
        if figures["dead"]:
            wrong.append(f"{figures['dead']} weights have no gradient")
        if not figures["sharp"] >= LEAST_SHARP * figures["tensors"]:
            wrong.append("too few weights have a slope")
        if not last <= MOST_LOSS * losses[0]:
            wrong.append("the loss does not go down")
        return wrong, (f"slopes of {figures['sharp']} of {figures['tensors']} tensors within "
                       f"{figures['worst']:.1e}, loss {losses[0]:.2f} to {last:.2f}, "
                       f"{figures['memory_mib']} MiB a rank, {figures['processor_s']} s")


def main():
    build, source = (pathlib.Path(p).resolve() for p in sys.argv[1:3])
    wanted = set(sys.argv[3:])
    failed = ran = 0
    with tempfile.TemporaryDirectory() as work:
        suite = Suite(build, source, pathlib.Path(work))
        for names, side, parameters in suite.graphs():
            is_daily = parameters <= LARGE or ONE_OF_A_FAMILY & set(names)
            if not wanted & {*names, "e2e" if is_daily else "nightly"}:
                continue
            wrong, figures = suite.overfit(names[0], side)
            for name in names:
                wrong += [f"{name}: {what}" for what in suite.train(name, side)]
            print(f"{'FAILED' if wrong else 'ok'}: {' = '.join(names)} at {side}: {figures}",
                  *wrong, sep="\n    ", flush=True)
            ran += 1
            failed += bool(wrong)
    print(f"{ran} graphs, {failed} failed")
    return failed > 0 or ran == 0


sys.exit(main())
