"""MosaicML streaming: MDS shards of 64 MiB (its default), in place (`local` only, so nothing is downloaded).

https://docs.mosaicml.com/projects/streaming/en/stable/preparing_datasets/dataset_format.html: `ndarray:int16:N` has a
static shape, which is decoded without a header; bf16 is no type of it, and the bits are the same.
https://docs.mosaicml.com/projects/streaming/en/stable/dataset_configuration/shuffling.html: py1e, the default.
A sample alone is `dataset[i]`; readers are processes, forked from the one that has the dataset as its own loader's
workers are. `clean_stale_shared_memory` comes before a dataset: one of a folder at a time.
"""

import numpy
import torch
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

from peer import Peer, serve


class Mds(Peer):
    title, package = "MosaicML MDS", "mosaicml-streaming"
    settings = "ndarray:int16 of static shape, shards of 64 MiB, py1e shuffle, StreamingDataLoader"
    parallel, inherits = "processes", True

    def path(self):
        return str(self.folder / "mds")

    def prepare(self):
        columns = {"features": f"ndarray:int16:{self.samples.bytes // 2}"}
        size = max(1 << 26, self.samples.bytes + (1 << 16))
        with MDSWriter(out=self.path(), columns=columns, size_limit=size) as out:
            for sample in self.samples:
                out.write({"features": sample.view(numpy.int16)})

    def open(self, threads):
        return self.dataset(None)

    def dataset(self, batch):
        clean_stale_shared_memory()
        return StreamingDataset(local=self.path(), shuffle=batch is not None, batch_size=batch or 1)

    def read(self, dataset, number, memory):
        return dataset[number]["features"]

    def loader(self, batch, workers):
        self.forget()
        return StreamingDataLoader(
            self.dataset(batch), batch_size=batch, num_workers=workers, persistent_workers=workers > 0,
            collate_fn=collated,
        )


def collated(samples):
    return torch.utils.data.default_collate([sample["features"] for sample in samples]).view(torch.bfloat16)


if __name__ == "__main__":
    serve(Mds)
