"""Goldens of the detectors: torchvision's Mask R-CNN itself, and mmdetection's Mask R-CNN, Cascade Mask
R-CNN, HTC and BiFPN written down here from their published definitions on torchvision's operators.

Makes tests/golden/detector.json, which tests/cases/detector.rs compares with. Inputs and weights are not
stored: both sides draw them from the same hash (`drawn_tensor.py`), by the names of the state dicts. Of large tensors
the golden holds norm and projection on a drawn direction. Samplers take all, so nothing is random.

Needs: torch 2.11, torchvision 0.26, numpy. Run from the workspace root:
    OMP_NUM_THREADS=1 python tests/parity/detector_goldens.py
"""

import json
import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from drawn_tensor import draw, fill
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, batched_nms, box_iou, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

torch.set_num_threads(1)

CLASSES = 5
STUFF = 7
PADDED = (128, 160)
VALID = [(120, 150), (128, 97), (101, 160)]
LEVELS = [("p2", 8, 4), ("p3", 12, 8), ("p4", 16, 16), ("p5", 24, 32)]
STRIDES = [4, 8, 16, 32, 64]
WIDTH = 16
FC = 32
# x1, y1, x2, y2, class; the third picture has no objects.
OBJECTS = [
    [(10.5, 8.25, 60.0, 70.5, 0), (50.0, 40.0, 148.0, 118.0, 3), (100.25, 5.5, 117.75, 21.0, 4)],
    [(5.0, 60.0, 90.0, 125.0, 1), (30.0, 3.0, 49.5, 28.0, 3)],
    [],
]


