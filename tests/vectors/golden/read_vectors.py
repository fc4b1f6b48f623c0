"""Read golden vectors with NumPy and nothing else, and hold a function of yours to them.

python read_vectors.py [FOLDER]
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

TYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U8": "u1"}


def read(folder: Path, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """A vector's card and its arrays; its files must be those that the index knows."""
    known = json.loads((folder / "index.json").read_text("utf-8"))["vectors"][name]
    files = {kind: (folder / f"{name}.{kind}").read_bytes() for kind in ("json", "safetensors")}
    for kind, data in files.items():
        assert hashlib.sha256(data).hexdigest() == known[kind], f"{name}.{kind}"
    data = files["safetensors"]
    start = 8 + int.from_bytes(data[:8], "little")  # of the arrays, after the header
    arrays = {}
    for key, entry in json.loads(data[8:start]).items():
        if key != "__metadata__":
            first, last = (start + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[first:last], TYPES[entry["dtype"]])
            arrays[key] = values.reshape(entry["shape"])
    return json.loads(files["json"]), arrays


def check(card: dict, arrays: dict[str, np.ndarray], answer: dict[str, np.ndarray]) -> None:
    """Every expected array is there, and no number is off by more than its tolerance."""
    for name, how in card["expected"].items():
        want, got = arrays[how["tensor"]], answer[name]
        allowed = 0 if how["tolerance"] == 0 else arrays[how["tolerance"]["tensor"]]
        good = (np.abs(got - want) <= allowed) | (got == want) | (np.isnan(got) & np.isnan(want))
        assert got.shape == want.shape, (card["name"], name)
        assert good.all(), (card["name"], name)


def combine(expert_out: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The function under test: each token's experts, weighted and summed."""
    return np.einsum("tkh,tk->th", expert_out, weights)


def route(logits: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Another one: softmax over all experts, the K largest, divided by their sum."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = powers / powers.sum(axis=1, keepdims=True)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    weights = np.take_along_axis(scores, ids, axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    return {"logits": logits, "scores": scores, "ids": ids, "weights": weights}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    card, arrays = read(folder, "experts/combine")
    check(card, arrays, {"out": combine(arrays["expert_out"], arrays["weights"])})
    for name in ("router/mixtral", "router/qwen3_moe"):
        card, arrays = read(folder, name)
        top_k = card["given"]["card"]["top_k"]
        check(card, arrays, route(arrays["x"] @ arrays["weight"].T, top_k))
    print("3 vectors hold")
