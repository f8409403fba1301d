"""The two training stages: what they learn, what they leave, and that a kill changes nothing."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from artimuse.artimuse_core import checkpoint
from artimuse.artimuse_core.critic import Critic
from artimuse.artimuse_core.errors import ModelError, UsageError
from artimuse.artimuse_core.scorer import Scorer
from artimuse.artimuse_core.selftest import run as selftest
from artimuse.export.to_onnx import export_onnx
from artimuse.training.arguments import StageConfig, stage_config
from artimuse.training.metrics import srcc
from artimuse.training.stage_trainer import StageTrainer
from artimuse.training.stages import Data, run_stage

from .conftest import ROOT

FEW = {
    "epochs": 2, "batch_size": 8, "device_batch_size": 4, "learning_rate": 1e-2, "lora_rank": 4,
    "lora_dropout": 0.0, "workers": 0, "tracker": "none", "save_every": 2, "log_every": 1,
}  # fmt: skip


def config(stage: str = "score", **changed) -> StageConfig:
    return stage_config(stage, None, FEW | changed)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures, the brighter the better, with a critique that says so."""
    folder = tmp_path_factory.mktemp("ratings")
    random = np.random.default_rng(0)
    with (folder / "ratings.jsonl").open("w") as file:
        for index in range(30):
            score = random.uniform(5, 95)
            pixels = random.normal(score * 2.4, 8, (40, 48, 3)).clip(0, 255).astype("u1")
            Image.fromarray(pixels).save(folder / f"{index:02d}.png")
            word = "bright" if score > 50 else "dark"
            row = {
                "image": f"{index:02d}.png", "score": score, "std": 6.0,
                "split": "validation" if index % 5 == 0 else "train",
                "texts": {"Overall Gestalt": f"The image is {word}."},
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture
def data(ratings) -> Data:
    return Data([str(ratings / "ratings.jsonl")])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint whose tokenizer holds every strategy's tokens."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import training_strategies
    finally:
        sys.path.pop(0)
    shape = training_strategies.NanoShape(
        input_size=32, patch_size=8, vision_width=32, vision_layers=1, vision_heads=2,
        vision_mlp=48, llm_width=32, llm_layers=1, llm_heads=2, llm_mlp=48,
    )  # fmt: skip
    return training_strategies.base_model(tmp_path_factory.mktemp("base") / "base", shape=shape)


def validation(ratings: Path) -> tuple[list[Path], list[float]]:
    rows = [json.loads(line) for line in (ratings / "ratings.jsonl").read_text().splitlines()]
    held = [row for row in rows if row["split"] == "validation"]
    return [ratings / row["image"] for row in held], [row["score"] for row in held]


# --- the score stage ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens",
    ["ordered-100", "five-levels", "existing-25", "existing-50", "non-ordered-100",
     "expanding-100", "score-as-text"],
)  # fmt: skip
def test_what_is_trained_is_what_scorer_reads(tokens, base, data, ratings, tmp_path) -> None:
    out = tmp_path / "out"
    outcome = run_stage(base, data, out, config(epochs=1, score_tokens=tokens), device="cpu")
    images, human = validation(ratings)
    scorer = Scorer.load(out, "cpu")
    assert scorer.tokens.name == tokens
    scores = [result.score for result in scorer.score(images)]
    assert srcc(scores, human) == pytest.approx(outcome.figures["figures"]["score_srcc"], abs=1e-6)
    untouched = checkpoint.load_model(base).state_dict()
    trained = checkpoint.load_model(out).state_dict()
    changed = {n for n, w in trained.items() if n in untouched and w.shape == untouched[n].shape
               and not torch.equal(w, untouched[n])}  # fmt: skip
    assert any("vision_tower" in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)
    assert any("self_attn.q_proj" in name for name in changed)
    assert not any("norm" in name for name in changed if "language_model" in name)
    assert ("lm_head.weight" in changed) is False  # its rows for new tokens are new ones


