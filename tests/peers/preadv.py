"""Raw `os.preadv` of the neutral form into reused memory: what any Python program can reach without a format."""

import os

from peer import Peer, serve


class Preadv(Peer):
    title = "os.preadv"
    reads, settings = "samples", "one file, one call a sample"

    def open(self, threads):
        return os.open(self.samples.file, os.O_RDONLY)

    def close(self):
        if self.opened is not None:
            os.close(self.opened)
        super().close()

    def read(self, file, number, memory):
        done, size = 0, self.samples.bytes
        while done < size:
            done += os.preadv(file, [memory[done:]], number * size + done)
        return memory


if __name__ == "__main__":
    serve(Preadv)
