"""A peer of the bench: one way to keep samples and to read them back, and the protocol that asks it for passes.

README.md beside this file is the protocol. A peer's script defines a subclass of Peer and ends with serve(it).
Bytes are uint8 arrays here and bf16 tensors in a loader's batches; nothing is measured but in `timed`.
"""

import importlib.metadata
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
import threading
import time

import numpy


class Samples:
    """The neutral form: `count` samples of `bytes` bytes each, one after the other in `file`."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.__dict__.update(json.loads((self.folder / "samples.json").read_text()))
        self.file = self.folder / "samples.bin"

    def __iter__(self):
        whole = numpy.memmap(self.file, numpy.uint8, "r")
        return (whole[i * self.bytes : (i + 1) * self.bytes] for i in range(self.count))


class Peer:
    """What a script says of its peer. The defaults fit a format that is read one sample at a time."""

    title, package, settings = "", None, ""
    # Where its bytes are: "own" in `self.folder`, "samples" in the neutral form, "store" in the store.
    reads = "own"
    # How `threads` read at once: "threads" of Python, "processes", or "inside" the peer, which `open` tells.
    parallel = "threads"
    # How DataLoader's workers start: libraries with threads of their own do not survive a fork.
    start = "fork"
    # Whether a forked process reads with what was opened before the fork, or opens anew.
    inherits = False

    def __init__(self, samples, folder):
        self.samples, self.folder = Samples(samples), pathlib.Path(folder)
        self.opened = self.process = self.crew = None
        self.loaders, self.order = {}, []

    def prepare(self):
        """Writes the samples in the peer's own format into `self.folder`."""

    def open(self, threads):
        """Whatever reading needs; called before a pass and outside its time. Nothing, by default."""

    def read(self, opened, number, memory):
        """Sample `number` as owned bytes: in `memory`, which is returned, or in new bytes."""
        raise NotImplementedError

    def read_batch(self, opened, numbers, memory):
        """Samples `numbers`, as `read`; peers that take several at once know better."""
        return [self.read(opened, number, place) for number, place in zip(numbers, memory)]

    def loader(self, batch, workers):
        """The peer's own loader of bf16 batches [n, elements]; torch's DataLoader around `read_batch`."""
        from rows import loader  # imports torch, which bare reads do without

        return loader(self, batch, workers)

    # What follows is the same for every peer.

    def handle(self, threads=1):
        """What `open` gave in this process for so many threads; a fork opens its own."""
        process = (self.inherits or os.getpid(), threads)
        if self.process != process:
            self.opened, self.process = self.open(threads), process
        return self.opened

    def __getstate__(self):
        return {**self.__dict__, "opened": None, "process": None, "crew": None, "loaders": {}}

    def close(self):
        """Lets go of files and maps, so that their pages can be dropped."""
        if self.crew:
            self.crew.stop()
        self.forget()
        self.crew, self.loaders = None, {}

    def forget(self):
        self.opened = self.process = None

    def bare(self, request):
        threads = request["threads"]
        if self.parallel == "processes" and threads > 1:
            if self.crew is None or len(self.crew.pipes) != threads:
                self.crew = Crew(self, threads)
            return self.crew.timed(request)
        answer = timed(self, request, threads)
        return {key: answer[key] for key in ("seconds", "samples", "checks")}

    def load(self, request):
        """Takes `epochs` shuffled epochs, batch after batch, as a training loop would."""
        batch, workers = request["batch"], request["threads"]
        stride, every = request["stride"], request["all"]
        self.order[:] = request["order"]
        if workers not in self.loaders:
            self.loaders.clear()  # the workers of the one before end here
            self.loaders[workers] = self.loader(batch, workers)
            if not every:
                sum(len(tensor) for tensor in self.loaders[workers])  # they have started and opened their files
        count, checks, last = 0, [], None
        start = time.perf_counter()
        for _ in range(request["epochs"]):
            for last in self.loaders[workers]:
                count += len(last)
                if every:
                    checks += tensor_checks(last, stride)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "samples": count, "checks": checks or tensor_checks(last, stride)}


