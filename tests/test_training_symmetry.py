"""How nano learns to see symmetry: folded pictures, and a head that looks at the mirrored place."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from artimuse.artimuse_core.decoder import causal_mask
from artimuse.training import nano
from artimuse.training.datasets.rendered import render
from artimuse.training.descriptions import facts
from artimuse.training.symmetry import fold, mirror_loss

from .tiny_nano import TINY


def test_folding_makes_a_picture_more_or_less_symmetric() -> None:
    torch.manual_seed(0)
    pictures = render(64, 96, seed=5).float() / 255
    before, folded = facts(pictures), fold(pictures)
    gained = torch.tensor(
        [now.symmetry - was.symmetry for was, now in zip(before, facts(folded), strict=True)]
    )
    assert folded.shape == pictures.shape
    assert float(folded.min()) >= 0
    assert float(folded.max()) <= 1
    assert (gained > 0.3).sum() >= 8
    assert (gained < 0.1).sum() >= 8  # with another's mirror image
    alone = torch.stack([fold(pictures[:1])[0] for _ in range(40)])  # none but its own
    symmetric = torch.tensor([seen.symmetry for seen in facts(alone)])
    assert (symmetric > before[0].symmetry - 1e-4).all()
    assert 4 <= (symmetric > 0.999).sum() <= 24  # put together from its halves


def test_the_first_head_learns_to_look_at_the_mirrored_place(tmp_path, monkeypatch) -> None:
    graph = nano.build(replace(TINY, shape=replace(TINY.shape, patch_size=8)), tmp_path)
    torch.manual_seed(0)
    side = 4
    width = TINY.shape.llm_width
    places = torch.randn(side * side, width)
    first = graph.decoder.layers[0].self_attn
    learnt = torch.optim.Adam([*first.q_proj.parameters(), *first.k_proj.parameters()], 0.01)
    losses = []
    for _ in range(150):
        image = places + 0.3 * torch.randn(8, side * side, width)
        loss = mirror_loss(graph, image, graph.prefill_tokens(image)[0][0])
        learnt.zero_grad()
        loss.backward()
        learnt.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1
    assert losses[-1] < 0.1

    attended = []
    attend = F.scaled_dot_product_attention

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **rest: torch.Tensor):
        attended.append((q, k))
        return attend(q, k, v, **rest)

    with torch.no_grad():
        start = graph.prefix()[0][0].shape[2]
        monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
        graph.prefill_tokens(places + 0.3 * torch.randn(8, side * side, width))
    q, k = next((q, k) for q, k in attended if q.shape[0] == 8)
    alike = q[:, 0] @ k[:, 0].mT
    alike = alike.masked_fill(~causal_mask(start, side * side), float("-inf"))
    looked_at = alike.argmax(2) - start  # (8, places)
    for row in range(side):
        for column in (2, 3):
            found = looked_at[:, row * side + column] == row * side + 3 - column
            assert found.float().mean() > 0.9
