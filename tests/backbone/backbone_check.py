"""Features and gradients of backbones against a program that is not ours, with random weights and
random BatchNorm statistics, in fp32, with the batch's statistics (training) and with the moving
ones (inference). Nothing stochastic is on.

usage: backbone_check.py IMGCLS BRIDGE FOLDER SIDE BATCH NAME...
SIDE 0 is the backbone's own. The name picks the oracle (oracle_names.py).

The tolerance. The oracle in float64 is the truth that both sides' fp32 is measured against. An
error is the norm of what is off, relative to the norm of the tensor, of features to the norm of
what tells the samples apart, of one sample what tells its features apart. Vectors (bias, beta, gamma), of which some vanish by symmetry, as a
bias before a BatchNorm, are taken to be no smaller than the largest of their layer and a tenth of
the median over all vectors, by element. Both sides round alike and sum up in unlike orders, so ours
may be up to FACTOR times the oracle's own, which is taken to be at least the median over all
gradients and at most FLIPPED, and FLOOR, a few roundings of fp32.

A unit whose input rounds to the other side of a ReLU's zero, or to another pixel's of a maximum,
changes its gradient by all of it, here or in the oracle. Weights are drawn so that few units come
near zero (`draw`), and up to DRAWS draws are made: what is wrong in a graph is wrong in each. Where
the oracle flips units in a draw, its largest error being between FLIPPED and LARGEST, features must
be as near as ever, and gradients within FACTOR times that error; FLIPPED_DRAWS such draws will do
where units flip in every draw, here more of them than in the oracle in some.

Weights of the first kernel 0.1 % off must be seen, or the comparison could not tell right from wrong.
"""
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
from oracle_names import ORACLES

CLASSES, DRAWS, FLIPPED_DRAWS = 5, 5, 3
FACTOR, FLOOR, FLIPPED, LARGEST = 4, 2e-6, 1e-3, 3e-2
LARGEST_WINDOW = 107  # of backbone_bridge


@dataclass
class Parameter:
    path: str
    layer: str
    kind: str  # of the layer: Keras' class
    role: str
    shape: tuple
    activation: str  # of what the layer gives; empty where there is none


@dataclass
class Job:
    name: str
    side: int
    batch: int
    bridge: str
    folder: str
    parameters: list  # of the backbone, in the order of the graph
    features: int
    oracles: dict = None  # float32 and float64


def make_job(imgcls, name, side, batch, bridge, folder):
    options = [f"--image-size={side}"] if side else []
    told = subprocess.run([imgcls, "models", name, "--json", *options], capture_output=True,
                          text=True, check=True).stdout
    model = json.loads(told)
    activations = {layer["inputs"][0]: layer["activation"] for layer in model["layers"]
                   if layer["class"] == "Activation"}
    parameters = [Parameter(p["path"], layer["name"], layer["class"], p["path"].split("/")[-1],
                            tuple(p["shape"]), activations.get(layer["name"], ""))
                  for layer in model["layers"] if layer["nested"] for p in layer["parameters"]]
    job = Job(name, model["image_size"], batch, bridge, folder, parameters,
              model["feature_length"])
    oracle = importlib.import_module("oracle_" + ORACLES[name])
    job.oracles = {dtype: oracle.Oracle(name, parameters, job.side, dtype)
                   for dtype in ("float32", "float64")}
    return job


def draw(parameter, rng):
    """Norms that leave most channels well above a ReLU's zero and some well below it, and all
    between the two ends of a hard swish, at -3 and 3; kernels that keep the variance."""
    shape, role = parameter.shape, parameter.role
    if role == "gamma":
        return rng.uniform(0.7, 1.3, shape)
    if role == "beta" and parameter.activation == "hard_swish":
        return rng.uniform(-0.5, 0.5, shape)
    if role == "beta":
        return rng.uniform(2.5, 3.5, shape) * np.where(rng.random(shape) < 0.85, 1, -1)
    if role == "bias":
        return rng.uniform(-0.3, 0.3, shape)
    if role.startswith("moving_"):  # not before `draw_statistics`
        return np.ones(shape)
    fan_in = np.prod(shape[:2]) if role == "depthwise_kernel" else np.prod(shape[:3])
    return rng.normal(0, np.sqrt(2 / fan_in), shape)


