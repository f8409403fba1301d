"""A node pack for the integration tests alone: pictures, a tiny diffusion model, and a bomb."""

from __future__ import annotations

import logging

import torch

DECODED = "the tiny VAE decodes a batch"
"""In ComfyUI's log, once for each batch that was really sampled."""


class Pictures:
    """Grey images of the given levels (0..100) as a batch, or as a list of growing sizes."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_IS_LIST = "test", "make", ("IMAGE",), (True,)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802, ComfyUI's own name
        return {"required": {"levels": ("STRING", {}), "as_list": ("BOOLEAN", {"default": False})}}

    def make(self, levels, as_list):
        greys = [float(level) / 100 for level in levels.split(",")]
        if as_list:
            return ([torch.full((1, 16 + 8 * i, 16, 3), v) for i, v in enumerate(greys)],)
        return ([torch.stack([torch.full((16, 16, 3), v) for v in greys])],)


class Bomb:
    """Raises when it runs: a branch that must not be computed."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "explode", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802, ComfyUI's own name
        return {"required": {"after": ("IMAGE", {})}}

    def explode(self, after):
        raise RuntimeError("the bomb went off")


class TinyCheckpoint:
    """Stands for CheckpointLoaderSimple: real samplers run over a very small UNet."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "load", ("MODEL", "CLIP", "VAE")

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802, ComfyUI's own name
        return {"required": {"ckpt_name": ("STRING", {})}}

    def load(self, ckpt_name):
        import comfy.model_patcher
        import comfy.supported_models

        config = comfy.supported_models.SD15(
            {
                "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
                "num_res_blocks": [1], "channel_mult": (1,), "transformer_depth": [1],
                "transformer_depth_output": [1, 1], "transformer_depth_middle": 1,
                "context_dim": 8, "num_heads": 2, "use_spatial_transformer": True,
                "adm_in_channels": None, "use_linear_in_transformer": False, "legacy": False,
            }
        )  # fmt: skip
        config.set_inference_dtype(torch.float32, None)
        torch.manual_seed(0)
        model = config.get_model({}, "", "cpu")
        with torch.no_grad():  # ComfyUI's layers leave their weights as they find them
            for parameter in model.diffusion_model.parameters():
                parameter.normal_(0, 0.05)
        cpu = torch.device("cpu")
        patcher = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
        return (patcher, _Words(), _Pixels())


class _Words:
    """A CLIP that gives every text the same small conditioning."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return [[torch.zeros(1, 4, 8), {"pooled_output": None}]]


class _Pixels:
    """A VAE that shows three latent channels as colours, eight times as large."""

    def decode(self, samples):
        logging.info(DECODED)
        pixels = samples[:, :3].movedim(1, -1).repeat_interleave(8, 1).repeat_interleave(8, 2)
        return (pixels.tanh() + 1) / 2


NODE_CLASS_MAPPINGS = {
    "TestPictures": Pictures,
    "TestBomb": Bomb,
    "TestTinyCheckpoint": TinyCheckpoint,
}
