"""LMDB: a value a sample, seen through `buffers=True` and copied into owned memory.

https://lmdb.readthedocs.io/en/release/: `readonly`, `lock=False` for readers of a file that nobody writes;
`buffers=True` hands out views of the map; `readahead` stays on, because values are large and what is read is whole
(its text recommends off for random reads of databases larger than memory).
"""

import lmdb
import numpy

from peer import Peer, serve


class Lmdb(Peer):
    title, package = "LMDB", "lmdb"
    settings = "readonly, lock off, buffers on, copied with copyto"

    def path(self):
        return str(self.folder / "samples.lmdb")

    def prepare(self):
        size = 2 * self.samples.count * self.samples.bytes + (64 << 20)
        with lmdb.open(self.path(), map_size=size, subdir=False) as environment:
            for number, sample in enumerate(self.samples):
                with environment.begin(write=True) as transaction:
                    transaction.put(b"%06d" % number, sample.data)

    def open(self, threads):
        return lmdb.open(self.path(), readonly=True, lock=False, subdir=False, max_spare_txns=8)

    def close(self):
        if self.opened is not None:
            self.opened.close()
        super().close()

    def read(self, environment, number, memory):
        with environment.begin(buffers=True) as transaction:
            numpy.copyto(memory, numpy.frombuffer(transaction.get(b"%06d" % number), numpy.uint8))
        return memory


if __name__ == "__main__":
    serve(Lmdb)
