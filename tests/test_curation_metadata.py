"""What each generator writes is found; what strangers write breaks nothing."""

import dataclasses
import gzip
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from artimuse.artimuse_core.images import DEFAULT_MAX_PIXELS
from artimuse.curation.comfyui_graph import Graph
from artimuse.curation.metadata import MAX_PROMPT, GenerationInfo, read_metadata
from artimuse.curation.pipeline import read_source
from artimuse.curation.store import Wanted

GOLDEN = json.loads((Path(__file__).parent / "golden_metadata.json").read_text("utf-8"))
"""The fields of each file in the reference folder, checked against the files' own texts by eye and
against sd-parsers where it reads them; texts over 60 characters are cut."""


def info_of(path: Path) -> GenerationInfo:
    return read_source(path, DEFAULT_MAX_PIXELS, Wanted())[1].facts.info


def shortened(info: GenerationInfo) -> dict[str, object]:
    return {
        key: value[:60] + "…" if isinstance(value, str) and len(value) > 60 else value
        for key, value in dataclasses.asdict(info).items()
        if value is not None and key != "workflow"
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_table(shared_data, name: str) -> None:
    assert shortened(info_of(shared_data / "metadata" / name)) == GOLDEN[name]


def test_golden_table_is_complete(shared_data) -> None:
    files = {f.name for f in (shared_data / "metadata").iterdir() if f.suffix != ".csv"}
    assert files == set(GOLDEN)


def test_real_generations_name_prompt_seed_checkpoint_and_sampler(shared_data) -> None:
    told = 0
    for file in (shared_data / "generations").glob("*.[pw]*"):
        info = info_of(file)
        if info.generator is None:
            continue  # four of them are control images, which carry nothing
        told += 1
        assert None not in (info.seed, info.checkpoint, info.sampler, info.steps, info.workflow)
        with Image.open(file) as image:
            raw = str(image.info) + str(dict(image.getexif()))
        assert str(info.seed) in raw
    assert told >= 45


def png(path: Path, texts: dict[str, str], *, compressed: bool = False) -> Path:
    chunks = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text, zip=compressed)
    Image.new("RGB", (8, 8), "teal").save(path, pnginfo=chunks)
    return path


def node(kind: str, **inputs: object) -> dict[str, object]:
    return {"class_type": kind, "inputs": inputs}


def two_stage() -> dict[str, object]:
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="base.safetensors"),
        "2": node("LoraLoader", lora_name="style.safetensors", model=["1", 0], clip=["1", 1]),
        "3": node("CLIPTextEncode", text=["4", 0], clip=["2", 1]),
        "4": node("PrimitiveString", value="a cat"),
        "5": node("CLIPTextEncode", text="blurry", clip=["2", 1]),
        "6": node("KSamplerAdvanced", noise_seed=42, steps=20, cfg=7, sampler_name="euler",
                  scheduler="normal", positive=["3", 0], negative=["5", 0], model=["2", 0],
                  add_noise="enable", latent_image=["9", 0]),
        "7": node("KSamplerAdvanced", noise_seed=0, steps=30, cfg=5, sampler_name="heun",
                  scheduler="karras", positive=["3", 0], negative=["5", 0], model=["2", 0],
                  add_noise="disable", latent_image=["6", 0]),
        "8": node("VAEDecode", samples=["7", 0], vae=["1", 2]),
        "9": node("EmptyLatentImage", width=64, height=64),
        "10": node("SaveImage", images=["8", 0]),
    }  # fmt: skip


def test_a_refiner_that_adds_no_noise_keeps_the_first_stages_seed() -> None:
    info = read_metadata({"prompt": json.dumps(two_stage())})
    assert (info.seed, info.steps, info.sampler) == (42, 30, "heun")
    assert (info.prompt, info.negative_prompt) == ("a cat", "blurry")
    assert (info.checkpoint, info.loras) == ("base.safetensors", "style.safetensors")


def test_the_sampler_is_the_one_behind_the_saved_image() -> None:
    graph = two_stage() | {
        "0": node("KSampler", seed=1, steps=1, positive=["5", 0], negative=["3", 0], model=["1", 0])
    }
    assert read_metadata({"prompt": json.dumps(graph)}).seed == 42


def test_controlnet_outputs_keep_their_side() -> None:
    graph = two_stage()
    graph["11"] = node("ControlNetApplyAdvanced", positive=["3", 0], negative=["5", 0])
    for stage in ("6", "7"):
        graph[stage]["inputs"] |= {"positive": ["11", 0], "negative": ["11", 1]}
    info = read_metadata({"prompt": json.dumps(graph)})
    assert (info.prompt, info.negative_prompt) == ("a cat", "blurry")


def test_workflow_hash_ignores_texts_and_seeds_and_sees_links() -> None:
    graph = two_stage()
    first = Graph(json.dumps(graph)).fingerprint()
    graph["4"]["inputs"]["value"] = "a dog"
    graph["6"]["inputs"]["noise_seed"] = 43
    assert Graph(json.dumps(graph)).fingerprint() == first
    graph["7"]["inputs"]["model"] = ["1", 0]
    assert Graph(json.dumps(graph)).fingerprint() != first


