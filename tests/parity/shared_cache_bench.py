"""Bytes that two training runs read from disk together, beside what one reads alone: with one order of rows
(train.order_seed) and with two. Something else on the machine is played by dropping the store's pages every
--keep seconds, so that a page is found in memory only by who comes within that time.

    python tests/parity/shared_cache_bench.py FEATCACHE STORE --steps 60 --batch 4 --keep 10
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

RECIPE = """
[head]
kind = "linear"

[train]
steps = {steps}
batch = {batch}
seed = {seed}
{order}
checkpoint_every = 100000

[optimizer]
lr = 1e-4
"""


def drop(files):
    for file in files:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes(process):
    """Bytes that the process has had fetched from the disk; None once it has ended."""
    try:
        lines = pathlib.Path(f"/proc/{process.pid}/io").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes")), None)


def run(args, seeds, order_seed, folder):
    """Bytes read from disk by one run for each seed, all started at once."""
    store = pathlib.Path(args.store)
    files = [os.open(path, os.O_RDONLY) for path in store.glob("features/**/c.*") if path.is_file()]
    drop(files)
    processes = []
    for seed in seeds:
        order = "" if order_seed is None else f"order_seed = {order_seed}"
        recipe = folder / f"{seed}-{order_seed}.toml"
        recipe.write_text(RECIPE.format(steps=args.steps, batch=args.batch, seed=seed, order=order))
        out = folder / f"run-{len(seeds)}-{seed}-{order_seed}"
        command = [args.featcache, "--quiet", "train", args.store, "--split", args.split, "--recipe", str(recipe)]
        command += ["--out", str(out), "--threads", "1", "--prefetch-mib", str(args.prefetch_mib)]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    counts = [0] * len(processes)
    begin = dropped = time.monotonic()
    while any(process.poll() is None for process in processes):
        for i, process in enumerate(processes):
            counts[i] = max(counts[i], read_bytes(process) or 0)
        if time.monotonic() - dropped > args.keep:
            drop(files)
            dropped = time.monotonic()
        time.sleep(0.02)
    if any(process.returncode for process in processes):
        raise SystemExit("a run failed")
    for file in files:
        os.close(file)
    return sum(counts), time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("featcache")
    parser.add_argument("store")
    parser.add_argument("--split", default="training")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--keep", type=float, default=10.0)
    parser.add_argument("--prefetch-mib", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, seeds, order in [("one run", [1], 7), ("two, one order", [1, 2], 7), ("two, two orders", [1, 2], None)]:
            count, seconds = run(args, seeds, order, folder)
            print(json.dumps({"runs": name, "disk_mb": round(count / 1e6, 1), "seconds": round(seconds, 1)}), flush=True)


if __name__ == "__main__":
    main()
