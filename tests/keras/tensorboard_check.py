"""The event files of a run as TensorFlow's own reader sees them, beside history.csv.

tensorboard_check.py IMGCLS_TRAIN OUT
Two epochs, then a third one by resuming: two files; each begins with the version and the step that
it starts from, and together they hold the curves.
"""
import csv
import glob
import os
import shutil
import sys

import numpy as np
from PIL import Image

from h5_common import run

import tensorflow as tf

CONFIG = """
[model]
backbone = mobilenet_v2_100_224
image_size = 32
[data]
dir = {folder}/images
validation_split = 0.25
[train]
batch = 8
epochs = 3
[run]
output = {folder}/run
"""


def main():
    imgcls_train, folder = sys.argv[1:]
    shutil.rmtree(folder, ignore_errors=True)
    random = np.random.RandomState(1)
    for label in range(2):
        os.makedirs(f"{folder}/images/c{label}")
        for i in range(20):
            pixels = random.randint(0, 256, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(f"{folder}/images/c{label}/{i}.png")
    with open(f"{folder}/run.ini", "w") as file:
        file.write(CONFIG.format(folder=folder))
    run(imgcls_train, "-s", "train.epochs=2", f"{folder}/run.ini")
    run(imgcls_train, f"{folder}/run.ini")

    with open(f"{folder}/run/history.csv") as file:
        history = list(csv.DictReader(file))
    steps_per_epoch = 30 // 8  # of 30 training images in batches of 8
    files = sorted(glob.glob(f"{folder}/run/events.out.tfevents.*"))
    assert len(files) == 2, files
    epoch = 0
    for path, epochs in zip(files, (2, 1)):
        events = list(tf.compat.v1.train.summary_iterator(path))  # verifies the checksums
        version, start, *curves = events
        assert version.file_version == "brain.Event:2", version
        assert start.session_log.status == tf.compat.v1.SessionLog.START, start
        assert start.step == epoch * steps_per_epoch + 1, start
        assert len(curves) == epochs, curves
        for event in curves:
            row = history[epoch]
            epoch += 1
            assert event.step == epoch * steps_per_epoch and event.wall_time > 1e9, event
            values = {value.tag: value.simple_value for value in event.summary.value}
            assert set(values) == set(row) - {"epoch"}, values
            for tag, value in values.items():
                assert abs(value - float(row[tag])) <= 1e-6 * abs(value), (tag, value, row)
    assert epoch == len(history) == 3
    print(f"{epoch} epochs in {len(files)} event files equal history.csv")


main()
