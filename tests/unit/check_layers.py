#!/usr/bin/env python3
"""Checks the order of layers and the library fences of docs/architecture.md, and that each header
compiles alone. Headers of the CUDA backend are compiled where CUDA's are.

usage: check_layers.py SOURCE_DIR C_COMPILER [INCLUDE_DIR...]
"""
import pathlib
import re
import subprocess
import sys

LAYERS = ["base", "tensor", "config", "io", "graph", "keras", "backend", "dist", "data", "model",
          "exec", "train", "tool"]

# header: the files (as patterns below src/) that may include it
FENCES = {
    "mpi.h": r"dist/.*",
    "nccl.h": r"dist/comm_nccl\.h",
    "cuda_runtime_api.h": r"backend/cuda/.*",
    "cublasLt.h": r"backend/cuda/.*",
    "cudnn.h": r"backend/cuda/.*",
    "dnnl.h": r"backend/cpu/.*",
    "hdf5.h": r"io/h5[^/]*",
    "hdf5_hl.h": r"(?!)",
    "event.pb-c.h": r"train/tensorboard\.c",
    "pthread.h": r"data/loader\.c|dist/watchdog\.c|dist/comm_nccl\.h|train/checkpoint\.c|backend/cpu/.*",
    "threads.h": r"(?!)",
    "omp.h": r"backend/cpu/.*",
}


def main():
    root, compiler = pathlib.Path(sys.argv[1]) / "src", sys.argv[2]
    libraries = [folder for folder in map(pathlib.Path, sys.argv[3:]) if folder.is_dir()]
    cuda = any((folder / "cuda_runtime_api.h").exists() for folder in libraries)
    problems = []
    files = sorted([*root.rglob("*.c"), *root.rglob("*.h")])
    for file in files:
        name = file.relative_to(root).as_posix()
        layer = name.split("/")[0]
        # main_*.c stands above all layers
        rank = LAYERS.index(layer) if "/" in name else len(LAYERS)
        for kind, header in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', file.read_text(),
                                       re.M):
            if kind == "<":
                fence = FENCES.get(header)
                if fence and not re.fullmatch(fence, name):
                    problems.append(f"{name}: <{header}> is outside its fence")
            elif header == "kernels/kernels.h":
                if layer != "backend" or "/cuda/" not in name:
                    problems.append(f"{name}: the kernels are for backend/cuda alone")
            elif header.split("/")[0] not in LAYERS:
                problems.append(f"{name}: \"{header}\" names no layer")
            elif LAYERS.index(header.split("/")[0]) > rank:
                problems.append(f"{name}: \"{header}\" is of a higher layer")
    headers = [file for file in files if file.suffix == ".h"
               and not re.search(r"backend/cpu/vector\.h$", str(file))]  # a template: needs BLOCK
    if not cuda:
        headers = [header for header in headers
                   if not re.search(r"backend/cuda/|dist/comm_nccl\.h", header.as_posix())]
    for header in headers:
        run = subprocess.run([compiler, "-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
                              "-Wno-unused-function", "-I", root, "-I", root.parent,
                              *(part for folder in libraries for part in ("-isystem", folder)),
                              "-fsyntax-only", "-x", "c", header], capture_output=True, text=True)
        if run.returncode != 0:
            problems.append(f"{header.relative_to(root)} does not compile alone:\n{run.stderr}")
    print("\n".join(problems) or f"{len(files)} files and {len(headers)} headers keep the rules")
    return 1 if problems or len(files) < 50 else 0


sys.exit(main())