def test_it_learns_and_reports(base, data, tmp_path) -> None:
    out = tmp_path / "out"
    outcome = run_stage(base, data, out, config(epochs=20, tracker="tensorboard"), device="cpu")
    assert outcome.figures["figures"]["score_plcc"] > 0.7
    history = json.loads((out / "history.json").read_text())
    assert np.mean(losses(out)[-3:]) < 0.75 * np.mean(losses(out)[:3])
    assert [row["epoch"] for row in history if "eval_score_srcc" in row] == pytest.approx(range(21))
    with Image.open(out / "report.png") as picture:
        assert picture.size[0] > 1000
    assert list((out / "runs").glob("events.out.*"))
    text = (out / "README.md").read_text()
    assert "ordered-100" in text
    assert f"{outcome.figures['figures']['score_srcc']:.4f}" in text
    assert not (out / "checkpoints").exists()
    assert all(check.ok for check in selftest(str(out), "cpu", "fp32"))


def test_merged_and_exported_score_as_the_adapter(base, data, ratings, tmp_path) -> None:
    some = config(epochs=1, score_tokens="existing-50")
    run_stage(base, data, tmp_path / "out", some, device="cpu", merge=True)
    images, _ = validation(ratings)
    bundle = tmp_path / "bundle"
    export_onnx(tmp_path / "out", bundle)
    scores = [
        [result.score for result in Scorer.load(folder, "cpu").score(images)]
        for folder in (tmp_path / "out", tmp_path / "out" / "merged", bundle)
    ]
    np.testing.assert_allclose(scores[1:], scores[:1] * 2, atol=1e-3)
    assert Scorer.load(bundle).card == f"score stage over {base}, 24 images"
    assert json.loads((tmp_path / "out/merged/config.json").read_text())["model_type"] == "internvl"


def test_options_change_the_loss_alone(base, data, tmp_path) -> None:
    hard = run_stage(base, data, tmp_path / "a", config(epochs=1), device="cpu")
    soft = run_stage(base, data, tmp_path / "b", config(epochs=1, soft_label=True), device="cpu")
    ordinal = run_stage(base, data, tmp_path / "c", config(epochs=1, ordinal=1.0), device="cpu")
    first = [losses(outcome.directory)[0] for outcome in (hard, soft, ordinal)]
    assert first[0] != first[1]
    assert first[2] > first[0]


def test_tiles_are_trained_on_and_nothing_else_scores_them(base, data, tmp_path) -> None:
    outcome = run_stage(base, data, tmp_path / "out", config(epochs=1, max_tiles=4), device="cpu")
    assert math.isfinite(outcome.figures["figures"]["score_srcc"])
    with pytest.raises(ModelError, match="several tiles"):
        Scorer.load(tmp_path / "out", "cpu")


