"""Goldens of SwinV2: levels of small seeded models, computed by timm, transformers and torchvision.

Run once, where torch, timm, transformers, torchvision, numpy and safetensors are installed:

    python tests/parity/swin_v2_goldens.py

Weights and inputs are not stored: both sides compute them from names (see `draw`; `tests/cases/swin_v2.rs` has
the same formula). Each file in `swin_v2/` holds the four levels of one case, [n, h, w, c], computed in binary64
and stored as binary32, with the case and the model's own tensor names and shapes in the metadata.

References are only used where they agree on the semantics that featcache documents:
- transformers decides windows from the configured image size, and for both axes from the height. Cases give it
  an image size that makes the same decision as the map at hand; this script asserts that.
- timm rolls before it pads (transformers and torchvision pad first) and shrinks windows by axis: only maps that
  its windows divide, and where it shrinks them only square ones.
- torchvision never shrinks a window: only maps larger than the window.
"""

import json
import math
import pathlib

import numpy as np
import timm
import torch
import torchvision
import transformers
from safetensors.numpy import save_file
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from transformers import Swinv2Config, Swinv2ForMaskedImageModeling

CHANNELS, HEADS = 8, [1, 2, 4, 8]
OUT = pathlib.Path(__file__).parent / "swin_v2"
U64 = (1 << 64) - 1


