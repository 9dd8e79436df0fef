"""The data pipeline against Keras 3 and tf-keras.

usage: dataset_check.py DATASET_BRIDGE

A folder with all formats, nested folders, odd names and links is split by us and by both Keras
versions: same files, labels and order for several seeds and fractions, and the same pixels within
one level. The transforms of Keras' random layers, with their factors forced, give our pixels.
"""

import os
import subprocess
import sys
import tempfile

from h5_common import import_keras, picture

tf_keras, keras = import_keras("k2"), import_keras("k3")
import numpy as np
import tensorflow as tf
from keras.src.utils import dataset_utils as keras3_utils
from PIL import Image
from tf_keras.src.utils import dataset_utils as keras2_utils

ALLOWED = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
FILLS = ["constant", "reflect", "wrap", "nearest"]  # AugmentFill
BRIDGE = sys.argv[1]


def bridge(*arguments):
    return subprocess.run([BRIDGE, *map(str, arguments)], check=True, stdout=subprocess.PIPE).stdout


def make_folder(root):
    """Names whose order is easy to get wrong: cases, spaces, dots, accents, folders in folders."""
    names = ["rosé/a.jpg", "rosé/B.PNG", "rosé/b.png", "rosé/a b.gif", "rosé/a-b.bmp", "rosé/a.b.jpeg",
             "rosé/sub/z.jpg", "rosé/sub-2/y.jpg", "rosé/sub 2/x.jpg", "rosé/sub/deep/w.png",
             "rosé/.hidden.jpg", "Tulip/10.jpg", "Tulip/9.jpg", "Tulip/é.jpg", "Tulip/日本.png",
             "Tulip/_.png", "daisy/x.gif", "daisy/zz.Jpeg", ".git/no.png", "daisy/no.txt", "no.png"]
    names += [f"daisy/{i}.jpg" for i in range(12)] + [f"Tulip/sub/{i:03}.png" for i in range(9)]
    for index, name in enumerate(names):
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if name.endswith(".txt"):
            open(path, "w").close()
            continue
        image = Image.fromarray(picture(20 + index * 3 % 50, 30 + index * 7 % 40, index))
        kind = os.path.splitext(name)[1].lower() or ".jpg"
        mode = ["RGB", "L", "P", "RGBA"][index % 4]
        if kind in (".jpg", ".jpeg") and mode in ("P", "RGBA"):
            mode = "RGB"
        if kind == ".gif":
            mode = "P"
        if kind == ".bmp":
            mode = "RGB"
        image.convert(mode).save(path)
    os.symlink("../daisy/3.jpg", os.path.join(root, "Tulip/link.jpg"))
    os.symlink("../rosé/sub", os.path.join(root, "Tulip/linked"))


def keras_lists(utils, root, fraction, seed):
    paths, labels, _ = utils.index_directory(root, "inferred", ALLOWED, seed=seed, follow_links=True)
    lines = []
    for part, subset in (("T", "training"), ("V", "validation")):
        some, their = utils.get_training_or_validation_split(paths, labels, fraction, subset)
        lines += [f"{part} {label} {os.path.relpath(path, root)}" for path, label in zip(some, their)]
    return lines


def check_lists(root):
    for seed in (0, 1, 123, 20260101, 2**32 - 1):
        for fraction in (0.1, 0.2, 0.29, 0.5, 0.9):
            ours = bridge("list", root, repr(fraction), seed, 1).decode().splitlines()
            for utils in (keras3_utils, keras2_utils):
                theirs = keras_lists(utils, root, fraction, seed)
                assert ours == theirs, (seed, fraction, utils.__name__, ours, theirs)


def check_pixels(root, scratch):
    worst = 0
    out = os.path.join(scratch, "pixels")
    for generation, options in ((keras, {}), (tf_keras, {}), (keras, {"crop_to_aspect_ratio": True})):
        for seed in (3, 4):
            _, validation = generation.utils.image_dataset_from_directory(
                root, validation_split=0.6, subset="both", seed=seed, image_size=(32, 32), batch_size=1,
                follow_links=True, **options)
            theirs = np.concatenate([images.numpy() for images, _ in validation])
            bridge("pixels", root, 0.6, seed, 32, 0, len(options), out)
            ours = np.fromfile(out, np.uint8).reshape(theirs.shape).astype(np.float32)
            worst = max(worst, float(np.abs(ours - theirs).max()))
    assert worst <= 1.0, worst
    return worst


def check_batch_sizes():
    for count, batch in ((103, 10), (96, 16), (17, 16), (31, 8)):
        tutorial = tf.data.Dataset.range(count).shuffle(8).batch(1).unbatch().batch(batch).repeat()
        theirs = [len(b) for b in tutorial.take(40).as_numpy_iterator()]
        ours = [int(s) for s in bridge("sizes", count, batch, 40).split()]
        assert ours == theirs, (ours, theirs)


