"""Decoding and resizing against TensorFlow and Keras.

usage: decode.py DECODE_DUMP

Makes images of every format and mode with Pillow (and GIFs by hand, whose frames Pillow would tidy
up), and compares the pixels of our decoder with tf.io.decode_image(channels=3,
expand_animations=False), and of our resizing with keras.utils.image_dataset_from_directory and
tf.image.resize: at most one level apart, everywhere.
"""

import os
import struct
import subprocess
import sys
import tempfile

from h5_common import import_keras, picture

keras = import_keras("k3")
import numpy as np
import tensorflow as tf
from PIL import Image

SIZES = [(37, 53), (64, 64), (120, 91), (1, 1), (3, 200)]  # height, width


def gif(screen, frames, palette, background=0):
    """A GIF file: frames are dicts with left, top, pixels and perhaps transparent, interlace,
    palette."""

    def table(colors):
        return b"".join(bytes(c) for c in colors)

    def bits(colors):
        return max(len(colors) - 1, 1).bit_length() - 1

    out = b"GIF89a" + struct.pack("<HHBBB", screen[1], screen[0], 0x80 | bits(palette), background, 0)
    out += table(palette)
    for frame in frames:
        pixels = frame["pixels"]
        out += b"\x21\xf9\x04" + struct.pack("<BHBB", int("transparent" in frame), 5,
                                              frame.get("transparent", 0), 0)
        local = frame.get("palette")
        flags = (0x40 if frame.get("interlace") else 0) | ((0x80 | bits(local)) if local else 0)
        out += b"\x2c" + struct.pack("<HHHHB", frame.get("left", 0), frame.get("top", 0),
                                      pixels.shape[1], pixels.shape[0], flags)
        out += table(local) if local else b""
        rows = list(range(pixels.shape[0]))
        if frame.get("interlace"):
            rows = rows[0::8] + rows[4::8] + rows[2::4] + rows[1::2]
        # LZW without compression: the code table is cleared before it would need a tenth bit.
        codes = []
        for i, value in enumerate(pixels[rows].reshape(-1)):
            if i % 250 == 0:
                codes.append(256)
            codes.append(int(value))
        packed = sum(code << (9 * i) for i, code in enumerate(codes + [257]))
        data = packed.to_bytes((9 * (len(codes) + 1) + 7) // 8, "little")
        out += b"\x08"
        for i in range(0, len(data), 255):
            out += bytes([len(data[i:i + 255])]) + data[i:i + 255]
        out += b"\x00"
    return out + b"\x3b"


def make_gifs(folder):
    rng = np.random.default_rng(5)
    palette = [tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(256)]
    local = [tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(256)]

    def noise(h, w):
        return rng.integers(0, 256, (h, w))

    def save(name, *args):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(gif(*args))

    save("plain.gif", (30, 40), [dict(pixels=noise(30, 40))], palette)
    save("interlaced.gif", (30, 40), [dict(pixels=noise(30, 40), interlace=True)], palette)
    save("local.gif", (30, 40), [dict(pixels=noise(30, 40), palette=local)], palette)
    save("transparent.gif", (30, 40), [dict(pixels=noise(30, 40) % 7, transparent=3)], palette)
    save("small_first.gif", (30, 40),
         [dict(pixels=noise(10, 12), left=5, top=7), dict(pixels=noise(30, 40))], palette)
    save("small_only.gif", (30, 40), [dict(pixels=noise(10, 12), left=5, top=7)], palette)
    save("small_only_at_origin.gif", (30, 40), [dict(pixels=noise(10, 12))], palette)
    save("past_the_edge.gif", (30, 40),
         [dict(pixels=noise(20, 20), left=30, top=20), dict(pixels=noise(30, 25))], palette)
    save("wide_and_high.gif", (10, 10),
         [dict(pixels=noise(5, 5), left=1), dict(pixels=noise(30, 5)), dict(pixels=noise(5, 40))],
         palette)
    whole = gif((30, 40), [dict(pixels=noise(30, 40)), dict(pixels=noise(30, 40))], palette)
    with open(os.path.join(folder, "second_frame_cut.gif"), "wb") as file:
        file.write(whole[:-300])
    with open(os.path.join(folder, "no_trailer.gif"), "wb") as file:
        file.write(whole[:-1])


def make_images(folder):
    for i, (h, w) in enumerate(SIZES):
        rgb = picture(h, w, i)
        image = Image.fromarray(rgb)
        alpha = Image.fromarray(picture(h, w, i + 100)[..., 0])

        def save(name, what, **options):
            what.save(os.path.join(folder, f"{i}_{name}"), **options)

        for sampling in (0, 1, 2):
            save(f"s{sampling}.jpg", image, quality=90, subsampling=sampling)
            save(f"s{sampling}_progressive.jpeg", image, quality=70, subsampling=sampling,
                 progressive=True)
        save("grey.jpg", image.convert("L"), quality=80)
        save("cmyk.jpg", image.convert("CMYK"), quality=90)
        save("restart.jpg", image, quality=60, restart_marker_blocks=3)
        save("rgb.png", image)
        save("grey.png", image.convert("L"))
        save("1bit.png", image.convert("1"))
        save("la.png", Image.merge("LA", [image.convert("L"), alpha]))
        save("rgba.png", Image.merge("RGBA", [*image.split(), alpha]))
        save("palette.png", image.quantize(200))
        save("palette4.png", image.quantize(13), bits=4)
        save("palette_transparent.png", image.quantize(60), transparency=bytes(range(60)))
        save("grey_transparent.png", image.convert("L"), transparency=128)
        save("rgb_transparent.png", image, transparency=tuple(int(v) for v in rgb[0, 0]))
        save("grey16.png", Image.fromarray(rgb[..., 0].astype(np.uint16) * 251))
        save("palette.gif", image.quantize(250))
        save("rgb.bmp", image)
        save("grey.bmp", image.convert("L"))
        save("rgba.bmp", Image.merge("RGBA", [*image.split(), alpha]))
    frames = [Image.fromarray(picture(40, 50, s)).quantize(100) for s in range(4)]
    frames[0].save(os.path.join(folder, "animation.gif"), save_all=True, append_images=frames[1:],
                   duration=80)
    for bits, kind, channels in ((16, 2, 3), (16, 6, 4), (16, 4, 2), (2, 0, 1), (4, 0, 1),
                                 (8, 2, 3), (8, 3, 1), (1, 3, 1)):
        for interlaced in (0, 1):
            with open(os.path.join(folder, f"raw_{bits}_{kind}_{interlaced}.png"), "wb") as file:
                file.write(raw_png(29, 43, bits, kind, channels, interlaced))


def raw_png(height, width, bits, kind, channels, interlaced):
    """A PNG of random bits in the modes that Pillow does not write: 16-bit colour, interlaced."""
    import zlib
    rng = np.random.default_rng(bits * 10 + kind)

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)] if interlaced else [(0, 0, 1, 1)]
    data = b""
    for y0, x0, dy, dx in passes:
        w, h = len(range(x0, width, dx)), len(range(y0, height, dy))
        for row in range(h if w else 0):
            data += bytes([row % 5]) + rng.integers(0, 256, (w * bits * channels + 7) // 8,
                                                    dtype=np.uint8).tobytes()
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind,
                                                              0, 0, interlaced))
    out += chunk(b"gAMA", struct.pack(">I", 100000))
    if kind == 3:
        out += chunk(b"PLTE", rng.integers(0, 256, 3 << bits, dtype=np.uint8).tobytes())
    return out + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def palette_bmps(folder, dump):
    image = Image.fromarray(picture(33, 47, 9))
    paths = [os.path.join(folder, name) for name in ("palette.bmp", "1bit.bmp", "trailing.bmp")]
    image.quantize(90).save(paths[0])
    image.convert("1").save(paths[1])
    image.save(paths[2])
    with open(paths[2], "ab") as file:
        file.write(b"more bytes")
    return paths, dump.run(paths)


