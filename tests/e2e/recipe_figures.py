"""The figures in the heads of recipes: memory and time follow from what is measured.

recipe_figures.py IMGCLS SOURCE_DIR          checks the head of every recipe of configs/
recipe_figures.py IMGCLS SOURCE_DIR --table  prints the table of docs/recipes.md

docs/recipes.md tells how times are estimated; a head may round, and is as good as the table of
docs/benchmarks.md: it may be off by a quarter. A recipe says "Time, estimated: ..." or
"Time, measured: ...". One for images of the user's own gives the time of 1,000 of them.
"""
import configparser
import pathlib
import re
import subprocess
import sys

IMAGENET = 1281167
CLOSE = 1.25
CORES, GPUS = 2, 8
# What an A100 makes of a graph in mixed precision, FLOP/s (docs/recipes.md).
DENSE, DEPTHWISE = 50e12, 5e12
DENSE_GRAPHS = ("resnet", "inception", "bit")
SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "years": 365 * 86400}
CPU = r"2 Zen 4 cores ([\d.,]+) (\w+)"
GPU = r", 8 A100 ([\d.,]+) (\w+)"


class Recipe:
    def __init__(self, path, models, rates):
        self.name, text = path.stem, path.read_text(encoding="utf-8")
        comment = re.match(r"(#.*\n)*", text)[0]
        self.head = " ".join(comment.replace("#", " ").split())
        ini = configparser.ConfigParser()
        ini.read_string(text)
        train = ini["train"]
        self.backbone, self.batch = ini["model"]["backbone"], int(train["batch"])
        side, self.gmac, self.mib = models[self.backbone]
        self.side = int(ini["model"].get("image_size", side))
        area = (self.side / side) ** 2
        self.gmac, self.mib = self.gmac * area, self.mib * area
        self.measured = "Time, measured:" in self.head
        self.rate = None  # but for a backbone with a row in docs/benchmarks.md
        if self.backbone in rates:
            self.rate = CORES * rates[self.backbone] / area
        self.own_images = "FOLDER" in self.head and "steps_per_epoch" not in train
        if "steps_per_epoch" in train:
            epoch = self.batch * int(train["steps_per_epoch"])
        elif self.own_images:
            epoch = 1000
        else:
            epoch = IMAGENET * (1 - float(ini["data"]["validation_split"]))
        self.images = epoch * int(train["epochs"])
        dense = self.backbone.lower().startswith(DENSE_GRAPHS)
        self.flops = DENSE if dense else DEPTHWISE

    def on_cpu(self):
        return self.images / self.rate

    def on_gpu(self):
        return self.images * 6e9 * self.gmac / (GPUS * self.flops)

    def problems(self):
        for word in ("Hardware:", "Accuracy", "Checked:", f"configs/{self.name}.ini"):
            if word not in self.head:
                yield f"its head lacks '{word}'"
        for batch, told in re.findall(r"batch of (\d+) needs ([\d.]+) GiB", self.head):
            yield from self.off("memory of a batch", float(told), int(batch) * self.mib / 1024)
        if self.measured:
            return
        if not self.rate:
            yield f"no row of {self.backbone} in docs/benchmarks.md to estimate its time by"
            return
        if not self.own_images and not re.search(r"arXiv \d{4}\.\d{4,5}.*\d\d(\.\d)? %", self.head):
            yield "its head names no paper with an accuracy"
        start = r"Time, estimated(?: for 1,000 images)?: "
        found = re.search(start + CPU + ("" if self.own_images else GPU), self.head)
        if not found:
            yield f"its head lacks 'Time, estimated: {self.estimate()}'"
            return
        figures = [float(n.replace(",", "")) * SECONDS[unit]
                   for n, unit in zip(found.groups()[::2], found.groups()[1::2])]
        for what, told, right in zip(("CPU", "GPU"), figures, (self.on_cpu(), self.on_gpu())):
            yield from self.off("time on a " + what, told, right)

    def off(self, what, told, right):
        if not right / CLOSE < told < right * CLOSE:
            yield f"{what}: its head has {told:g}, computed are {right:g}; {self.estimate()}"

    def estimate(self):
        gpu = "" if self.own_images else f", 8 A100 {spoken(self.on_gpu())}"
        return f"2 Zen 4 cores {spoken(self.on_cpu())}{gpu}"


def spoken(seconds):
    unit = max((u for u in SECONDS if seconds >= 2 * SECONDS[u]), key=SECONDS.get, default="seconds")
    value = seconds / SECONDS[unit]
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.2g} {unit}" if value < 100 else \
        f"{value:.0f} {unit}"


def models_of(imgcls):
    """{name: (pixels, GMAC, MiB an image for training)}"""
    lines = subprocess.run([imgcls, "models"], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in lines.splitlines()[1:]]
    return {r[0]: (int(r[1]), float(r[5]), float(r[6])) for r in rows if len(r) == 7}


def rates_of(source):
    """{name: img/s of one core} of the table of every backbone, the first that has the name."""
    text = (source / "docs/benchmarks.md").read_text(encoding="utf-8")
    rows = text.split("## Every backbone")[1].split("\nThe graphs that are")[0]
    return {name: float(rate)
            for name, rate in re.findall(r"\| (\S+) \| \d+ \| \d+ \| ([\d.]+) \|", rows)}


def main():
    imgcls, source = sys.argv[1], pathlib.Path(sys.argv[2])
    models, rates = models_of(imgcls), rates_of(source)
    recipes = [Recipe(path, models, rates) for path in sorted((source / "configs").glob("*.ini"))]
    if "--table" in sys.argv:
        for r in (r for r in recipes if r.rate and not r.measured):
            print(f"| `{r.name}` | {r.backbone}, {r.side} | {r.images / 1e6:.3g} | {r.rate:.3g} | "
                  f"{spoken(r.on_cpu())} | {'' if r.own_images else spoken(r.on_gpu())} |")
        return
    failed = [f"FAILED: {r.name}.ini: {problem}" for r in recipes for problem in r.problems()]
    print("\n".join(failed))
    sys.exit(bool(failed))


main()