def augment(draws, images, fill, value, scratch):
    """Our pixels. A draw: rotation, translation of height and width, zoom of both, flips."""
    source, target = os.path.join(scratch, "in"), os.path.join(scratch, "out")
    with open(source, "wb") as file:
        for draw, image in zip(draws, images):
            file.write(np.asarray(draw, np.float64).tobytes() + image.tobytes())
    bridge("augment", *images.shape[1:3], FILLS.index(fill), value, source, target)
    return np.fromfile(target, np.uint8).reshape(images.shape).astype(np.float32)


def compare(what, ours, theirs):
    # Where a coordinate falls on the frame's edge to the last bit of a float, a fill may jump.
    far = np.abs(ours - np.clip(theirs, 0, 255)) > 1.0
    assert far.mean() < 1e-3, (what, far.mean(), np.abs(ours - theirs).max())


def check_single_transforms(scratch):
    images = np.stack([picture(40, 56, s) for s in range(3)])
    floats = images.astype(np.float32)
    layers = keras.layers
    for fill in FILLS:
        common = {"fill_mode": fill, "fill_value": 99.0}
        for f in (-0.37, -0.05, 0.013, 0.111, 0.46, 0.83):
            rows = [
                ((f, 0, 0, 0, 0), layers.RandomRotation((f, f), **common)),
                ((0, f, 0, 0, 0), layers.RandomTranslation((f, f), (0.0, 0.0), **common)),
                ((0, 0, f, 0, 0), layers.RandomTranslation((0.0, 0.0), (f, f), **common)),
                ((0, 0, 0, f, f), layers.RandomZoom((f, f), **common)),
                ((0, 0, 0, f, 0.07), layers.RandomZoom((f, f), (0.07, 0.07), **common)),
            ]
            for draw, layer in rows:
                theirs = layer(floats, training=True).numpy()
                ours = augment([draw + (0, 0)] * 3, images, fill, 99, scratch)
                compare((layer.name, fill, f), ours, theirs)
    for mode, flips in (("horizontal", (1, 0)), ("vertical", (0, 1)), ("horizontal_and_vertical", (1, 1))):
        layer = layers.RandomFlip(mode)
        theirs = layer.transform_images(floats, {"flips": np.ones((3, 1, 1, 1), bool)}).numpy()
        ours = augment([(0, 0, 0, 0, 0) + flips] * 3, images, "reflect", 0, scratch)
        assert np.array_equal(ours, theirs), mode


def matrix(eight):
    return np.append(np.asarray(eight, np.float64).ravel(), 1.0).reshape(3, 3)


def check_compositions(scratch):
    """One resampling with the product of the matrices that Keras' layers make, in their order."""
    height, width, count = 48, 48, 24
    images = np.stack([picture(height, width, s) for s in range(count)])
    rng = np.random.default_rng(9)
    draws = [tuple(rng.uniform([-0.2, -0.2, -0.2, -0.2, -0.2], 0.2)) + tuple(rng.integers(0, 2, 2))
             for _ in range(count)]
    transforms = []
    zoom_layer = keras.layers.RandomZoom(0.1)
    shift_layer = keras.layers.RandomTranslation(0.1, 0.1)
    for turn, down, right, zoom_h, zoom_w, flip_h, flip_v in draws:
        rotation = keras.layers.RandomRotation((turn, turn)).get_random_transformation(
            np.zeros((1, height, width, 3), np.float32))["rotation_matrix"]
        shift = shift_layer._get_translation_matrix(
            tf.constant([[right * width, down * height]], tf.float32))
        zoom = zoom_layer._get_zoom_matrix(
            tf.constant([[1 + zoom_w, 1 + zoom_h]], tf.float32), height, width)
        flip = np.array([[1 - 2 * flip_h, 0, flip_h * (width - 1)],
                         [0, 1 - 2 * flip_v, flip_v * (height - 1)], [0, 0, 1]], np.float64)
        transforms.append((matrix(rotation) @ matrix(shift) @ matrix(zoom) @ flip).ravel()[:8])
    for fill in FILLS:
        theirs = tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.constant(images, tf.float32), transforms=tf.constant(np.stack(transforms), tf.float32),
            output_shape=[height, width], fill_value=17.0, interpolation="BILINEAR",
            fill_mode=fill.upper()).numpy()
        compare(fill, augment(draws, images, fill, 17, scratch), theirs)


def main():
    with tempfile.TemporaryDirectory() as scratch:
        root = os.path.join(scratch, "images")
        make_folder(root)
        check_lists(root)
        print("split: same files, labels and order")
        print(f"pixels: within {check_pixels(root, scratch):.2f} of a level")
        check_batch_sizes()
        print("tutorial's pipeline: same batch sizes")
        check_single_transforms(scratch)
        check_compositions(scratch)
        print("augmentation: same pixels")


main()
