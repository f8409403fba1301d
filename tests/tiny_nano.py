"""nano at a size that trains in seconds, for the tests of its stages."""

from dataclasses import replace

import torch

from artimuse.artimuse_core.score_tokens import ORDERED_100
from artimuse.training.kernel import KernelRegression
from artimuse.training.nano import NanoConfig, NanoShape
from artimuse.training.readout_stage import ReadoutRecipe
from artimuse.training.score_batches import BatchRecipe, Pool
from artimuse.training.taught_views import Taught, ViewRecipe, draw_views
from artimuse.training.texture import TextureRecipe
from artimuse.training.tower_stage import TowerRecipe

SIDE = 64
CPU = torch.device("cpu")
VALUES = torch.tensor(ORDERED_100.values)
TINY = NanoConfig(
    shape=NanoShape(
        input_size=SIDE,
        patch_size=16,
        vision_width=32,
        vision_layers=1,
        vision_mlp=32,
        llm_width=32,
        llm_mlp=32,
    ),
    texture=TextureRecipe(atoms=(8, 8, 8, 8), patches=2000),
    views=ViewRecipe(count=24, together=4),
    tower=TowerRecipe(
        steps=3,
        hidden=8,
        components=3,
        batch=replace(TowerRecipe().batch, rated=12, spoiled=0.34),
        views=4,
    ),
    readout=ReadoutRecipe(
        batches=2,
        dark_batches=1,
        steps=3,
        components=2,
        directions=4,
        batch=BatchRecipe(rated=16, unrated=4, worthless=1, groups=2),
    ),
    text=None,
    rendered=4,
)


def redness(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) uint8 → (N, 2): what a teacher sees that looks at colour alone."""
    red, green, _ = images.float().mean((2, 3)).unbind(1)
    return torch.stack([green / (red + 1), green / 255], dim=1)


def teach_redness(pool: Pool, views: int) -> Taught:
    """That teacher, who looked at ``pool`` and at views of it, and whose word it learns.

    What people said is what it says, and of drawn pictures it says 50.
    """
    rated = ~pool.opinion.isnan()
    pool.score = torch.where(rated, pool.opinion, 50.0)
    drawn = draw_views(pool.images, redness, replace(TINY.views, count=views))
    looks, opinion = redness(pool.images), pool.opinion[rated]
    return Taught(
        looks,
        opinion,
        pool.score.clone(),
        says=KernelRegression(looks[: len(opinion)], opinion, width=0.1, ridge=0.005),
        views=drawn,
    )
