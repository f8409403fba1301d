import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from artimuse import cli
from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation.decide import Wishes, rank_records
from artimuse.curation.pipeline import score_files
from artimuse.curation.scan import scan
from artimuse.curation.selection import Top
from artimuse.curation.stability import firmness, with_stability

from .fakes import brightness_scorer


def flat(path, level: int, edge: int | None = None) -> None:
    """A grey picture; with ``edge``, a border of another grey that crops take off."""
    pixels = np.full((100, 100, 3), level, np.uint8)
    if edge is not None:
        pixels[:4] = pixels[-4:] = pixels[:, :4] = pixels[:, -4:] = edge
    Image.fromarray(pixels).save(path)


def stays(folder, top: str) -> tuple[dict[str, float | None], str]:
    scorer, wishes = brightness_scorer(), Wishes(top=Top.parse(top))
    ranked = rank_records(score_files(scorer, scan([folder])), wishes)
    tried = with_stability(scorer, ranked, wishes)
    return {r.path.rpartition("/")[2]: r.stays for r in tried}, firmness(tried)


def test_a_wide_gap_is_a_firm_cut(tmp_path) -> None:
    for index, level in enumerate([220, 210, 60, 50]):
        flat(tmp_path / f"{index}.png", level)
    shares, line = stays(tmp_path, "2")
    assert shares == {"0.png": 1, "1.png": 1, "2.png": 0, "3.png": 0}
    assert "stay 100% of the time" in line
    assert "0 could go either way" in line


def test_images_that_hang_on_their_border_are_told(tmp_path) -> None:
    flat(tmp_path / "firm.png", 230)
    flat(tmp_path / "bright-border.png", 120, edge=160)
    flat(tmp_path / "dark-border.png", 127, edge=90)
    shares, line = stays(tmp_path, "2")
    assert shares["firm.png"] == 1
    assert shares["bright-border.png"] + shares["dark-border.png"] == pytest.approx(1)
    assert shares["dark-border.png"] > 0
    assert stays(tmp_path, "2") == (shares, line)  # it repeats


def test_only_images_near_the_cut_are_tried(tmp_path) -> None:
    for index in range(12):
        flat(tmp_path / f"{index:02}.png", 20 * index)
    scorer, wishes = brightness_scorer(), Wishes(top=Top.parse("50%"))
    ranked = rank_records(score_files(scorer, scan([tmp_path])), wishes)
    tried = with_stability(scorer, ranked, wishes, near=2)
    assert [r.rank for r in tried if r.stays is not None] == [5, 6, 7, 8]


def test_the_command_says_how_firm_the_cut_is(folder, monkeypatch) -> None:
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())
    result = CliRunner().invoke(cli.main, ["curate", str(folder), "--top", "50%", "--stable"])
    assert result.exit_code == 0
    assert "cut: under crops of up to 4%" in result.stderr
    assert CliRunner().invoke(cli.main, ["curate", str(folder), "--stable"]).exit_code == 2
