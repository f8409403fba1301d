"""What a training stage is made of: configurations, questions, losses, tiles, order, options."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from artimuse import cli
from artimuse.artimuse_core.answers import answer_ids
from artimuse.artimuse_core.checkpoint import load_tokenizer
from artimuse.artimuse_core.errors import ModelError, UsageError
from artimuse.artimuse_core.prompts import IM_END, IMG_CONTEXT, SCORE_QUESTION
from artimuse.artimuse_core.score_tokens import ORDERED_100, SCORE_AS_TEXT, STRATEGIES, strategy
from artimuse.training import arguments, tiling
from artimuse.training.arguments import StageConfig, shipped, stage_config
from artimuse.training.collate import Collator, Decoder, Items, Run, score_items, text_items
from artimuse.training.datasets.base import Sample
from artimuse.training.losses import IGNORED, ScoreLoss, answer_loss
from artimuse.training.sources import load_parts, with_texts
from artimuse.training.strategies import question

# --- configurations -------------------------------------------------------------------------------


def test_defaults_are_table_11() -> None:
    text, score = stage_config("text"), stage_config("score")
    assert (text.lora_rank, text.learning_rate, text.weight_decay, text.epochs) == (
        16,
        4e-5,
        0.05,
        1,
    )
    assert (score.lora_rank, score.learning_rate, score.weight_decay, score.epochs) == (
        128, 2e-5, 0, 2,
    )  # fmt: skip
    for config in (text, score):
        assert (config.batch_size, config.max_length, config.warmup_ratio) == (128, 8192, 0.03)
        assert (config.lora_dropout, config.llm, config.max_tiles) == (0.05, "lora", 1)
        assert config.train_vision
        assert config.train_projector


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_configuration_is_valid(name: str) -> None:
    stages = arguments.STAGES if name != "table4-e" else ("score",)
    for stage in stages if name != "own-ratings" else ("score",):
        config = stage_config(stage, name)
        assert config.stage == stage
        for devices in (1, 2, 4, 8):
            assert config.accumulation_over(devices) >= 1
        strategy(config.score_tokens)


def test_a_configuration_ships_for_each_row_of_tables_4_and_10() -> None:
    rows = {f"table4-{row}" for row in "abcdefghi"} | {f"table10-{row}" for row in "abcdefghij"}
    assert rows < set(shipped())
    tokens = {row: stage_config("score", f"table10-{row}").score_tokens for row in "abcdefghij"}
    for row, name in tokens.items():  # the strategies say themselves where they stand
        paper = strategy(name).paper
        assert f"({row})" in paper or ("(b)-(f)" in paper and row in "bcdef")
    assert len(set(tokens.values())) == 10
    assert stage_config("score", "table4-d").llm == "full"
    assert stage_config("score", "table4-e").joint
    assert stage_config("text", "table4-b").subsets == ("partial-text", "professional")
    with pytest.raises(UsageError, match="no text stage"):
        stage_config("text", "table4-e")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"llm": "some"}, "llm: expected one of lora, full, frozen, got 'some'"),
        ({"epochs": 0}, "epochs: expected at least 1"),
        ({"epochs": "two"}, "epochs: expected int, got 'two'"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"score_tokens": "hundred"}, "unknown score tokens 'hundred'"),
        ({"score_tokens": "score-as-text", "soft_label": True}, "single tokens"),
        ({"score_tokens": "five-levels", "max_tiles": 12}, "single tokens"),
        ({"subsets": ("nice",)}, "subsets: expected some of score-caption"),
        (
            {"llm": "frozen", "train_vision": False, "train_projector": False},
            "all parts are",
        ),
        ({"lorarank": 3}, "unknown field 'lorarank'; known: batch_size"),
    ],
)
def test_nonsense_is_refused_by_name(given, message) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        stage_config("score", None, given)


def test_flags_change_the_file_and_the_file_table_11(tmp_path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("text: {lora_rank: 4, learning_rate: 1e-4}\n")
    config = stage_config("text", file, {"lora_rank": 8, "epochs": None})
    assert (config.lora_rank, config.learning_rate, config.epochs) == (8, 1e-4, 1)
    file.write_text("text: [1]\n")
    with pytest.raises(UsageError, match="expected fields under text"):
        stage_config("text", file)
    file.write_text("taxt: {}\n")
    with pytest.raises(UsageError, match="expected the sections text and score"):
        stage_config("text", file)
    with pytest.raises(UsageError, match="table4-i"):
        stage_config("text", "nothing")


def test_a_batch_is_shared_out_evenly_or_refused() -> None:
    config = stage_config("score", None, {"batch_size": 24, "device_batch_size": 4})
    assert [config.accumulation_over(devices) for devices in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(UsageError, match="no multiple of 4 device"):
        config.accumulation_over(4)


# --- samples --------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path) -> Path:
    """40 ratings without a split; 4 images a prompt."""
    for index in range(40):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
    rows = [f"{index}.png,{index * 2},prompt {index // 4}" for index in range(40)]
    file = tmp_path / "ratings.csv"
    file.write_text("image,score,prompt\n" + "\n".join(rows) + "\n")
    return file


def test_without_a_cut_of_its_own_prompts_are_held_out_whole(table) -> None:
    config = replace(StageConfig(), validation_share=0.3)
    parts = load_parts([str(table)], config)
    prompts = [{s.groups["prompt"] for s in part} for part in (parts.train, parts.validation)]
    assert not prompts[0] & prompts[1]
    assert len(prompts[0] | prompts[1]) == 10
    again = load_parts([str(table)], config)
    assert again == parts
    assert load_parts([str(table)], replace(config, seed=1)) != parts


def test_subsets_are_left_out_by_their_mark(table) -> None:
    sources = [f"professional={table}", str(table)]
    everything = load_parts(sources, StageConfig())
    some = load_parts(sources, replace(StageConfig(), subsets=("score-caption",)))
    assert len(everything.train) == 2 * len(some.train)
    with pytest.raises(UsageError, match="no data left"):
        load_parts(sources[:1], replace(StageConfig(), subsets=("score-caption",)))


def test_missing_images_and_missing_texts_are_one_line(table) -> None:
    with pytest.raises(UsageError, match="none of 40 samples has texts"):
        with_texts([Sample(Path("x.png"), 5.0)] * 40)
    (table.parent / "7.png").unlink()
    with pytest.raises(UsageError, match=r"1 of 40 images are missing \(first: .*7\.png\)"):
        load_parts([str(table)], StageConfig())


# --- prompts and answers --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen():
    folder = Path(__file__).resolve().parent.parent.parent / "shared/data/internvl3-8b"
    if not folder.is_dir():
        pytest.skip("no reference data beside the repository")
    return load_tokenizer(folder)


def test_every_strategy_has_answers_under_the_real_tokenizer(qwen) -> None:
    for tokens in STRATEGIES.values():
        if tokens.name.startswith("expanding"):
            with pytest.raises(ModelError, match="lacks"):
                answer_ids(tokens, qwen)
            continue
        answers = answer_ids(tokens, qwen)
        assert len({tuple(ids) for ids in answers}) == len(tokens)
        assert all(len(ids) == 1 for ids in answers) is tokens.single_token
    text = answer_ids(SCORE_AS_TEXT, qwen)
    assert [len(text[score]) for score in (7, 10, 100)] == [2, 3, 4]


def test_the_published_question_is_asked_of_the_published_tokens_alone() -> None:
    assert question(ORDERED_100, {}) == SCORE_QUESTION
    asked = {question(tokens, {}) for tokens in STRATEGIES.values()}
    assert len(asked) == len(STRATEGIES)
    assert "0-a, 24-g" in question(strategy("existing-25"), {})
    assert (
        question(strategy("existing-25"), {"score_tokens": "existing-25", "score_question": "?"})
        == "?"
    )


@pytest.fixture
def tokenizer(tiny_checkpoint):
    return load_tokenizer(tiny_checkpoint)


@pytest.fixture
def picture(tmp_path) -> Path:
    Image.new("RGB", (50, 20), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


def collator(tokenizer, **changed) -> Collator:
    given = {"size": 32, "image_tokens": 4, "max_length": 512} | changed
    return Collator(tokenizer, "You are ArtiMuse.", **given)


def test_only_the_answer_is_learnt(tokenizer, picture) -> None:
    sample = Sample(picture, 71.6, 5.0, texts={"Overall Gestalt": "It is red."})
    items = [
        *score_items([sample], ORDERED_100, tokenizer, "How good?"),
        *text_items([sample], tokenizer),
    ]
    batch = collator(tokenizer)([Items(items, Decoder(32))[i] for i in (0, 1)])
    rows = [row[row != IGNORED].tolist() for row in batch["labels"]]
    assert tokenizer.decode(rows[0]) == ORDERED_100.tokens[72] + IM_END
    assert tokenizer.decode(rows[1]) == "It is red." + IM_END
    text = [
        tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert text[0] == (
        "<|im_start|>system\nYou are ArtiMuse.<|im_end|>\n<|im_start|>user\n<img>"
        + IMG_CONTEXT * 4
        + f"</img>\nHow good?<|im_end|>\n<|im_start|>assistant\n{ORDERED_100.tokens[72]}{IM_END}"
    )
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert batch["score"][0] == pytest.approx(71.6)
    assert batch["score"][1].isnan()


def test_long_answers_are_cut_and_long_questions_refused(tokenizer, picture) -> None:
    item = text_items([Sample(picture, texts={"Overall Gestalt": "red " * 200})], tokenizer)
    example = Items(item, Decoder(32))[0]
    batch = collator(tokenizer, max_length=100)([example])
    assert batch["input_ids"].shape[1] == 100
    with pytest.raises(UsageError, match="the question alone has"):
        collator(tokenizer, max_length=20)([example])


def test_a_batch_of_nothing_has_no_answer_and_no_loss(tokenizer) -> None:
    batch = collator(tokenizer)([None, None])
    assert (batch["labels"] == IGNORED).all()
    logits = torch.randn(1, batch["labels"].shape[1], 50)
    assert answer_loss(logits, batch["labels"], score=batch["score"], std=batch["std"]) == 0


def test_every_epoch_holds_each_sample_once_and_fills_up_with_nothing(picture) -> None:
    items = Items([None] * 10, Decoder(32))
    run = Run(items, epochs=3, batch_size=4, seed=0)
    assert (len(run), run.steps_per_epoch) == (36, 3)
    epochs = [[run.index(p) for p in range(e * 12, e * 12 + 12)] for e in range(3)]
    for order in epochs:
        assert sorted(order[:10]) == list(range(10))
        assert order[10:] == [None, None]
    assert epochs[0] != epochs[1]
    assert epochs[2] == [Run(items, 3, 4, 0).index(p) for p in range(24, 36)]
    assert epochs[0] != [Run(items, 3, 4, seed=1).index(p) for p in range(12)]


def test_a_kept_image_is_the_same_as_a_decoded_one(picture) -> None:
    decoder = Decoder(32)
    first = decoder(picture)
    picture.unlink()
    np.testing.assert_array_equal(decoder(picture), first)


# --- losses ---------------------------------------------------------------------------------------

IDS = torch.tensor([5, 2, 9])
VALUES = torch.tensor([0.0, 50.0, 100.0])


def one_answer(label: int) -> torch.Tensor:
    return torch.tensor([[IGNORED, label, 7]])


def loss_of(logits: torch.Tensor, label: int, score: float, std: float, **options) -> float:
    loss = ScoreLoss(IDS, VALUES, **options)
    given = {"score": torch.tensor([score]), "std": torch.tensor([std])}
    return float(answer_loss(logits, one_answer(label), score_loss=loss, items=1, **given))


def test_off_by_default_is_plain_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 12)
    plain = torch.nn.functional.cross_entropy(logits[0, :2], torch.tensor([2, 7]), reduction="sum")
    assert loss_of(logits, 2, 50, 20) == pytest.approx(float(plain))


def test_a_soft_label_spreads_by_the_ratings_std_where_known() -> None:
    logits = torch.zeros(1, 3, 12)
    logits[0, 0, 9] = 5  # sure of 100
    hard, unknown = (
        loss_of(logits, 2, 50, 30),
        loss_of(logits, 2, 50, float("nan"), soft_label=True),
    )
    assert unknown == pytest.approx(hard)
    assert loss_of(logits, 2, 50, 30, soft_label=True) < hard  # 100 is a little right as well


def test_the_ordinal_term_punishes_a_far_miss_more() -> None:
    near, far = torch.zeros(1, 3, 12), torch.zeros(1, 3, 12)
    near[0, 0, 2], far[0, 0, 9] = 8, 8  # 50 and 100, where 0 is right
    assert loss_of(near, 5, 0, 5) == pytest.approx(loss_of(far, 5, 0, 5))
    assert loss_of(near, 5, 0, 5, ordinal=1.0) < loss_of(far, 5, 0, 5, ordinal=1.0) - 0.5


# --- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "grid"),
    [((448, 448), (1, 1)), ((700, 700), (2, 2)), ((4000, 4000), (3, 3)), ((896, 448), (2, 1)),
     ((448, 1344), (1, 3)), ((1600, 1200), (4, 3)), ((9000, 500), (12, 1))],
)  # fmt: skip
def test_the_grid_closest_to_the_aspect_ratio_is_taken(size, grid) -> None:
    assert tiling.grid(*size, max_tiles=12, size=448) == grid


def test_tiles_are_cut_row_by_row_and_followed_by_the_whole() -> None:
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (32, 0, 64, 32))
    parts = tiling.tiles(image, max_tiles=2, size=32)
    assert [np.asarray(part).mean() for part in parts[:2]] == pytest.approx([0, 255], abs=8)
    assert [part.size for part in parts] == [(32, 32)] * 3
    assert len(tiling.tiles(Image.new("RGB", (64, 60)), max_tiles=1, size=32)) == 1


# --- command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["text", "score"])
def test_help_is_instant_and_lists_the_ablations(stage) -> None:
    result = CliRunner().invoke(cli.main, ["train", stage, "--help"])
    assert result.exit_code == 0
    for flag in ("--llm", "--max-tiles", "--subset", "--resume", "--merge", "--freeze-vision"):
        assert flag in result.output
    assert ("--tokens" in result.output) is (stage == "score")


def test_the_command_trains_and_prints_where(tiny_checkpoint, table, tmp_path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(
        cli.main,
        ["train", "score", "--model", str(tiny_checkpoint), "--data", str(table), "--output",
         str(out), "--device", "cpu", "--epochs", "1", "--batch-size", "8", "--workers", "0",
         "--device-batch-size", "8", "--tracker", "none", "--ordinal", "0.5"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[-1] == str(out)
    assert [line.split(":")[0] for line in lines[:-1]] == ["score loss", "score srcc", "score plcc"]
    facts = json.loads((out / "figures.json").read_text())
    assert facts["config"]["ordinal"] == 0.5
    assert facts["config"]["lora_rank"] == 128


def test_wrong_usage_is_one_line_and_exit_code_2(table, tmp_path) -> None:
    result = CliRunner().invoke(
        cli.main,
        ["train", "score", "--model", "nano", "--data", str(table), "--output", str(tmp_path / "o"),
         "--batch-size", "7", "--device", "cpu"],
    )  # fmt: skip
    assert result.exit_code == 2
    assert result.stderr.startswith("error: batch_size 7 is no multiple of 1 device(s)")
    assert len(result.stderr.splitlines()) == 1
