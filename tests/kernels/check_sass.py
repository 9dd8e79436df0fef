#!/usr/bin/env python3
"""Holds the machine code of the kernels to what their comments claim.

Reads the disassembly of a library of compiled kernels (cuobjdump) and checks, for each kernel and
each architecture that it was compiled for: no local memory, which is where spilled registers go;
every value moved 16 bytes at a time; so many bytes of loads under way before the first of them is
used, and so many threads on a multiprocessor, as its row says, or as many as one holds. Prints a row
for each.

usage: check_sass.py LIBRARY [FOLDER_OF_THE_TOOLKIT]; 77 where cuobjdump is not found
"""
import glob
import os
import re
import shutil
import subprocess
import sys

REGISTERS = 65536  # of a multiprocessor, of all of these
# Threads and bytes of shared memory that a multiprocessor holds.
LIMITS = {
    "sm_80": (2048, 164 << 10),
    "sm_86": (1536, 100 << 10),
    "sm_89": (1536, 100 << 10),
    "sm_90": (2048, 228 << 10),
    "sm_100": (2048, 228 << 10),
}

# Kernels that work on values. Patterns of the kernel's name; how many KiB of loads of 16 bytes a
# multiprocessor has under way at least when it is full (an H200 needs about 25 where a kernel only
# reads), the least 16-byte stores in the code, and how many threads it must hold. Values are only
# touched so: a narrower access is to a vector of channels (LDG.E), to a mask or to partial sums.
RULES = [
    # name, KiB under way, stores, threads
    (r"norm_forward_kernel<.*", 32, 1, 1024),
    (r"norm_dx_kernel<.*", 48, 1, 512),
    (r"norm_sums_kernel<.*", 32, 0, 512),
    (r"moments_kernel<.*", 32, 0, 1024),
    (r"column_sums_kernel<.*", 48, 0, 1024),
    (r"strip_kernel<.*, (3, [12]|[57], 1), .*", 64, 4, 512),
    (r"strip_kernel<.*, [57], 2, .*", 64, 4, 256),
    (r"strip_gradient_kernel<.*", 32, 4, 512),
    (r"(window|gather)_kernel<.*", 32, 1, 1024),
    (r"weights_kernel<.*", 16, 0, 512),
    (r"activate_kernel<(?!Row).*", 24, 1, 1024),
    (r"activate_backward_kernel<(?!Row).*", 32, 1, 1024),
    (r"affine_kernel<(?!Row).*", 48, 4, 512),
    (r"sum_pixels_kernel<(?!Row).*, true>", 64, 0, 512),
    (r"sum_pixels_kernel<(?!Row).*, false>", 64, 0, 1024),
    (r"sum_pixels_kernel<Row.*", 0, 0, 1024),
    (r"product_kernel<.*", 0, 0, 1024),
    (r"slope_kernel<.*", 0, 0, 2048),
    (r"dropout_kernel<(?!Row).*", 32, 1, 768),
    (r"group_(moments|sums)_kernel<.*", 32, 0, 512),
    (r"group_(apply|dx)_kernel<.*", 16, 1, 512),
    (r"pool_.*kernel<.*", 32, 1, 768),
    (r"upload_kernel<.*", 0, 1, 1024),
    (r"(sgd|add|scale|moving_average)_kernel", 24, 1, 2048),
    (r"squares_kernel", 24, 0, 2048),
]

# What the compiler of CUDA 13.0 makes otherwise: for one architecture, in fp32, a register or two. To
# bound registers for it costs the others threads.
KNOWN = [
    ("sm_100", r"norm_dx_kernel<float, .*0, false>", "local memory: 8 bytes"),
]


def is_known(architecture, name, wrong):
    return any(architecture == a and re.fullmatch(n, name) and wrong == w for a, n, w in KNOWN)


def find_tools(folder):
    """cuobjdump, and the environment in which it finds nvdisasm."""
    build = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../build")
    folders = [folder] + os.environ.get("PATH", "").split(os.pathsep)
    folders += glob.glob(build + "/cuda-tools/lib/python*/site-packages/nvidia/*/bin")
    path = os.pathsep.join(f for f in folders if f)
    return shutil.which("cuobjdump", path=path), dict(os.environ, PATH=path)


