"""RoIAlign over a pyramid against torchvision's, forward and backward: time and memory, as ratios.

Two pictures of 800 × 1216, 256 channels, strides 4 to 32. Each side gets maps in the memory that suits
it: torchvision [n, c, h, w], featcache channels_last. Every case runs in a process of its own; the two
sides take turns. Memory is the peak above what the inputs take.

Needs: torch 2.11, torchvision 0.26, safetensors. Run from the workspace root:
    cargo test --release --workspace --test cases --no-run     # prints the test program
    python tests/parity/roi_align_bench.py target/release/deps/cases-… [threads]
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

REPEATS = 7
CASES = [  # side, samples (0: adaptive), regions of each picture, kind
    (7, 2, 512, "f32"), (7, 0, 512, "f32"), (14, 2, 128, "f32"), (14, 0, 128, "f32"), (7, 2, 512, "bf16"),
]


def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


def torchvision_side():
    import torch
    import torchvision.ops as ops
    from safetensors.torch import load_file

    env = {name: os.environ[f"FEATCACHE_ROI_{name}"] for name in ("SIDE", "SAMPLES", "THREADS", "REGIONS", "KIND")}
    torch.set_num_threads(int(env["THREADS"]))
    rows = load_file(env["REGIONS"])["regions"]
    kind = torch.bfloat16 if env["KIND"] == "bf16" else torch.float32
    maps = {f"p{i}": torch.randn(2, 256, 800 >> i, 1216 >> i).to(kind).requires_grad_() for i in range(2, 6)}
    boxes = [rows[rows[:, 0] == picture, 1:] for picture in range(2)]
    side = int(env["SIDE"])
    pool = ops.MultiScaleRoIAlign(list(maps), side, int(env["SAMPLES"]))
    gradient = torch.randn(len(rows), 256, side, side).to(kind)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before, forward, backward = status("VmRSS"), [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        # Its CPU kernel has no bfloat16: as under autocast, maps are pooled in binary32.
        pooled = pool({name: x.float() for name, x in maps.items()}, boxes, [(800, 1216)] * 2).to(kind)
        forward.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = torch.autograd.grad((pooled * gradient).sum(), list(maps.values()))
        backward.append(time.perf_counter() - start)
        del found
    print(json.dumps({"forward": forward, "backward": backward, "peak_kib": status("VmHWM") - before}))


def run(command, settings):
    env = os.environ | {f"FEATCACHE_ROI_{name}": str(value) for name, value in settings.items()}
    lines = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    # The test harness prints the name of the test in front.
    return json.loads(next(line[line.index("{"):] for line in lines if '{"forward"' in line))


def main(program, threads=2):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(5)
    print("| bins | samples | regions | kind | torchvision fwd + bwd ms | featcache fwd + bwd ms | time | memory MiB | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for side, samples, count, kind in CASES:
        sides = torch.exp(torch.empty(2, count, 2).uniform_(2.8, 6.5))  # 16 to 665 pixels
        centres = torch.rand(2, count, 2) * torch.tensor([1216.0, 800.0])
        boxes = torch.cat([centres - sides / 2, centres + sides / 2], -1)
        boxes[..., 0::2].clamp_(0, 1216), boxes[..., 1::2].clamp_(0, 800)
        picture = torch.arange(2.0)[:, None, None].expand(2, count, 1)
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            save_file({"regions": torch.cat([picture, boxes], -1).reshape(-1, 5)}, file.name)
            settings = dict(SIDE=side, SAMPLES=samples, THREADS=threads, REGIONS=file.name, KIND=kind, REPEATS=REPEATS)
            ours_command = [program, "roi_align_times", "--ignored", "--nocapture", "--test-threads", "1"]
            theirs = [run([sys.executable, __file__, "--torchvision"], settings)]
            ours = [run(ours_command, settings)]
            theirs.append(run([sys.executable, __file__, "--torchvision"], settings))
            ours.append(run(ours_command, settings))
        middle = lambda runs, key: statistics.median([t for one in runs for t in one[key][1:]]) * 1e3
        (tf, tb), (of, ob) = [(middle(runs, "forward"), middle(runs, "backward")) for runs in (theirs, ours)]
        tm, om = (statistics.median(one["peak_kib"] for one in runs) / 1024 for runs in (theirs, ours))
        print(f"| {side}×{side} | {samples or 'adaptive'} | 2 × {count} | {kind} | {tf:.0f} + {tb:.0f} | {of:.0f} + {ob:.0f} "
              f"| {(of + ob) / (tf + tb):.2f} | {tm:.0f} → {om:.0f} | {om / tm:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--torchvision":
        torchvision_side()
    else:
        main(*sys.argv[1:])