class Dump:
    """Runs our decoder over jobs; gives an array or the reason for refusal for each."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def run(self, paths, height=0, width=0, antialias=False, keep_aspect=False):
        outs = [os.path.join(self.folder, f"{i}.raw") for i in range(len(paths))]
        jobs = "".join(f"{height}\t{width}\t{int(antialias)}\t{int(keep_aspect)}\t{path}\t{out}\n"
                       for path, out in zip(paths, outs))
        lines = subprocess.run([self.program], input=jobs, capture_output=True, text=True,
                               check=True).stdout.splitlines()
        return [self.load(out) if line == "ok" else line for line, out in zip(lines, outs)]

    @staticmethod
    def load(path):
        with open(path, "rb") as file:
            height, width = (int(v) for v in file.readline().split())
            return np.frombuffer(file.read(), np.uint8).reshape(height, width, 3)


class Report:
    def __init__(self):
        self.failures, self.compared, self.worst = [], 0, 0.0

    def compare(self, what, ours, theirs, tolerance):
        self.compared += 1
        if isinstance(ours, str) or isinstance(theirs, str):
            if isinstance(ours, str) != isinstance(theirs, str):
                self.failures.append(f"{what}: ours {ours if isinstance(ours, str) else 'decoded'}, "
                                     f"theirs {theirs if isinstance(theirs, str) else 'decoded'}")
        elif ours.shape != theirs.shape:
            self.failures.append(f"{what}: our shape {ours.shape}, theirs {theirs.shape}")
        else:
            worst = float(np.abs(ours.astype(np.float64) - theirs).max())
            self.worst = max(self.worst, worst)
            if worst > tolerance:
                self.failures.append(f"{what}: {worst:.3f} levels apart, {tolerance} allowed")


def tf_decode(path):
    try:
        return tf.io.decode_image(tf.io.read_file(path), channels=3,
                                  expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError as error:
        return str(error).splitlines()[0]


def main():
    report = Report()
    with tempfile.TemporaryDirectory() as root:
        folder = os.path.join(root, "images", "class")
        os.makedirs(folder)
        dump = Dump(sys.argv[1], root)
        make_images(folder)
        make_gifs(folder)
        paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        theirs = [tf_decode(path) for path in paths]
        for path, our, their in zip(paths, dump.run(paths), theirs):
            report.compare("decode " + os.path.basename(path), our, their, 1)
        # Where TensorFlow reads an index as a grey level or refuses, Pillow says what is right.
        for path, our in zip(*palette_bmps(root, dump)):
            with Image.open(path) as image:
                report.compare("decode " + os.path.basename(path), our,
                               np.asarray(image.convert("RGB")), 0)
        # Keras' own pipeline stops at the first file that TensorFlow refuses.
        for path, their in zip(paths, theirs):
            if isinstance(their, str):
                os.remove(path)
        for height, width, keep in ((96, 96, False), (32, 50, False), (61, 7, True), (48, 90, True)):
            dataset = keras.utils.image_dataset_from_directory(
                os.path.dirname(folder), labels=None, batch_size=None, shuffle=False, verbose=False,
                image_size=(height, width), crop_to_aspect_ratio=keep)
            ours = dump.run(dataset.file_paths, height, width, keep_aspect=keep)
            for path, our, their in zip(dataset.file_paths, ours, dataset):
                what = f"resize to {height} x {width}, keep_aspect {keep}: {os.path.basename(path)}"
                report.compare(what, our, their.numpy(), 1)
        good = [(p, t) for p, t in zip(paths, theirs) if not isinstance(t, str)]
        for height, width in ((17, 23), (150, 40), (33, 64)):
            ours = dump.run([p for p, _ in good], height, width, antialias=True)
            for our, (path, their) in zip(ours, good):
                expected = tf.image.resize(their, (height, width), antialias=True).numpy()
                what = f"antialiased to {height} x {width}: {os.path.basename(path)}"
                report.compare(what, our, expected, 1)
    for failure in report.failures:
        print(failure)
    print(f"{report.compared} comparisons, {len(report.failures)} failures, "
          f"worst difference {report.worst:.3f} levels")
    return 1 if report.failures or report.compared < 800 else 0


sys.exit(main())
