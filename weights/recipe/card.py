"""Fill in what the model card measures: the loss table, and ten stories of ten seeds.

    python -m weights.recipe.card

Reads `weights/evaluation.json`, runs the shipped model, and rewrites the part of
`weights/README.md` between each pair of markers `<!-- NAME -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tinymoe
from weights.recipe.corpus import write_atomically

WEIGHTS = Path(__file__).parents[1]
PROMPT = "Once upon a time"
SEEDS = range(1, 11)


def loss_table(report: dict[str, Any]) -> str:
    """Test loss by domain as a Markdown table; a token is about 3.5 characters of prose."""
    lines = ["| domain | nats per token | windows of 256 tokens |", "|---|---|---|"]
    lines += [
        f"| {domain} | {loss:.3f} | {report['windows'][domain]} |"
        for domain, loss in report["loss"].items()
    ]
    lines.append(f"| mean of {len(report['loss'])} | {report['mean_loss']:.3f} | |")
    return "\n".join(lines)


def distance_line(report: dict[str, Any]) -> str:
    """Specialisation by layer, in a sentence."""
    distances = " ".join(f"{distance:.2f}" for distance in report["specialisation"])
    return f"Mean distance of two domains' expert loads, layer 0 to the last: {distances}."


def stories(model: tinymoe.Model) -> str:
    """One story a seed, as quotations: temperature 0.7, top-p 0.95, none left out."""
    sampling = model.default_sampling(temperature=0.7, top_p=0.95, max_tokens=220)
    parts = []
    for seed in SEEDS:
        tokens = model.generate(PROMPT, sampling, seed=seed)
        text = PROMPT + "".join(token.text for token in tokens)
        quoted = "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n"))
        parts.append(f"**Seed {seed}**\n\n{quoted}")
    return "\n\n".join(parts)


def fill(card: str, name: str, content: str) -> str:
    """The card with what stands between the markers of `name` replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if card.count(begin) != 1 or card.count(end) != 1:
        raise ValueError(f"the card needs one {begin} and one {end}")
    before, rest = card.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n{content}\n{end}{after}"


def between(card: str, name: str) -> str:
    """What stands between the markers of `name`."""
    return card.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- end of {name} -->")[0]


def main() -> None:
    """Measure and rewrite."""
    path = WEIGHTS / "README.md"
    report = json.loads((WEIGHTS / "evaluation.json").read_text())
    card = fill(path.read_text(), "loss table", loss_table(report))
    card = fill(card, "distances", distance_line(report))
    card = fill(card, "stories", stories(tinymoe.load()))
    write_atomically(path, card.encode())


if __name__ == "__main__":
    main()
