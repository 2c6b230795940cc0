"""Rows of a peer without a loader of its own, through torch's DataLoader: whole batches are read at once
(`__getitems__`, torch.utils.data.Dataset) into the memory that the batch has from then on, which in a worker is
shared memory, as in torch's default collation. So there is no copy but the read, and the tensor's way to the
training process costs a file descriptor."""

import os

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info


class Rows(Dataset):
    def __init__(self, peer):
        self.peer = peer

    def __len__(self):
        return self.peer.samples.count

    def __getitems__(self, numbers):
        batch = empty(len(numbers), self.peer.samples.bytes)
        memory = batch.numpy()
        # Beside each other workers have a thread each; alone a peer may use what threads of its own it has.
        alone = self.peer.parallel == "inside" and get_worker_info() is None
        opened = self.peer.handle(len(os.sched_getaffinity(0)) if alone else 1)
        found = self.peer.read_batch(opened, numbers, memory)
        for place, sample in zip(memory, found):
            if sample is not place:
                place[:] = memory_of(sample)
        return batch.view(torch.bfloat16)


class Order(Sampler):
    """The order of the request, which the peer's list holds: persistent workers keep everything else."""

    def __init__(self, peer):
        self.peer = peer

    def __iter__(self):
        return iter(self.peer.order)

    def __len__(self):
        return len(self.peer.order)


def empty(rows, row_bytes):
    if get_worker_info() is None:
        return torch.empty((rows, row_bytes), dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(rows * row_bytes)  # as torch.utils.data.default_collate
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (rows, row_bytes))


def memory_of(sample):
    import numpy

    return numpy.frombuffer(sample, numpy.uint8)


def whole(batch):
    return batch


def loader(peer, batch, workers):
    # https://pytorch.org/docs/stable/data.html: persistent_workers keeps them from epoch to epoch.
    context = {"multiprocessing_context": peer.start, "persistent_workers": True} if workers else {}
    peer.forget()  # workers open for themselves
    rows = Rows(peer)
    return DataLoader(rows, batch, sampler=Order(peer), num_workers=workers, collate_fn=whole, **context)
