"""Goldens of the detection operations: torchvision's own, and mmdetection's and mmcv's rules in numpy.

Makes tests/golden/heads.detection.safetensors, which tests/cases/detection.rs compares with. Inputs are
stored beside the outputs.

Needs: torch 2.11, torchvision 0.26, numpy, safetensors. Run from the workspace root:
    python tests/parity/detection_goldens.py
"""

import math
from pathlib import Path

import numpy as np
import torch
import torchvision.ops as ops
from safetensors.torch import save_file
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.poolers import LevelMapper

torch.set_num_threads(1)
torch.manual_seed(3)
goldens = {}


def keep(name, value):
    value = torch.as_tensor(value)
    assert name not in goldens and bool(torch.isfinite(value.double()).all()), name
    goldens[name] = value.detach().clone().contiguous()
    return goldens[name]


def random_boxes(count, size, least, most):
    """Boxes with log-uniform sides and centres in [0, size); they may reach over the edge."""
    sides = torch.exp(torch.empty(count, 2).uniform_(math.log(least), math.log(most)))
    centres = torch.rand(count, 2) * torch.tensor([float(size[1]), float(size[0])])
    return torch.cat([centres - sides / 2, centres + sides / 2], 1)


def overlaps():
    a, b = random_boxes(24, (100, 120), 4, 80), random_boxes(18, (100, 120), 4, 80)
    b[:3] = a[:3]  # equal
    b[3] = a[3] + torch.tensor([1.0, 1.0, -1.0, -1.0])  # contained
    b[4] = a[4, [2, 1, 2, 3]] + torch.tensor([0.0, 0.0, 10.0, 0.0])  # touching
    keep("overlap.a", a), keep("overlap.b", b)
    keep("overlap.iou", ops.box_iou(a, b))
    keep("overlap.giou", ops.generalized_box_iou(a, b))
    # Element by element with gradients: mmdet bbox_overlaps(mode="giou", is_aligned=True, eps=1e-7),
    # which for boxes with area is torchvision's pairwise diagonal.
    x = torch.cat([a[:18], b]).requires_grad_()
    y = torch.cat([b, a[:18]]).requires_grad_()
    giou = ops.generalized_box_iou(x, y).diagonal()
    weights = torch.linspace(0.5, 2, len(giou))
    (giou * weights).sum().backward()
    keep("giou.a", x), keep("giou.b", y), keep("giou.weights", weights), keep("giou.value", giou)
    keep("giou.gradient_a", x.grad), keep("giou.gradient_b", y.grad)


def deltas():
    boxes = random_boxes(40, (200, 300), 4, 200)
    truths = random_boxes(40, (200, 300), 4, 200)
    keep("delta.boxes", boxes), keep("delta.truths", truths)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    codes = keep("delta.encoded", coder.encode_single(truths, boxes))
    # Three classes, some far over the limit of the log ratio.
    codes = torch.cat([codes, codes * 0.3, torch.randn(40, 4) * 15], 1)
    keep("delta.codes", codes)
    codes.requires_grad_()
    boxes.requires_grad_()
    direction = keep("delta.direction", torch.randn(40, 12))
    decoded = coder.decode_single(codes, boxes)
    (decoded * direction).sum().backward()
    keep("delta.torchvision.decoded", decoded)
    keep("delta.torchvision.gradient", codes.grad), keep("delta.torchvision.gradient_boxes", boxes.grad)
    # mmdet delta2bbox: as torchvision's, but log ratios are limited on both sides.
    limit = abs(math.log(16 / 1000))
    limited = codes.detach().reshape(40, 3, 4).clone()
    limited[..., 2:] = (limited[..., 2:] * 0.2).clamp(-limit, limit) / 0.2
    decoded = coder.decode_single(limited.reshape(40, 12), boxes.detach())
    keep("delta.mmdetection.decoded", decoded)
    keep("delta.mmdetection.clipped", ops.clip_boxes_to_image(decoded.reshape(-1, 4), (180, 260)).reshape(40, 12))


