"""A training step of Mask R-CNN on cached features against torchvision's, forward and backward: time and
memory, as ratios.

One picture of 800 × 1088, Swin-T's channels, FPN of 256, 90 classes, 24 objects, torchvision's settings on
both sides, the same maps and weights. Every run is a process of its own and the two sides take turns.
Memory is the peak above what inputs and weights take. torchvision gets its maps as [n, c, h, w] memory,
featcache as channels_last.

Needs: torch 2.11, torchvision 0.26, safetensors. Run from the workspace root:
    cargo test --release --workspace --test cases --no-run     # prints the test program
    python tests/parity/detector_bench.py target/release/deps/cases-… [threads] [height width]
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict

REPEATS, TURNS = 3, 2


def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


def model():
    import torch.nn as nn
    import torchvision.models.detection as d
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    class Body(nn.Module):
        out_channels = 256

        def __init__(self):
            super().__init__()
            self.fpn = FeaturePyramidNetwork([96, 192, 384, 768], 256, LastLevelMaxPool())

    sizes = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    return d.MaskRCNN(Body(), 91, rpn_anchor_generator=sizes)


def torchvision_side():
    import torch
    from safetensors.torch import load_file
    from torchvision.models.detection.image_list import ImageList

    env = {name: os.environ[f"FEATCACHE_STEP_{name}"] for name in ("THREADS", "WEIGHTS", "INPUTS", "KIND")}
    torch.set_num_threads(int(env["THREADS"]))
    net = model()
    net.load_state_dict(load_file(env["WEIGHTS"]))
    net.train()
    inputs = load_file(env["INPUTS"])
    maps = OrderedDict((str(i), inputs[f"p{i + 2}"]) for i in range(4))
    h, w = maps["0"].shape[2] * 4, maps["0"].shape[3] * 4
    y, x = torch.arange(h)[:, None] + 0.5, torch.arange(w)[None] + 0.5
    masks = [(b[0] < x) & (x < b[2]) & (b[1] < y) & (y < b[3]) for b in inputs["boxes"]]
    target = [dict(boxes=inputs["boxes"], labels=inputs["labels"], masks=torch.stack(masks).to(torch.uint8))]
    images = ImageList(torch.zeros(1, 3, h, w), [(h, w)])
    parameters = list(net.parameters())

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=env["KIND"] == "bf16"):
            features = net.backbone.fpn(maps)
            proposals, losses = net.rpn(images, features, target)
            _, more = net.roi_heads(features, proposals, [(h, w)], target)
        total = sum((losses | more).values())
        return torch.autograd.grad(total, parameters), total.item()

    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before, times = status("VmRSS"), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        gradients, loss = step()
        times.append(time.perf_counter() - start)
        del gradients
    print(json.dumps({"step": times, "peak_kib": status("VmHWM") - before, "loss": loss}))


def run(command, settings):
    env = os.environ | {f"FEATCACHE_STEP_{name}": str(value) for name, value in settings.items()}
    lines = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    # The test harness prints the name of the test in front.
    return json.loads(next(line[line.index("{"):] for line in lines if '{"step"' in line))


def main(program, threads=2, height=800, width=1088):
    import torch
    from safetensors.torch import save_file

    height, width = int(height), int(width)
    torch.manual_seed(5)
    with tempfile.TemporaryDirectory() as folder:
        weights, inputs = f"{folder}/weights.safetensors", f"{folder}/inputs.safetensors"
        save_file(model().state_dict(), weights)
        sides = torch.exp(torch.empty(24, 2).uniform_(3.2, 5.8))  # 25 to 330 pixels
        centres = torch.rand(24, 2) * torch.tensor([width, height])
        boxes = torch.cat([centres - sides / 2, centres + sides / 2], -1)
        boxes[:, 0::2].clamp_(0, width), boxes[:, 1::2].clamp_(0, height)
        maps = {f"p{i}": torch.randn(1, 96 << (i - 2), height // 2**i, width // 2**i) for i in range(2, 6)}
        save_file(maps | {"boxes": boxes, "labels": torch.randint(1, 91, (24,))}, inputs)
        print("| kind | torchvision s | featcache s | time | memory MiB | ratio | loss |")
        print("|---|---|---|---|---|---|---|")
        for kind in ("f32",):
            settings = dict(THREADS=threads, WEIGHTS=weights, INPUTS=inputs, KIND=kind, REPEATS=REPEATS)
            ours, theirs = [], []
            for _ in range(TURNS):
                theirs.append(run([sys.executable, __file__, "--torchvision"], settings))
                ours.append(run([program, "detector_times", "--ignored", "--nocapture", "--test-threads", "1"], settings))
            # The first step of a process pays for its memory.
            t, o = (statistics.median([t for one in runs for t in one["step"][1:]]) for runs in (theirs, ours))
            tm, om = (statistics.median(one["peak_kib"] for one in runs) / 1024 for runs in (theirs, ours))
            tl, ol = theirs[0]["loss"], ours[0]["loss"]
            print(f"| {kind} | {t:.2f} | {o:.2f} | {o / t:.2f} | {tm:.0f} → {om:.0f} | {om / tm:.2f} | {tl:.3f}, {ol:.3f} |")


if __name__ == "__main__":
    if sys.argv[1] == "--torchvision":
        torchvision_side()
    else:
        main(*sys.argv[1:])