def run(command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def short_name(mangled):
    names = run(["c++filt"], input="\n".join(mangled)).splitlines()
    short = {}
    for symbol, name in zip(mangled, names):
        name = re.sub(r"\(anonymous namespace\)::|^void ", "", name)
        depth = 0  # cut the arguments: the first parenthesis outside of <>
        for i, c in enumerate(name):
            depth += (c == "<") - (c == ">")
            if c == "(" and depth == 0:
                name = name[:i]
                break
        short[symbol] = name
    return short


def loads_under_way(instructions):
    """The most 16-byte loads of global memory that wait at one time, in the order of the code: one is
    waited for by the first instruction that reads what it loads."""
    waiting, most = set(), 0
    for name, operands in instructions:
        registers = [int(r) for r in re.findall(r"\bR(\d+)\b", operands)]
        is_load = name.startswith("LDG") and ".128" in name
        read = registers if name.startswith(("ST", "ISETP", "FSETP")) else registers[1:]
        waiting -= {first for first in waiting for r in read if first <= r < first + 4}
        if is_load and registers:
            waiting.add(registers[0])
            most = max(most, len(waiting))
    return most


def threads_of(limits, registers, shared, block=256):
    """Threads that a multiprocessor holds at once: registers are given to warps by 256."""
    most_threads, most_shared = limits
    per_warp = -(-registers * 32 // 256) * 256
    blocks = min(REGISTERS // (per_warp * block // 32), most_threads // block)
    if shared:
        blocks = min(blocks, most_shared // (shared + 1024))
    return blocks * block


def check(dump, architecture):
    """How many kernels of one architecture are wrong, of how many; `dump` is cuobjdump's answer."""
    limits = LIMITS[architecture]
    code, usage = dump("-arch", architecture, "-sass"), dump("-arch", architecture, "-res-usage")
    resources = {m[0]: tuple(map(int, m[1:])) for m in re.findall(
        r"Function (\S+):\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)}
    instructions, current = {}, None
    for line in code.splitlines():
        if found := re.search(r"Function : (\S+)", line):
            current = instructions[found[1]] = []
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z0-9_.]+)(.*?);", line):
            current.append((found[1], found[2]))
    names, failed = short_name(list(instructions)), 0
    used = set()
    for symbol, name in sorted(names.items(), key=lambda item: item[1]):
        stores = sum(name.startswith("STG") and ".128" in name for name, _ in instructions[symbol])
        registers, stack, shared, local = resources[symbol]
        threads = threads_of(limits, registers, shared)
        under_way = threads * loads_under_way(instructions[symbol]) * 16 >> 10
        wrong = []
        if stack + local > 0:
            wrong.append(f"local memory: {stack + local} bytes")
        rule = next((r for r in RULES if re.fullmatch(r[0], name)), None)
        if rule:
            used.add(rule[0])
            if under_way < rule[1] or stores < rule[2]:
                wrong.append(f"less than {rule[1]} KiB under way or fewer than {rule[2]} stores of 16 bytes")
            if threads < min(rule[3], limits[0]):
                wrong.append(f"fewer than {rule[3]} threads")
        wrong = [w for w in wrong if not is_known(architecture, name, w)]
        failed += bool(wrong)
        print(f"{architecture:6} {name:60} {registers:3} registers, {threads:4} threads, {shared:5} B shared, "
              f"loads of {under_way:3} KiB under way, 16-byte stores {stores:2}"
              + (f"   WRONG: {', '.join(wrong)}" if wrong else ""))
    for rule in RULES:
        if rule[0] not in used:
            print(f"no kernel is called {rule[0]}: the table is out of date")
            failed += 1
    print(f"{architecture}: {len(names)} kernels, {failed} wrong")
    return failed + (not names)


def main():
    library, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    tool, environment = find_tools(folder)
    if not tool:
        print(f"cuobjdump is neither in {folder or 'PATH'} nor in build/cuda-tools")
        return 77

    def dump(*options):
        return run([tool, *options, library], env=environment)

    # PTX, which a GPU newer than all of these compiles for itself, is listed apart.
    architectures = sorted(set(re.findall(r"\.(sm_\d+)\.cubin", dump("-lelf"))), key=lambda a: int(a[3:]))
    print("compiled for", *architectures)
    return not architectures or sum(check(dump, a) for a in architectures) > 0


if __name__ == "__main__":
    sys.exit(main())
