"""Pretrains the demo's backbone, swinv2-demo, on scenes that the demo's own drawer made.

    featcache demo --draw-only --seed 77001 --train 6000 --val 150 --out SCENES
    python tools/pretrain_demo_backbone.py SCENES/scenes --start FIRST.safetensors --out swinv2-demo.safetensors

The demo shows a frozen backbone; features of a random one carry too little for its result to mean
anything. This one has seen other scenes (another seed), never those that the demo draws. It learns,
with heads that are thrown away: the label map from all levels together and from each level alone,
borders between objects, at every pixel of an object how far its box reaches, and, for boxes near and
off the objects, what is in them and where it ends; so a head on its maps finds what, where and how far.
What it starts from (random weights without --start) and what came of it: assets/README.md.

The rate rises, stays, and falls to 0 in the last part of the steps. A checkpoint beside the output is
written now and then; the same command goes on from it, and one that lies before the fall serves any
number of steps: what a step sees depends on the seed and its number alone.

Needs torch, torchvision, timm, safetensors, Pillow and pycocotools. Runs on a CPU; the same arguments
on the same machine and thread count give the same weights.
"""

import argparse
import pathlib
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import load_file, save_file
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torchvision.ops import box_iou, generalized_box_iou_loss, roi_align

# The configuration of `swinv2-demo` in extractor/src/backbone/swin_v2/.
CONFIG = dict(embed_dim=32, depths=(2, 2, 4, 2), num_heads=(2, 4, 8, 16), window_size=8)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
CLASSES = 12  # label values 1..12, 0 is not labelled
GROUNDS = 4  # of these
SHAPES = CLASSES - GROUNDS
CROP = 192  # side of training crops in pixels: the shorter side of a scene, whole windows at strides 4 and 8
WARM_UP = 100  # steps
FALL = 0.4  # share of the steps in which the rate falls to 0
NEAR, OFF = 3, 4  # boxes near each object, and boxes off all of them in each picture
# Buffers that follow from the configuration, which timm leaves out of its own checkpoints.
DERIVED = ("attn_mask", "relative_coords_table", "relative_position_index", "k_bias")
MIN_KEPT = 0.3  # an object of which a crop keeps less is nothing to be told from it


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

    def __init__(self, width: int = 96, cells: int = 7):
        super().__init__()
        channels = [CONFIG["embed_dim"] * 2**i for i in range(4)]
        self.cells = cells
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.alone = nn.ModuleList(nn.Conv2d(c, CLASSES, 1) for c in channels)
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.mix = nn.Sequential(nn.GELU(), nn.Conv2d(width, width, 1), nn.GELU())
        self.dense = nn.Conv2d(width, CLASSES + 1 + 4, 1)  # label, border, sides
        self.box = nn.Sequential(nn.Linear(width * cells**2, 128), nn.GELU())
        self.box_out = nn.Linear(128, SHAPES + 1 + 4)  # class or none, deltas

    def forward(self, maps: list[torch.Tensor]):
        """Joint map and dense logits at stride 4, label logits of each level alone."""
        maps = [n(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for n, m in zip(self.norms, maps)]
        size = maps[0].shape[-2:]
        x = sum(
            F.interpolate(lateral(m), size, mode="bilinear", align_corners=False)
            for lateral, m in zip(self.lateral, maps)
        )
        x = self.mix(x)
        return x, self.dense(x), [conv(m) for conv, m in zip(self.alone, maps)]

    def boxes(self, joint: torch.Tensor, boxes: list[torch.Tensor]) -> torch.Tensor:
        """Class logits and deltas of boxes [r, 4] in pixels of each picture, [sum of r, 13]."""
        cells = roi_align(joint.float(), boxes, self.cells, 0.25, 2, aligned=True)
        return self.box_out(self.box(cells.flatten(1)))


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


def objects_of(owners: np.ndarray, labels: np.ndarray, whole: np.ndarray):
    """Owner, class and box [x0, y0, x1, y1] of what a crop [h, w] shows enough of; whole: of the picture
    that it was taken from."""
    pixels = np.bincount(whole.ravel())
    found = []
    for number in range(1, len(pixels)):
        inside = owners == number
        kept = int(inside.sum())
        if kept == 0 or kept < MIN_KEPT * pixels[number]:
            continue
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        value = labels[rows[0]][inside[rows[0]]][0]
        found.append((number, value - GROUNDS, columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.array(found, np.int64).reshape(-1, 6)


def boxes_around(objects: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Boxes near the objects and boxes anywhere, [r, 4]."""
    boxes = np.repeat(objects[:, 2:].astype(np.float32), NEAR, 0)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + random.normal(0, 0.12, boxes.shape) * sides
    middle, reach = random.uniform(0, CROP, (OFF, 2)), np.exp(random.uniform(2.5, 4.1, (OFF, 2)))
    boxes = np.concatenate([boxes, np.concatenate([middle - reach, middle + reach], 1)])
    boxes = np.clip(boxes, 0, CROP)
    return boxes[((boxes[:, 2:] - boxes[:, :2]) > 8).all(1)].astype(np.float32)


class Sight:
    """What one step sees: images [n, 3, h, w], labels [n, h, w] (-1 for none), owners [n, h, w] (those in
    `objects`), objects (owner, class, box) and boxes of each picture."""

    def __init__(self, groups, size: int, random: np.random.Generator):
        shares = np.array([len(group[0]) for group in groups], float)
        images, labels, owners = groups[random.choice(len(groups), p=shares / shares.sum())]
        pick = random.choice(len(images), size, replace=False)
        top, left = (random.integers(0, side - CROP + 1) for side in labels.shape[1:])
        crop = (pick, slice(top, top + CROP), slice(left, left + CROP))
        x = (images[crop].astype(np.float32) / 255 - MEAN) / STD
        x = x * random.uniform(0.75, 1.25, (size, 1, 1, 1)) + random.uniform(-0.3, 0.3, (size, 1, 1, 3))
        y, z = labels[crop].astype(np.int64) - 1, owners[crop]
        if random.random() < 0.5:
            x, y, z = np.flip(x, 2), np.flip(y, 2), np.flip(z, 2)
        objects = [objects_of(z[i], y[i], owners[pick[i]]) for i in range(size)]
        self.images = torch.from_numpy(np.ascontiguousarray(x.astype(np.float32))).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(y.copy())
        self.owners = torch.from_numpy(z.astype(np.int64))
        self.boxes = [torch.from_numpy(boxes_around(found, random)) for found in objects]
        self.objects = [torch.from_numpy(found) for found in objects]


def shrink(labels: torch.Tensor, stride: int) -> torch.Tensor:
    """Labels at the centres of the cells of a map with this stride."""
    return labels[:, stride // 2 :: stride, stride // 2 :: stride]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    # Grounds are most of a picture and easy; shapes are few pixels and the point.
    weight = torch.tensor([1.0] * GROUNDS + [3.0] * SHAPES)
    return F.cross_entropy(logits.float(), labels, weight=weight, ignore_index=-1)


def borders_of(owners: torch.Tensor) -> torch.Tensor:
    """1 where a 4 x 4 cell holds more than one owner, [n, 1, h / 4, w / 4]."""
    x = owners[:, None].float()
    return (F.max_pool2d(x, 4) != -F.max_pool2d(-x, 4)).float()


def loss_of_sides(sides: torch.Tensor, sight: Sight) -> torch.Tensor:
    """GIoU of the boxes that cells of stride 4 within an object tell, sides [n, 4, h / 4, w / 4] being
    the logarithms of distances to left, top, right and bottom in units of 16 pixels."""
    near = shrink(sight.owners, 4)
    true = torch.full((len(near), 256, 4), -1.0)
    for picture, objects in enumerate(sight.objects):
        true[picture, objects[:, 0]] = objects[:, 2:].float()
    true = true[torch.arange(len(near))[:, None, None], near]  # [n, h / 4, w / 4, 4]
    kept = true[..., 2] > 0
    _, rows, columns = kept.nonzero(as_tuple=True)
    x, y = columns * 4 + 2.0, rows * 4 + 2.0
    far = 16 * sides.permute(0, 2, 3, 1)[kept].float().clamp(max=3).exp()
    found = torch.stack([x - far[:, 0], y - far[:, 1], x + far[:, 2], y + far[:, 3]], 1)
    return generalized_box_iou_loss(found, true[kept], reduction="sum") / max(1, len(found))


def loss_of_boxes(heads: Heads, joint: torch.Tensor, sight: Sight) -> tuple[torch.Tensor, torch.Tensor]:
    """What is in each box, or nothing, and where it ends."""
    classes, true = [], []
    for boxes, objects in zip(sight.boxes, sight.objects):
        if len(objects) == 0:
            classes.append(torch.zeros(len(boxes), dtype=torch.int64))
            true.append(boxes)
            continue
        iou, nearest = box_iou(boxes, objects[:, 2:].float()).max(1)
        # Between the two a box is neither.
        kind = torch.where(iou >= 0.5, objects[nearest, 1] + 1, torch.where(iou < 0.4, 0, -1))
        classes.append(kind)
        true.append(objects[nearest, 2:].float())
    classes, true, boxes = torch.cat(classes), torch.cat(true), torch.cat(sight.boxes)
    found = heads.boxes(joint, sight.boxes).float()
    told = F.cross_entropy(found[:, : SHAPES + 1], classes, ignore_index=-1)
    kept = classes > 0
    boxes, deltas = boxes[kept], found[kept, SHAPES + 1 :]
    size = boxes[:, 2:] - boxes[:, :2]
    middle = (boxes[:, 2:] + boxes[:, :2]) / 2 + 0.5 * size * deltas[:, :2]
    half = size * (0.5 * deltas[:, 2:]).clamp(-2, 2).exp() / 2
    found = torch.cat([middle - half, middle + half], 1)
    return told, generalized_box_iou_loss(found, true[kept], reduction="sum") / max(1, len(found))


def losses_of(outputs, heads: Heads, sight: Sight) -> dict[str, torch.Tensor]:
    """Weighted parts of the loss."""
    joint, dense, alone = outputs
    label, border, sides = dense.split([CLASSES, 1, 4], 1)
    told, ends = loss_of_boxes(heads, joint, sight)
    each = [cross_entropy(logits, shrink(sight.labels, stride)) for logits, stride in zip(alone, (4, 8, 16, 32))]
    return {
        "label": cross_entropy(label, shrink(sight.labels, 4)),
        "alone": 0.2 * sum(each),
        "border": 0.2 * F.binary_cross_entropy_with_logits(border.float(), borders_of(sight.owners)),
        "sides": 0.5 * loss_of_sides(sides, sight),
        "class": told,
        "ends": 0.5 * ends,
    }


@torch.no_grad()
def class_iou(model, heads, groups) -> torch.Tensor:
    """IoU by class of the joint head on whole pictures, logits resized to the label size."""
    model.eval(), heads.eval()
    confusion = torch.zeros(CLASSES, CLASSES)
    for images, labels, _ in groups:
        for first in range(0, len(images), 10):
            x = (images[first : first + 10].astype(np.float32) / 255 - MEAN) / STD
            logits = heads(levels(model, torch.from_numpy(x).permute(0, 3, 1, 2)))[1][:, :CLASSES]
            y = torch.from_numpy(labels[first : first + 10].astype(np.int64) - 1)
            found = F.interpolate(logits, y.shape[-2:], mode="bilinear", align_corners=False).argmax(1)
            kept = y >= 0
            pairs = y[kept] * CLASSES + found[kept]
            confusion += torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)
    hit = confusion.diag()
    model.train(), heads.train()
    return hit / (confusion.sum(0) + confusion.sum(1) - hit)


def rate_at(step: int, steps: int) -> float:
    """Share of the full rate in a step, counted from 0."""
    fall = FALL * steps
    return min(1.0, (step + 1) / WARM_UP, max(0.0, (steps - step) / fall))


def optimizers_of(model: SwinTransformerV2, heads: Heads, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    blocks = [p for stage in model.layers for p in stage.parameters() if p.ndim == 2 and min(p.shape) >= 32]
    of_blocks = {id(p) for p in blocks}
    rest = [p for p in [*model.parameters(), *heads.parameters()] if id(p) not in of_blocks]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(blocks, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=rate),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=pathlib.Path, help="folder that the drawer wrote")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--start", type=pathlib.Path, help="weights to start from, not random ones")
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint-every", type=int, default=200, help="steps")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # softmax tails are slow numbers otherwise
    torch.manual_seed(arguments.seed)
    train = load(arguments.scenes, "train", "training", "ADE_train")
    val = load(arguments.scenes, "val", "validation", "ADE_val")
    model, heads = build(), Heads()
    if arguments.start:
        missing, unknown = model.load_state_dict(load_file(arguments.start), strict=False)
        assert not unknown and all(name.endswith(DERIVED) for name in missing), (missing, unknown)
    parameters = [*model.parameters(), *heads.parameters()]
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    optimizers = optimizers_of(model, heads, arguments.rate)
    checkpoint = arguments.out.with_suffix(".checkpoint.pt")
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        done = state["step"]
        model.load_state_dict(state["model"]), heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        print(f"goes on from step {done}", flush=True)
    start, cpu_start = time.time(), time.process_time()
    running: dict[str, float] = {}
    for step in range(done, arguments.steps):
        sight = Sight(train, arguments.batch, np.random.default_rng([arguments.seed, step]))
        with torch.autocast("cpu", torch.bfloat16):
            losses = losses_of(heads(levels(model, sight.images)), heads, sight)
        loss = sum(losses.values())
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = arguments.rate * rate_at(step, arguments.steps)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for name, part in losses.items():
            running[name] = running.get(name, 0.0) + part.item() / 50
        if (step + 1) % 50 == 0:
            seconds = f"{time.time() - start:.0f} s, {time.process_time() - cpu_start:.0f} s of CPU"
            parts = ", ".join(f"{name} {value:.3f}" for name, value in running.items())
            print(f"step {step + 1} loss {sum(running.values()):.3f}: {parts}; {seconds}", flush=True)
            running.clear()
        if (step + 1) % arguments.checkpoint_every == 0 or step + 1 == arguments.steps:
            iou = class_iou(model, heads, val)
            parts = f"grounds {iou[:GROUNDS].mean():.3f} shapes {iou[GROUNDS:].mean():.3f}"
            print(f"step {step + 1} val mIoU {iou.mean():.4f} {parts}", flush=True)
            save(model, arguments.out)
            state = {
                "step": step + 1,
                "model": model.state_dict(),
                "heads": heads.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)


def save(model: SwinTransformerV2, path: pathlib.Path) -> None:
    """The state dict under timm's names in half precision, without derived buffers."""
    state = {
        name: value.to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith(DERIVED)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"format": "pt", "made_by": "tools/pretrain_demo_backbone.py"})


if __name__ == "__main__":
    main()
