"""Files of ours open as whole models in one Keras generation: same weights, in Keras 2 the same
momentum, the predictions of `imgcls predict`, and training goes on.

h5_write_check.py k2|k3 H5_BRIDGE FOLDER IMGCLS
"""
import os
import shutil
import sys

from h5_common import (bridge, import_keras, predict, read_dump, same_arrays, softmax,
                       weights_by_path, write_images)

CLASSES = 5


def check_optimizer(model, dump, generation, name):
    config = model.optimizer.get_config()
    assert abs(float(config["learning_rate"]) - 0.05) < 1e-7, config
    assert config["momentum"] == 0.9 and not config["nesterov"], config
    if generation == "k3":  # restores no momentum from any .h5
        return
    iterations, *variables = model.optimizer.get_weights()
    paths = [v.name.split(":")[0] for v in model.trainable_variables]
    assert int(iterations) == 42, iterations
    assert len(variables) == len(paths) == len(dump["momentum_trained"]), name
    expected = {path: dump["momentum"][path] for path in dump["momentum_trained"]}
    same_arrays(expected, dict(zip(paths, variables)), name + " momentum")


def check(keras, generation, program, imgcls, folder, pixels, name):
    import numpy as np
    path = os.path.join(folder, f"{name}_{generation}.h5")
    out = os.path.join(folder, f"{name}_{generation}")
    bridge(program, "write", name, path, out)
    dump = read_dump(out)
    model = keras.models.load_model(path)
    got = weights_by_path(model)
    for kernel, epsilon in dump["values_standardize"].items():  # Keras has the standardised kernel
        raw = dump["values"][kernel].astype("f8")
        mean, variance = raw.mean((0, 1, 2)), raw.var((0, 1, 2))
        standardized = (raw - mean) / np.sqrt(variance + epsilon)
        assert np.allclose(got[kernel], standardized, 1e-6, 1e-6), kernel
        dump["values"][kernel] = got[kernel]
    same_arrays(dump["values"], got, f"{name} in {generation}")
    check_optimizer(model, dump, generation, name)
    if name == "long":  # split lists; a network of 310 layers takes Keras long to compile
        print(f"{name}: {len(dump['values'])} weights equal")
        return
    loss = model.loss
    assert type(loss).__name__ == "CategoricalCrossentropy", loss
    # The model's first layer scales pixels of 0..255.
    prediction = np.asarray(model(pixels.astype("f4"), training=False))
    expected = prediction if name == "flat" else softmax(prediction)
    off = np.abs(predict(imgcls, path, folder + "/images", CLASSES) - expected).max()
    assert off <= 1e-5 and np.abs(expected - expected[0]).max() > 1e-3, (name, off, expected)
    images, labels = pixels[:4].astype("f4"), np.eye(CLASSES, dtype="f4")[:4]
    model.run_eagerly = True  # compiling takes longer than one step
    result = model.evaluate(images, labels, verbose=0)
    assert np.isfinite(result).all(), result
    if generation == "k3":
        # Keras 3 builds the optimizer of any .h5, its own included, for no variables at all.
        fresh = type(model.optimizer).from_config(model.optimizer.get_config())
        model.compile(fresh, loss, run_eagerly=True)
    trained = {id(v): v.numpy() for v in model.trainable_variables}
    model.train_on_batch(images, labels)
    assert any((trained[id(v)] != v.numpy()).any() for v in model.trainable_variables)
    print(f"{name}: {len(dump['values'])} weights equal, {len(trained)} trained, "
          f"predictions off by {off:.1e}")


def main():
    generation, program, folder, imgcls = sys.argv[1:]
    keras = import_keras(generation)
    shutil.rmtree(folder, ignore_errors=True)
    pixels = write_images(folder + "/images", CLASSES, 2, 32, 40)
    for name in ("nested", "frozen", "partly", "flat", "long"):
        check(keras, generation, program, imgcls, folder, pixels, name)


main()
