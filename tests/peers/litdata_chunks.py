"""LitData: chunks of 256 MB, as its README advises for large samples, mapped in place (local folders need no cache).

Tensors of int16, whose chunks hold bytes without a header: bf16 is in its table with the note "Not supported"
(litdata/constants.py), and the bits are the same. A sample alone is `dataset[i]`, a view of the map, copied into owned
memory; readers are processes, as its own loader's workers are.
"""

import os

# Read when litdata is imported.
os.environ.setdefault("LITDATA_LOG_LEVEL", "ERROR")

import numpy
import torch
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming.writer import BinaryWriter

from peer import Peer, serve


class LitData(Peer):
    title, package = "LitData", "litdata"
    settings = "int16 tensors, chunks of 256 MB mapped in place, StreamingDataLoader"
    parallel = "processes"

    def path(self):
        return str(self.folder / "chunks")

    def prepare(self):
        os.makedirs(self.path())
        writer = BinaryWriter(self.path(), chunk_bytes=1 << 28)
        for number, sample in enumerate(self.samples):
            writer.add_item(number, torch.tensor(sample).view(torch.int16))
        writer.done()
        writer.merge()

    def open(self, threads):
        return StreamingDataset(self.path())

    def read(self, dataset, number, memory):
        numpy.copyto(memory, dataset[number].view(torch.uint8).numpy())
        return memory

    def loader(self, batch, workers):
        self.forget()
        dataset = StreamingDataset(self.path(), shuffle=True, drop_last=False)
        return StreamingDataLoader(
            dataset, batch_size=batch, num_workers=workers, persistent_workers=workers > 0, collate_fn=collated
        )


def collated(samples):
    return torch.utils.data.default_collate(samples).view(torch.bfloat16)


if __name__ == "__main__":
    serve(LitData)
