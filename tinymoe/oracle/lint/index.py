"""Rules on index against shards."""

from __future__ import annotations

from collections.abc import Iterator

from tinymoe.checkpoint import INDEX, WEIGHTS
from tinymoe.oracle.lint.registry import Found, many, rule
from tinymoe.oracle.lint.subject import Subject


@rule(
    "index-file-missing",
    "error",
    "sglang#32279",
    engine="drops the shard without a word and runs on weights that were never written",
)
def index_file_missing(subject: Subject) -> Iterator[Found]:
    """A shard that the index names is not in the folder, or its name leads out of it."""
    for file, names in subject.index.absent.items():
        what = many(len(names), "tensor")
        says = f"{INDEX} names {file!r}, which is not here; it should hold {what}"
        yield Found(says, names, {"tensors": len(names)})
    bad = subject.index.bad_names
    if bad:
        shown = next(iter(bad.values()))
        says = f"{INDEX} gives no plain file name for {many(len(bad), 'tensor')}: {shown!r}"
        yield Found(says, list(bad), {"tensors": len(bad)})


@rule(
    "index-tensor-missing",
    "error",
    "huggingface_hub#4728",
    engine="leaves the weight as it was allocated: zeros, or what the memory held",
)
def index_tensor_missing(subject: Subject) -> Iterator[Found]:
    """The index says that a shard holds a tensor, and the shard does not."""
    lost = subject.index.not_inside
    if lost:
        files = sorted(set(lost.values()))
        says = f"{INDEX} lists {many(len(lost), 'tensor')} that the named file does not hold: "
        says += ", ".join(files)
        yield Found(says, sorted(lost), {"tensors": len(lost), "files": len(files)})


@rule(
    "index-tensor-unlisted",
    "warning",
    "vllm#54230",
    engine="loads every tensor of a file, so one that the index does not list there may overwrite "
    "the right one",
)
def index_tensor_unlisted(subject: Subject) -> Iterator[Found]:
    """A shard holds a tensor that the index does not list, or lists for another file."""
    extra = subject.index.unlisted
    if extra:
        twice = len(subject.index.elsewhere)
        says = (
            f"shards hold {many(len(extra), 'tensor')} that the index does not list there; of "
            f"these names it lists {twice:,} for another file"
        )
        yield Found(says, sorted(extra), {"tensors": len(extra), "listed_elsewhere": twice})


@rule(
    "index-shadowed",
    "warning",
    "mlx-vlm#1464",
    engine="reads the one or the other, or all files at once, by its own taste",
)
def index_shadowed(subject: Subject) -> Iterator[Found]:
    """Both model.safetensors and an index with shards are in the folder."""
    if subject.index.shadowed:
        yield Found(f"{WEIGHTS} and {INDEX} are both here; transformers, and this lint, read the "
                    "first and leave the shards alone", [WEIGHTS, INDEX])  # fmt: skip