def maps():
    return [
        draw(f"map.{name}", [len(VALID), c, PADDED[0] // s, PADDED[1] // s], -2.0, 2.0).requires_grad_()
        for name, c, s in LEVELS
    ]


def ellipse(box):
    x1, y1, x2, y2 = box
    cx, cy, rx, ry = (x1 + x2) / 2.0, (y1 + y2) / 2.0, (x2 - x1) / 2.0, (y2 - y1) / 2.0
    y, x = np.mgrid[0 : PADDED[0], 0 : PADDED[1]].astype(np.float64)
    dx, dy = (x + 0.5 - cx) / rx, (y + 0.5 - cy) / ry
    return torch.from_numpy((dx * dx + dy * dy <= 1.0).astype(np.uint8))


def targets():
    found = []
    for objects in OBJECTS:
        boxes = torch.tensor([o[:4] for o in objects], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([o[4] for o in objects], dtype=torch.int64)
        masks = torch.stack([ellipse(o[:4]) for o in objects]) if objects else torch.zeros(0, *PADDED, dtype=torch.uint8)
        found.append(dict(boxes=boxes, labels=labels, masks=masks))
    return found


def pair(name, tensor):
    """Norm and projection on the direction drawn for the name."""
    tensor = tensor.detach().double()
    direction = draw(f"direction.{name}", list(tensor.shape)).double()
    return [tensor.norm().item(), (tensor * direction).sum().item()]


def record(case, model, forward, detect, inputs):
    """Losses, the gradients of their sum, and detections."""
    out = {"names": {n: list(t.shape) for n, t in model.state_dict().items() if "num_batches" not in n}}
    losses, extra = forward()
    out["losses"] = {name: value.item() for name, value in losses.items()}
    out.update({name: [pair(f"{name}.{i}", t) for i, t in enumerate(ts)] for name, ts in extra.items()})
    tunable = [(n, p) for n, p in model.named_parameters()]
    total = sum(losses.values())
    grads = torch.autograd.grad(total, inputs + [p for _, p in tunable], allow_unused=True)
    out["map_gradients"] = [pair(f"map_gradient.{i}", g) for i, g in enumerate(grads[: len(inputs)])]
    out["gradients"] = {
        n: pair(n, torch.zeros_like(p) if g is None else g) for (n, p), g in zip(tunable, grads[len(inputs) :])
    }
    with torch.no_grad():
        out["detections"] = [
            {
                "boxes": d["boxes"].tolist(),
                "scores": d["scores"].tolist(),
                "labels": d["labels"].tolist(),
                "masks": [m.double().mean().item() for m in d["masks"]],
                "mask_projections": pair(f"masks.{i}", d["masks"])[1],
            }
            for i, d in enumerate(detect())
        ]
    print(case, {k: round(v, 5) for k, v in out["losses"].items()}, [len(d["scores"]) for d in out["detections"]])
    return out


# ---------------------------------------------------------------------------------------- torchvision


class TorchvisionMaskRcnn(nn.Module):
    """torchvision.models.detection.MaskRCNN behind its backbone's body, names as in its state dict."""

    def __init__(self, v2):
        super().__init__()
        norm = nn.BatchNorm2d if v2 else None
        self.backbone = nn.Module()
        self.backbone.fpn = FeaturePyramidNetwork([c for _, c, _ in LEVELS], WIDTH, LastLevelMaxPool(), norm_layer=norm)
        anchors = AnchorGenerator(tuple((8 * s,) for s in STRIDES), ((0.5, 1.0, 2.0),) * len(STRIDES))
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(WIDTH, 3, conv_depth=2 if v2 else 1),
            0.7,
            0.3,
            20000,
            0.5,
            dict(training=200, testing=100),
            dict(training=300, testing=150),
            0.7,
        )
        pool = lambda side: MultiScaleRoIAlign(["0", "1", "2", "3"], side, 2)
        box_head = (
            FastRCNNConvFCHead((WIDTH, 7, 7), [WIDTH] * 4, [FC], norm_layer=norm)
            if v2
            else TwoMLPHead(WIDTH * 49, FC)
        )
        self.roi_heads = RoIHeads(
            pool(7), box_head, FastRCNNPredictor(FC, CLASSES + 1), 0.5, 0.5, 4000, 0.5, None, 0.05, 0.5, 100,
            pool(14), MaskRCNNHeads(WIDTH, [WIDTH] * 4, 1, norm_layer=norm), MaskRCNNPredictor(WIDTH, WIDTH, CLASSES + 1),
        )

    def forward(self, inputs, found=None):
        images = ImageList(torch.zeros(len(VALID), 3, *PADDED), VALID)
        features = self.backbone.fpn(OrderedDict((str(i), m) for i, m in enumerate(inputs)))
        features = OrderedDict(("pool" if k == "pool" else k, v) for k, v in features.items())
        if found is not None:
            found = [dict(t, labels=t["labels"] + 1) for t in found]
        proposals, rpn = self.rpn(images, features, found)
        detections, roi = self.roi_heads(features, proposals, VALID, found)
        return features, {**rpn, **roi}, detections


def torchvision_case(v2):
    model = TorchvisionMaskRcnn(v2)
    fill(model)
    inputs = maps()
    names = dict(loss_objectness="loss_rpn_cls", loss_rpn_box_reg="loss_rpn_bbox", loss_classifier="loss_cls",
                 loss_box_reg="loss_bbox", loss_mask="loss_mask")

    def forward():
        model.train()
        features, losses, _ = model(inputs, targets())
        return {names[k]: v for k, v in losses.items()}, {"pyramid": list(features.values())}

    def detect():
        model.eval()
        _, _, detections = model(inputs)
        return [dict(d, labels=d["labels"] - 1, masks=d["masks"][:, 0]) for d in detections]

    # Detections of trained statistics: eval first, so that batch norm's buffers are the drawn ones.
    with torch.no_grad():
        found = detect()
    return record("torchvision_v2" if v2 else "torchvision", model, forward, lambda: found, inputs)


# ------------------------------------------------------------------------------- mmdetection's detectors


class ConvModule(nn.Module):
    """mmcv's: convolution (bias where there is no norm) → norm → ReLU."""

    def __init__(self, i, o, k, norm=None, relu=True):
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, padding=k // 2, bias=norm is None)
        if norm == "gn":
            self.gn = nn.GroupNorm(min(32, o), o)
        self.norm, self.relu = norm, relu

    def forward(self, x):
        x = self.conv(x)
        if self.norm:
            x = self.gn(x)
        return F.relu(x) if self.relu else x


class Fpn(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(c, WIDTH, 1, relu=False) for c in channels)
        self.fpn_convs = nn.ModuleList(ConvModule(WIDTH, WIDTH, 3, relu=False) for _ in channels)

    def forward(self, xs):
        tops, top = [], None
        for conv, x in reversed(list(zip(self.lateral_convs, xs))):
            own = conv(x)
            top = own if top is None else own + F.interpolate(top, size=own.shape[2:], mode="nearest")
            tops.insert(0, top)
        outs = [conv(x) for conv, x in zip(self.fpn_convs, tops)]
        return outs + [outs[-1][:, :, ::2, ::2]]


class Combine(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(1, 1, 1, 1, count))

    def forward(self, xs):
        w = F.relu(self.weights.flatten())
        fused = torch.einsum("i,inchw->nchw", w / (w.sum() + 1e-4), torch.stack(xs))
        return fused * torch.sigmoid(fused)


class BiFpnLayer(nn.Module):
    def __init__(self, channels):
        super().__init__()
        n = len(channels)
        conv = lambda: ConvModule(WIDTH, WIDTH, 3, "gn", False)
        self.lateral_convs = nn.ModuleList(
            nn.Identity() if c == WIDTH else ConvModule(c, WIDTH, 1, "gn", False) for c in channels
        )
        self.lateral_combine = nn.ModuleList(Combine(2) for _ in range(n - 1))
        self.lateral_combine_conv = nn.ModuleList(conv() for _ in range(n - 1))
        self.out_combine = nn.ModuleList(Combine(3 if i < n - 2 else 2) for i in range(n - 1))
        self.out_combine_conv = nn.ModuleList(conv() for _ in range(n - 1))

    def forward(self, xs):
        own = [conv(x) for conv, x in zip(self.lateral_convs, xs)]
        n = len(own)
        down = [None] * n
        down[n - 1] = own[n - 1]
        for i in reversed(range(n - 1)):
            up = F.interpolate(down[i + 1], size=own[i].shape[2:], mode="nearest")
            down[i] = self.lateral_combine_conv[i](self.lateral_combine[i]([own[i], up]))
        out = [down[0]]
        for i in range(1, n):
            finer = F.max_pool2d(out[-1], 3, 2, 1)
            parts = [finer, down[i]] + ([own[i]] if i < n - 1 else [])
            out.append(self.out_combine_conv[i - 1](self.out_combine[i - 1](parts)))
        return out


class BiFpn(nn.Module):
    def __init__(self, channels, repeats):
        super().__init__()
        channels = channels + [channels[-1]]
        self.bi_fpn = nn.ModuleList(BiFpnLayer(channels if i == 0 else [WIDTH] * 5) for i in range(repeats))

    def forward(self, xs):
        xs = list(xs) + [F.max_pool2d(xs[-1], 3, 2, 1)]
        for layer in self.bi_fpn:
            xs = layer(xs)
        return xs


class BoxHead(nn.Module):
    def __init__(self, convs, fcs, norm, agnostic):
        super().__init__()
        self.shared_convs = nn.ModuleList(ConvModule(WIDTH, WIDTH, 3, norm) for _ in range(convs))
        self.shared_fcs = nn.ModuleList(nn.Linear(WIDTH * 49 if i == 0 else FC, FC) for i in range(fcs))
        self.fc_cls = nn.Linear(FC, CLASSES + 1)
        self.fc_reg = nn.Linear(FC, 4 if agnostic else 4 * CLASSES)

    def forward(self, x):
        for conv in self.shared_convs:
            x = conv(x)
        x = x.flatten(1)
        for fc in self.shared_fcs:
            x = F.relu(fc(x))
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(WIDTH, WIDTH, 3) for _ in range(4))
        if flow:
            self.conv_res = ConvModule(WIDTH, WIDTH, 1)
        self.upsample = nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)
        self.conv_logits = nn.Conv2d(WIDTH, CLASSES, 1)

    def forward(self, x, before=None):
        """Logits of all classes, and what is handed on."""
        if before is not None and hasattr(self, "conv_res"):
            x = x + self.conv_res(before)
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(F.relu(self.upsample(x))), x


class SemanticHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(WIDTH, WIDTH, 1) for _ in range(5))
        self.convs = nn.ModuleList(ConvModule(WIDTH, WIDTH, 3) for _ in range(4))
        self.conv_embedding = ConvModule(WIDTH, WIDTH, 1)
        self.conv_logits = nn.Conv2d(WIDTH, STUFF, 1)

    def forward(self, xs):
        x = self.lateral_convs[1](xs[1])
        for i in (0, 2, 3, 4):
            resized = F.interpolate(xs[i], size=x.shape[2:], mode="bilinear", align_corners=True)
            x = x + self.lateral_convs[i](resized)
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(x), self.conv_embedding(x)


def stuff_map(picture):
    """Classes at padded size, -1 outside of the picture."""
    y, x = np.mgrid[0 : PADDED[0], 0 : PADDED[1]]
    found = (x // 9 + 2 * (y // 11) + picture) % (STUFF + 1)
    found = np.where(found == STUFF, -1, found)
    found[VALID[picture][0] :] = -1
    found[:, VALID[picture][1] :] = -1
    return torch.from_numpy(found)


def encode(boxes, truths, stds):
    p = torch.stack([(boxes[:, 0] + boxes[:, 2]) * 0.5, (boxes[:, 1] + boxes[:, 3]) * 0.5], 1)
    g = torch.stack([(truths[:, 0] + truths[:, 2]) * 0.5, (truths[:, 1] + truths[:, 3]) * 0.5], 1)
    ps, gs = boxes[:, 2:] - boxes[:, :2], truths[:, 2:] - truths[:, :2]
    return torch.cat([(g - p) / ps, torch.log(gs / ps)], 1) / torch.tensor(stds)


def decode(boxes, deltas, stds, valid=None):
    """boxes [n, 4], deltas [n, k, 4] → [n, k, 4]."""
    deltas = deltas * torch.tensor(stds)
    limit = abs(math.log(16 / 1000))
    centre = ((boxes[:, :2] + boxes[:, 2:]) * 0.5)[:, None]
    sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
    centre = centre + deltas[..., :2] * sides
    half = sides * deltas[..., 2:].clamp(-limit, limit).exp() * 0.5
    out = torch.cat([centre - half, centre + half], -1)
    if valid is not None:
        h, w = valid
        out = torch.stack([out[..., 0].clamp(0, w), out[..., 1].clamp(0, h), out[..., 2].clamp(0, w), out[..., 3].clamp(0, h)], -1)
    return out


def giou(a, b):
    lt, rb = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    wh = (rb - lt).clamp(min=0)
    shared = wh[:, 0] * wh[:, 1]
    area = lambda x: (x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1])
    union = (area(a) + area(b) - shared).clamp(min=1e-6)
    outer = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0)
    enclosing = (outer[:, 0] * outer[:, 1]).clamp(min=1e-6)
    return shared / union - (enclosing - union) / enclosing


