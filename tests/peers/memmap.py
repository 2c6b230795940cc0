"""`numpy.memmap` of the neutral form, copied into owned arrays: `numpy.copyto` lets go of the interpreter's lock.

https://numpy.org/doc/stable/reference/generated/numpy.memmap.html
"""

import numpy

from peer import Peer, serve


class Memmap(Peer):
    title, package = "np.memmap", "numpy"
    reads, settings = "samples", "one file, one map, copied with copyto"

    def open(self, threads):
        return numpy.memmap(self.samples.file, numpy.uint8, "r", shape=(self.samples.count, self.samples.bytes))

    def read(self, rows, number, memory):
        numpy.copyto(memory, rows[number])
        return memory


if __name__ == "__main__":
    serve(Memmap)
