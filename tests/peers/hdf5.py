"""HDF5 through h5py: one dataset of int16 rows (bf16 has no HDF5 type in h5py; the bits are the same).

Contiguous layout, which needs no chunk cache and no B-tree (https://docs.h5py.org/en/stable/high/dataset.html#chunked-storage);
`read_direct` reads into our memory without an array between. h5py has one lock for all threads
(https://docs.h5py.org/en/stable/threads.html), so two readers are two processes, each with its own file handle.
"""

import h5py
import numpy

from peer import Peer, serve


class Hdf5(Peer):
    title, package = "HDF5 (h5py)", "h5py"
    settings = "one contiguous int16 dataset, read_direct"
    parallel = "processes"

    def path(self):
        return str(self.folder / "samples.h5")

    def prepare(self):
        with h5py.File(self.path(), "w", libver="latest") as file:
            shape = (self.samples.count, self.samples.bytes // 2)
            rows = file.create_dataset("features", shape, numpy.int16)
            for number, sample in enumerate(self.samples):
                rows[number] = sample.view(numpy.int16)

    def open(self, threads):
        return h5py.File(self.path(), "r", libver="latest", locking=False)["features"]

    def close(self):
        if self.opened:
            self.opened.file.close()
        super().close()

    def read(self, rows, number, memory):
        rows.read_direct(memory.view(numpy.int16), numpy.s_[number])
        return memory


if __name__ == "__main__":
    serve(Hdf5)
