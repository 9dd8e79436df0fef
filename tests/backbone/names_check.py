"""Every backbone has an oracle: it is one of oracle_names.py, or layer by layer the same as one.

usage: names_check.py IMGCLS
"""
import json
import subprocess
import sys

from oracle_names import ORACLES


def models(imgcls, *arguments):
    done = subprocess.run([imgcls, "models", "--json", *arguments], capture_output=True, text=True,
                          check=True)
    return json.loads(done.stdout)


def graph_of(imgcls, name):
    """All that shapes its sums: what its layers say, but for how its averages move."""
    layers = [x for x in models(imgcls, name, "--image-size=97")["layers"] if x["nested"]]
    for layer in layers:
        layer.pop("momentum", None)
        if layer["class"] == "Dropout":
            layer["rate"] = 0  # the oracles run without
    return json.dumps(layers)


def main():
    imgcls = sys.argv[1]
    names = [row["name"] for row in models(imgcls)]
    unknown = ORACLES.keys() - set(names)
    assert not unknown, f"no backbones: {unknown}"
    proven = {graph_of(imgcls, name): name for name in ORACLES}
    for name in names:
        if name not in ORACLES:
            same = proven.get(graph_of(imgcls, name))
            assert same, f"{name} has no oracle and is no backbone that has one"
            print(f"{name} is {same}")
    print(f"{len(names)} names, {len(proven)} graphs")


main()
