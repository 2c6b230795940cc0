"""Pretrains the demo's backbone, swinv2-demo, on scenes that the demo's own drawer made.

    featcache demo --draw-only --seed 77001 --train 3000 --val 150 --out SCENES
    python tools/pretrain_demo_backbone.py SCENES/scenes --out assets/swinv2-demo.safetensors --stop 600

The demo shows a frozen backbone; features of a random one carry too little for its result to mean
anything. This one has seen other scenes (another seed), never those that the demo draws. It learns,
with heads that are thrown away: the label map from all levels together and from each level alone,
borders between objects, and which shapes are in the picture; so each level is of use by itself.

Needs torch, timm, safetensors, Pillow and pycocotools. Runs on a CPU; the same arguments on the same
machine and thread count give the same weights.
"""

import argparse
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import save_file
from timm.models.swin_transformer_v2 import SwinTransformerV2

# The configuration of `swinv2-demo` in extractor/src/backbone/swin_v2/.
CONFIG = dict(embed_dim=32, depths=(2, 2, 4, 2), num_heads=(2, 4, 8, 16), window_size=8)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
CLASSES = 12  # label values 1..12, 0 is not labelled
GROUNDS = 4  # of these
SHAPES = CLASSES - GROUNDS
CROP = 160  # side of training crops in pixels: most of a scene, at half the cost


def build() -> SwinTransformerV2:
    model = SwinTransformerV2(img_size=256, num_classes=0, strict_img_size=False, **CONFIG)
    # timm starts as the paper does: weights of deviation 0.02, post-norm gains of 0. That suits a deep and
    # wide net on a long schedule; here the MLPs would stay in the linear part of GELU and the branches
    # closed until the schedule is over.
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    for stage in model.layers:
        for block in stage.blocks:
            nn.init.constant_(block.norm1.weight, 0.5)
            nn.init.constant_(block.norm2.weight, 0.5)
    return model


