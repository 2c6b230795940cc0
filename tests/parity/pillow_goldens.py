#!/usr/bin/env python3
"""Writes pillow_goldens.json: what Pillow makes of the samples and of some tiny pictures made here.

    pip install pillow==12.3.0 blake3
    python tests/parity/pillow_goldens.py [SAMPLES]

Per sample: "HxW hash" of Image.open(f).convert("RGB"), a second one where ImageOps.exif_transpose gives
another, or "error: <exception>". Per resize: the hash of Image.resize. Tiny pictures carry their files, so
that the test needs no samples; each comes with cut and padded variants. Hashes are BLAKE3, 16 hex digits.
"""
import io
import json
import random
import struct
import sys
import warnings
import zlib
from pathlib import Path

import PIL
from blake3 import blake3
from PIL import Image, ImageOps

warnings.simplefilter("ignore")
HERE = Path(__file__).parent
SAMPLES = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[2] / "shared/samples"
FOLDERS = ["broken/images", "coco/train2017", "coco/val2017", "coco/panoptic_sample", "ade20k"]
FILTERS = {"pillow-bilinear-hv": Image.BILINEAR, "pillow-bicubic-hv": Image.BICUBIC}


def digest(data):
    return blake3(data).hexdigest()[:16]


def outcome(open_):
    try:
        image = open_()
    except Exception as error:
        return f"error: {type(error).__name__}"
    return f"{image.height}x{image.width} {digest(image.tobytes())}"


def outcomes(data):
    """What Pillow makes of a file's bytes; the second outcome only where it differs."""
    plain = outcome(lambda: Image.open(io.BytesIO(data)).convert("RGB"))

    def turned():
        # A broken EXIF block is orientation 1 here, where exif_transpose raises.
        image = Image.open(io.BytesIO(data))
        try:
            image = ImageOps.exif_transpose(image)
        except SyntaxError:
            pass
        return image.convert("RGB")

    oriented = outcome(turned)
    return [plain] if oriented == plain else [plain, oriented]


def resizes(image, sizes):
    return {
        f"{h}x{w} {name}": digest(image.resize((w, h), filter_).tobytes())
        for h, w in sizes
        for name, filter_ in FILTERS.items()
    }


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, color, seed, extra=b"", interlaced=False):
    """A PNG of random samples, rows unfiltered; Adam7 where asked for."""
    rng = random.Random(seed)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x0, y0, dx, dy in passes if interlaced else [(0, 0, 1, 1)]:
        columns, rows = len(range(x0, width, dx)), len(range(y0, height, dy))
        for _ in range(rows if columns else 0):
            raw += b"\0" + rng.randbytes((columns * samples * depth + 7) // 8)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
    )