def anchors():
    grid = AnchorGenerator(((32,), (64, 90)), ((0.5, 1.0, 2.0),) * 2)
    maps = [torch.zeros(1, 1, 6, 9), torch.zeros(1, 1, 3, 5)]
    image = ImageList(torch.zeros(1, 3, 26, 38), [(26, 38)])
    keep("anchor.torchvision", grid(image, maps)[0])
    # mmdet AnchorGenerator(strides=[4, 8], ratios=[.5, 1, 2], scales=[8]), centre offset 0.
    rows = []
    for stride, (h, w) in ((4, (6, 9)), (8, (3, 5))):
        tall = torch.sqrt(torch.tensor([0.5, 1.0, 2.0]))
        ws, hs = stride * (1 / tall) * 8.0, stride * tall * 8.0
        base = torch.stack([-0.5 * ws, -0.5 * hs, 0.5 * ws, 0.5 * hs], 1)
        y, x = torch.meshgrid(torch.arange(h) * stride, torch.arange(w) * stride, indexing="ij")
        shift = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4).float()
        rows.append((shift + base).reshape(-1, 4))
    keep("anchor.mmdetection", torch.cat(rows))


def suppression():
    centres = random_boxes(40, (200, 300), 10, 120).repeat(10, 1)
    boxes = keep("nms.boxes", centres + torch.randn(400, 4) * 4)
    scores = keep("nms.scores", torch.randint(1, 60, (400,)) / 60.0)  # many ties
    classes = keep("nms.classes", torch.randint(0, 4, (400,)))
    for threshold in (0.3, 0.5, 0.7):
        keep(f"nms.plain.{threshold}", ops.nms(boxes, scores, threshold))
        kept = torch.zeros(400, dtype=torch.bool)
        for label in range(4):  # _batched_nms_vanilla
            members = torch.where(classes == label)[0]
            kept[members[ops.nms(boxes[members], scores[members], threshold)]] = True
        kept = torch.where(kept)[0]
        order = scores[kept].sort(descending=True, stable=True)[1]
        keep(f"nms.batched.{threshold}", kept[order])
    # Scores without ties, since mmcv's order among ties comes from its swapping.
    scores = keep("soft_nms.scores", (torch.randperm(400) + 1) / 401.0)
    for name, rule in (("linear", lambda o: np.where(o >= np.float32(0.3), 1 - o, np.float32(1))),
                       ("gaussian", lambda o: np.exp(-(o * o) / np.float32(0.5)))):
        picked = []
        for label in range(4):
            left = torch.where(classes == label)[0]
            value = scores[left].numpy().copy()
            while len(left):
                best = int(value.argmax())
                picked.append((float(value[best]), int(left[best])))
                overlap = ops.box_iou(boxes[left[best]][None], boxes[left])[0].numpy()
                value = value * rule(overlap).astype(np.float32)
                stay = value >= np.float32(1e-3)
                stay[best] = False
                left, value = left[torch.from_numpy(stay)], value[stay]
        picked.sort(key=lambda pair: -pair[0])
        keep(f"soft_nms.{name}.index", torch.tensor([index for _, index in picked]))
        keep(f"soft_nms.{name}.score", torch.tensor([score for score, _ in picked]))


def mmdetection_assign(iou, positive, negative, least):
    """mmdet MaxIoUAssigner.assign_wrt_overlaps with match_low_quality; -2 ignored, -1 background."""
    truths, boxes = iou.shape
    result = np.full(boxes, -2)
    best, which = iou.max(0), iou.argmax(0)
    result[best < np.float32(negative)] = -1
    result[best >= np.float32(positive)] = which[best >= np.float32(positive)]
    for truth in range(truths):
        if iou[truth].max() >= np.float32(least):
            result[iou[truth] == iou[truth].max()] = truth
    return result


