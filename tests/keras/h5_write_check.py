"""Files of ours open as whole models in one Keras generation: same weights, in Keras 2 the same
momentum, finite predictions, and training goes on.

h5_write_check.py k2|k3 H5_BRIDGE FOLDER
"""
import os
import sys

from h5_common import bridge, import_keras, read_dump, same_arrays, weights_by_path


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


def check(keras, generation, program, folder, name):
    import numpy as np
    path = os.path.join(folder, f"{name}_{generation}.h5")
    out = os.path.join(folder, f"{name}_{generation}")
    bridge(program, "write", name, path, out)
    dump = read_dump(out)
    model = keras.models.load_model(path)
    got = weights_by_path(model)
    for path, epsilon in dump["values_standardize"].items():  # Keras has the standardised kernel
        raw = dump["values"][path].astype("f8")
        mean, variance = raw.mean((0, 1, 2)), raw.var((0, 1, 2))
        assert np.allclose(got[path], (raw - mean) / np.sqrt(variance + epsilon), 1e-6, 1e-6), path
        dump["values"][path] = got[path]
    same_arrays(dump["values"], got, f"{name} in {generation}")
    check_optimizer(model, dump, generation, name)
    if name == "long":  # split lists; a network of 310 layers takes Keras long to compile
        print(f"{name}: {len(dump['values'])} weights equal")
        return
    loss = model.loss
    assert type(loss).__name__ == "CategoricalCrossentropy", loss
    images = np.random.default_rng(1).uniform(0, 255, (4, 32, 40, 3)).astype("f4")
    prediction = model.predict(images, verbose=0)
    assert prediction.shape == (4, 5) and np.isfinite(prediction).all(), prediction
    result = model.evaluate(images, np.eye(5, dtype="f4")[:4], verbose=0)
    assert np.isfinite(result).all(), result
    if generation == "k3":
        # Keras 3 builds the optimizer of any .h5, its own included, for no variables at all.
        fresh = type(model.optimizer).from_config(model.optimizer.get_config())
        model.compile(fresh, loss)
    trained = {id(v): v.numpy() for v in model.trainable_variables}
    model.train_on_batch(images, np.eye(5, dtype="f4")[:4])
    assert any((trained[id(v)] != v.numpy()).any() for v in model.trainable_variables)
    print(f"{name}: {len(dump['values'])} weights equal, {len(trained)} trained")


def main():
    generation, program, folder = sys.argv[1:]
    keras = import_keras(generation)
    os.makedirs(folder, exist_ok=True)
    for name in ("nested", "frozen", "partly", "flat", "long"):
        check(keras, generation, program, folder, name)


main()