def tiny():
    rng = random.Random(7)
    smooth = Image.frombytes("RGB", (5, 4), rng.randbytes(60)).resize((37, 21), Image.BICUBIC)
    jpeg = {
        "rgb_420": ("RGB", dict(quality=90)),
        "rgb_444": ("RGB", dict(quality=60, subsampling=0)),
        "rgb_422_restarts": ("RGB", dict(quality=80, subsampling=1, restart_marker_rows=1)),
        "progressive": ("RGB", dict(quality=75, progressive=True)),
        "grey": ("L", dict(quality=75)),
        "cmyk": ("CMYK", dict(quality=85)),
    }
    for name, (mode, options) in jpeg.items():
        out = io.BytesIO()
        smooth.convert(mode).save(out, "JPEG", **options)
        yield f"{name}.jpg", out.getvalue()
    for orientation in (3, 5, 6, 8):
        exif = Image.Exif()
        exif[0x112] = orientation
        out = io.BytesIO()
        smooth.crop((0, 0, 11, 6)).save(out, "JPEG", exif=exif)
        yield f"orientation_{orientation}.jpg", out.getvalue()
    out = io.BytesIO()
    smooth.crop((0, 0, 9, 5)).save(out, "JPEG", exif=b"Exif\0\0broken")
    yield "broken_exif.jpg", out.getvalue()
    palette = lambda n: chunk(b"PLTE", rng.randbytes(3 * n))
    yield "grey1.png", png(13, 7, 1, 0, 1)
    yield "grey2.png", png(13, 7, 2, 0, 2)
    yield "grey4_interlaced.png", png(13, 7, 4, 0, 3, interlaced=True)
    yield "grey8.png", png(13, 7, 8, 0, 4, chunk(b"tRNS", b"\0\7"))
    yield "grey_alpha16.png", png(13, 7, 16, 4, 5)
    yield "rgb8_interlaced.png", png(13, 7, 8, 2, 6, interlaced=True)
    yield "rgb16.png", png(13, 7, 16, 2, 7)
    yield "rgba8.png", png(13, 7, 8, 6, 8)
    yield "palette2.png", png(13, 7, 2, 3, 9, palette(4))
    yield "palette4_short.png", png(13, 7, 4, 3, 10, palette(11))
    yield "palette8_short.png", png(13, 7, 8, 3, 11, palette(200) + chunk(b"tRNS", bytes(range(200))))
    tiff = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x112, 3, 1, 6) + b"\0\0\0\0"
    yield "exif.png", png(9, 5, 8, 2, 12, chunk(b"eXIf", tiff))
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation=\"8\"/>"
    yield "xmp.png", png(9, 5, 8, 2, 13, chunk(b"iTXt", xmp))


def variants(name, data):
    """Cut at the end, padded behind the cut, and with single bytes changed."""
    rng = random.Random(name)
    for cut in (1, 2, 3, 5, 9, 17, len(data) // 3):
        yield f"cut {cut}", data[:-cut]
    if name.endswith(".jpg"):
        for zeros in (1, 4, 8, 9, 16, 100):
            yield f"zeros {zeros}", data[:-2] + bytes(zeros)
    yield "junk 50", data + bytes(range(50))
    for _ in range(8):
        at, value = rng.randrange(len(data)), rng.randrange(256)
        yield f"byte {at} {value}", data[:at] + bytes([value]) + data[at + 1 :]


def main():
    golden = {"pillow": PIL.__version__, "samples": {}, "resize": {}, "tiny": {}}
    if SAMPLES.is_dir():
        for folder in FOLDERS:
            for path in sorted((SAMPLES / folder).rglob("*")):
                if path.is_file() and (folder == "broken/images" or path.suffix in (".jpg", ".png")):
                    golden["samples"][str(path.relative_to(SAMPLES))] = outcomes(path.read_bytes())
        for path in sorted((SAMPLES / "coco/val2017").glob("*.jpg"))[:12]:
            image = Image.open(path).convert("RGB")
            sizes = [(800, 1067), (256, 341), (512, 512), (image.height, 300), (300, image.width), (7, 1000), (900, 5)]
            golden["resize"][str(path.relative_to(SAMPLES))] = resizes(image, sizes)
    for name, data in tiny():
        entry = {"file": data.hex(), "outcomes": outcomes(data)}
        entry["variants"] = {what: outcomes(changed)[0] for what, changed in variants(name, data)}
        if name in ("rgb_420.jpg", "rgb8_interlaced.png"):
            image = Image.open(io.BytesIO(data)).convert("RGB")
            sizes = [(1, 1), (3, 50), (50, 3), (21, 80), (40, 37), (9, 11), (64, 64), (200, 1)]
            entry["resize"] = resizes(image, sizes)
        golden["tiny"][name] = entry
    path = HERE / "pillow_goldens.json"
    path.write_text(json.dumps(golden, indent=0, sort_keys=True) + "\n")
    print(f"{path}: {path.stat().st_size} bytes, {len(golden['samples'])} samples, {len(golden['tiny'])} tiny")


if __name__ == "__main__":
    main()
