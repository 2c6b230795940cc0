"""Goldens of the heads: the reference computations, written down in torch, numpy and OpenCV.

Makes tests/golden/heads.safetensors and tests/golden/heads.json, which tests/cases/{heads,mean_iou}.rs
compare with. Inputs and weights are not stored: both sides draw them from the same hash (`drawn_tensor.py`).

Needs: torch 2.11, numpy, safetensors, opencv-python-headless 4.11. Run from the workspace root:
    python tests/parity/heads_goldens.py
"""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from drawn_tensor import draw, fill
from safetensors.torch import save_file
from seed import bits

torch.set_num_threads(1)


def resize(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ConvModule(nn.Module):
    """mmcv ConvModule: convolution without bias, norm, ReLU; attribute names as there."""

    def __init__(self, i, o, k, norm):
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, padding=k // 2, bias=False)
        self.key = "bn" if norm == "batch" else "gn"
        self.add_module(self.key, nn.BatchNorm2d(o) if norm == "batch" else nn.GroupNorm(32, o))

    def forward(self, x):
        return F.relu(getattr(self, self.key)(self.conv(x)))


class UPerHead(nn.Module):
    """mmseg/models/decode_heads/uper_head.py and psp_head.py PPM, dropout left out."""

    def __init__(self, channels, width, classes, norm, scales=(1, 2, 3, 6)):
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(s), ConvModule(channels[-1], width, 1, norm)) for s in scales
        )
        self.bottleneck = ConvModule(channels[-1] + len(scales) * width, width, 3, norm)
        self.lateral_convs = nn.ModuleList(ConvModule(c, width, 1, norm) for c in channels[:-1])
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3, norm) for _ in channels[:-1])
        self.fpn_bottleneck = ConvModule(len(channels) * width, width, 3, norm)
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def psp_forward(self, x):
        outs = [x] + [resize(m(x), x.shape[2:]) for m in self.psp_modules]
        return self.bottleneck(torch.cat(outs, 1))

    def forward(self, inputs):
        laterals = [conv(inputs[i]) for i, conv in enumerate(self.lateral_convs)]
        laterals.append(self.psp_forward(inputs[-1]))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + resize(laterals[i], laterals[i - 1].shape[2:])
        outs = [self.fpn_convs[i](laterals[i]) for i in range(len(laterals) - 1)] + [laterals[-1]]
        outs = [resize(o, outs[0].shape[2:]) for o in outs]
        return self.conv_seg(self.fpn_bottleneck(torch.cat(outs, 1)))


class FCNHead(nn.Module):
    """mmseg/models/decode_heads/fcn_head.py, num_convs=1, concat_input=False, dropout left out."""

    def __init__(self, channels, width, classes, norm):
        super().__init__()
        self.convs = nn.Sequential(ConvModule(channels, width, 3, norm))
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        return self.conv_seg(self.convs(x))


class BNHead(nn.Module):
    """dinov2/eval/segmentation/models/decode_heads/linear_head.py, resize_concat."""

    def __init__(self, channels, classes):
        super().__init__()
        self.bn = nn.BatchNorm2d(sum(channels))
        self.conv_seg = nn.Conv2d(sum(channels), classes, 1)

    def forward(self, inputs):
        return self.conv_seg(self.bn(torch.cat([resize(x, inputs[0].shape[2:]) for x in inputs], 1)))


LEVELS = ["p2", "p3", "p4", "p5"]
CHANNELS = [16, 24, 32, 48]
SIZES = [(24, 18), (12, 9), (6, 5), (3, 3)]
CLASSES, BATCH, WIDTH = 5, 2, 64
TARGET = (96, 72)