def test_graphs_that_go_in_circles_end() -> None:
    graph = two_stage()
    graph["4"]["inputs"]["value"] = ["4", 0]
    graph["1"]["inputs"] = {"model": ["2", 0]}
    graph["6"]["inputs"] |= {"add_noise": "disable", "latent_image": ["7", 0], "cfg": ["6", 0]}
    assert read_metadata({"prompt": json.dumps(graph)}).generator == "ComfyUI"


def test_a1111_settings_with_quotes_and_loras() -> None:
    text = (
        "a cat <lora:fur:0.8>\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M, "
        'Schedule type: Karras, CFG scale: 6.5, Seed: 18446744073709551615, Model: "a, b: c", '
        'Lora hashes: "fur: 1, x: 2", Version: v1.6'
    )
    info = read_metadata({"parameters": text})
    assert (info.seed, info.steps, info.cfg) == (2**64 - 1, 20, 6.5)
    assert (info.sampler, info.scheduler, info.loras) == ("DPM++ 2M", "Karras", "fur")


@pytest.mark.parametrize("order", ["be", "le"])
def test_user_comment_in_either_byte_order(tmp_path, order: str) -> None:
    text = "a cat, ünïcode\nNegative prompt: x\nSteps: 5, Sampler: Euler, Seed: 3"
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode(f"utf-16-{order}")
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    info = info_of(path)
    assert (info.prompt, info.seed, info.generator) == ("a cat, ünïcode", 3, "A1111")


@pytest.mark.parametrize("compressed", [True, False])
def test_stealth_metadata_in_the_alpha_channel(tmp_path, compressed: bool) -> None:
    text = b"a circle\nSteps: 5, Sampler: Euler, Seed: 9"
    body = gzip.compress(text) if compressed else text
    mark = b"stealth_pngcomp" if compressed else b"stealth_pnginfo"
    bits = np.unpackbits(np.frombuffer(mark + (len(body) * 8).to_bytes(4, "big") + body, np.uint8))
    alpha = np.full((64, 64), 254, np.uint8)
    flat = alpha.T.reshape(-1).copy()
    flat[: len(bits)] |= bits
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., 3] = flat.reshape(64, 64).T
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    assert (info_of(path).prompt, info_of(path).seed) == ("a circle", 9)


BROKEN = [
    "", "{", "[]", "null", "3", '{"1": 2}', '{"1": {"inputs": []}}', "[" * 100_000,
    '{"1": {"inputs": {"positive": ["1", 0], "negative": ["1", 0], "seed": ["1", 0]}}}',
    '{"1": {"inputs": {"positive": [[], {}], "negative": 3, "seed": NaN}}}',
    '{"1": {"class_type": ["x"], "inputs": {"positive": ["1", 0], "negative": [], "seed": 1e999}}}',
    '{"image": {"prompt": 3}}', '"\\ud800" -s1', "Steps: " * 50_000, "x" * 5_000_000,
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(BROKEN)))
@pytest.mark.parametrize(
    "keys",
    [["prompt"], ["parameters"], ["invokeai_metadata"], ["sd-metadata"], ["Dream"],
     ["Comment", "Description", "Source"]],
)  # fmt: skip
def test_broken_metadata_is_no_metadata(keys: list[str], index: int) -> None:
    info = read_metadata(dict.fromkeys(keys, BROKEN[index]))
    json.dumps(dataclasses.asdict(info)).encode("utf-8")
    assert len(info.prompt or "") <= MAX_PROMPT + 1


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x" * 100])
def test_broken_exif_is_no_metadata(exif: bytes) -> None:
    assert read_metadata({"exif": exif}) == GenerationInfo()


def test_metadata_of_one_program_does_not_hide_anothers(tmp_path) -> None:
    texts = {"prompt": "no graph", "parameters": "a cat\nSteps: 5, Sampler: Euler, Seed: 3"}
    assert info_of(png(tmp_path / "a.png", texts)).generator == "A1111"


def test_texts_that_pillow_refuses_do_not_stop_an_image(tmp_path) -> None:
    bomb = png(tmp_path / "a.png", {"workflow": "y" * 5_000_000}, compressed=True)
    broken = png(tmp_path / "b.png", {"prompt": "x" * 100}, compressed=True)
    data = broken.read_bytes()
    place = data.index(b"zTXtprompt") + 14
    damaged = data[: place - 4] + b"\x7f" * 8 + data[place + 4 :]
    length = int.from_bytes(data[place - 18 : place - 14], "big")
    start = place - 14
    body = damaged[start : start + 4 + length]
    checksum = zlib.crc32(body).to_bytes(4, "big")
    broken.write_bytes(damaged[: start + 4 + length] + checksum + data[start + 8 + length :])
    for path in (bomb, broken):
        image, read = read_source(path, DEFAULT_MAX_PIXELS, Wanted())
        assert image.size == (8, 8)
        assert read.facts.info.prompt is None


def test_megabytes_of_metadata_do_not_stop_an_image(tmp_path) -> None:
    graph = two_stage() | {str(i): node("Note", text="x" * 1000) for i in range(100, 1000)}
    path = png(tmp_path / "a.png", {"prompt": json.dumps(graph), "workflow": "y" * 5_000_000})
    assert info_of(path).seed == 42
    image = Image.open(io.BytesIO(path.read_bytes()))
    assert image.size == (8, 8)
