"""imgcls predict and imgcls eval against Keras: the same model and images, the same figures.

predict_check.py IMGCLS OUT
Keras makes a model that ends in softmax and one that ends in logits, writes images of random
pixels at the model's size (so that resizing plays no part), and says what it thinks of them.
"""
import csv
import json
import os
import shutil
import sys
from xml.etree import ElementTree

from h5_common import import_keras, run, softmax

keras = import_keras("k3")
import numpy as np
from PIL import Image

SIDE, CLASSES, IMAGES, BROKEN = 24, 4, 10, "c1/broken.png"


def build(has_softmax):
    keras.utils.set_random_seed(7)
    layers = keras.layers
    return keras.Sequential([
        layers.Input((SIDE, SIDE, 3)),
        layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.BatchNormalization(moving_variance_initializer=keras.initializers.Constant(0.3),
                                  moving_mean_initializer=keras.initializers.Constant(-0.1)),
        layers.Conv2D(12, 3, strides=2, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(CLASSES, activation="softmax" if has_softmax else None),
    ])


def write_images(folder):
    random = np.random.RandomState(3)
    names, pixels, labels = [], [], []
    for label in range(CLASSES):
        os.makedirs(f"{folder}/c{label}")
        for i in range(IMAGES + label):
            low, high = np.sort(random.randint(0, 256, (2, 3)), axis=0)
            image = random.randint(low, high + 1, (SIDE, SIDE, 3)).astype(np.uint8)
            name = f"c{label}/{i:02d}, \"x\".png"
            Image.fromarray(image).save(f"{folder}/{name}")
            names.append(name)
            pixels.append(image)
            labels.append(label)
    return names, np.stack(pixels), np.array(labels)


def spread(model, inputs):
    """Moves and widens the logits so that every class is predicted for some image."""
    dense = model.layers[-1]
    features = keras.Model(model.inputs, model.layers[-2].output).predict(inputs, verbose=0)
    kernel, _ = dense.get_weights()
    logits = features @ kernel
    kernel *= 3.0 / logits.std(axis=0)
    dense.set_weights([kernel, -(features @ kernel).mean(axis=0)])


def close(ours, theirs, what, tolerance=2e-4):
    # fp32 sums of some hundred products, logits in the tens: relative 1e-6 each.
    assert abs(ours - theirs) <= tolerance * max(1.0, abs(theirs)), (what, ours, theirs)


def check_predict(imgcls, model, folder, names, probabilities):
    done = run(imgcls, "predict", model, folder, "--json", "--top", str(CLASSES + 3))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [f"{folder}/{name}" for name in names]
    for line, expected in zip(lines, probabilities):
        shown = [entry["probability"] for entry in line["predictions"]]
        assert len(shown) == CLASSES and shown == sorted(shown, reverse=True)
        for entry in line["predictions"]:
            close(entry["probability"], expected[entry["label"]], line["file"])
    assert "no class names" in done.stderr


def check_figures(figures, probabilities, labels):
    predicted = probabilities.argmax(axis=1)
    assert figures["images"] == len(labels) and figures["broken"] == 0
    close(figures["accuracy"], (predicted == labels).mean(), "accuracy", 1e-9)
    loss = -np.log(probabilities[np.arange(len(labels)), labels].astype(np.float64))
    close(figures["loss"], loss.mean(), "loss")
    assert figures["top5"] == 1.0
    for label, row in enumerate(figures["classes"]):
        hits = ((predicted == label) & (labels == label)).sum()
        taken, support = (predicted == label).sum(), (labels == label).sum()
        precision, recall = hits / taken if taken else 0.0, hits / support
        close(row["precision"], precision, "precision", 1e-6)
        close(row["recall"], recall, "recall", 1e-6)
        close(row["f1"], 2 * hits / (taken + support), "f1", 1e-6)
        assert row["support"] == support
    assert len(set(predicted)) > 2, "the images are too alike to test with"
    return predicted, loss


def check_files(out, names, labels, predicted, loss):
    with open(f"{out}/confusion.csv", newline="") as file:
        rows = [[int(x) for x in row[1:]] for row in list(csv.reader(file))[1:]]
    expected = np.zeros((CLASSES, CLASSES), int)
    np.add.at(expected, (labels, predicted), 1)
    assert (np.array(rows) == expected).all(), (rows, expected)
    with open(f"{out}/mistakes.csv", newline="") as file:
        mistakes = list(csv.DictReader(file))
    wrong = [i for i in range(len(labels)) if predicted[i] != labels[i]]
    assert {row["file"] for row in mistakes} == {names[i] for i in wrong} and len(wrong) > 3
    for row in mistakes:
        i = names.index(row["file"])
        close(float(row["loss"]), loss[i], row["file"])
        assert row["predicted"] == f"c{predicted[i]}" and row["true"] == f"c{labels[i]}"
    losses = [float(row["loss"]) for row in mistakes]
    assert losses == sorted(losses, reverse=True)
    ElementTree.parse(f"{out}/confusion.svg")


def check_broken(imgcls, model, folder):
    with open(f"{folder}/{BROKEN}", "wb") as file:
        file.write(b"no image")
    total = CLASSES * IMAGES + sum(range(CLASSES))
    done = run(imgcls, "predict", model, folder, status=65)
    assert len(done.stdout.splitlines()) == total and BROKEN in done.stderr
    done = run(imgcls, "eval", model, folder, "--json", status=65)
    figures = json.loads(done.stdout)
    assert figures["images"] == total and figures["broken"] == 1 and BROKEN in done.stderr
    os.remove(f"{folder}/{BROKEN}")


def check_refused(imgcls, out, folder):
    """Models that give no probabilities are refused with the reason, not run."""
    diverged, sigmoid = build(False), keras.Sequential([
        keras.layers.Input((SIDE, SIDE, 3)), keras.layers.Flatten(),
        keras.layers.Dense(CLASSES, activation="sigmoid")])
    diverged.layers[-1].set_weights([w * 0 + 3e38 for w in diverged.layers[-1].get_weights()])
    for model, reason in ((diverged, "not finite"), (sigmoid, "sigmoid")):
        model.save(f"{out}/refused.h5")
        for tool in ("predict", "eval"):
            done = run(imgcls, tool, f"{out}/refused.h5", folder, status=65)
            assert reason in done.stderr and not done.stdout, (tool, done.stdout, done.stderr)


def main(imgcls, out):
    shutil.rmtree(out, ignore_errors=True)
    folder = f"{out}/images"
    names, pixels, labels = write_images(folder)
    inputs = pixels.astype(np.float32) / 255.0
    for has_softmax in (True, False):
        path = f"{out}/{'softmax' if has_softmax else 'logits'}.h5"
        model = build(has_softmax)
        spread(model, inputs)
        model.save(path)
        scores = model.predict(inputs, verbose=0)
        probabilities = scores if has_softmax else softmax(scores)
        check_predict(imgcls, path, folder, names, probabilities)
        for batch in ("1", "7", "512"):
            done = run(imgcls, "eval", path, folder, "--json", "--batch", batch,
                        "--output", f"{out}/report")
            predicted, loss = check_figures(json.loads(done.stdout), probabilities, labels)
            check_files(f"{out}/report", names, labels, predicted, loss)
    check_broken(imgcls, path, folder)
    check_refused(imgcls, out, folder)
    run(imgcls, "eval", path, out, status=78)  # folders that are no classes of the model
    run(imgcls, "predict", f"{out}/none.h5", folder, status=66)
    run(imgcls, "predict", f"{folder}/{names[0]}", folder, status=65)
    run(imgcls, "predict", path, f"{out}/report", status=66)
    print("predict and eval agree with Keras")


main(*sys.argv[1:])
