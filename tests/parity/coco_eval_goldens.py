"""Goldens of COCO's detection metric: what pycocotools makes of drawn pairs of truth and detections.

Makes tests/golden/coco_eval.safetensors, which tests/cases/coco_eval.rs compares with. The cases are not stored: both
sides draw them from the same integers (`case`). Of each case it keeps the twelve numbers for boxes and masks, and sums
over all bits of the arrays and over all matches. With the samples it also keeps the numbers by category of COCO's fake
results.

Needs: pycocotools 2.0.11, numpy, safetensors. Run from the workspace root:
    python tests/parity/coco_eval_goldens.py SAMPLES
"""

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.numpy import save_file
from seed import GOLDEN, MASK, mix

CASES = 500
TYPES = ["bbox", "segm"]


class Draw:
    """heads::seed::Seed(seed).stream(), below a bound."""

    def __init__(self, seed):
        self.state = seed

    def __call__(self, bound):
        self.state = (self.state + GOLDEN) & MASK
        return mix(self.state) % bound


def ragged(size, box, step):
    """Run lengths of a box with teeth: columns begin and end at heights that depend on their number."""
    height, width = size
    x, y, w, h = box
    clip = lambda v, end: int(min(max(v, 0), end))
    left, right = clip(x, width), clip(x + w + 1, width)
    top, bottom = clip(y, height), clip(y + h + 1, height)
    runs = [[False, 0]]

    def push(inside, count):
        if count > 0 and runs[-1][0] == inside:
            runs[-1][1] += count
        elif count > 0:
            runs.append([inside, count])

    for column in range(width):
        a, b = top + column % step, bottom - column // step % 3
        if left <= column < right and a < b:
            push(False, a)
            push(True, b - a)
            push(False, height - b)
        else:
            push(False, height)
    return {"size": [height, width], "counts": [count for _, count in runs]}


def case(number):
    """Instances and results. Every draw is made whether or not it is used."""
    d = Draw(number)
    categories = [3 * i + 1 + d(3) for i in range(1 + d(5))]
    images = [(10 * i + d(10), 100 + d(60), 100 + d(60)) for i in range(1 + d(6))]
    if d(2) == 1:
        images.reverse()
    annotations, results = [], []
    for image, height, width in images:
        here = []
        empty, count = d(4), d(10)
        for _ in range(0 if empty == 0 else count):
            category, kind = categories[d(len(categories))], d(8)
            x, y, w, h = d(4 * width) / 4, d(4 * height) / 4, d(240) / 4, d(240) / 4
            size, area, crowd = d(6), d(12000), d(7) == 0
            a, b, step = d(9) / 4, d(9) / 4, 1 + d(4)
            if kind == 0:
                w = 0.0
            elif kind <= 3:
                w, h = [(32.0, 32.0), (96.0, 96.0), (16.0, 64.0)][kind - 1]
            elif kind == 4 and here:
                x, y, w, h = here[-1]["bbox"]
            area = [1024.0, 9216.0, float(area), w * h, w * h, w * h][size]
            polygon = [x, y, x + w + 1, y + a, x + w + 1, y + h + 1, x - b, y + h + 1]
            shape = ragged((height, width), (x, y, w, h), step) if crowd else [polygon]
            here.append({
                "id": len(annotations) + len(here) + 1, "image_id": image, "category_id": category,
                "bbox": [x, y, w, h], "area": area, "iscrowd": int(crowd), "segmentation": shape,
            })
        annotations += here
        many, count = d(12), d(25)
        for _ in range([0, 115][many] if many < 2 else count):
            copy, pick, category = d(3), d(1000), categories[d(len(categories))]
            shift = [(d(9) - 4) / 2 for _ in range(4)]
            x, y, w, h = d(4 * width) / 4, d(4 * height) / 4, d(240) / 4, d(240) / 4
            coarse, few, fine, step = d(3), d(6), d(100000), 1 + d(4)
            if copy > 0 and here:
                base = here[pick % len(here)]
                category = base["category_id"]
                x, y, w, h = base["bbox"]
                if copy == 1:
                    x, y, w, h = x + shift[0], y + shift[1], max(w + shift[2], 0.0), max(h + shift[3], 0.0)
            if many == 1:
                category = categories[0]
            result = {"image_id": image, "category_id": category, "score": few / 8 if coarse == 0 else fine / 100000}
            if number % 4 != 2:
                result["bbox"] = [x, y, w, h]
            if number % 4 != 0:
                shape = ragged((height, width), (x, y, w, h), step)
                result["segmentation"] = masks.frPyObjects(shape, height, width)
            results.append(result)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": h, "width": w} for i, h, w in images],
        "categories": [{"id": i, "name": str(i)} for i in categories],
        "annotations": annotations,
    }
    truth.createIndex()
    return truth, results


