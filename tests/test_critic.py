import json
import shutil

import pytest
import torch

from artimuse import Scorer
from artimuse.artimuse_core.attributes import ATTRIBUTES, attribute
from artimuse.artimuse_core.critic import DRAFT, Critic
from artimuse.artimuse_core.errors import ImageError, UsageError


@pytest.fixture(scope="module")
def critic(tiny_checkpoint) -> Critic:
    return Critic.load(tiny_checkpoint, "cpu", "fp32")


def test_critiques_are_the_references(shared_data) -> None:
    directory = shared_data / "official-tiny"
    golden = json.loads((directory / "golden.json").read_text("utf-8"))
    critic = Critic.load(directory / "checkpoint", "cpu", "fp32")
    for name, expected in golden["images"].items():
        asked = [attribute(key) for key in expected["critique"]]
        answer = critic.critique(
            directory / "images" / name, asked, max_new_tokens=golden["critique_max_new_tokens"]
        )
        assert answer.texts == {key: text.strip() for key, text in expected["critique"].items()}
        assert abs(answer.result.score - expected["score"]) <= golden["tolerance"]["score_abs"]


def test_attributes_asked_together_answer_as_if_asked_alone(critic, pictures) -> None:
    together = critic.critique(pictures[3], max_new_tokens=12).texts
    for one in ATTRIBUTES:
        alone = critic.critique(pictures[3], [one], max_new_tokens=12).texts
        assert alone[one.name] == together[one.name]
    assert len(set(together.values())) > 1


def test_greedy_decoding_agrees_with_transformers_own(critic, tiny_checkpoint, pictures) -> None:
    from artimuse.artimuse_core import checkpoint
    from artimuse.artimuse_core.preprocess import preprocess_batch
    from artimuse.artimuse_core.prompts import attribute_question, chat_prompt, system_message

    model = checkpoint.load_model(tiny_checkpoint)
    tokenizer = checkpoint.load_tokenizer(tiny_checkpoint)
    system = system_message(checkpoint.read_config(tiny_checkpoint))
    graph = critic.writer.graph
    pixels = torch.from_numpy(preprocess_batch([pictures[5]], graph.input_size))
    asked = ATTRIBUTES[0]
    text = chat_prompt(attribute_question(asked), system).text(graph.image_tokens)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    start = len(ids)
    for _ in range(10):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
        ids.append(int(logits[0, -1].argmax()))
    wanted = tokenizer.decode(ids[start:], skip_special_tokens=True).strip()
    assert critic.critique(pictures[5], [asked], max_new_tokens=10).texts[asked.name] == wanted


def test_the_score_is_the_scorers(critic, tiny_checkpoint, pictures) -> None:
    scorer = Scorer.load(tiny_checkpoint, "cpu")
    for picture in pictures[:4]:
        (wanted,) = scorer.score(picture)
        assert critic.critique(picture, []).result.score == pytest.approx(wanted.score, abs=1e-3)


def test_streamed_pieces_make_the_text(critic, pictures) -> None:
    pieces: dict[str, str] = {}

    def collect(which, text) -> None:
        pieces[which.name] = pieces.get(which.name, "") + text

    answer = critic.critique(pictures[1], max_new_tokens=20, on_text=collect)
    assert {name: text.strip() for name, text in pieces.items()} == {
        name: text for name, text in answer.texts.items() if text
    }


def test_bad_calls_and_bad_images_say_so(critic, tmp_path) -> None:
    with pytest.raises(UsageError, match="max_new_tokens"):
        critic.critique(tmp_path, max_new_tokens=0)
    with pytest.raises(ImageError, match="No such file"):
        critic.critique(tmp_path / "none.png")


def test_attribute_scores_are_experimental_and_apart(critic, pictures) -> None:
    plain = critic.critique(pictures[1], ATTRIBUTES[:3], max_new_tokens=2)
    assert plain.attribute_scores == {}
    scored = critic.critique(pictures[1], ATTRIBUTES[:3], max_new_tokens=2, attribute_scores=True)
    assert scored.texts == plain.texts
    assert scored.result == plain.result
    assert list(scored.attribute_scores) == [one.name for one in ATTRIBUTES[:3]]
    values = [result.score for result in scored.attribute_scores.values()]
    assert all(0 <= value <= 100 for value in values)
    assert len(set(values)) == 3
    (alone,) = critic.critique(
        pictures[1], ATTRIBUTES[1:2], max_new_tokens=1, attribute_scores=True
    ).attribute_scores.values()
    assert alone.score == pytest.approx(values[1], abs=1e-3)


def test_a_draft_models_words_are_marked_wherever_they_go(
    tiny_checkpoint, tmp_path, pictures
) -> None:
    copy = tmp_path / "draft"
    shutil.copytree(tiny_checkpoint, copy)
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"draft": True}), "utf-8")
    streamed: dict[str, str] = {}

    def on_text(attribute, piece) -> None:
        streamed[attribute.name] = streamed.get(attribute.name, "") + piece

    draft = Critic.load(copy, "cpu", "fp32").critique(
        pictures[3], max_new_tokens=6, on_text=on_text
    )
    plain = Critic.load(tiny_checkpoint, "cpu", "fp32").critique(pictures[3], max_new_tokens=6)
    for name, text in plain.texts.items():
        assert draft.texts[name] == DRAFT + text
        assert not text or streamed[name].startswith(DRAFT)
        assert not text or streamed[name].count(DRAFT) == 1
