"""Goldens of the masks: run lengths by pycocotools, mask targets by torchvision, pasted masks by both
conventions' own formulas, run lengths resized by OpenCV.

Makes tests/golden/heads.masks.json and heads.masks.safetensors, which tests/cases/masks.rs compares with.
Polygons, boxes and probabilities are not stored: both sides draw them from the same hash. COCO's samples
are not stored either: with their folder as argument, only hashes of their run lengths are.

Needs: torch 2.11, torchvision 0.26, pycocotools 2.0.11, opencv-python-headless 4.11, safetensors. Run from
the workspace root:
    python tests/parity/masks_goldens.py FOLDER_OF_SAMPLES
"""

import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco
from safetensors.torch import save_file
from seed import bits, derive, named
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

torch.set_num_threads(1)


class Stream:
    """heads::seed::Seed(7).named(name).stream()."""

    def __init__(self, name):
        self.numbers = bits(name, 4096)
        self.at = 0

    def uniform(self):
        self.at += 1
        return float(self.numbers[self.at - 1] >> np.uint64(11)) / 2.0**53

    def below(self, count):
        return int(self.uniform() * count)


SIZES = [(1, 1), (1, 37), (37, 1), (16, 16), (48, 64), (97, 131), (240, 320)]
KINDS = [
    "cents", "whole", "tenths", "real", "overhang", "outside", "line", "point", "repeated", "far", "sliver", "border",
]