def bits_sum(array):
    """Sum of the bits of all numbers, each times an odd number that depends on its place."""
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(array).reshape(-1).view(np.uint64)
        weights = (np.arange(bits.size, dtype=np.uint64) * np.uint64(GOLDEN)) | np.uint64(1)
        return int((bits * weights).sum(dtype=np.uint64))


def match_sum(evaluation):
    """Sum over detections of objects of all sizes at IoU .5: their objects and whether they are ignored."""
    total = 0
    for one in evaluation.evalImgs:
        if one is None or one["aRng"] != evaluation.params.areaRng[0]:
            continue
        for i, detection in enumerate(one["dtIds"]):
            code = 2 * int(one["dtMatches"][0, i]) + int(one["dtIgnore"][0, i])
            total += mix(detection) * (code + 1)
    return total & MASK


def evaluate(truth, results, kind, adapt=lambda params: None):
    found = truth.loadRes(results) if results else COCO()
    found.createIndex()
    evaluation = COCOeval(truth, found, kind)
    adapt(evaluation.params)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def drawn():
    stats = np.zeros((CASES, 2, 12))
    sums = np.zeros((CASES, 2, 4), dtype=np.uint64)
    for number in range(CASES):

        def adapt(params):
            params.useCats = int(number % 5 != 4)
            if number % 7 == 3:
                params.maxDets = [1, 3, 20]

        for i, kind in enumerate(TYPES):
            truth, results = case(number)
            evaluation = evaluate(truth, results, kind, adapt)
            stats[number, i] = evaluation.stats
            arrays = [evaluation.eval[name] for name in ["precision", "recall", "scores"]]
            sums[number, i] = [*map(bits_sum, arrays), match_sum(evaluation)]
    return {"stats": stats, "sums": sums.view(np.int64)}


def fake100(samples):
    """AP, AP50, AP75, APs, APm, APl and AR of every category."""
    folder = samples / "coco/golden_eval/cocoapi_fake100"
    out = np.full((2, 80, 7), -1.0)
    for i, kind in enumerate(TYPES):
        truth = COCO(folder / "annotations/instances_val2014_100.json")
        evaluation = evaluate(truth, str(folder / f"results/instances_val2014_fake{kind}100_results.json"), kind)
        precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
        for k in range(80):
            parts = [precision[:, :, k, 0, 2], precision[0, :, k, 0, 2], precision[5, :, k, 0, 2]]
            parts += [precision[:, :, k, a, 2] for a in [1, 2, 3]] + [recall[:, k, 0, 2]]
            for n, part in enumerate(parts):
                part = part[part > -1]
                out[i, k, n] = part.mean() if part.size else -1
    params = evaluation.params
    return {"fake100": out, "thresholds": params.iouThrs, "recalls": params.recThrs}


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        tensors = fake100(Path(sys.argv[1])) | drawn()
    absent = (tensors["stats"] == -1).mean(axis=(0, 1))
    print("mean", tensors["stats"].mean(axis=0).round(3).tolist(), "absent", absent.tolist())
    save_file(tensors, Path("tests/golden/coco_eval.safetensors"))
