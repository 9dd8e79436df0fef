"""A file that imgcls-train wrote, opened as a whole model by Keras 2 and Keras 3, predicts what
`imgcls predict` does. Fine-tuned, then frozen: what is trained, and its momentum, are the same too.

whole_model_check.py IMGCLS_TRAIN IMGCLS H5_BRIDGE FOLDER BACKBONE...

The tolerance. All three compute the same function of the same weights and pixels in fp32, so they
differ by roundings and by what the network makes of them. Keras 3 in float64 is the truth that each
is measured against; an error is the largest of all logits (without their mean, which a softmax
drops) relative to the largest logit. With random weights straight from initializers a rounding
grows some hundredfold on its way, and Keras itself is off by up to 6e-5 (efficientnetv2-b0). A
MobileNet V2 trained to 89 % on Fashion-MNIST: both Keras 9e-7 and 1.0e-6, imgcls 7e-7. The weights
here (`settle`) lie between: Keras about 2e-6. So asked is
- an error of 1e-5 at most, and no more than four times that of the worse Keras (roundings of unlike
  orders of summation, of which the largest over all logits is taken) plus the seven digits that
  `imgcls predict` prints;
- 1e-5 at most between imgcls and each Keras, in logits as above; in probabilities 1e-5, or what that
  makes of them where logits are large: logits e apart change p by 2 p (1 - p) e at most, half of e.
Images must differ by a hundred times that, and one element of the first kernel that is 1 % off must
move Keras' prediction three times as far as imgcls may be off, or the comparison could not tell right
from wrong.
"""
import json
import os
import shutil
import sys

from h5_common import (bridge, centered, import_keras, leaves, predict, read_dump, run,
                       same_arrays, settle, softmax, train, write_images)

k2, k3 = import_keras("k2"), import_keras("k3")
import numpy as np

CLASSES, IMAGES, STEPS, BOUND = 5, 8, 2, 1e-5


def side_of(imgcls, name):
    """As h5_bridge: 64 pixels, or the smallest multiple of 8 that the backbone takes."""
    smallest = json.loads(run(imgcls, "models", name, "--json").stdout)["smallest_image"]
    return max(64, -(-smallest // 8) * 8)


def start(program, base, images):
    """Settled weights as Keras 2 saves our graph."""
    bridge(program, "write", os.path.basename(base), base + ".h5", base)
    model = k2.models.load_model(base + ".h5", compile=False)
    settle(model, images)
    model.save(base + "_start.h5")
    return base + "_start.h5"


def predict_exactly(path, pixels):
    k3.config.set_dtype_policy("float64")
    model = k3.models.load_model(path, compile=False)
    logits = np.asarray(model(pixels / 255.0, training=False))
    k3.config.set_dtype_policy("float32")
    assert logits.dtype == np.float64
    return logits


def check_trained(program, path, model, generation, frozen):
    """What the file says is trained: all but statistics, or the head alone, with its momentum."""
    trained = [v.name.split("/")[-2] if generation == "k2" else v.path.split("/")[-2]
               for v in model.trainable_variables]
    everything = [layer.name for layer in leaves(model) for w in layer.weights
                  if "moving_" not in w.name and "seed" not in w.name]
    assert trained == (["logits", "logits"] if frozen else everything), trained
    if generation == "k3":  # restores no momentum from any .h5
        return
    iterations, *momentum = model.optimizer.get_weights()
    paths = [v.name.split(":")[0] for v in model.trainable_variables]
    assert int(iterations) == STEPS and all(np.abs(m).max() > 0 for m in momentum)
    base = path.removesuffix(".h5")
    bridge(program, "read", path, base)
    dump = read_dump(base)
    same_arrays({name: dump["momentum"][name] for name in dump["momentum_trained"]},
                dict(zip(paths, momentum)), f"momentum of {path}")


def move_one(model):
    """The largest element of the first kernel, 1 % larger."""
    first = next(x for x in leaves(model) if type(x).__name__ == "Conv2D")
    kernel, *bias = first.get_weights()
    kernel.flat[np.abs(kernel).argmax()] *= 1.01
    first.set_weights([kernel, *bias])


def check(program, imgcls, name, path, folder, pixels, frozen):
    exact = predict_exactly(path, pixels)
    scale = np.abs(exact).max()
    ours = predict(imgcls, path, folder, CLASSES)
    inputs = pixels.astype("f4") / np.float32(255)
    off = lambda a, b: np.abs(centered(a) - centered(b)).max() / scale
    theirs, errors = {}, {}
    for generation, keras in (("k2", k2), ("k3", k3)):
        model = keras.models.load_model(path)
        check_trained(program, path, model, generation, frozen)
        theirs[generation] = np.asarray(model(inputs, training=False))
        errors[generation] = off(theirs[generation], exact)
    move_one(model)
    moved = off(np.asarray(model(inputs, training=False)), theirs["k3"])
    error = off(np.log(ours), exact)
    apart = max(off(np.log(ours), logits) for logits in theirs.values())
    chances = max(np.abs(ours - softmax(logits)).max() for logits in theirs.values())
    spread = centered(exact).std(axis=0).max() / scale
    print(f"{name} {'frozen' if frozen else 'fine-tuned'}: logits to {scale:.2f}, of which images "
          f"differ by {spread:.1e}, errors: "
          f"imgcls {error:.1e}, " + ", ".join(f"{g} {e:.1e}" for g, e in errors.items())
          + f"; apart {apart:.1e}, in probability {chances:.1e}; moved {moved:.1e}", flush=True)
    # Of probabilities that are not normal numbers the logarithm says little.
    assert ours.min() >= np.finfo("f4").tiny, "logits too large to compare"
    assert scale > 0.5 and spread > 100 * BOUND, "no logits to compare"
    allowed = min(BOUND, 4 * max(errors.values()) + 5e-7)
    assert moved > 3 * allowed, "a wrong weight would not be seen"
    assert error <= allowed, (error, errors)
    assert apart <= BOUND and chances <= BOUND * max(1, scale / 2), (apart, chances)


def main():
    trainer, imgcls, program, out, *names = sys.argv[1:]
    for name in names:
        shutil.rmtree(out, ignore_errors=True)
        base, folder, side = f"{out}/{name}", out + "/images", side_of(imgcls, name)
        pixels = write_images(folder, CLASSES, IMAGES, side)
        weights = start(program, base, pixels.astype("f4") / np.float32(255))
        # The moving statistics are settled: they shall not follow batches of eight.
        tuned = train(trainer, name, folder, side, base + "_tuned", model_weights=weights,
                      model_batch_norm_momentum=0.999)
        check(program, imgcls, name, tuned, folder, pixels, False)
        frozen = train(trainer, name, folder, side, base + "_frozen", model_weights=tuned,
                       model_fine_tune="no")
        check(program, imgcls, name, frozen, folder, pixels, True)
    shutil.rmtree(out)


main()
