#!/usr/bin/env python3
"""Runs test_plan and compares its rows with those kept in tests/kernels/plans/GPU.TYPE.MODE.

A row is of one backbone: its problems, then for each column the engines with the number of their
problems, how many problems leave a part to a kernel of ours ("own"), and the largest workspace in MiB.
A row that has changed fails; a backbone without a row does not, and is named. Rows of another cuDNN
version are not compared.

usage: check_plans.py BUILD SOURCE GPU TYPE training|inference [--refresh]
--refresh writes the rows down instead."""

import os
import subprocess
import sys

HEADS = {
    "training": "backbone | problems | forward | data gradient | weight gradient | statistics",
    "inference": "backbone | problems | forward with norm, sum and activation",
}


def read_rows(path):
    if not os.path.exists(path):
        return "", {}
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    return lines[0].split()[-1], {line.split(" | ")[0]: line.split(" | ") for line in lines[2:]}


def write_rows(path, version, head, rows):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"cuDNN {version}\n")
        file.write(head + "\n")
        for name in sorted(rows):
            file.write(" | ".join(rows[name]) + "\n")


def main():
    build, source, gpu, kind, mode = sys.argv[1:6]
    path, head = f"{source}/tests/kernels/plans/{gpu}.{kind}.{mode}", HEADS[mode]
    run = subprocess.run([f"{build}/test_plan", gpu, kind, mode], stdout=subprocess.PIPE, text=True)
    lines = run.stdout.splitlines()
    cells = [line.split(" | ") for line in lines]
    rows = {row[0]: row for row in cells if len(row) == head.count(" | ") + 1}
    for line in lines:
        if "REFUSED" in line:
            print(line)
    if run.returncode != 0 or not rows:
        return 1
    version, (kept_version, kept) = lines[0].split("cuDNN ")[1], read_rows(path)
    if "--refresh" in sys.argv:
        write_rows(path, version, head, rows)
        return 0
    if kept_version != version:
        print(f"{path} is of cuDNN {kept_version or 'none'}, this is {version}: nothing to compare")
        return 0
    changed = 0
    for name, row in rows.items():
        if name not in kept:
            print(f"{name}: not in {path} yet; --refresh adds it")
            continue
        if row != kept[name]:
            print("now  " + " | ".join(row) + "\nkept " + " | ".join(kept[name]))
            changed += 1
    if changed:
        print(f"{changed} rows have changed; where that is meant: check_plans.py ... --refresh")
    return changed > 0


sys.exit(main())