def levels(model: SwinTransformerV2, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the four stages, [n, c, h, w] at strides 4, 8, 16, 32."""
    x = model.patch_embed(images)
    outputs = []
    for stage in model.layers:
        x = stage(x)
        outputs.append(x.permute(0, 3, 1, 2))
    return outputs


class Heads(nn.Module):
    """Light heads of the pretraining, not kept."""

    def __init__(self, width: int = 96):
        super().__init__()
        channels = [CONFIG["embed_dim"] * 2**i for i in range(4)]
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.alone = nn.ModuleList(nn.Conv2d(c, CLASSES, 1) for c in channels)
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.mix = nn.Sequential(nn.GELU(), nn.Conv2d(width, width, 1), nn.GELU())
        self.together = nn.Conv2d(width, CLASSES, 1)
        self.border = nn.Conv2d(width, 1, 1)
        self.sides = nn.Conv2d(width, 4, 1)
        self.pooled = nn.Linear(width, SHAPES)

    def forward(self, maps: list[torch.Tensor]):
        """Label logits and the joint map at stride 4, label logits of each level alone."""
        maps = [n(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for n, m in zip(self.norms, maps)]
        size = maps[0].shape[-2:]
        x = sum(
            F.interpolate(lateral(m), size, mode="bilinear", align_corners=False)
            for lateral, m in zip(self.lateral, maps)
        )
        x = self.mix(x)
        return self.together(x), x, [conv(m) for conv, m in zip(self.alone, maps)]


def load(root: pathlib.Path, split: str, folder: str, prefix: str):
    """Pictures by size: images [n, h, w, 3], labels [n, h, w], owners [n, h, w] (0, or the object's
    number in its picture), all uint8."""
    coco = COCO(root / f"coco/annotations/instances_{split}.json")
    groups: dict[tuple[int, int], list] = {}
    for index, image in enumerate(sorted(coco.imgs)):
        info = coco.imgs[image]
        picture = np.asarray(Image.open(root / "coco" / split / info["file_name"]).convert("RGB"))
        labels = np.asarray(Image.open(root / f"ade20k/annotations/{folder}/{prefix}_{index + 1:08d}.png"))
        owners = np.zeros(labels.shape, np.uint8)
        objects = [annotation for annotation in coco.imgToAnns[image] if not annotation["iscrowd"]]
        for number, annotation in enumerate(objects):
            owners[coco.annToMask(annotation) > 0] = number + 1
        groups.setdefault(labels.shape, []).append((picture, labels, owners))
    return [tuple(np.stack(column) for column in zip(*group)) for group in groups.values()]


def shrink(labels: torch.Tensor, stride: int) -> torch.Tensor:
    """Labels at the centres of the cells of a map with this stride."""
    return labels[:, stride // 2 :: stride, stride // 2 :: stride]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    # Grounds are most of a picture and easy; shapes are few pixels and the point.
    weight = torch.tensor([1.0] * GROUNDS + [3.0] * SHAPES)
    return F.cross_entropy(logits.float(), labels, weight=weight, ignore_index=-1)


def batches(groups, size: int, steps: int, random: np.random.Generator):
    """Crops of pictures of one size, mirrored and relit by chance: images, labels (-1 for none), owners."""
    shares = np.array([len(group[0]) for group in groups], float)
    for _ in range(steps):
        images, labels, owners = groups[random.choice(len(groups), p=shares / shares.sum())]
        pick = random.choice(len(images), size, replace=False)
        top, left = (random.integers(0, side - CROP + 1) for side in labels.shape[1:])
        crop = (pick, slice(top, top + CROP), slice(left, left + CROP))
        x = (images[crop].astype(np.float32) / 255 - MEAN) / STD
        x = x * random.uniform(0.75, 1.25, (size, 1, 1, 1)) + random.uniform(-0.3, 0.3, (size, 1, 1, 3))
        y, z = labels[crop].astype(np.int64) - 1, owners[crop].astype(np.int64)
        if random.random() < 0.5:
            x, y, z = np.flip(x, 2), np.flip(y, 2), np.flip(z, 2)
        x = torch.from_numpy(np.ascontiguousarray(x.astype(np.float32))).permute(0, 3, 1, 2)
        yield x, torch.from_numpy(y.copy()), torch.from_numpy(z.copy())


def borders_of(owners: torch.Tensor) -> torch.Tensor:
    """1 where a 4 x 4 cell holds more than one owner, [n, 1, h / 4, w / 4]."""
    x = owners[:, None].float()
    return (F.max_pool2d(x, 4) != -F.max_pool2d(-x, 4)).float()


def sides_of(owners: torch.Tensor) -> torch.Tensor:
    """Distances to the left, top, right and bottom end of the owner's visible box in units of 32
    pixels, at the cells of a map of stride 4, [n, 4, h, w]; whatever outside objects."""
    n, height, width = owners.shape
    sides = torch.zeros(n, 4, height, width)
    rows, columns = torch.arange(height)[:, None].float(), torch.arange(width)[None].float()
    for picture in range(n):
        for number in owners[picture].unique().tolist():
            inside = owners[picture] == number
            y, x = inside.nonzero(as_tuple=True)
            ends = (columns - x.min(), rows - y.min(), x.max() - columns, y.max() - rows)
            for side, distance in enumerate(ends):
                sides[picture, side][inside] = distance.expand(height, width)[inside] / 32
    return shrink(sides.flatten(0, 1), 4).unflatten(0, (n, 4))


def loss_of(model, heads: Heads, images, labels, owners) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole loss, and the part of it that is the shape of whole objects."""
    together, joint, alone = heads(levels(model, images))
    loss = cross_entropy(together, shrink(labels, 4))
    for logits, stride in zip(alone, (4, 8, 16, 32)):
        loss = loss + 0.25 * cross_entropy(logits, shrink(labels, stride))
    loss = loss + 0.2 * F.binary_cross_entropy_with_logits(heads.border(joint).float(), borders_of(owners))
    near = shrink(owners, 4)
    inside = near > 0
    found = heads.sides(joint).float().permute(0, 2, 3, 1)[inside]
    loss = loss + 0.5 * F.smooth_l1_loss(found, sides_of(owners).permute(0, 2, 3, 1)[inside])
    # The class of a whole object from the mean of the joint map over it.
    place = torch.arange(len(owners))[:, None, None] * 256 + near
    objects, index = place[inside].unique(return_inverse=True)
    sums = torch.zeros(len(objects), joint.shape[1]).index_add(0, index, joint.float().permute(0, 2, 3, 1)[inside])
    means = sums / index.bincount()[:, None]
    shapes = torch.zeros(len(objects), dtype=torch.int64).index_put((index,), shrink(labels, 4)[inside] - GROUNDS)
    votes = F.cross_entropy(heads.pooled(means).float(), shapes)
    return loss + votes, votes.detach()


@torch.no_grad()
def class_iou(model, heads, groups) -> torch.Tensor:
    """IoU by class of the joint head on whole pictures, logits resized to the label size."""
    model.eval(), heads.eval()
    confusion = torch.zeros(CLASSES, CLASSES)
    for images, labels, _ in groups:
        for first in range(0, len(images), 10):
            x = (images[first : first + 10].astype(np.float32) / 255 - MEAN) / STD
            logits = heads(levels(model, torch.from_numpy(x).permute(0, 3, 1, 2)))[0]
            y = torch.from_numpy(labels[first : first + 10].astype(np.int64) - 1)
            found = F.interpolate(logits, y.shape[-2:], mode="bilinear", align_corners=False).argmax(1)
            kept = y >= 0
            pairs = y[kept] * CLASSES + found[kept]
            confusion += torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)
    hit = confusion.diag()
    model.train(), heads.train()
    return hit / (confusion.sum(0) + confusion.sum(1) - hit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=pathlib.Path, help="folder that the drawer wrote")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--stop", type=int, help="end after this many of the steps; the schedule stays")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # softmax tails are slow numbers otherwise
    torch.manual_seed(arguments.seed)
    random = np.random.default_rng(arguments.seed)
    train = load(arguments.scenes, "train", "training", "ADE_train")
    val = load(arguments.scenes, "val", "validation", "ADE_val")
    model, heads = build(), Heads()
    parameters = [*model.parameters(), *heads.parameters()]
    start, cpu_start = time.time(), time.process_time()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    decay = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.rate)
    warm_up = 60

    def rate(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, arguments.steps - warm_up)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    running = np.zeros(2)
    for step, (images, labels, owners) in enumerate(batches(train, arguments.batch, arguments.steps, random), 1):
        with torch.autocast("cpu", torch.bfloat16):
            loss, votes = loss_of(model, heads, images, labels, owners)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item(), votes.item()
        if step % 50 == 0:
            seconds = f"{time.time() - start:.0f} s, {time.process_time() - cpu_start:.0f} s of CPU"
            losses = running / 50
            print(f"step {step} loss {losses[0]:.3f}, of whole objects {losses[1]:.3f}, {seconds}", flush=True)
            running[:] = 0
        last = step == min(arguments.steps, arguments.stop or arguments.steps)
        if step % 200 == 0 or last:
            iou = class_iou(model, heads, val)
            parts = f"grounds {iou[:GROUNDS].mean():.3f} shapes {iou[GROUNDS:].mean():.3f}"
            print(f"step {step} val mIoU {iou.mean():.4f} {parts}", flush=True)
            save(model, arguments.out)
        if last:
            break


def save(model: SwinTransformerV2, path: pathlib.Path) -> None:
    """The state dict under timm's names in half precision; buffers that follow from the configuration
    are left out, as timm leaves them out of its own checkpoints."""
    derived = ("attn_mask", "relative_coords_table", "relative_position_index")
    state = {
        name: value.to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith(derived)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"format": "pt", "made_by": "tools/pretrain_demo_backbone.py"})


if __name__ == "__main__":
    main()