def assign(boxes, truths, positive, negative, low):
    """MaxIoUAssigner: -1 ignored, 0 background, 1 + index of the truth."""
    out = torch.full((len(boxes),), -1)
    if len(truths) == 0:
        return torch.zeros(len(boxes), dtype=torch.int64)
    if len(boxes) == 0:
        return out
    overlaps = box_iou(truths, boxes)
    best, index = overlaps.max(0)
    out[best < negative] = 0
    out[best >= positive] = index[best >= positive] + 1
    if low is not None:
        for i in range(len(truths)):
            most = overlaps[i].max()
            if most >= low:
                out[overlaps[i] == most] = i + 1
    return out


SETTINGS = {
    "mask_rcnn": dict(kind="mask_rcnn", stages=[(0.5, (0.1, 0.1, 0.2, 0.2), 1.0)], low=True, border=-1, rpn_beta=None,
                      head=(0, 2, None, False), loss="l1", keep=(200, 150), score=0.05),
    "cascade": dict(kind="cascade", low=False, border=0, rpn_beta=1 / 9, head=(0, 2, None, True), loss="smooth_l1",
                    keep=(300, 150), score=0.05),
    "cascade_giou": dict(kind="cascade", low=False, border=0, rpn_beta=1 / 9, head=(4, 1, "gn", False), loss="giou",
                         keep=(300, 150), score=0.05),
    "htc": dict(kind="htc", low=True, border=0, rpn_beta=1 / 9, head=(0, 2, None, True), loss="smooth_l1",
                keep=(300, 150), score=0.05),
}
THREE = [(0.5, (0.1, 0.1, 0.2, 0.2), 1.0), (0.6, (0.05, 0.05, 0.1, 0.1), 0.5), (0.7, (0.033, 0.033, 0.067, 0.067), 0.25)]


