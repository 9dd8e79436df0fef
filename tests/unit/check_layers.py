#!/usr/bin/env python3
"""Checks the order of layers and the fences of docs/architecture.md (of libraries, of OpenMP's pragmas,
of IMGCLS_CUDA, of kernels/), and that each header compiles alone. Headers of the CUDA backend are
compiled where CUDA's are. Lines that break each rule must be found first.

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

# what a line says: the files that may say it
LINES = {
    r"^\s*#\s*pragma\s+omp\b": r"src/backend/cpu/.*|src/train/(workers|extractor)\.c",
    r"^\s*#\s*(el)?if.*\bIMGCLS_CUDA\b": r"src/(backend/backend|dist/comm)\.c",
}
KERNEL_HEADERS = {"kernel.cuh", "columns.cuh", "kernels.h"}
EMULATION = ("kernels/kernel.cuh", "emulation.h")  # of the tests, where the host is the device

# A file, a line in it, and what must be said of it.
PLANTED = (
    ("src/io/file.c", '#include "data/split.h"', "of a higher layer"),
    ("src/io/file.c", '#include "split.h"', "names no layer"),
    ("src/train/job.c", "#include <mpi.h>", "outside its fence"),
    ("src/dist/comm.c", '#include "kernels/kernels.h"', "for backend/cuda alone"),
    ("src/train/trainer.c", "  #pragma omp parallel for", "outside its fence"),
    ("src/data/loader.c", "# pragma omp simd", "outside its fence"),
    ("src/train/job.c", "#ifdef IMGCLS_CUDA", "outside its fence"),
    ("src/dist/world.c", "#if defined(IMGCLS_CUDA) && 1", "outside its fence"),
    ("kernels/flat.cu", '#include "base/rng.h"', "kernels/ includes its own headers"),
    ("kernels/flat.cu", '#include "../src/base/rng.h"', "kernels/ includes its own headers"),
    ("kernels/flat.cu", '#include "emulation.h"', "kernels/ includes its own headers"),
    ("kernels/flat.cu", "#ifdef IMGCLS_CUDA", "outside its fence"),
)


def include_problem(name, kind, header):
    """What is wrong with an #include in the file `name`; None where nothing is."""
    place, *folders = name.split("/")
    if place == "kernels":
        own = kind == "<" or header in KERNEL_HEADERS or (name, header) == EMULATION
        return None if own else f'"{header}": kernels/ includes its own headers'
    layer = folders[0]
    # main_*.c stands above all layers
    rank = LAYERS.index(layer) if len(folders) > 1 else len(LAYERS)
    if kind == "<":
        fence = FENCES.get(header)
        if fence and not re.fullmatch(fence, "/".join(folders)):
            return f"<{header}> is outside its fence"
    elif header == "kernels/kernels.h":
        if folders[:2] != ["backend", "cuda"]:
            return "the kernels are for backend/cuda alone"
    elif header.split("/")[0] not in LAYERS or "/" not in header:
        return f'"{header}" names no layer'
    elif LAYERS.index(header.split("/")[0]) > rank:
        return f'"{header}" is of a higher layer'
    return None


def problems_of(name, text):
    """What is wrong with a file of src/ or kernels/."""
    includes = re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', text, re.M)
    found = [include_problem(name, kind, header) for kind, header in includes]
    for pattern, fence in LINES.items():
        if not re.fullmatch(fence, name):
            found += [f"'{line.group().strip()}' is outside its fence"
                      for line in re.finditer(pattern, text, re.M)]
    return [f"{name}: {problem}" for problem in found if problem]


def main():
    root, compiler = pathlib.Path(sys.argv[1]) / "src", sys.argv[2]
    libraries = [folder for folder in map(pathlib.Path, sys.argv[3:]) if folder.is_dir()]
    cuda = any((folder / "cuda_runtime_api.h").exists() for folder in libraries)
    problems = [f"a planted {line} in {name} is not found" for name, line, said in PLANTED
                if said not in "".join(problems_of(name, f"int a;\n{line}\nint b;\n"))]
    files = sorted([*root.rglob("*.c"), *root.rglob("*.h")])
    for file in files + sorted((root.parent / "kernels").iterdir()):
        problems += problems_of(file.relative_to(root.parent).as_posix(), file.read_text())
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
