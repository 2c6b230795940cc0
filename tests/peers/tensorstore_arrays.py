"""TensorStore on the store itself: our Zarr arrays, opened as they are; checksums of chunks are verified.

https://google.github.io/tensorstore/context.html: `file_io_concurrency` and `data_copy_concurrency` are the threads;
`file_io_mode` memmap maps the files, which was a little faster here than reading them (default) or O_DIRECT (direct);
`cache_pool` stays empty, its default: one of 8 MiB was no faster, and one that holds all samples would answer without
reading; a tensorstore.Batch made no difference; `recheck_cached_*` false, because the store does not change. Reads of a batch are all asked for before the first is
waited for, and go straight into the batch's memory (`tensorstore.array`).
"""

import ml_dtypes
import tensorstore

from peer import Peer, serve


class TensorStore(Peer):
    title, package = "TensorStore", "tensorstore"
    settings = "file_io_mode memmap, both concurrencies = threads, no recheck, into reused memory"
    reads, parallel, start = "store", "inside", "spawn"

    def open(self, threads):
        limit = {"limit": threads}
        context = tensorstore.Context({
            "file_io_concurrency": limit,
            "data_copy_concurrency": limit,
            "file_io_mode": {"mode": "memmap"},
        })
        recheck = {"recheck_cached_data": False, "recheck_cached_metadata": False}
        folders = (f"{self.samples.store}/{level['array']}/" for level in self.samples.levels)
        specs = [{"driver": "zarr3", "kvstore": {"driver": "file", "path": path}, **recheck} for path in folders]
        return [tensorstore.open(spec, context=context, read=True).result() for spec in specs]

    def read_batch(self, arrays, numbers, memory):
        waiting = []
        for number, place in zip(numbers, memory):
            begin = 0
            for level, array in zip(self.samples.levels, arrays):
                end = begin + level["bytes"]
                values = place[begin:end].view(ml_dtypes.bfloat16).reshape(level["shape"])
                target = tensorstore.array(values, copy=False, write=True)
                waiting.append(target.write(array[self.samples.rows[number]]))
                begin = end
        for future in waiting:
            future.result()
        return list(memory)[: len(numbers)]


if __name__ == "__main__":
    serve(TensorStore)
