#!/usr/bin/env python3
"""Lets the k-th call of a function fail, for k = 1, 2, ... until no call is left, in
(a) reading the configuration, (b) a scan of images, (c) a save and a load of a checkpoint.

Each time the program must end by itself, in time, with a documented exit code, and say why where
the code is not 0; it may only pass over a failure that does no harm. In (c) the checkpoint of
before, or the new one, must be whole. Disks that are too small for (c) are part of it where mounting
is allowed.

usage: test_faults.py BUILD_DIR SOURCE_DIR
"""
import errno
import os
import shutil
import subprocess
import sys
import tempfile

BUILD, SOURCE = sys.argv[1:3]
CODES = {0, 65, 66, 71, 73, 74, 77}
MEMORY = "malloc,calloc,realloc,aligned_alloc"
READING = "open,openat,read,pread,fstat,opendir,fdopendir,readdir,mmap,fopen"
WRITING = ("open,write,pwrite,fsync,rename,symlink,ftruncate,fallocate,close,mkdir,opendir,"
           "pthread_create")
failures = []
runs = 0


def run(command, variables):
    global runs
    runs += 1
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stderr.decode(errors="replace")


def loop(name, command, calls, number, lasts=False, saves=None, harmless=False, expected=None):
    """One run for each k, of `saves` always from the same folder."""
    k, report = 0, f"{WORK}/report"
    while k < 3000:
        k += 1
        if saves:
            saves.restore()
        variables = {"LD_PRELOAD": f"{BUILD}/libfault_shim.so", "FAULT_CALLS": calls,
                     "FAULT_AT": str(k), "FAULT_ERRNO": str(number), "FAULT_REPORT": report}
        if lasts:
            variables["FAULT_LASTS"] = "1"
        code, said = run(command, variables)
        if not os.path.exists(report):
            if code != 0:
                failures.append(f"{name}: exit code {code} without a failure: {said}")
            break
        os.remove(report)
        place = f"{name}, call {k} fails with {errno.errorcode.get(number, 'a short count')}"
        if code is None:
            failures.append(f"{place}: hangs")
        elif code not in CODES:
            failures.append(f"{place}: exit code {code}: {said[-600:]}")
        elif code != 0 and not said.strip():
            failures.append(f"{place}: exit code {code} without a word")
        elif code == 0 and not harmless and number != 0:
            failures.append(f"{place}: exit code 0")
        elif expected and code not in expected:
            failures.append(f"{place}: exit code {code}, not one of {expected}: {said}")
        if saves:
            saves.check(place, code, said)
    print(f"{name}: {k - 1} failing calls", flush=True)
    if k < 2:
        failures.append(f"{name}: nothing failed: the test is blind")


class Saves:
    """A folder of checkpoints, and what must be true of it after each run."""

    def __init__(self, folder):
        self.folder = folder
        self.command = [f"{BUILD}/save_load", folder]
        self.step = 0

    def keep(self):
        for _ in range(3):
            subprocess.run(self.command, check=True)
        shutil.copytree(self.folder, self.folder + ".kept", symlinks=True)
        self.restore()

    def restore(self):
        shutil.rmtree(self.folder)
        shutil.copytree(self.folder + ".kept", self.folder, symlinks=True)
        self.step = 3

    def check(self, place, code, said):
        done = subprocess.run(self.command + ["check"], capture_output=True, text=True)
        if done.returncode != 0 or done.stderr:
            failures.append(f"{place}: then no checkpoint loads: {done.stderr}")
            return
        step = int(done.stdout)
        allowed = {self.step + 1} if code == 0 else {self.step, self.step + 1}
        if "passed over" in said:
            allowed.add(self.step)
        if step not in allowed:
            failures.append(f"{place}: exit code {code}, step {step} after {self.step}: {said}")
        self.step = step
        left = [name for name in os.listdir(self.folder) if ".tmp." in name]
        if left:
            failures.append(f"{place}: {left} is left")


def full_disks():
    """(c) on disks of 0, 64 KiB, ... more than the first checkpoint takes."""
    disk = f"{WORK}/disk"
    os.makedirs(disk)
    size = sum(entry.stat().st_size for entry in os.scandir(f"{WORK}/saves"))
    codes = []
    for blocks in range(1, 2 * size // 4096 + 16, 2):
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"nr_blocks={blocks}", "none", disk],
                          capture_output=True).returncode:
            print("full disks: left out, mounting is not allowed")
            return
        try:
            saves = Saves(disk)
            for _ in range(3):
                code, said = run(saves.command, {})
                codes.append(code)
                place = f"a disk of {blocks} blocks"
                saves.check(place, code, said)
                if code not in (0, 74):
                    failures.append(f"{place}: exit code {code}: {said}")
                if code == 74 and "bytes are needed" not in said:
                    failures.append(f"{place}: says not what is needed: {said}")
        finally:
            subprocess.run(["umount", disk], check=True)
    print(f"full disks: {codes.count(74)} failing saves, {codes.count(0)} that fitted")
    if not codes.count(74) or not codes.count(0):
        failures.append("full disks: the sizes are wrong")


def main():
    images = f"{WORK}/images"
    subprocess.run([sys.executable, f"{SOURCE}/tests/tools/make_images.py", images, "2", "5", "8"],
                   check=True)
    config = [f"{BUILD}/imgcls-train", f"{SOURCE}/configs/quickstart.ini", "--print-config"]
    loop("configuration, memory", config, MEMORY, errno.ENOMEM, expected={71})
    loop("configuration, reading", config, READING, errno.EIO, harmless=True)
    scan = [f"{BUILD}/imgcls", "data", "scan", images]
    loop("scan, memory", scan, MEMORY, errno.ENOMEM, harmless=True)
    loop("scan, reading", scan, READING, errno.EIO, harmless=True)
    loop("scan, short reads", scan, "read", 0, expected={0})
    saves = Saves(f"{WORK}/saves")
    os.makedirs(saves.folder)
    saves.keep()
    loop("checkpoint, memory", saves.command, MEMORY, errno.ENOMEM, saves=saves,
         harmless=True)
    for number in (errno.EIO, errno.ENOSPC):
        loop(f"checkpoint, {errno.errorcode[number]} once", saves.command, WRITING + "," + READING,
             number, saves=saves, harmless=True)
    loop("checkpoint, ENOSPC from then on", saves.command, "write,pwrite,fsync,fallocate,symlink",
         errno.ENOSPC, lasts=True, saves=saves)
    loop("checkpoint, short counts", saves.command, "read,pread,write,pwrite", 0, saves=saves,
         expected={0})
    full_disks()


if os.environ.get("LD_PRELOAD"):
    print("LD_PRELOAD is in use")
    sys.exit(77)
WORK = tempfile.mkdtemp(prefix="imgcls_faults.")
try:
    main()
finally:
    shutil.rmtree(WORK)
for failure in failures:
    print("FAILED:", failure)
print(f"{runs} runs, {len(failures)} failures")
sys.exit(1 if failures else 0)
