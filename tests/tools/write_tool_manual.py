#!/usr/bin/env python3
"""Writes docs/imgcls.1 to standard output, from what `imgcls help` and `imgcls SUBCOMMAND --help` say.
`cmake --build build/cpu --target config_docs` puts it in place; a test fails when it is stale.

usage: write_tool_manual.py IMGCLS
"""
import os
import re
import subprocess
import sys

HEAD = r""".\" Generated from the programs' --help: cmake --build build/cpu --target config_docs
.TH IMGCLS 1 "" "imgcls" "User commands"
.SH NAME
imgcls \- look at image data and models, predict, evaluate, measure
.SH SYNOPSIS
.B imgcls
.I SUBCOMMAND
.RI [ ARGUMENT ...]
.br
.B imgcls help
.RI [ SUBCOMMAND ]
.br
.B imgcls \-\-version
.SH DESCRIPTION
Training is the program
.BR imgcls\-train (1).
This one has the tools around it. Results go to standard output, warnings and errors to standard error.
.PP
Under mpirun or srun
.BR bench ,
.B all\-reduce
and
.B plan
are done by all ranks together. The others are the work of one process: rank 0 does it, and says so.
"""

TAIL = r""".SH "EXIT STATUS"
As
.BR imgcls\-train (1):
0 done, 1 a difference or a rate that is too low where that was asked, 64 wrong command line,
65 damaged data, 66 a file is missing, 71 memory, threads or MPI, 73 output cannot be created, 74 reading or
writing failed, 77 permission denied, 78 wrong configuration.
.SH ENVIRONMENT
.TP
.B IMGCLS_CPU_ISA
baseline, avx2, avx512 or avx512_bf16: the most of the instruction set that is used.
.PP
Subcommands that take a configuration know the variables of
.BR imgcls\-train (1).
.SH EXAMPLES
.EX
imgcls data scan photos
imgcls predict runs/my/best.h5 new.jpg \-\-top 5
imgcls eval runs/my/best.h5 test\-photos \-\-output mistakes
mpirun \-np 4 imgcls bench my.ini
.EE
.SH "SEE ALSO"
.BR imgcls\-train (1),
.BR imgcls\-train.ini (5)
"""


def says(*arguments):
    # argp breaks lines at the margin: none is wanted here.
    run = subprocess.run([sys.argv[1], *arguments], capture_output=True, text=True, check=True,
                         env={**os.environ, "ARGP_HELP_FMT": "rmargin=1000"})
    return run.stdout


def roff(text):
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", "")
    return re.sub(r"^([.])", r"\\&\1", text)


def options(lines):
    """Of each line of argp's table; a line without an option names a group."""
    for line in lines:
        row = re.match(r" {2,6}(-.*?) +([A-Z].*)$", line)
        if row and row[1] == "-h, --help":
            continue
        if row:
            yield f".TP\n.B {roff(row[1])}\n{roff(row[2])}"
        elif line.strip():
            yield f".PP\n{roff(line.strip())}"


def section(name):
    """Of one subcommand."""
    usage, *lines = says(*name.split(), "--help").rstrip().split("\n")
    forms = [usage.removeprefix("Usage: ")]
    while lines and lines[0].startswith("  or:  "):
        forms.append(lines.pop(0).removeprefix("  or:  "))
    text = [f'.SS "{roff(name)}"', ".nf"]
    for form in forms:  # the table says which options there are
        form = re.sub(r" \[-[^\]]*\]", "", form) if len(forms) == 1 else form
        text.append(f".B {roff(form)}")
    text.append(".fi")
    blocks = [block.split("\n") for block in "\n".join(lines).strip("\n").split("\n\n")]
    for block in blocks:
        if block[0].startswith("Mandatory or optional arguments"):
            continue
        if all(line.lstrip().startswith("-h, --help") for line in block):
            continue
        text.append(".PP")
        if any(re.match(" {2,6}-", line) for line in block):
            text += options(block)
        elif block[0].startswith("  "):
            text += [".EX", *map(roff, block), ".EE"]
        else:
            text += map(roff, block)
    return text


def names():
    """The subcommands; those of `data` have options each."""
    for name in re.findall(r"^  ([a-z0-9-]+) ", says("help"), re.M):
        if name == "data":
            parts = re.findall(r"^  ([a-z-]+) ", says(name, "--help"), re.M)
            yield from (f"data {part}" for part in parts)
        elif name != "help":
            yield name


def main():
    text = [HEAD.rstrip("\n"), ".SH SUBCOMMANDS"]
    for name in names():
        text += section(name)
    text += ['.SS "help"', "List the subcommands, or explain one."]
    print("\n".join(text))
    print(TAIL, end="")


main()
