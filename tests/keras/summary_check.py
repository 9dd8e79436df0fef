"""Compares what `imgcls models NAME` prints with Keras' own summary() of the same model, row by row:
name, class, output shape and parameters of every layer, and the three totals.

usage: summary_check.py IMGCLS TRAIN_STEPS WORK_DIR BACKBONE...

The model is a file that this program wrote without dropout, so our rows of Dropout are left out.
Exits with 77 where Keras cannot be imported.
"""
import os
import re
import sys

from h5_common import import_keras, run

keras = import_keras("k2")
SIDE, CLASSES = 64, 5  # of what train_steps makes
ROW = re.compile(r"^\|? ?(\S+) \((\w+)\) +\[?(\(None.*?\))\]? +([\d,]+)")
TOTAL = re.compile(r"^(\w.*params): ([\d,]+)")


def rows(text):
    """{(name, class, shape, parameters)} of the layers and {title: total}."""
    layers, totals = [], {}
    for line in text.splitlines():
        if match := ROW.match(line):
            name, kind, shape, count = match.groups()
            if kind not in ("InputLayer", "Functional", "Dropout"):
                layers.append((name, kind, shape, int(count.replace(",", ""))))
        elif match := TOTAL.match(line):
            totals[match[1]] = int(match[2].replace(",", ""))
    return sorted(layers), totals


def keras_summary(path):
    lines = []
    model = keras.models.load_model(path, compile=False)
    model.summary(expand_nested=True, line_length=240, print_fn=lines.append)
    return "\n".join(lines)


def main():
    imgcls, train_steps, work, *backbones = sys.argv[1:]
    os.makedirs(work, exist_ok=True)
    for backbone in backbones:
        path = f"{work}/{backbone}.h5"
        run(train_steps, "make", backbone, path)
        done = run(imgcls, "models", backbone, f"--image-size={SIDE}", f"--classes={CLASSES}")
        ours, theirs = rows(done.stdout), rows(keras_summary(path))
        assert len(theirs[0]) > 50 and len(theirs[1]) == 3, theirs
        assert ours[1] == theirs[1], (ours[1], theirs[1])
        assert ours[0] == theirs[0], sorted(set(ours[0]) ^ set(theirs[0]))
        print(f"ok: {backbone}: {len(ours[0])} layers, {ours[1]['Total params']} parameters")


main()