def ring(kind, index, size):
    """tests/cases/masks.rs draws the same numbers with the same operations."""
    s = Stream(f"polygon.{kind}.{index}")
    h, w = size
    count = 3 + s.below(12)
    point = lambda low, high: [(low + (high - low) * s.uniform()) * w, (low + (high - low) * s.uniform()) * h]
    points = []
    if kind in ("cents", "whole", "tenths"):
        steps = {"cents": 100.0, "whole": 1.0, "tenths": 10.0}[kind]
        points = [[math.floor(v * steps) / steps for v in point(0.0, 1.0)] for _ in range(count)]
    elif kind == "real":
        points = [point(0.0, 1.0) for _ in range(count)]
    elif kind == "overhang":
        points = [point(-1.0, 2.0) for _ in range(count)]
    elif kind == "outside":
        sx, sy = s.below(3) - 1, s.below(3) - 1
        points = [point(0.0, 1.0) for _ in range(count)]
        points = [[x + sx * 1.5 * w, y + sy * 1.5 * h] for x, y in points]
    elif kind == "line":
        a, b = point(-0.2, 1.2), point(-0.2, 1.2)
        for _ in range(count):
            t = s.below(9) / 8.0
            points.append([a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t])
    elif kind == "point":
        a = point(0.0, 1.0)
        points = [[a[0] + s.uniform() * 1.2, a[1] + s.uniform() * 1.2] for _ in range(count)]
    elif kind == "repeated":
        for _ in range(count):
            a = point(-0.1, 1.1)
            points += [a] * (1 + s.below(3))
        points.append(points[0])
    elif kind == "far":
        points = [point(-300.0, 300.0) for _ in range(count)]
    elif kind == "sliver":
        a, b = point(0.0, 1.0), point(0.0, 1.0)
        points = [a, b, [b[0] + s.uniform() * 0.7, b[1] + s.uniform() * 0.7], [a[0] + 0.3, a[1] + 0.3]]
    elif kind == "border":
        places = [0.0, 0.5, 1.0, -0.1, 0.1, 0.9]
        for _ in range(count):
            x, y = s.below(12), s.below(12)
            points.append([(x // 6) * w + places[x % 6], (y // 6) * h + places[y % 6]])
    return [v for p in points for v in p]


def rasterise(rings, size):
    return coco.merge(coco.frPyObjects(rings, size[0], size[1]))


def text(rle):
    return rle["counts"].decode()


def described(rle):
    return [text(rle), int(coco.area(rle)), [float(v) for v in coco.toBbox(rle)]]


def polygons():
    return {
        kind: [described(rasterise([ring(kind, i, SIZES[i % len(SIZES)])], SIZES[i % len(SIZES)])) for i in range(28)]
        for kind in KINDS
    }


def large():
    """Sizes at which a slip of 32 bits would show: areas and boxes, and a hash of the counts."""
    out = []
    for i, size in enumerate([(800, 1216), (4096, 3), (3, 4096), (16384, 16384)]):
        for kind in ("cents", "overhang", "real"):
            rle = rasterise([ring(kind, 100 + i, size)], size)
            _, area, box = described(rle)
            out.append([list(size), kind, 100 + i, str(named(7, text(rle))), area, box])
    return out


def together():
    """Unions, intersections and overlaps of a few masks, some with several parts."""
    size = (97, 131)
    masks = [rasterise([ring(kind, 200 + i, size) for i in range(parts)], size)
             for kind, parts in [("cents", 1), ("cents", 3), ("overhang", 2), ("sliver", 4), ("far", 1), ("outside", 1)]]
    empty = coco.encode(np.zeros((*size, 1), np.uint8, order="F"))[0]
    full = coco.encode(np.ones((*size, 1), np.uint8, order="F"))[0]
    masks += [empty, full]
    crowd = [0, 1, 0, 1, 0, 1, 0, 1]
    iou = coco.iou(masks, masks, crowd)
    mirrored = [coco.encode(np.asfortranarray(coco.decode(m)[:, ::-1])) for m in masks]
    return {
        "masks": [text(m) for m in masks],
        "mirrored": [text(m) for m in mirrored],
        "union": [text(coco.merge(masks[i : i + 3])) for i in range(6)],
        "intersection": [text(coco.merge(masks[i : i + 3], intersect=True)) for i in range(6)],
        "crowd": crowd,
        # As texts: JSON readers differ in the last digit of numbers.
        "iou": [[repr(float(v)) for v in row] for row in iou],
    }


PLACES = [
    ((97, 131), (160, 216), (160, 224)),
    ((97, 131), (41, 55), (64, 64)),
    ((48, 64), (48, 64), (64, 64)),
    ((37, 1), (70, 3), (96, 32)),
    ((5, 7), (333, 466), (352, 480)),
]


def placed():
    """mmdet PolygonMasks and BitmapMasks: resize, flip, pad."""
    out = []
    for i, (source, valid, padded) in enumerate(PLACES):
        for flip in (False, True):
            rings = [ring(kind, 300 + i, source) for kind in ("cents", "real")]
            moved = []
            for r in rings:
                p = np.array(r)
                p[0::2] *= valid[1] / source[1]
                p[1::2] *= valid[0] / source[0]
                if flip:
                    p[0::2] = valid[1] - p[0::2]
                moved.append(p.tolist())
            bitmap = coco.decode(rasterise(rings, source))
            bitmap = cv2.resize(bitmap, (valid[1], valid[0]), interpolation=cv2.INTER_NEAREST)
            if flip:
                bitmap = bitmap[:, ::-1]
            whole = np.zeros(padded, np.uint8, order="F")
            whole[: valid[0], : valid[1]] = bitmap
            out.append([text(rasterise(moved, padded)), text(coco.encode(whole))])
    return out


def box(s, size):
    """A box that may pass the picture's border by a fifth."""
    h, w = size
    x = sorted([np.float32((-0.2 + 1.4 * s.uniform()) * w), np.float32((-0.2 + 1.4 * s.uniform()) * w)])
    y = sorted([np.float32((-0.2 + 1.4 * s.uniform()) * h), np.float32((-0.2 + 1.4 * s.uniform()) * h)])
    return [float(x[0]), float(y[0]), float(x[1]), float(y[1])]


TARGETS = [(28, 0, True), (28, 0, False), (14, 2, True), (7, 3, False), (14, 2, False), (5, 0, True)]


def targets(tensors):
    """torchvision.ops.roi_align of bitmaps; boxes drawn, then some on whole pixels, where shares of exactly
    one half are common, one below a pixel, one far outside and one around everything."""
    size = (97, 131)
    bitmap = coco.decode(rasterise([ring("cents", 200 + i, size) for i in range(3)], size))
    full = np.ones(size, np.uint8)
    half = np.zeros(size, np.uint8)
    half[:, :40] = 1
    for name, mask in (("drawn", bitmap), ("full", full), ("half", half)):
        for i, (side, sampling, aligned) in enumerate(TARGETS):
            s = Stream(f"target.{name}.{i}")
            boxes = [box(s, size) for _ in range(5)]
            boxes += [[math.floor(v) for v in box(s, size)] for _ in range(3)]
            boxes += [[12.0, 8.0, 68.0, 64.0], [40.3, 20.2, 40.7, 20.4], [500.0, 500.0, 600.0, 650.0]]
            boxes += [[-200.0, -100.0, 400.0, 300.0], [30.0, 30.0, 30.0, 40.0], [131.0, 97.0, 140.0, 99.0]]
            rois = torch.tensor(boxes, dtype=torch.float32)
            # torch's -1 and mmcv's 0 both count the samples by the box.
            out = roi_align(torch.from_numpy(mask).float()[None, None], [rois], (side, side), 1.0, sampling, aligned)
            if name == "drawn":
                tensors[f"target.{name}.{i}"] = out[:, 0].contiguous()
            # Others by the bits of their shares over one half, which is what training sees.
            tensors[f"target.{name}.{i}.bits"] = torch.from_numpy(
                np.packbits((out[:, 0] >= 0.5).numpy().reshape(-1))
            )


def mmdet_paste(probabilities, bounds, size):
    """_do_paste_mask of mmdet/models/roi_heads/mask_heads/fcn_mask_head.py, over the whole picture."""
    x0, y0, x1, y1 = torch.tensor(bounds, dtype=torch.float32)
    grid_y = ((torch.arange(0, size[0], dtype=torch.float32) + 0.5 - y0) / (y1 - y0)) * 2 - 1
    grid_x = ((torch.arange(0, size[1], dtype=torch.float32) + 0.5 - x0) / (x1 - x0)) * 2 - 1
    grid = torch.stack([grid_x[None, :].expand(*size), grid_y[:, None].expand(*size)], dim=2)[None]
    return F.grid_sample(probabilities[None, None], grid, align_corners=False)[0, 0]


def pasted():
    """Draws whose probabilities come nearer than 2e-6 to one half somewhere are skipped: there the order of
    sums decides, and torch's own devices differ."""
    out = []
    draw = 0
    while len(out) < 60:
        s = Stream(f"paste.{draw}")
        size = [(60, 80), (97, 131), (13, 200), (240, 320)][draw % 4]
        side = [28, 28, 14, 1, 5][draw % 5]
        bounds = box(s, size)
        probabilities = torch.tensor([np.float32(s.uniform()) for _ in range(side * side)]).reshape(side, side)
        draw += 1
        if bounds[2] < 2 or bounds[3] < 2 or bounds[0] > size[1] - 2 or bounds[1] > size[0] - 2:
            continue  # torchvision fails where the box lies outside of the picture
        whole = mmdet_paste(probabilities, bounds, size)
        resized = paste_masks_in_image(probabilities[None, None], torch.tensor([bounds]), size)[0, 0]
        if min((whole - 0.5).abs().min(), (resized - 0.5).abs().min()) < 2e-6:
            continue
        found = [coco.encode(np.asfortranarray(m.numpy().astype(np.uint8))) for m in (whole >= 0.5, resized > 0.5)]
        out.append([draw - 1] + [text(m) for m in found])
    return out


def samples(folder):
    """Hashes of all masks of the COCO samples, in order."""
    out = {}
    for split in ("train2017", "val2017"):
        listing = json.loads((folder / f"coco/annotations/instances_{split}.json").read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in listing["images"]}
        seed, area, crowds = 7, 0, 0
        for annotation in listing["annotations"]:
            rle = coco.frPyObjects(annotation["segmentation"], *sizes[annotation["image_id"]])
            rle = coco.merge(rle) if isinstance(rle, list) else rle
            seed = derive(seed, named(7, text(rle)))
            area += int(coco.area(rle))
            crowds += annotation["iscrowd"]
        out[split] = [str(seed), area, len(listing["annotations"]), crowds]
    return out


def main():
    golden = Path(__file__).parent.parent / "golden"
    tensors = {}
    targets(tensors)
    save_file(tensors, golden / "heads.masks.safetensors")
    numbers = {
        "polygons": polygons(),
        "large": large(),
        "together": together(),
        "placed": placed(),
        "pasted": pasted(),
        "samples": samples(Path(sys.argv[1])),
    }
    (golden / "heads.masks.json").write_text(json.dumps(numbers, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
