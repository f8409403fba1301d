"""The page of a run, in a real browser where one is installed, and what it is made of."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, PngImagePlugin

from artimuse import cli
from artimuse.artimuse_core.scorer import Scorer
from artimuse.curation.drivers import score_drivers
from artimuse.curation.html_report import write_report
from artimuse.curation.metadata import GenerationInfo
from artimuse.curation.records import Record
from artimuse.curation.store import Store

from .fakes import brightness_scorer

pytest.importorskip("jinja2")


def record(index: int, score: float, selected: bool = False, **made) -> Record:
    return Record(
        f"/x/{index:05}.png", score, 2.0, "m", rank=index + 1, selected=selected, reason="kept",
        info=GenerationInfo(**made),
    )  # fmt: skip


def generation(path: Path, level: int, checkpoint: str) -> None:
    text = PngImagePlugin.PngInfo()
    settings = f"Steps: 9, Sampler: Euler, Seed: {2**63 + level}, Model: {checkpoint}"
    text.add_text("parameters", f"a </script><b>cat</b> {level}\n{settings}")
    coarse = np.random.default_rng(level // 2 * 2).integers(0, 60, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((96, 64), Image.Resampling.BICUBIC)
    image.point(lambda value: value + level * 6).save(path, pnginfo=text)


@pytest.fixture
def page(tmp_path, monkeypatch) -> Path:
    """A report on 20 pictures, of which each second nearly equals the one before."""
    folder = tmp_path / "images"
    folder.mkdir()
    for level in range(20):
        generation(folder / f"{level:02} &#.png", level, "ab"[level % 2])
    (folder / "broken.png").write_bytes(b"x")
    monkeypatch.setattr(Scorer, "load", lambda *args, **options: brightness_scorer())
    page = tmp_path / "report.html"
    arguments = ["curate", str(folder), "--top", "3", "--dedup", "4", "--report", str(page)]
    assert CliRunner().invoke(cli.main, arguments).exit_code == 1  # the broken one
    return page


def test_the_page_holds_everything_and_asks_for_nothing(page) -> None:
    text = page.read_text("utf-8")
    for outside in ("http://", "https://", "@import", "<link", 'src="'):
        assert outside not in text
    assert text.count("</script>") == text.count("<script")
    assert "not an image, or its header is broken" in text
    rows = json.loads(text.split('id="rows">')[1].split("</script>")[0])
    assert len(rows["path"]) == 20
    assert rows["seed"][0] == str(2**63 + 19)
    assert sum(rows["selected"]) == 3
    assert (page.parent / rows["link"][0].replace("%20", " ").replace("%26", "&").replace(
        "%23", "#")).is_file()  # fmt: skip


@pytest.fixture
def tab(browser):
    tab = browser.new_page(viewport={"width": 900, "height": 700}, accept_downloads=True)
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: problems.append(request.url) if not
           request.url.startswith(("file:", "data:", "blob:")) else None)  # fmt: skip
    yield tab
    assert problems == []
    tab.close()


def test_pick_filter_fold_and_export_in_a_browser(page, tab, tmp_path) -> None:
    tab.goto(page.as_uri())
    cells = tab.locator(".cell")
    assert tab.locator("#count").inner_text() == "20 images, 3 kept, 10 shown"
    assert tab.locator(".cell.kept").count() == 3
    tab.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    cells.first.locator("small").click()  # unfold its duplicate
    assert cells.count() == 11
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("x")
    assert "2 kept (1 changed by hand)" in tab.locator("#count").inner_text()
    with tab.expect_download() as download:
        tab.click("#export")
    download.value.save_as(tmp_path / "picks.jsonl")
    picks = [json.loads(line) for line in (tmp_path / "picks.jsonl").read_text().splitlines()]
    assert [pick["picked"] for pick in picks] == [True, False, True]
    tab.fill("#search", f"{2**63 + 19}")
    assert cells.count() == 1
    cells.first.hover()
    assert "a </script><b>cat</b> 19" in tab.locator("#detail").inner_text()
    tab.fill("#search", "")
    tab.select_option("#show", "changed")
    assert cells.count() == 1


def test_twenty_thousand_images_scroll(tab, tmp_path) -> None:
    store = Store(None)
    records = [
        record(i, 100 - i / 200, selected=i < 9, prompt=f"prompt {i % 50}!") for i in range(20_000)
    ]
    write_report(tmp_path / "r.html", records, store, title="many")
    store.close()
    tab.goto((tmp_path / "r.html").as_uri())
    assert tab.locator(".cell").count() < 60  # only what is in view exists
    tab.evaluate("scrollTo(0, document.body.scrollHeight)")
    tab.wait_for_selector("img[alt='/x/19999.png']", state="attached")
    tab.fill("#search", "49!")
    assert tab.locator("#count").inner_text().endswith("400 shown")


def test_critiques_are_read_beside_the_grid(tab, tmp_path) -> None:
    store = Store(None)
    texts = {"Composition & Design": "The <b>diagonal</b> leads in.", "Overall Gestalt": ""}
    records = [record(i, 90 - i, selected=i < 2) for i in range(5)]
    records[:2] = [dataclasses.replace(r, critique=texts) for r in records[:2]]
    write_report(tmp_path / "r.html", records, store, title="with critiques")
    write_report(tmp_path / "without.html", records[2:], store, title="without")
    store.close()
    tab.goto((tmp_path / "r.html").as_uri())
    assert tab.locator(".why").count() == 2
    tab.locator(".why").first.click()
    assert tab.locator(".cell.kept").count() == 2  # reading is not picking
    panel = tab.locator("#critique")
    assert "The <b>diagonal</b> leads in." in panel.inner_text()
    assert "/x/00000.png · 90.0" in panel.inner_text()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("c")
    assert "/x/00001.png · 89.0" in panel.inner_text()
    tab.keyboard.press("Escape")
    assert not panel.is_visible()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("c")  # it has none
    assert not panel.is_visible()
    tab.goto((tmp_path / "without.html").as_uri())
    assert "C critique" not in tab.locator("header").inner_text()


def test_reports_need_a_name_of_a_page(folder) -> None:
    result = CliRunner().invoke(cli.main, ["curate", str(folder), "--report", "r.pdf"])
    assert result.exit_code == 2
    assert ".html" in result.stderr


def many(checkpoints: str, effect: float, prompts: int = 1) -> list[Record]:
    random = np.random.default_rng(0)
    return [
        record(
            i,
            50 + effect * (name == "b") + 10 * (i % prompts) + float(random.normal(0, 3)),
            checkpoint=name,
            prompt=f"p{i % prompts}",
        )
        for i, name in enumerate(checkpoints * 60)
    ]


def test_a_driver_is_found_with_an_interval_that_holds_it() -> None:
    (first, second) = score_drivers(many("ab", 4.0))
    assert {first.value, second.value} == {"a", "b"}
    driver = first if first.value == "b" else second
    assert driver.low < 4 < driver.high
    assert driver.low > 0
    assert driver.images == 60


def test_nothing_is_claimed_where_there_is_nothing() -> None:
    assert all(d.low < 0 < d.high for d in score_drivers(many("ab", 0.0)))
    assert score_drivers(many("ab", 5.0)[:6]) == []


def test_a_better_prompt_does_not_make_its_checkpoint_better() -> None:
    # Checkpoint b was used with the good prompt three times out of four.
    rows = []
    for i in range(200):
        checkpoint, noise = "ab"[i % 2], math.sin(i * 12.9898) * 3
        good = (i // 2) % 4 != 0 if checkpoint == "b" else (i // 2) % 4 == 0
        rows.append(record(i, 80 + noise if good else 40 + noise, checkpoint=checkpoint,
                           prompt="good" if good else "bad"))  # fmt: skip
    raw = np.mean([r.score for r in rows if r.info.checkpoint == "b"]) - np.mean(
        [r.score for r in rows if r.info.checkpoint == "a"]
    )
    assert raw > 15
    assert all(abs(driver.difference) < 1 for driver in score_drivers(rows))