def test_a_broken_image_is_named_and_left_out(base, ratings, tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    lines = (ratings / "ratings.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row["image"] = os.path.relpath(ratings / row["image"], tmp_path)
    for row in rows:
        (tmp_path / Path(row["image"]).name).write_bytes(
            (ratings / Path(row["image"]).name).read_bytes()
        )
        row["image"] = Path(row["image"]).name
    rows.append({"image": "broken.png", "score": 50, "split": "train"})
    file = tmp_path / "ratings.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for workers in (0, 2):  # by this process, by others
        out = tmp_path / f"out{workers}"
        run = config(epochs=1, workers=workers)
        outcome = run_stage(base, Data([str(file)]), out, run, device="cpu")
        _assert_named(outcome)


def _assert_named(outcome) -> None:
    assert [Path(name).name for name in outcome.figures["failed"]] == ["broken.png"]


# --- the text stage -------------------------------------------------------------------------------


def test_text_then_score_keeps_both(base, data, ratings, tmp_path) -> None:
    text = run_stage(
        base, data, tmp_path / "text", config("text", epochs=20, lora_rank=16), device="cpu"
    )
    watched = losses(tmp_path / "text", "eval_text_loss")
    assert watched[-1] < 0.5 * watched[0]
    critic = Critic.load(tmp_path / "text", "cpu")
    images, _ = validation(ratings)
    texts = [
        critic.critique(image, [_gestalt()], max_new_tokens=12).texts["Overall Gestalt"]
        for image in images
    ]
    assert texts[0].startswith("The image is")
    both = run_stage(
        tmp_path / "text",
        Data(data.sources, texts=data.sources),
        tmp_path / "score",
        config(epochs=4),
        device="cpu",
    )
    assert both.figures["figures"].keys() == {"score_loss", "score_srcc", "score_plcc", "text_loss"}
    before = losses(tmp_path / "score", "eval_text_loss")[0]
    # What the text stage left is what the score stage starts from.
    assert before == pytest.approx(text.figures["figures"]["text_loss"], rel=1e-3)
    assert len(Scorer.load(tmp_path / "score", "cpu").score(images)) == len(images)


def _gestalt():
    from artimuse.artimuse_core.attributes import attribute

    return attribute("Overall Gestalt")


def test_a_full_fine_tune_is_a_checkpoint_of_the_bases_layout(base, data, tmp_path) -> None:
    out = tmp_path / "out"
    run_stage(base, data, out, config("text", llm="full", train_vision=False), device="cpu")
    written = json.loads((out / "config.json").read_text())
    assert "llm_config" in written
    assert written["critiques"] is True
    before, after = (checkpoint.load_model(d).state_dict() for d in (base, out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "lm_head.weight" in changed
    assert not any("vision_tower" in name for name in changed)
    Critic.load(out, "cpu")


def test_joint_training_learns_texts_and_scores(base, data, tmp_path) -> None:
    joint = Data(data.sources, texts=data.sources)
    outcome = run_stage(base, joint, tmp_path / "out", config(joint=True), device="cpu")
    texts = losses(tmp_path / "out", "eval_text_loss")
    assert texts[-1] < texts[0]
    assert "score_srcc" in outcome.figures["figures"]
    with pytest.raises(UsageError, match="--text-data"):
        run_stage(base, data, tmp_path / "other", config(joint=True), device="cpu")


# --- kills, processes -----------------------------------------------------------------------------

SCRIPT = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import findable
import torch
torch.set_num_threads(1)
from artimuse.training import collate, stages
from artimuse.training.arguments import stage_config
log = open(sys.argv[1] + f".samples.{{os.environ.get('RANK', 0)}}", "a", buffering=1)
whole = collate.Run.__getitem__
def told(run, position):
    log.write(f"{{position}} {{run.index(position)}}\\n")
    return whole(run, position)
collate.Run.__getitem__ = told
stages.run_stage(
    {base!r}, stages.Data([{data!r}]), Path(sys.argv[1]),
    stage_config("score", None, json.loads(sys.argv[2])), device="cpu",
    resume="--resume" in sys.argv,
)
"""


@pytest.fixture
def script(base, data, tmp_path) -> Path:
    file = tmp_path / "train.py"
    names = {"tests": str(ROOT / "tests"), "base": str(base), "data": data.sources[0]}
    file.write_text(SCRIPT.format(**names))
    return file


def start(script: Path, out: Path, *launcher: str, resume: bool = False, **changed):
    command = [sys.executable, *launcher, str(script), str(out), json.dumps(FEW | changed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        command + ["--resume"] * resume, env=environment, stderr=subprocess.PIPE, text=True
    )


def finish(process) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]


def losses(out: Path, key: str = "loss") -> list[float]:
    history = json.loads((out / "history.json").read_text())
    return [row[key] for row in history if key in row]


def positions(out: Path, rank: int = 0) -> list[tuple[int, str]]:
    lines = Path(f"{out}.samples.{rank}").read_text().split("\n")[:-1]
    return [(int(a), b) for a, b in (line.split() for line in lines)]


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(script, tmp_path) -> None:
    changed = {"epochs": 6, "lora_dropout": 0.2}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(start(script, whole, **changed))
    process = start(script, cut, **changed)
    deadline = time.monotonic() + 120
    # Epochs have 3 steps, checkpoints are 2 apart: 4 lies amid the second epoch.
    while not (cut / "checkpoints" / "checkpoint-4" / "whole").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    torn = cut / "checkpoints" / "checkpoint-900"  # a kill while a checkpoint is written
    torn.mkdir()
    finish(start(script, cut, resume=True, **changed))
    assert losses(cut) == losses(whole)
    _assert_same_weights(cut, whole)
    seen = dict(positions(cut))  # a position trained on again after the kill counts once
    assert sorted(seen) == list(range(6 * 24))
    assert dict(positions(whole)) == seen
    for epoch in range(6):
        part = [seen[position] for position in range(epoch * 24, epoch * 24 + 24)]
        assert sorted(part, key=int) == [str(i) for i in range(24)]


@pytest.mark.slow
def test_two_processes_learn_as_one_with_doubled_accumulation(script, tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(script, one, epochs=3))
    # Its launcher for several CPU processes is the one for several GPUs; there are none.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
              "--main_process_port", "0"]  # fmt: skip
    finish(start(script, two, *launch, epochs=3))
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4)
    shared = [dict(positions(two, rank)) for rank in (0, 1)]
    assert not shared[0].keys() & shared[1].keys()
    assert shared[0] | shared[1] == dict(positions(one))


class Killed(BaseException):
    """As sudden as a signal, within one process."""


@pytest.fixture
def interrupted(base, data, tmp_path, monkeypatch) -> Path:
    """A run of 6 epochs of 3 steps that stopped in the seventh step; 2 steps a checkpoint."""
    step = StageTrainer.training_step

    def stops(trainer, *args, **kwargs):
        if trainer.state.global_step == 6:
            raise Killed
        return step(trainer, *args, **kwargs)

    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(StageTrainer, "training_step", stops)
        with pytest.raises(Killed):
            run_stage(base, data, out, config(epochs=6, lora_dropout=0.2), device="cpu")
    return out


def test_an_interrupted_run_ends_as_an_uninterrupted_one(interrupted, base, data, tmp_path) -> None:
    """Dropout is on: the random numbers must go on where they were, too."""
    torn = interrupted / "checkpoints" / "checkpoint-900"  # a kill while a checkpoint is written
    torn.mkdir()
    changed = config(epochs=6, lora_dropout=0.2)
    torch.manual_seed(99)  # another process would have other random numbers
    run_stage(base, data, interrupted, changed, device="cpu", resume=True)
    run_stage(base, data, tmp_path / "whole", changed, device="cpu")
    assert losses(interrupted) == losses(tmp_path / "whole")
    _assert_same_weights(interrupted, tmp_path / "whole")


def _assert_same_weights(*folders: Path) -> None:
    for name in ("adapter_model.safetensors", "trained.safetensors"):
        first, second = (load_file(folder / name) for folder in folders)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_resumed_run_must_be_the_same_run(interrupted, base, data) -> None:
    with pytest.raises(UsageError, match="--resume"):
        run_stage(base, data, interrupted, config(epochs=6), device="cpu")
    with pytest.raises(UsageError, match="begun with another config"):
        run_stage(base, data, interrupted, config(epochs=7), device="cpu", resume=True)


def test_a_finished_run_is_told_from_another(base, data, tmp_path) -> None:
    first = run_stage(base, data, tmp_path / "out", config(epochs=1), device="cpu")
    again = run_stage(base, data, tmp_path / "out", config(epochs=1), device="cpu", resume=True)
    assert again == first
    with pytest.raises(UsageError, match="begun with another config"):
        run_stage(base, data, tmp_path / "out", config(epochs=2), device="cpu", resume=True)
    with pytest.raises(UsageError, match="holds a finished run"):
        run_stage(base, data, tmp_path / "out", config(epochs=1), device="cpu")


def test_what_is_there_is_never_overwritten(base, data, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        run_stage(base, data, tmp_path / "out", config(), device="cpu", resume=True)