def timed(peer, request, threads):
    """One pass over `order`, in batches; what the last batch of each thread holds is checked after the clock."""
    order, batch, every, stride = request["order"], request["batch"], request["all"], request["stride"]
    inside = peer.parallel == "inside"
    opened = peer.handle(threads if inside else 1)
    readers = 1 if inside else threads
    batches = iter([order[i : i + batch] for i in range(0, len(order), batch)])
    held, checks, failures = [[] for _ in range(readers)], [], []

    def work(thread):
        try:
            memory = blocks(peer, thread, batch)
            ready.wait()
            for numbers in batches:
                held[thread] = peer.read_batch(opened, numbers, memory)
                if every:
                    checks.extend(check(sample, stride) for sample in held[thread])
        except Exception as error:
            failures.append(error)
            ready.abort()

    ready = threading.Barrier(readers + 1)
    crew = [threading.Thread(target=work, args=(thread,)) for thread in range(readers)]
    for thread in crew:
        thread.start()
    try:
        ready.wait()
    except threading.BrokenBarrierError:
        pass
    start = time.perf_counter()
    for thread in crew:
        thread.join()
    seconds = time.perf_counter() - start
    if failures:
        raise failures[0]
    checks = checks or [check(sample, stride) for samples in held for sample in samples]
    return {"end": start + seconds, "seconds": seconds, "samples": len(order), "checks": checks}


def blocks(peer, thread, batch):
    """Memory for a batch, kept from pass to pass. NumPy asks for huge pages by itself (4 MiB and more)."""
    kept = peer.__dict__.setdefault("memory", {})
    if (thread, batch) not in kept:
        kept[thread, batch] = numpy.empty((batch, peer.samples.bytes), numpy.uint8)
        kept[thread, batch].fill(0)  # every page is there before the clock starts
    return kept[thread, batch]


class Crew:
    """Processes that read parts of a pass, for peers that threads do not speed up."""

    def __init__(self, peer, count):
        context = multiprocessing.get_context(peer.start)
        self.pipes, self.processes = [], []
        if peer.inherits:
            peer.handle()
        else:
            peer.forget()
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=crew_member, args=(peer, theirs), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def timed(self, request):
        parts = [{**request, "order": request["order"][i :: len(self.pipes)]} for i in range(len(self.pipes))]
        for pipe in self.pipes:
            pipe.send(request["batch"])
        for pipe in self.pipes:
            pipe.recv()  # it has opened its files and has its memory
        start = time.perf_counter()
        for pipe, part in zip(self.pipes, parts):
            pipe.send(part)
        answers = [pipe.recv() for pipe in self.pipes]
        # perf_counter is the system's monotonic clock, one for all processes.
        seconds = max(answer["end"] for answer in answers) - start
        checks = list(itertools.chain.from_iterable(answer["checks"] for answer in answers))
        return {"seconds": seconds, "samples": sum(answer["samples"] for answer in answers), "checks": checks}

    def stop(self):
        # Not by closing pipes: each process has inherited those of the ones before it.
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join()


def crew_member(peer, pipe):
    peer.__dict__.pop("memory", None)  # what a fork inherits is copied when it is first written to
    for request in iter(pipe.recv, None):
        if isinstance(request, int):
            peer.handle()
            pipe.send(blocks(peer, 0, request).shape)
        else:
            pipe.send(timed(peer, request, 1))


def check(sample, stride):
    """Sum of (2i + 1) · word[i · stride] modulo 2^64, over the 64-bit words of the sample, zeros behind it."""
    octets = numpy.frombuffer(sample, numpy.uint8)
    rest = -len(octets) % 8
    words = (numpy.append(octets, numpy.zeros(rest, numpy.uint8)) if rest else octets).view("<u8")[::stride]
    return int(numpy.dot(words, numpy.arange(1, 2 * len(words) + 1, 2, dtype=numpy.uint64)))


def tensor_checks(batch, stride):
    import torch

    assert batch.dtype == torch.bfloat16 and batch.ndim == 2 and batch.is_contiguous(), batch.shape
    return [check(row, stride) for row in batch.view(torch.uint8).numpy()]


def serve(kind):
    """`SCRIPT prepare SAMPLES FOLDER` once, then `SCRIPT read SAMPLES FOLDER`, which answers line by line."""
    verb, samples, folder = sys.argv[1:]
    # Answers have stdout to themselves: what libraries print there goes to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = kind(samples, folder)
    if verb == "prepare":
        peer.folder.mkdir(parents=True, exist_ok=True)
        return peer.prepare()
    version = importlib.metadata.version(kind.package) if kind.package else ""
    hello = {"title": kind.title, "version": version, "settings": kind.settings, "reads": kind.reads}
    print(json.dumps(hello), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"close": peer.close, "bare": lambda: peer.bare(request), "loader": lambda: peer.load(request)}
        print(json.dumps(answer[request["do"]]() or {}), file=answers)
    peer.close()
