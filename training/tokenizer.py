"""nano's tokenizer: byte-level BPE over our own prompts, with every score token a single entry.

The 8B model finds ``aa … ey`` in Qwen2.5's vocabulary of 151 thousand entries. A model of a few
million parameters cannot afford that table, so nano gets about a thousand entries: the bytes, the
words of our questions and of a small vocabulary about pictures, and the score tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..artimuse_core.attributes import ATTRIBUTES
from ..artimuse_core.prompts import END_OF_TEXT, SPECIAL_TOKENS, attribute_question, chat_prompt
from ..artimuse_core.score_tokens import ORDERED_100, ScoreTokens

# Qwen2.5's own pattern, so that text is cut as the large model cuts it.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# What a short critique is made of.
_PICTURE_WORDS = """
The image is. The picture shows. It has, and, but, with, without, very, slightly, mostly, quite.
exposure underexposed overexposed dark bright shadows highlights clipped light lighting even
uneven contrast low high flat strong gentle dynamic range colour colours color muted saturated
vivid warm cool palette harmonious harmony monochrome pale greyish sharpness sharp soft blurred
blurry focus detail details fine texture noise noisy grain compression artefacts clean clutter
cluttered busy simple empty space background subject centre centred balance balanced unbalanced
symmetry symmetric asymmetric composition layout rhythm left right upper lower edge frame crop
cropped lines shapes depth mood calm lively tense dull engaging clear unclear theme idea original
familiar common overall impression quality good poor fair excellent weak convincing coherent
distorted would benefit from more less holds draws attention eye viewer little lack lacks adds
makes keeps gives feels looks
"""


def corpus(score_question: str, system: str) -> list[str]:
    """The text the merges are learnt from; questions come often, so each word becomes one token."""
    questions = [score_question, *(attribute_question(attribute) for attribute in ATTRIBUTES)]
    chats = [prompt.before + prompt.after for prompt in (chat_prompt(q, system) for q in questions)]
    descriptions = [f"{attribute.name}: {attribute.description}" for attribute in ATTRIBUTES]
    return chats * 20 + descriptions * 2 + [_PICTURE_WORDS.replace("\n", " ")] * 2


def build_tokenizer(
    texts: Iterable[str], *, vocabulary: int = 900, score_tokens: ScoreTokens = ORDERED_100
) -> Tokenizer:
    """Learn ``vocabulary`` entries at most, then append the score tokens that were not learnt."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _append_merges(tokenizer, score_tokens.tokens)


def _append_merges(tokenizer: Tokenizer, words: Iterable[str]) -> Tokenizer:
    """Give every two-letter word an entry of its own.

    Appended merges come last in rank: they join two letters only where nothing learnt did, so the
    texts of the corpus keep their tokens, and the word alone becomes one token.
    """
    content = json.loads(tokenizer.to_str())
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    for word in words:
        if word not in vocabulary:
            vocabulary[word] = len(vocabulary)
            merges.append([word[0], word[1]])
    return Tokenizer.from_str(json.dumps(content))


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` as transformers reads them."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
