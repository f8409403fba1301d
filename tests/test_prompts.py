import json

import pytest

from artimuse.artimuse_core.attributes import ATTRIBUTES, attribute
from artimuse.artimuse_core.errors import UsageError
from artimuse.artimuse_core.prompts import (
    INTERNVL2_5_SYSTEM,
    SCORE_QUESTION,
    attribute_question,
    chat_prompt,
    system_message,
)


def test_chat_text_is_the_contract() -> None:
    prompt = chat_prompt("What?", "Be fair.")
    assert prompt.text(2) == (
        "<|im_start|>system\nBe fair.<|im_end|>\n<|im_start|>user\n"
        "<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.text().count("<IMG_CONTEXT>") == 256


def test_score_question_is_the_references_byte_for_byte(shared_data) -> None:
    wanted = (shared_data / "official-tiny/score_question.txt").read_bytes()
    assert SCORE_QUESTION.encode() == wanted


def test_prompt_ids_are_the_references(shared_data) -> None:
    from artimuse.artimuse_core import checkpoint

    directory = shared_data / "official-tiny/checkpoint"
    golden = json.loads((shared_data / "official-tiny/golden.json").read_text("utf-8"))
    prompt = checkpoint.score_prompt(checkpoint.read_config(directory))
    tokenizer = checkpoint.load_tokenizer(directory)
    ids = tokenizer(prompt.text(16), add_special_tokens=False).input_ids
    assert ids == golden["score_input_ids"]


def test_null_system_message_reads_none() -> None:
    assert system_message({"system_message": None}) == "None"
    assert system_message({"system_message": "Hello"}) == "Hello"


def test_without_system_message_the_template_speaks() -> None:
    assert system_message({}) == INTERNVL2_5_SYSTEM
    assert INTERNVL2_5_SYSTEM.startswith("你是书生·万象，")
    assert INTERNVL2_5_SYSTEM.endswith("多模态大语言模型。")


def test_attribute_question() -> None:
    assert attribute_question(attribute("technical_execution")) == (
        "Please evaluate the aesthetic quality of this image from the aspect of "
        "Technical Execution."
    )


def test_the_eight_attributes_of_table_5() -> None:
    assert [a.name for a in ATTRIBUTES] == [
        "Composition & Design", "Visual Elements & Structure", "Technical Execution",
        "Originality & Creativity", "Theme & Communication", "Emotion & Viewer Response",
        "Overall Gestalt", "Comprehensive Evaluation",
    ]  # fmt: skip
    assert attribute("Overall Gestalt") is attribute("overall_gestalt")
    with pytest.raises(UsageError, match="composition_design"):
        attribute("beauty")
