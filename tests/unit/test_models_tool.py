"""`imgcls models` from the command line: the list at sizes that some backbones do not take, in text
and in JSON, and one backbone by name.

usage: test_models_tool.py IMGCLS
"""
import json
import subprocess
import sys

IMGCLS = sys.argv[1]
MEASURED = ("feature_length", "parameters", "trainable", "gmac", "training_bytes_per_image",
            "concat_inputs", "concat_inputs_in_place")


def models(*arguments, status=0):
    done = subprocess.run([IMGCLS, "models", *arguments], capture_output=True, text=True)
    assert done.returncode == status, (arguments, done.returncode, done.stderr)
    return done.stdout if status == 0 else done.stderr


def check_list(size):
    """Every backbone is in the list; those that do not take the size say so in both forms."""
    rows = json.loads(models("--json", f"--image-size={size}"))
    lines = models(f"--image-size={size}").splitlines()[1:]
    assert [row["name"] for row in rows] == [line.split()[0] for line in lines]
    for row, line in zip(rows, lines):
        smallest = row["smallest_image"]
        assert row["image_size"] == size and int(line.split()[1]) == size, (row, line)
        assert row["available"] == (size >= smallest), row
        for key in MEASURED:
            assert row["available"] == (row[key] is not None), row
        refusal = f"not available: the smallest image is {smallest} x {smallest}"
        assert row["available"] == (refusal not in line), line
    return {row["name"]: row for row in rows}


def check_one(name, row):
    """A name alone tells what its row of the list tells, and its layers; or why it cannot."""
    option = f"--image-size={row['image_size']}"
    if not row["available"]:
        smallest = row["smallest_image"]
        for form in ([], ["--json"]):
            told = models(name, option, *form, status=78)
            assert f"{name}: image of {row['image_size']} x {row['image_size']} pixels: " \
                f"the smallest is {smallest} x {smallest}" in told, told
        return
    alone = json.loads(models(name, option, "--json"))
    layers = alone.pop("layers")
    assert alone == row, (alone, row)
    names = [layer["name"] for layer in layers]
    assert len(names) > 50 and names[0] == "image" and names[-1] == "logits", names
    assert "logits" in models(name, option)


def main():
    own = {row["name"]: row for row in json.loads(models("--json"))}
    assert all(row["available"] for row in own.values())
    assert all(row["image_size"] >= row["smallest_image"] for row in own.values())
    largest = max(row["smallest_image"] for row in own.values())
    tiny, small, large = (check_list(size) for size in (1, largest - 1, largest))
    assert not any(row["available"] for row in tiny.values())
    assert {row["available"] for row in small.values()} == {True, False}
    assert all(row["available"] for row in large.values())
    for name in ("inception_v3", "mobilenet_v2_100_224", "pnasnet_large"):
        check_one(name, small[name])
        check_one(name, own[name])
    # Inception pays no copy; ResNet has none to pay.
    inputs, in_place = (own["InceptionV3"][key] for key in MEASURED[-2:])
    assert inputs > 30 and in_place == inputs, (inputs, in_place)
    assert f"Concatenated values: {inputs}, of which {inputs} are" in models("InceptionV3")
    # NASNet's narrow cells end inside a block of channels, of 8 or of 16 as the processor has them.
    for name, inputs, shares in (("nasnet_mobile", 96, (56, 28)), ("NASNetMobile", 96, (56, 28)),
                                 ("nasnet_large", 132, (116, 80)), ("NASNetLarge", 132, (116, 80)),
                                 ("pnasnet_large", 78, (60, 40))):
        measured = [own[name][key] for key in MEASURED[-2:]]
        assert measured[0] == inputs and measured[1] in shares, (name, measured)
    assert own["ResNet50"]["concat_inputs"] == 0 and "Concatenated" not in models("ResNet50")
    assert "did you mean" in models("ResNet49", status=78)
    assert "one NAME at a time" in models("ResNet50", "ResNet101", status=64)


main()