class Detector(nn.Module):
    """mmdetection 2's two-stage detectors, names as in their state dicts."""

    def __init__(self, case, neck, level_norm, semantic):
        super().__init__()
        s = self.settings = SETTINGS[case]
        s.setdefault("stages", THREE)
        channels = [c for _, c, _ in LEVELS]
        self.neck = Fpn(channels) if neck == "fpn" else BiFpn(channels, 2)
        if level_norm:
            self.neck.norms = nn.ModuleDict({n: nn.LayerNorm(c) for n, c, _ in LEVELS})
        self.rpn_head = nn.Module()
        self.rpn_head.rpn_conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.rpn_head.rpn_cls = nn.Conv2d(WIDTH, 3, 1)
        self.rpn_head.rpn_reg = nn.Conv2d(WIDTH, 12, 1)
        self.roi_head = nn.Module()
        boxes = [BoxHead(*s["head"]) for _ in s["stages"]]
        masks = [MaskHead(s["kind"] == "htc" and i > 0) for i in range(len(s["stages"]))]
        if s["kind"] == "mask_rcnn":
            self.roi_head.bbox_head, self.roi_head.mask_head = boxes[0], masks[0]
        else:
            self.roi_head.bbox_head, self.roi_head.mask_head = nn.ModuleList(boxes), nn.ModuleList(masks)
        self.boxes, self.masks = [boxes], [masks]  # in lists, so that they are not registered twice
        if semantic:
            self.roi_head.semantic_head = SemanticHead()
        self.semantic = semantic

    def pyramid(self, inputs):
        if hasattr(self.neck, "norms"):
            inputs = [self.neck.norms[n](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for (n, _, _), x in zip(LEVELS, inputs)]
        return self.neck(inputs)

    def rpn(self, feats):
        scores, deltas, anchors = [], [], []
        for x, stride in zip(feats, STRIDES):
            n, _, h, w = x.shape
            x = F.relu(self.rpn_head.rpn_conv(x))
            scores.append(self.rpn_head.rpn_cls(x).permute(0, 2, 3, 1).reshape(n, -1))
            deltas.append(self.rpn_head.rpn_reg(x).permute(0, 2, 3, 1).reshape(n, -1, 4))
            ratio = torch.tensor([0.5, 1.0, 2.0]).sqrt()
            ws, hs = stride * 8 / ratio, stride * 8 * ratio
            base = torch.stack([-ws / 2, -hs / 2, ws / 2, hs / 2], 1)
            y, x_ = torch.meshgrid(torch.arange(h) * stride, torch.arange(w) * stride, indexing="ij")
            shift = torch.stack([x_, y, x_, y], -1).reshape(-1, 1, 4).float()
            anchors.append((shift + base).reshape(-1, 4))
        return scores, deltas, anchors

    def rpn_losses(self, scores, deltas, anchors, found):
        scores, deltas, anchors = torch.cat(scores, 1), torch.cat(deltas, 1), torch.cat(anchors)
        cls, box, count = 0.0, 0.0, 0
        for i, t in enumerate(found):
            inside = torch.ones(len(anchors), dtype=torch.bool)
            if self.settings["border"] >= 0:
                h, w = VALID[i]
                inside = (anchors[:, 0] >= 0) & (anchors[:, 1] >= 0) & (anchors[:, 2] < w) & (anchors[:, 3] < h)
            index = torch.where(inside)[0]
            got = assign(anchors[index], t["boxes"], 0.7, 0.3, 0.3)
            pos, neg = index[got > 0], index[got == 0]
            truth = t["boxes"][got[got > 0] - 1]
            cls = cls + F.binary_cross_entropy_with_logits(scores[i, pos], torch.ones(len(pos)), reduction="sum")
            cls = cls + F.binary_cross_entropy_with_logits(scores[i, neg], torch.zeros(len(neg)), reduction="sum")
            target = encode(anchors[pos], truth, (1.0, 1.0, 1.0, 1.0))
            beta = self.settings["rpn_beta"]
            if beta is None:
                box = box + F.l1_loss(deltas[i, pos], target, reduction="sum")
            else:
                box = box + F.smooth_l1_loss(deltas[i, pos], target, beta=beta, reduction="sum")
            count += max(len(pos), 1) + max(len(neg), 1)
        return {"loss_rpn_cls": cls / count, "loss_rpn_bbox": box / count}

    @torch.no_grad()
    def proposals(self, scores, deltas, anchors, training):
        found = []
        for i, valid in enumerate(VALID):
            boxes, ranks, ids = [], [], []
            for level in range(len(scores)):
                order = scores[level][i].argsort(descending=True, stable=True)[: 200 if training else 100]
                box = decode(anchors[level][order], deltas[level][i, order][:, None], (1.0,) * 4, valid)[:, 0]
                keep = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
                boxes.append(box[keep])
                ranks.append(scores[level][i, order][keep].sigmoid())
                ids.append(torch.full((int(keep.sum()),), level))
            boxes, ranks, ids = torch.cat(boxes), torch.cat(ranks), torch.cat(ids)
            keep = batched_nms(boxes, ranks, ids, 0.7)[: self.settings["keep"][0 if training else 1]]
            found.append(boxes[keep])
        return found

    def pool(self, feats, rois, side, semantic):
        """rois: per picture [k, 4]."""
        flat = torch.cat([torch.cat([torch.full((len(r), 1), float(i)), r], 1) for i, r in enumerate(rois)])
        area = (flat[:, 3] - flat[:, 1]) * (flat[:, 4] - flat[:, 2])
        level = torch.floor(torch.log2(area.clamp(min=0).sqrt() / 56 + 1e-6)).clamp(0, 3).long()
        out = torch.zeros(len(flat), WIDTH, side, side)
        for l in range(4):
            rows = torch.where(level == l)[0]
            out = out.index_copy(0, rows, roi_align(feats[l], flat[rows], side, 1 / STRIDES[l], 0, True))
        if semantic is not None:
            extra = roi_align(semantic, flat, 14, 1 / 8, 0, True)
            out = out + (extra if side == 14 else F.adaptive_avg_pool2d(extra, side))
        return out

    def sample(self, proposals, found, stage):
        iou = self.settings["stages"][stage][0]
        rois, labels, truths, own = [], [], [], []
        for p, t in zip(proposals, found):
            got = assign(p, t["boxes"], iou, iou, iou if self.settings["low"] else None)
            g = len(t["boxes"])
            got = torch.cat([torch.arange(1, g + 1), got])
            boxes = torch.cat([t["boxes"], p])
            is_truth = torch.cat([torch.ones(g, dtype=torch.bool), torch.zeros(len(p), dtype=torch.bool)])
            order = torch.cat([torch.where(got > 0)[0], torch.where(got == 0)[0]])
            got = got[order]
            index = got.clamp(min=1) - 1
            label = torch.full((len(order),), CLASSES)
            if g:
                label = torch.where(got > 0, t["labels"][index], label)
            rois.append(boxes[order])
            labels.append(label)
            truths.append(torch.where(got > 0, index, torch.full_like(index, -1)))
            own.append(is_truth[order])
        return rois, labels, truths, own

    def box_losses(self, stage, feats, semantic, sampled, found):
        rois, labels, truths, _ = sampled
        cls, reg = self.boxes[0][stage](self.pool(feats, rois, 7, semantic))
        label, flat = torch.cat(labels), torch.cat(rois)
        loss_cls = F.cross_entropy(cls, label)
        target = torch.cat([t["boxes"][i[i >= 0]] for t, i in zip(found, truths)])
        pos = torch.where(label < CLASSES)[0]
        reg4 = reg.view(len(reg), -1, 4)
        own = reg4[pos, 0] if reg4.shape[1] == 1 else reg4[pos, label[pos]]
        stds = self.settings["stages"][stage][1]
        kind = self.settings["loss"]
        if kind == "giou":
            loss_box = 10.0 * (1 - giou(decode(flat[pos], own[:, None], stds)[:, 0], target)).sum()
        elif kind == "l1":
            loss_box = F.l1_loss(own, encode(flat[pos], target, stds), reduction="sum")
        else:
            loss_box = F.smooth_l1_loss(own, encode(flat[pos], target, stds), beta=1.0, reduction="sum")
        return loss_cls, loss_box / len(flat), cls, reg4

    @torch.no_grad()
    def refine(self, stage, rois, labels, cls, reg4):
        out, first = [], 0
        for r, label, valid in zip(rois, labels, VALID):
            rows = slice(first, first + len(r))
            first += len(r)
            if label is None:
                label = cls[rows, :-1].argmax(1)
            else:
                label = torch.where(label == CLASSES, cls[rows, :-1].argmax(1), label)
            own = reg4[rows, 0] if reg4.shape[1] == 1 else reg4[rows][torch.arange(len(r)), label]
            out.append(decode(r, own[:, None], self.settings["stages"][stage][1], valid)[:, 0])
        return out

    def mask_loss(self, stage, feats, semantic, sampled, found):
        rois, labels, truths, _ = sampled
        pos = [r[i >= 0] for r, i in zip(rois, truths)]
        x = self.pool(feats, pos, 14, semantic)
        before = None
        if self.settings["kind"] == "htc":
            for i in range(stage):
                _, before = self.masks[0][i](x, before)
        logits, _ = self.masks[0][stage](x, before)
        wanted = []
        for t, r, i in zip(found, pos, truths):
            for box, index in zip(r, i[i >= 0]):
                m = t["masks"][index][None, None].float()
                roi = torch.cat([torch.zeros(1), box])[None]
                wanted.append((roi_align(m, roi, 28, 1.0, 0, True)[0, 0] >= 0.5).float())
        label = torch.cat([l[i >= 0] for l, i in zip(labels, truths)])
        return F.binary_cross_entropy_with_logits(logits[torch.arange(len(label)), label], torch.stack(wanted))

    def losses(self, inputs, found):
        feats = self.pyramid(inputs)
        scores, deltas, anchors = self.rpn(feats)
        out = self.rpn_losses(scores, deltas, anchors, found)
        proposals = self.proposals(scores, deltas, anchors, True)
        semantic = None
        if self.semantic:
            logits, semantic = self.roi_head.semantic_head(feats)
            labels = torch.stack([stuff_map(i)[::8, ::8] for i in range(len(VALID))])
            out["loss_semantic_seg"] = 0.2 * F.cross_entropy(logits, labels, ignore_index=-1)
        kind = self.settings["kind"]
        for stage, (_, _, weight) in enumerate(self.settings["stages"]):
            prefix = "" if kind == "mask_rcnn" else f"s{stage}."
            sampled = self.sample(proposals, found, stage)
            cls, box, scores, reg4 = self.box_losses(stage, feats, semantic, sampled, found)
            out[prefix + "loss_cls"], out[prefix + "loss_bbox"] = weight * cls, weight * box
            rois, labels, _, own = sampled
            moved = [r[~o] for r, o in zip(self.refine(stage, rois, labels, scores, reg4), own)]
            if kind == "htc":
                sampled = self.sample(moved, found, stage)
            out[prefix + "loss_mask"] = weight * self.mask_loss(stage, feats, semantic, sampled, found)
            proposals = moved
        return out, feats

    @torch.no_grad()
    def detect(self, inputs):
        feats = self.pyramid(inputs)
        rois = self.proposals(*self.rpn(feats), False)
        semantic = self.roi_head.semantic_head(feats)[1] if self.semantic else None
        count = len(self.settings["stages"])
        total = 0.0
        for stage in range(count):
            cls, reg = self.boxes[0][stage](self.pool(feats, rois, 7, semantic))
            total = total + cls
            reg4 = reg.view(len(reg), -1, 4)
            if stage + 1 < count:
                rois = self.refine(stage, rois, [None] * len(rois), cls, reg4)
        scores = (total / count).softmax(-1)
        out, first = [], 0
        for r, valid in zip(rois, VALID):
            rows = slice(first, first + len(r))
            first += len(r)
            boxes = decode(r, reg4[rows], self.settings["stages"][-1][1], valid).expand(-1, CLASSES, 4).reshape(-1, 4)
            score = scores[rows, :-1].reshape(-1)
            label = torch.arange(CLASSES).repeat(len(r))
            keep = torch.where(score > self.settings["score"])[0]
            keep = keep[batched_nms(boxes[keep], score[keep], label[keep], 0.5)[:100]]
            out.append(dict(boxes=boxes[keep], scores=score[keep], labels=label[keep]))
        x = self.pool(feats, [d["boxes"] for d in out], 14, semantic)
        probabilities, before = 0.0, None
        for head in self.masks[0]:
            logits, before = head(x, before)
            probabilities = probabilities + logits.sigmoid() / count
        first = 0
        for d in out:
            n = len(d["labels"])
            d["masks"] = probabilities[first : first + n][torch.arange(n), d["labels"]]
            first += n
        return out


def mmdet_case(name, case, neck, level_norm, semantic):
    model = Detector(case, neck, level_norm, semantic)
    fill(model)
    inputs = maps()

    def forward():
        losses, feats = model.losses(inputs, targets())
        return losses, {"pyramid": feats}

    return record(name, model, forward, lambda: model.detect(inputs), inputs)


def main():
    out = {
        "torchvision": torchvision_case(False),
        "torchvision_v2": torchvision_case(True),
        "mask_rcnn": mmdet_case("mask_rcnn", "mask_rcnn", "fpn", False, False),
        "cascade": mmdet_case("cascade", "cascade", "fpn", True, False),
        "cascade_giou": mmdet_case("cascade_giou", "cascade_giou", "fpn", True, False),
        "htc": mmdet_case("htc", "htc", "bifpn", True, True),
    }
    path = Path("tests/golden/detector.json")
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