class Model(nn.Module):
    def __init__(self, kind, norm, levels):
        super().__init__()
        channels = [CHANNELS[LEVELS.index(level)] for level in levels]
        self.neck = nn.Module()
        self.neck.norms = nn.ModuleDict({name: nn.LayerNorm(c) for name, c in zip(levels, channels)})
        if kind == "upernet":
            self.decode_head = UPerHead(channels, WIDTH, CLASSES, norm)
            self.auxiliary_head = FCNHead(CHANNELS[2], 32, CLASSES, norm)
        else:
            self.decode_head = BNHead(channels, CLASSES)
            self.auxiliary_head = None
        self.levels = levels

    def forward(self, maps):
        maps = [
            self.neck.norms[name](maps[name].permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for name in self.levels
        ]
        main = self.decode_head(maps)
        return main, self.auxiliary_head(maps[2]) if self.auxiliary_head else None


def target():
    """[2, 96, 72]: classes in blocks with ignored pixels (-1 here, 255 in mmseg)."""
    y = torch.from_numpy((bits("target", BATCH * 12 * 9) % np.uint64(CLASSES + 1)).astype(np.int64))
    y = y.reshape(BATCH, 12, 9).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return torch.where(y == CLASSES, -1, y)


def loss_of(main, auxiliary, y):
    loss = F.cross_entropy(resize(main, y.shape[1:]), y, ignore_index=-1)
    if auxiliary is not None:
        loss = loss + 0.4 * F.cross_entropy(resize(auxiliary, y.shape[1:]), y, ignore_index=-1)
    return loss


def models(tensors):
    maps = {n: draw(f"map.{n}", (BATCH, c, *s), -3, 5).double() for n, c, s in zip(LEVELS, CHANNELS, SIZES)}
    y = target()
    tensors["target"] = y
    for case, kind, norm, levels in [
        ("upernet_batch", "upernet", "batch", LEVELS),
        ("upernet_group", "upernet", "group", LEVELS),
        ("linear_all", "linear", "batch", LEVELS),
        ("linear_one", "linear", "batch", ["p4"]),
    ]:
        model = Model(kind, norm, levels)
        fill(model)
        # binary64: pooled 1x1 maps under group norm are so ill-conditioned that torch's own binary32
        # gradients are 3e-4 away from these.
        model.double().eval()
        with torch.no_grad():
            tensors[f"{case}.eval"] = model(maps)[0].float().contiguous()
        model.train()
        main, auxiliary = model(maps)
        loss = loss_of(main, auxiliary, y)
        loss.backward()
        tensors[f"{case}.train"] = main.detach().float().contiguous()
        if auxiliary is not None:
            tensors[f"{case}.auxiliary"] = auxiliary.detach().float().contiguous()
        tensors[f"{case}.loss"] = loss.detach().float().reshape(1)
        for name, p in model.named_parameters():
            # A gradient by its norm and its projection on a vector that both sides know.
            direction = draw(f"direction.{name}", p.shape)
            pair = [p.grad.norm(), (p.grad * direction.double()).sum()]
            tensors[f"{case}.gradient.{name}"] = torch.tensor(pair, dtype=torch.float64)
        for name, b in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                tensors[f"{case}.buffer.{name}"] = b.float()


def losses(tensors):
    logits, y = draw("loss.logits", (BATCH, CLASSES, 24, 18), -4, 4), target()
    for key, resized in [("loss.same", logits), ("loss.up", resize(logits, TARGET))]:
        t = y if key == "loss.up" else y[:, ::4, ::4]
        each = F.cross_entropy(resized, t, reduction="none", ignore_index=-1)
        # mmseg cross_entropy_loss.py: avg_non_ignore=True, and its default.
        tensors[f"{key}.labelled"] = (each.sum() / (t != -1).sum()).reshape(1)
        tensors[f"{key}.all"] = each.mean().reshape(1)


def adamw(tensors):
    for clip in (0.0, 1.0):
        shapes = {"a.weight": (300, 301), "a.bias": (37,)}
        p = {n: nn.Parameter(draw(f"adamw.{n}", s)) for n, s in shapes.items()}
        options = dict(lr=1e-2, betas=(0.9, 0.99), eps=1e-8, foreach=False, fused=False)
        groups = [dict(params=[p["a.weight"]], weight_decay=0.05), dict(params=[p["a.bias"]], weight_decay=0.0)]
        optimizer = torch.optim.AdamW(groups, **options)
        for step in range(6):
            for n, s in shapes.items():
                p[n].grad = draw(f"adamw.gradient.{step}.{n}", s, -1, 1) * (0.1 if step % 2 else 2.0)
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (1 + step)
            if clip:
                torch.nn.utils.clip_grad_norm_(list(p.values()), clip)
            optimizer.step()
        tensors[f"adamw.{clip:g}.bias"] = p["a.bias"].detach().clone()
        tensors[f"adamw.{clip:g}.weight"] = p["a.weight"].detach()[::30, ::30].contiguous()


def schedules():
    """torch's closed forms for the decay; mmcv 0.x lr_updater.py `get_warmup_lr` for the warm-up."""
    out, steps, base = {}, 40, 3e-4
    for name, make in {
        "poly": lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=steps, power=0.9),
        "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=steps, eta_min=1e-6),
    }.items():
        o = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
        s = make(o)
        rates = []
        for step in range(steps):
            lr = o.param_groups[0]["lr"]
            k = (1 - step / 7) * (1 - 1e-3) if step < 7 else 0.0
            rates.append([lr, lr * (1 - k)])
            o.step()
            s.step()
        out[name] = rates
    return out


