#!/usr/bin/env python3
"""Does to a source tree what docs/adding-a-backbone.md says.

usage: apply_page.py PAGE SOURCE_DIR OUT_DIR

A fence headed "c FILE" or "ini FILE" of the page is that file. In one headed "diff FILE" lines with a
+ follow the line before them, which must stand in the file once. The files, and no others, are written
below OUT_DIR.
"""
import pathlib
import re
import sys

FENCE = re.compile(r"^( *)```(c|ini|diff) (\S+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def insert(lines, patch, name):
    """The lines of a file with those of a patch in their place."""
    place = None
    for line in patch.splitlines():
        mark, text = line[:1], line[1:]
        if mark == " ":
            assert lines.count(text) == 1, f"{name}: '{text}' stands {lines.count(text)} times"
            place = lines.index(text) + 1
        else:
            assert mark == "+" and place is not None, f"{name}: '{line}'"
            lines.insert(place, text)
            place += 1
    return lines


def main():
    page, source, out = map(pathlib.Path, sys.argv[1:])
    fences = FENCE.findall(page.read_text())
    assert {kind for _, kind, _, _ in fences} == {"c", "ini", "diff"}, f"{page}: a kind is missing"
    for indent, kind, name, body in fences:
        body = "".join(line[len(indent):] or "\n" for line in body.splitlines(True))
        if kind == "diff":
            body = "\n".join(insert((source / name).read_text().splitlines(), body, name)) + "\n"
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_text() != body:
            target.write_text(body)


main()