def draw_statistics(job, values, of_batch, rng):
    """Moving statistics: near those of the batch, so that no layer runs away."""
    for p in job.parameters:
        if p.role == "moving_mean":
            variance = of_batch[p.path.removesuffix("mean") + "variance"]
            values[p.path] = of_batch[p.path] + rng.normal(0, 0.02, p.shape) * np.sqrt(variance)
        elif p.role == "moving_variance":
            values[p.path] = of_batch[p.path] * rng.uniform(0.9, 1.1, p.shape)
        else:
            continue
        values[p.path] = values[p.path].astype("f4")


def draw_images(job, rng):
    """Patches of 8 x 8 around a color of each image, with noise: no two are alike on average."""
    side, patches = job.side, -(-job.side // 8)
    color = rng.uniform(0.2, 0.8, (job.batch, 1, 1, 3))
    coarse = rng.uniform(-0.2, 0.2, (job.batch, patches, patches, 3))
    coarse = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :side, :side]
    noise = rng.uniform(-0.1, 0.1, (job.batch, side, side, 3))
    return (color + coarse + noise).clip(0, 1).astype("f4")


def run_ours(job, values, images, training):
    """(features, {what: gradient})"""
    given, got = f"{job.folder}/in.bin", f"{job.folder}/out.bin"
    np.concatenate([a.ravel() for a in [images, *values.values()]]).astype("<f4").tofile(given)
    mode = "training" if training else "inference"
    done = subprocess.run([job.bridge, job.name, str(job.side), str(job.batch), mode, given, got],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = np.fromfile(got, "<f4")
    features = out[:job.batch * job.features].reshape(job.batch, -1)
    shapes = {"images": images.shape if job.side <= LARGEST_WINDOW else (3, 3)}
    shapes |= {path: value.shape for path, value in values.items()}
    gradients, place = {}, features.size
    for what, shape in shapes.items():
        count = int(np.prod(shape))
        gradients[what] = out[place:place + count].reshape(shape)
        place += count
    assert place == out.size, (place, out.size)
    return features, gradients


def run_oracle(job, dtype, values, images, training):
    head = {path: value for path, value in values.items() if path.startswith("logits/")}
    labels = np.arange(job.batch) % CLASSES
    features, gradients = job.oracles[dtype].run(values, images, head, labels, training)
    if job.side > LARGEST_WINDOW:  # the gradient of the 1 x 1 kernel that the images pass
        gradients["images"] = np.einsum("byxc,byxd->cd", images.astype(gradients["images"].dtype),
                                        gradients["images"])
    return features, gradients


def scales_of(job, gradients):
    """What the error of each gradient is relative to."""
    norms = {what: np.linalg.norm(g) for what, g in gradients.items()}
    trained = [p for p in job.parameters if p.path in norms]
    means = {p.path: norms[p.path] / np.sqrt(np.prod(p.shape)) for p in trained}
    usual = 0.1 * np.median([means[p.path] for p in trained if len(p.shape) == 1] or [0])
    largest = {}
    for p in trained:
        largest[p.layer] = max(largest.get(p.layer, usual), means[p.path])
    for p in trained:
        if len(p.shape) == 1:
            norms[p.path] = max(norms[p.path], largest[p.layer] * np.sqrt(p.shape[0]))
    return norms


def features_error(got, truth):
    usual = truth.mean(axis=0) if len(truth) > 1 else truth.mean()
    error = np.linalg.norm(got - truth) / np.linalg.norm(truth - usual)
    assert np.isfinite(error)
    return error


def compare(job, ours, rough, exact, training):
    """(whether ours is right, whether it is where units may flip)"""
    untrained = {p.path for p in job.parameters if p.role.startswith("moving_")
                 or (not training and p.kind == "BatchNormalization")}
    truth = {what: g for what, g in exact[1].items() if what not in untrained}
    scales = scales_of(job, truth)
    assert min(scales.values()) > 0, [what for what, s in scales.items() if s == 0]
    off = lambda side: {what: np.linalg.norm(side[1][what] - g) / scales[what]
                        for what, g in truth.items()}
    errors, rounding = off(ours), off(rough)
    typical, largest = np.median(list(rounding.values())), max(rounding.values())
    bounds = {what: FACTOR * min(max(r, typical), FLIPPED) + FLOOR for what, r in rounding.items()}
    worst = max(errors, key=lambda what: errors[what] / bounds[what])
    features, features_rounding = (features_error(side[0], exact[0]) for side in (ours, rough))
    near = features <= FACTOR * features_rounding + FLOOR
    right = near and errors[worst] <= bounds[worst]
    right_but_flips = near and FLIPPED < largest < LARGEST and \
        max(errors.values()) <= FACTOR * largest
    print(f"{job.name} {job.side} {'training' if training else 'inference'}: features "
          f"{features:.1e} (oracle {features_rounding:.1e}); {len(truth)} gradients, median "
          f"{np.median(list(errors.values())):.1e} ({typical:.1e}), largest "
          f"{max(errors.values()):.1e} ({largest:.1e}), worst {worst} {errors[worst]:.1e} of "
          f"{bounds[worst]:.1e}{'' if right else '; flips' if right_but_flips else '; OFF'}",
          flush=True)
    return right, right or right_but_flips


def check_moved(job, values, images, rough, exact):
    """Each weight of the first kernel about 0.1 % off: the comparison must tell."""
    first = next(p.path for p in job.parameters if p.kind == "Conv2D")
    kernel = values[first]
    moved = kernel * (1 + 1e-3 * np.random.default_rng(1).normal(size=kernel.shape))
    print("with the first kernel 0.1 % off, ", end="")
    ours = run_ours(job, values | {first: moved.astype("f4")}, images, False)
    assert not any(compare(job, ours, rough, exact, False)), "a wrong kernel would not be seen"


def try_draw(job, seed):
    """(whether ours is right, whether it is where units may flip)"""
    verdicts = []
    rng = np.random.default_rng(seed)
    values = {p.path: draw(p, rng).astype("f4") for p in job.parameters}
    head = rng.normal(0, 1 / np.sqrt(job.features), (job.features, CLASSES))
    values |= {"logits/kernel": head.astype("f4"),
               "logits/bias": rng.uniform(-0.3, 0.3, CLASSES).astype("f4")}
    images = draw_images(job, rng)
    for training in (True, False):
        ours = run_ours(job, values, images, training)
        exact, rough = (run_oracle(job, dtype, values, images, training)
                        for dtype in ("float64", "float32"))
        verdicts.append(compare(job, ours, rough, exact, training))
        if verdicts[-1] == (False, False):
            return False, False
        if training:
            draw_statistics(job, values, ours[1], rng)
    check_moved(job, values, images, rough, exact)
    return tuple(map(all, zip(*verdicts)))


def check(job):
    flipped = 0
    for seed in range(DRAWS):
        right, right_but_flips = try_draw(job, seed)
        flipped += right_but_flips
        if right or flipped == FLIPPED_DRAWS:
            return
    raise AssertionError(f"{job.name} differs")


def main():
    imgcls, bridge, folder, side, batch, *names = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    for name in names:
        check(make_job(imgcls, name, int(side), int(batch), bridge, folder))
    for file in ("in.bin", "out.bin"):
        os.remove(f"{folder}/{file}")


main()