def draw(name, shape):
    """Uniform in [-1, 1): splitmix64 of FNV-1a of the name plus the index, its upper 24 bits."""
    start = 0xCBF29CE484222325
    for byte in name.encode():
        start = ((start ^ byte) * 0x100000001B3) & U64
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    uniform = (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    return uniform.reshape(shape)


def weight(name, shape):
    """A weight that matters in the forward pass, from its name and shape alone, in binary32."""
    u = draw(name, shape)
    if name.endswith("logit_scale"):
        # Around ln 10, where training starts; beyond the cut at ln 100 in some heads of the last block. Not in
        # earlier ones: with τ = 100 and 8 channels a head, transformers in bfloat16 is 3 % off from itself.
        last = "layers.3.blocks.1." in name or "features.7.1." in name
        return np.where(last & (u > 0.5), np.float32(6), np.float32(2.3) + np.float32(0.7) * u)
    if name.endswith("bias"):
        return np.float32(0.25) * u
    if len(shape) == 1:
        # Norms, well below 1 as in trained networks. With branches as large as the main branch the network is
        # chaotic: transformers in bfloat16 is then 20 % off from itself in binary64, with these 1 %.
        return np.float32(0.3) + np.float32(0.1) * u
    fan_in = int(np.prod(shape[1:]))
    return np.float32(math.sqrt(3 / fan_in)) * u


def fill(model):
    """Seeds every parameter; returns what a safetensors file of this model would list."""
    listed = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
            listed.append([name, list(parameter.shape)])
    return model.double().eval(), listed


def hf(case):
    config = Swinv2Config(
        image_size=case["image_size"], embed_dim=CHANNELS, depths=case["depths"], num_heads=HEADS,
        window_size=case["window"], pretrained_window_sizes=case["pretrained_window"], drop_path_rate=0.0,
    )
    model, listed = fill(Swinv2ForMaskedImageModeling(config))
    h, w = (-(-side // 4) for side in case["input"])
    for stage in model.swinv2.encoder.layers:
        for j, block in enumerate(stage.blocks):
            window = min(case["window"], h, w)
            shift = window // 2 if j % 2 and min(h, w) > case["window"] else 0
            assert (block.window_size, block.shift_size) == (window, shift), (case, h, w)
        h, w = (h + 1) // 2, (w + 1) // 2

    def run(x):
        cells, dimensions = model.swinv2.embeddings(x)
        out = model.swinv2.encoder(
            cells, dimensions, output_hidden_states=True, output_hidden_states_before_downsampling=True
        )
        return [level.permute(0, 2, 3, 1) for level in out.reshaped_hidden_states[1:]]

    return run, listed


def timm_(case):
    model = SwinTransformerV2(
        img_size=case["input"], window_size=case["window"], embed_dim=CHANNELS, depths=case["depths"],
        num_heads=HEADS, pretrained_window_sizes=case["pretrained_window"], drop_path_rate=0.0, num_classes=3,
    )
    if every := case["extra_norm_every"]:
        # The SwinV2 paper §3.6 and mmpretrain: a LayerNorm on the main branch after every so many blocks.
        for i, stage in enumerate(model.layers):
            for j, block in enumerate(stage.blocks):
                if (j + 1) % every == 0:
                    block.norm3 = torch.nn.LayerNorm(CHANNELS << i)
                    block.register_forward_hook(lambda block, _, out: block.norm3(out))
    model, listed = fill(model)

    def run(x):
        return [level.permute(0, 2, 3, 1) for level in model.forward_intermediates(x, intermediates_only=True)]

    return run, listed


def torchvision_(case):
    model = SwinTransformer(
        patch_size=[4, 4], embed_dim=CHANNELS, depths=case["depths"], num_heads=HEADS,
        window_size=[case["window"]] * 2, stochastic_depth_prob=0.0, num_classes=3,
        block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2,
    )
    model, listed = fill(model)

    def run(x):
        levels = []
        for i, module in enumerate(model.features):
            x = module(x)
            if i % 2:
                levels.append(x)
        return levels

    return run, listed


CASES = [
    # The coarsest map is smaller than the window.
    dict(name="hf-64x64-w4", reference="transformers", input=[64, 64], image_size=[64, 64], window=4),
    dict(name="hf-96x128-w4", reference="transformers", input=[96, 128], image_size=[96, 128], window=4),
    # Not divisible by anything: odd maps, padded windows, shrunk last window.
    dict(name="hf-76x100-w4", reference="transformers", input=[76, 100], image_size=[96, 128], window=4),
    # Not even by the patch.
    dict(name="hf-93x125-w5", reference="transformers", input=[93, 125], image_size=[96, 128], window=5),
    dict(name="hf-96x96-w8-trained-4", reference="transformers", input=[96, 96], image_size=[96, 96], window=8,
         pretrained_window=[4, 4, 4, 2]),
    dict(name="timm-128x192-w2", reference="timm", input=[128, 192], window=2),
    dict(name="timm-64x64-w8-trained-6", reference="timm", input=[64, 64], window=8,
         pretrained_window=[6, 6, 6, 3]),
    # Depth 6 in stage 2 with an extra norm every 3: as H and G have every 6.
    dict(name="timm-64x64-w4-norm3", reference="timm", input=[64, 64], window=4, depths=[2, 2, 6, 2],
         extra_norm_every=3),
    dict(name="torchvision-136x152-w4", reference="torchvision", input=[136, 152], window=4),
]


def main():
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    versions = {m.__name__: m.__version__ for m in (torch, timm, transformers, torchvision)}
    for case in CASES:
        case = dict(dict(depths=[2, 2, 2, 2], pretrained_window=[0, 0, 0, 0], extra_norm_every=0), **case)
        reference = {"transformers": hf, "timm": timm_, "torchvision": torchvision_}[case["reference"]]
        run, listed = reference(case)
        height, width = case["input"]
        pictures = torch.from_numpy(2 * draw(f"input {height}x{width}", (1, 3, height, width))).double()
        with torch.no_grad():
            levels = run(pictures)
        arrays = {f"p{i + 2}": np.ascontiguousarray(level.float().numpy()) for i, level in enumerate(levels)}
        metadata = dict(case=json.dumps(case), tensors=json.dumps(listed), versions=json.dumps(versions))
        save_file(arrays, OUT / f"{case['name']}.safetensors", metadata=metadata)
        print(case["name"], [a.shape for a in arrays.values()], [round(float(a.std()), 3) for a in arrays.values()])


main()