def assignment():
    y, x = torch.meshgrid(torch.arange(0, 128, 8.0), torch.arange(0, 160, 8.0), indexing="ij")
    half = torch.tensor([[11.0, 11.0], [16.0, 8.0], [8.0, 16.0]])
    centres = torch.stack([x, y], -1).reshape(-1, 1, 2)
    boxes = keep("assign.boxes", torch.cat([centres - half, centres + half], -1).reshape(-1, 4))
    truths = random_boxes(9, (128, 160), 12, 50)
    truths[:3] = truths[:3].round()
    truths[4] = boxes[500]  # an exact fit
    truths[5] = boxes[300] + torch.tensor([0.0, 0.0, 8.0, 0.0])  # ties between neighbours
    truths[6] = boxes[500] + torch.tensor([0.0, 0.0, 0.0, 1.0])  # competes with 4
    keep("assign.truths", truths)
    iou = ops.box_iou(truths, boxes)
    keep("assign.restore", Matcher(0.7, 0.3, allow_low_quality_matches=True)(iou.clone()))
    keep("assign.off", Matcher(0.5, 0.4, allow_low_quality_matches=False)(iou.clone()))
    keep("assign.claim", mmdetection_assign(iou.numpy(), 0.7, 0.3, 0.3))
    keep("assign.claim_none", mmdetection_assign(iou.numpy(), 0.5, 0.5, 0.5))


def pooling():
    # (x1, y1, x2, y2) on a picture of 104 × 136 with stride 8.
    rois = random_boxes(16, (104, 136), 2, 120)
    rois = torch.cat([rois, torch.tensor([
        [0.0, 0, 136, 104], [-40, -30, 200, 160], [-400, -300, 500, 460],  # all, over the edge, huge
        [50, 50, 50.01, 50.01], [64, 48, 64, 48],                          # tiny, empty
        [300, 20, 340, 60], [-90, -90, -60, -60],                          # off the map
        [8, 16, 64, 72], [120, 90, 136, 104], [-8, -8, 8, 8], [70, 20, 40, 60],  # whole cells, corners, reversed
    ])])
    pictures = torch.arange(len(rois)) % 2
    keep("roi.bounds", rois), keep("roi.pictures", pictures)
    with_pictures = torch.cat([pictures[:, None].float(), rois], 1)
    table = keep("roi.map", torch.randn(2, 3, 13, 17))
    direction = keep("roi.direction", torch.randn(len(rois), 3, 5, 5))
    for ratio in (-1, 2, 3):
        for aligned in (False, True):
            x = table.clone().requires_grad_()
            out = ops.roi_align(x, with_pictures, 5, 1 / 8, ratio, aligned)
            (out * direction).sum().backward()
            name = f"roi.{ratio}.{'aligned' if aligned else 'shifted'}"
            keep(f"{name}.value", out), keep(f"{name}.gradient", x.grad)


def levels():
    boxes = random_boxes(60, (800, 1200), 6, 1200)
    # On a level's limit, just below it, and below it by less than the rules' 1e-6.
    boxes[:7] = torch.tensor([[0.0, 0, s, s] for s in (56, 112, 224, 448, 896, 111.99, 111.99996)])
    keep("level.boxes", boxes)
    keep("level.torchvision", LevelMapper(2, 5)([boxes]))
    scale = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    keep("level.mmdetection", torch.floor(torch.log2(scale / 56 + 1e-6)).clamp(0, 3).long())
    # Four levels of two pictures of 64 × 96, canonical side 32 so that all levels are used.
    maps = {f"p{i}": keep(f"levels.p{i}", torch.randn(2, 2, 64 >> i, 96 >> i)) for i in range(2, 6)}
    boxes = [keep(f"levels.boxes{i}", random_boxes(10, (64, 96), 4, 90)) for i in range(2)]
    pool = ops.MultiScaleRoIAlign(list(maps), 4, 2, canonical_scale=32)
    maps = {name: x.clone().requires_grad_() for name, x in maps.items()}
    out = keep("levels.value", pool(maps, boxes, [(64, 96)] * 2))
    direction = keep("levels.direction", torch.randn(out.shape))
    (pool(maps, boxes, [(64, 96)] * 2) * direction).sum().backward()
    for name, x in maps.items():
        keep(f"levels.gradient.{name}", x.grad)


for make in (overlaps, deltas, anchors, suppression, assignment, pooling, levels):
    make()
path = Path("tests/golden/heads.detection.safetensors")
save_file(goldens, path)
print(f"{path}: {len(goldens)} tensors, {path.stat().st_size} bytes")
