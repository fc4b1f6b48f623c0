"""Train the tokenizer, and write it with the model's configuration files.

python -m weights.recipe.train_tokenizer --corpus CORPUS [--corpus MORE] --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from weights.recipe.corpus import find_domains, read_documents, write_atomically
from weights.recipe.shape import SPECIAL_TOKENS, Shape, generation_config, hub_config

MEGABYTE = 1_000_000
# Characters of each domain the merges are counted on: prose first, none crowded out.
CAPS = {"tales": 6 * MEGABYTE, "stories": 2_500_000}
DEFAULT_CAP = 2 * MEGABYTE

# GPT-2's split into words with their leading space, except that every digit stands alone, so
# that a sum always has the same tokens as it has digits.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def capped_texts(domains: dict[str, Path]) -> Iterator[str]:
    """Documents of the train splits, each domain cut off at its cap.

    Special tokens are taken out: they are never merged, so their letters must not be counted.
    """
    for domain, folder in domains.items():
        left = CAPS.get(domain, DEFAULT_CAP)
        for document in read_documents(folder / "train.txt.xz"):
            if left <= 0:
                break
            left -= len(document)
            for token in SPECIAL_TOKENS:
                document = document.replace(token, "")
            yield document


def train(texts: Iterator[str], vocab: int) -> Tokenizer:
    """A byte-level BPE tokenizer with `vocab` tokens, the special ones first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_config(shape: Shape) -> dict[str, Any]:
    """`tokenizer_config.json`, with a ChatML template."""
    added = {
        str(i): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for i, token in enumerate(SPECIAL_TOKENS)
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": shape.max_positions,
        "pad_token": "<|pad|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON, atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab", type=int, default=Shape.vocab)
    options = parser.parse_args(arguments)
    tokenizer = train(capped_texts(find_domains(options.corpus)), options.vocab)
    shape = Shape(vocab=options.vocab)
    write_atomically(options.out / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    write_json(options.out / "tokenizer_config.json", tokenizer_config(shape))
    write_json(options.out / "config.json", hub_config(shape))
    write_json(options.out / "generation_config.json", generation_config())
    print(f"{tokenizer.get_vocab_size()} tokens written to {options.out}")


if __name__ == "__main__":
    main()
