"""The score as a PNG chunk in a copy and as an XMP sidecar: never a pixel, never a lost tag."""

import json

import numpy as np
import pytest
from PIL import Image

from .acting import act, snapshot, take_back

SCORE = {"score": 71.4, "std": 6.2, "model": "nano"}


def test_png_copies_carry_the_score_and_the_same_pixels(folder, tmp_path, journals) -> None:
    image = folder / "image_0.png"
    before = image.read_bytes()
    act(journals, "png", [image], tmp_path / "best", **SCORE)
    copy = tmp_path / "best" / "image_0.png"
    with Image.open(copy) as written, Image.open(image) as original:
        assert json.loads(written.info["artimuse"]) == SCORE
        assert np.array_equal(np.asarray(written), np.asarray(original))
    start = before.index(b"IDAT")
    assert before[start:] in copy.read_bytes()  # the compressed pixels, byte for byte
    assert image.read_bytes() == before
    take_back(journals)
    assert not copy.exists()


def test_a_second_score_takes_the_place_of_the_first(folder, tmp_path, journals) -> None:
    act(journals, "png", [folder / "image_0.png"], tmp_path / "one", **SCORE)
    again = SCORE | {"score": 12.0}
    act(journals, "png", [tmp_path / "one" / "image_0.png"], tmp_path / "two", run="b", **again)
    assert (tmp_path / "two" / "image_0.png").read_bytes().count(b"artimuse") == 1
    with Image.open(tmp_path / "two" / "image_0.png") as written:
        assert json.loads(written.info["artimuse"])["score"] == 12


@pytest.mark.parametrize("cut", [0, 4, 40, -4])
def test_no_score_is_written_into_what_is_no_whole_png(folder, tmp_path, journals, cut) -> None:
    image = folder / "image_0.png"
    image.write_bytes(image.read_bytes()[:cut])
    outcome = act(journals, "png", [image], tmp_path / "best", **SCORE)
    assert len(outcome.failures) == 1
    assert list((tmp_path / "best").iterdir()) == []


DIGIKAM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:digiKam="http://www.digikam.org/ns/1.0/" xmp:Rating="2">
   <digiKam:TagsList><rdf:Seq><rdf:li>cats</rdf:li></rdf:Seq></digiKam:TagsList>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>\r\n"""


def test_xmp_is_merged_and_comes_back_to_the_byte(folder, journals) -> None:
    image, sidecar = folder / "image_0.png", folder / "image_0.png.xmp"
    sidecar.write_bytes(DIGIKAM.encode())
    before = snapshot(folder)
    act(journals, "xmp", [image, folder / "image_1.png"], **SCORE)
    text = sidecar.read_text("utf-8")
    assert 'xmp:Rating="4"' in text
    assert text.count("Rating") == 1
    assert '"71.40"' in text
    assert "<rdf:li>cats</rdf:li>" in text
    assert 'xmp:Rating="4"' in (folder / "image_1.png.xmp").read_text("utf-8")
    assert take_back(journals).failures == []
    assert snapshot(folder) == before


def test_xmp_written_twice_is_the_same(folder, journals) -> None:
    image = folder / "image_0.png"
    act(journals, "xmp", [image], **SCORE)
    once = (folder / "image_0.png.xmp").read_bytes()
    act(journals, "xmp", [image], run="again", **SCORE)
    assert (folder / "image_0.png.xmp").read_bytes() == once


@pytest.mark.parametrize(
    "content",
    [b"", b"no xml", b"<html/>", b"\xff\xfe<x", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'],
)
def test_a_sidecar_that_is_no_xmp_is_left_alone(folder, journals, content: bytes) -> None:
    sidecar = folder / "image_0.png.xmp"
    sidecar.write_bytes(content)
    outcome = act(journals, "xmp", [folder / "image_0.png"], **SCORE)
    assert "left alone" in outcome.failures[0]
    assert sidecar.read_bytes() == content


def test_each_fifth_of_the_scale_is_a_star() -> None:
    from artimuse.curation.write_metadata import stars

    assert [stars(score) for score in (0, 20, 20.1, 50, 80, 80.1, 100)] == [1, 1, 2, 3, 4, 5, 5]