def mean_iou():
    """mmseg/evaluation/metrics/iou_metric.py, over three pictures; class 6 is never labelled nor
    predicted, class 5 predicted only, class 4 labelled only."""
    classes = 7
    areas = [torch.zeros(classes, dtype=torch.float64) for _ in range(4)]
    for i, size in enumerate([(31, 17), (8, 8), (40, 23)]):
        n = size[0] * size[1]
        pred = torch.from_numpy((bits(f"iou.pred.{i}", n) % np.uint64(5)).astype(np.int64))
        pred = torch.where(pred == 4, 5, pred)
        label = torch.from_numpy((bits(f"iou.label.{i}", n) % np.uint64(6)).astype(np.int64))
        label = torch.where(label == 5, 255, label)
        keep = torch.from_numpy(bits(f"iou.copy.{i}", n) % np.uint64(3) == 0) & (label != 255) & (label != 4)
        pred = torch.where(keep, label, pred)
        mask = label != 255
        pred, label = pred[mask], label[mask]
        intersect = pred[pred == label]
        a = [torch.histc(x.float(), bins=classes, min=0, max=classes - 1) for x in (intersect, pred, label)]
        for total, area in zip(areas, [a[0], a[1] + a[2] - a[0], a[1], a[2]]):
            total += area
    intersect, union, _, labelled = areas
    iou, acc = (intersect / union).numpy(), (intersect / labelled).numpy()
    none = lambda x: [None if math.isnan(v) else v for v in x.tolist()]
    return {
        "miou": float(np.nanmean(iou)),
        "macc": float(np.nanmean(acc)),
        "aacc": float(intersect.sum() / labelled.sum()),
        "iou": none(iou),
        "accuracy": none(acc),
    }


def placements(tensors):
    """cv2.resize INTER_NEAREST as mmcv.imresize calls it on label maps."""
    for i, (source, valid) in enumerate(
        [((37, 53), (64, 91)), ((100, 75), (33, 25)), ((512, 683), (41, 55)), ((9, 7), (9, 7)), ((3, 5), (50, 49))]
    ):
        label = (bits(f"place.{i}", source[0] * source[1]) % np.uint64(150)).astype(np.uint8).reshape(source)
        out = cv2.resize(label, (valid[1], valid[0]), interpolation=cv2.INTER_NEAREST)
        tensors[f"place.{i}"] = torch.from_numpy(out)


def whole(tensors):
    """mmseg encoder_decoder `whole` inference: resize, cut the padding, resize, argmax."""
    logits = draw("whole.logits", (1, CLASSES, 12, 16), -4, 4)
    x = resize(logits, (48, 64))[:, :, :45, :50]
    tensors["whole"] = resize(x, (77, 81)).argmax(1)[0].to(torch.uint8)


def main():
    golden = Path(__file__).parent.parent / "golden"
    golden.mkdir(exist_ok=True)
    tensors = {}
    models(tensors)
    losses(tensors)
    adamw(tensors)
    placements(tensors)
    whole(tensors)
    save_file(tensors, golden / "heads.safetensors")
    numbers = {"schedule": schedules(), "mean_iou": mean_iou()}
    (golden / "heads.json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
