"""WebDataset: tar files, read from front to back in shuffled order through a shuffle buffer.

https://github.com/webdataset/webdataset (README, "wids" aside): raw bytes as the member, because `.ten` and `.npy`
have no bf16 and cost a copy more; `shardshuffle` and `.shuffle` as large as the data, so that the order is as random as
it can be; batches are made in the workers and WebLoader gets them whole (`batch_size=None`). A sample alone cannot be
asked for: a bare pass is one through the pipeline too, and two readers are two worker processes.
"""

import numpy
import torch
import webdataset

from peer import Peer, serve

SHARDS = 8  # of a sample more or less, so that workers have equal shares


class WebDataset(Peer):
    title, package = "WebDataset", "webdataset"
    settings = f"{SHARDS} tar shards, raw bytes, shuffle buffer of all samples, WebLoader"

    def prepare(self):
        for shard in range(min(SHARDS, self.samples.count)):
            with webdataset.TarWriter(str(self.folder / f"{shard:04}.tar")) as tar:
                for number, sample in enumerate(self.samples):
                    if number % SHARDS == shard:
                        tar.write({"__key__": f"{number:06}", "bin": sample.tobytes()})

    def pipeline(self):
        shards = sorted(map(str, self.folder.glob("*.tar")))
        pipeline = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False, workersplitter=SPLIT)
        return pipeline.shuffle(self.samples.count).map(octets)

    def bare(self, request):
        workers = request["threads"] if request["threads"] > 1 else 0
        return self.load({**request, "threads": workers, "epochs": 1})

    def close(self):
        """Nothing: each epoch opens its files anew, and a new loader would read an epoch to start."""

    def loader(self, batch, workers):
        batches = self.pipeline().batched(batch, collation_fn=stacked)
        return webdataset.WebLoader(
            batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0
        )


SPLIT = webdataset.split_by_worker


def octets(sample):
    return numpy.frombuffer(sample["bin"], numpy.uint8)


def stacked(samples):
    from rows import empty

    batch = empty(len(samples), len(samples[0]))
    for place, sample in zip(batch.numpy(), samples):
        numpy.copyto(place, sample)
    return batch.view(torch.bfloat16)


if __name__ == "__main__":
    serve(WebDataset)
