"""A safetensors file a sample, copied into owned tensors.

`safe_open` maps the file and reads its header, `get_tensor` is a view of the map (safetensors' README and
https://huggingface.co/docs/safetensors/speed); the copy makes it ours.
"""

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from peer import Peer, serve


class Safetensors(Peer):
    title, package = "safetensors", "safetensors"
    settings = "a file a sample, safe_open, get_tensor, copied with copy_"

    def path(self, number):
        return str(self.folder / f"{number:06}.safetensors")

    def prepare(self):
        for number, sample in enumerate(self.samples):
            save_file({"features": torch.tensor(sample).view(torch.bfloat16)}, self.path(number))

    def read(self, _, number, memory):
        with safe_open(self.path(number), framework="pt") as file:
            torch.from_numpy(memory).view(torch.bfloat16).copy_(file.get_tensor("features"))
        return memory


if __name__ == "__main__":
    torch.set_num_threads(1)  # a pass with two threads has two of Python's
    serve(Safetensors)
