"""The rates of stochastic depth over the depth of each backbone: for EfficientNet and Keras'
EfficientNetV2 those of Keras' layers, by name; for the hub's EfficientNetV2 google/automl's rule; for
NASNet and PNASNet TF-Slim's. All others have none.

usage: drop_schedule_check.py IMGCLS
"""
import json
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../keras"))
from h5_common import import_keras

keras = import_keras("k3")

SIDE = 97


def models(imgcls, *arguments):
    done = subprocess.run([imgcls, "models", "--json", *arguments], capture_output=True, text=True,
                          check=True)
    return json.loads(done.stdout)


def keras_rates(builder):
    """{layer: rate}; one draw for each sample."""
    model = builder(include_top=False, weights=None, input_shape=(SIDE, SIDE, 3))
    drops = [layer for layer in model.layers if type(layer).__name__ == "Dropout"]
    assert all(layer.noise_shape == (None, 1, 1, 1) for layer in drops)
    return {layer.name: layer.rate for layer in drops}


def builder_of(name):
    """Keras' builder of the same graph: EfficientNetB0 of efficientnet_b0."""
    match = re.fullmatch(r"efficientnet_(\w+)", name)
    return getattr(keras.applications, "EfficientNet" + match[1].upper() if match else name)


# Of each cell with its own operations: TF-Slim's nasnet_utils._apply_drop_path, version v3 at the
# end of training: 1 - keep = (number of the cell + 1) / cells * (1 - final keep). An identity is
# never dropped.
FINAL_DROP = {"nasnet_large": 0.3, "pnasnet_large": 0.4}
OPERATIONS = {"normal": 8, "reduction": 9, "cell": 9}  # of ten, without the identities


def slim_rates(name, layers):
    """{cell: (rate, how many of its operations have it)}"""
    cells = list(dict.fromkeys(x["name"] for x in layers if x["name"].find("_concat") > 0
                               and not x["name"].startswith("adjust")))
    return {cell.replace("_concat", ""): (FINAL_DROP[name] * (i + 1) / len(cells),
                                          OPERATIONS[cell.split("_")[0]])
            for i, cell in enumerate(cells)}


def check_searched(name, layers):
    rates = slim_rates(name, layers)
    found = {cell: [] for cell in rates}
    for layer in layers:
        if layer["class"] == "Dropout":
            cell = re.search(r"(normal|reduction|cell)_.*?drop_(.*)", layer["name"])
            found[f"{cell[1]}_{cell[2]}"].append(layer["rate"])
    for cell, (rate, count) in rates.items():
        assert len(found[cell]) == count, (name, cell, len(found[cell]))
        assert all(abs(r - rate) < 1e-9 for r in found[cell]), (name, cell, found[cell], rate)
    print(f"{name}: {len(rates)} cells, up to {max(r for r, _ in rates.values()):.3f}")


def automl_rates(layers):
    """{layer: rate} by google/automl's rule for the hub's EfficientNetV2: a block's number, from 0,
    over the number of blocks, of the last rate 0.2."""
    blocks = [x["name"].removesuffix("_project_conv") for x in layers
              if x["name"].endswith("_project_conv")]
    return {f"{block}_drop": 0.2 * i / len(blocks) for i, block in enumerate(blocks)}


def check_efficientnet(name, layers, drops):
    rates = {layer["name"]: layer["rate"] for layer in drops}
    if name.startswith("efficientnetv2"):
        expected = automl_rates(layers)
        expected = {layer: expected[layer] for layer in rates}  # a block without a shortcut has none
    else:
        expected = keras_rates(builder_of(name))
        assert rates.keys() == expected.keys(), (name, rates.keys() ^ expected.keys())
    assert len(rates) > 5, name
    assert all(abs(rates[k] - expected[k]) < 1e-9 for k in expected), (name, rates, expected)
    print(f"{name}: {len(rates)} branches, up to {max(rates.values()):.3f}")


def main():
    imgcls = sys.argv[1]
    for row in models(imgcls):
        name = row["name"]
        layers = [x for x in models(imgcls, name, f"--image-size={SIDE}")["layers"] if x["nested"]]
        drops = [x for x in layers if x["class"] == "Dropout"]
        assert all(x["per_sample"] for x in drops), name
        if name in FINAL_DROP:
            check_searched(name, layers)
        elif name.lower().startswith("efficientnet"):
            check_efficientnet(name, layers, drops)
        else:
            assert not drops, f"{name} drops"
        keras.backend.clear_session()


main()
