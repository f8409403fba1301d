"""A small convolutional network that teaches nano, trained by the same recipe and thrown away.

From two thousand pictures a transformer learns texture slowly, a convolution quickly: on the same
batches this network is ahead throughout. nano learns from its maps, place by place, as well as from
its scores (in the spirit of DeiT, Touvron et al. 2021, where the teacher is a convnet too).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvTeacher(nn.Module):
    """Scores like the graph it teaches: (B, 3, S, S) pixel_values → (B, K) fp32 logits."""

    def __init__(
        self, input_size: int, score_tokens: int, widths: tuple[int, ...] = (24, 48, 96, 160)
    ) -> None:
        super().__init__()
        self.input_size, self.widths = input_size, widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 7, stride=4, padding=3, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        stages, width = [], widths[0]
        for index, wide in enumerate(widths):
            blocks = [_Residual(width, wide, stride=2 if index else 1)]
            if index:  # the first stage has the most places: keep it short
                blocks.append(_Residual(wide, wide, stride=1))
            stages.append(nn.Sequential(*blocks))
            width = wide
        self.stages = nn.ModuleList(stages)
        self.readout = _Readout(2 * width, score_tokens)
        self.map_width = widths[-2] * 4 + widths[-1]
        """Numbers a place that ``maps`` gives."""

    def _trunk(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(pixel_values.contiguous(memory_format=torch.channels_last))
        for stage in self.stages[:-1]:
            x = stage(x)
        return x, self.stages[-1](x)  # (B, C', 2h, 2w), (B, C, h, w)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self._read(self._trunk(pixel_values)[1])

    def _read(self, last: Tensor) -> Tensor:
        # The spread over the picture matters as much as the mean: one ruined corner, flat areas.
        last = last.float().flatten(2)
        logits: Tensor = self.readout(torch.cat([last.mean(2), last.std(2)], dim=1)[:, None])
        return logits

    @torch.no_grad()
    def teach(self, pixel_values: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Logits (B, K), and maps (B, side², map_width) at the places of nano's image tokens."""
        fine, last = self._trunk(pixel_values)
        fine = F.adaptive_avg_pool2d(fine.float(), 2 * side)
        fine = F.pixel_unshuffle(fine, 2)  # (B, 4 C', side, side)
        maps = torch.cat([fine, F.adaptive_avg_pool2d(last.float(), side)], dim=1)
        # Each channel with mean 0 and spread 1 over the batch, so that none drowns the others.
        mean, std = maps.mean((0, 2, 3), keepdim=True), maps.std((0, 2, 3), keepdim=True)
        maps = (maps - mean) / (std + 1e-3)
        return self._read(last), maps.flatten(2).transpose(1, 2)


class _Readout(nn.Module):
    def __init__(self, width: int, score_tokens: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Dropout(0.3), nn.Linear(width, score_tokens)
        )

    def forward(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.layers(pooled[:, 0]).float()
        return logits


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.skip = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.skip(x))
