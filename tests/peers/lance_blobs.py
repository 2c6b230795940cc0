"""Lance: a blob column, which is what it offers for values of megabytes (https://lance.org/guide/blob/).

`take_blobs` and `readall`, without the buffer for small reads, gave 3.0 GB/s here where `read_blobs`, which its text
recommends to training loops, gave 2.3, a `large_binary` column 0.3 and a fixed-size list 0.2. LanceDataset and
SafeLanceDataset of lance.torch do not materialise blobs, so the loader is lance's `get_safe_loader` around the same
reads, which spawns its workers because Lance does not survive a fork. Lance has threads of its own: a pass with `threads` of them is
one that has as many CPUs.
"""

import os

import lance
import pyarrow
from lance.torch.data import get_safe_loader
from torch.utils.data import get_worker_info

from peer import Peer, serve


class Lance(Peer):
    title, package = "Lance", "pylance"
    settings = "blob column of format 2.2, take_blobs, readall; CPUs = threads"
    parallel, start = "inside", "spawn"

    def path(self):
        return str(self.folder / "samples.lance")

    def prepare(self):
        field = lance.blob_field("features", nullable=False)
        schema = pyarrow.schema([field])
        rows = (
            pyarrow.record_batch([lance.blob_array([sample.tobytes()])], schema=schema) for sample in self.samples
        )
        lance.write_dataset(rows, self.path(), schema=schema, data_storage_version="2.2")

    def open(self, threads):
        # A worker of a loader shares the CPUs with the others, as any process does.
        cpus = CPUS if get_worker_info() else sorted(CPUS)[:threads]
        for task in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(task), cpus)
        return lance.dataset(self.path())

    def read_batch(self, dataset, numbers, memory):
        return [blob.readall() for blob in dataset.take_blobs("features", indices=list(numbers), buffer_size=0)]

    def loader(self, batch, workers):
        from rows import Order, Rows, loader, whole

        self.forget()
        for task in os.listdir("/proc/self/task"):  # what a bare pass on one CPU has left
            os.sched_setaffinity(int(task), CPUS)
        if not workers:
            return loader(self, batch, 0)
        return get_safe_loader(Rows(self), batch, workers, sampler=Order(self), collate_fn=whole)


CPUS = os.sched_getaffinity(0)

if __name__ == "__main__":
    serve(Lance)
