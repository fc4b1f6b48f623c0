"""Reading config.json so that nothing is guessed and nothing is overlooked.

Every field is either taken by the family, known not to change the arithmetic, or an error that
names it: a field that nobody read may be the one that changes the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinymoe.core import TinymoeError

# Fields of any family that say nothing about what the layers compute.
HARMLESS = frozenset(
    {
        *("_attn_implementation", "_name_or_path", "architectures", "attn_implementation"),
        "auto_map",  # names Python code to import: never done here
        *("bos_token_id", "eos_token_id", "pad_token_id"),
        *("chunk_size_feed_forward", "dtype", "torch_dtype", "torchscript"),
        *("id2label", "label2id", "problem_type", "task_specific_params", "return_dict"),
        *("initializer_range", "router_aux_loss_coef", "use_cache"),
        *("model_type", "tokenizer_class", "transformers_version"),
        *("output_attentions", "output_hidden_states", "output_router_logits"),
    }
)

LIMIT = 2**31 - 1  # of any count; what is allocated is checked against the tensors besides
_ABSENT = object()


class Fields:
    """The fields of one JSON object, handed out by name and crossed off."""

    def __init__(self, config: Mapping[str, Any], where: str = "config.json") -> None:
        """`where` begins every error."""
        self.config, self.where = config, where
        self._left = set(config)

    def __contains__(self, name: str) -> bool:
        """Whether the field is there with a value other than null."""
        return self.config.get(name) is not None

    def take(self, name: str, default: Any = _ABSENT) -> Any:
        """The field's value as it is; `default` where it is missing, an error without one."""
        self._left.discard(name)
        value = self.config.get(name, default)
        if value is _ABSENT:
            raise TinymoeError(f"{self.where}: the field {name!r} is missing")
        return value

    def count(self, name: str, *, most: int = LIMIT) -> int:
        """A whole number from 1 to `most`."""
        value = self.take(name)
        if type(value) is not int or not 1 <= value <= most:  # JSON's true is an int, too
            raise self.error(name, f"a whole number from 1 to {most:,}")
        return value

    def positive(self, name: str, default: Any = _ABSENT) -> float:
        """A number above zero."""
        value = self.take(name, default)
        if type(value) not in (int, float) or not 0 < value <= LIMIT:
            raise self.error(name, "a positive number")
        return float(value)

    def flag(self, name: str, default: Any = _ABSENT) -> bool:
        """True or false."""
        value = self.take(name, default)
        if type(value) is not bool:
            raise self.error(name, "true or false")
        return value

    def only(self, name: str, *supported: Any) -> None:
        """Refuse a field whose value is none of `supported`; missing counts as null."""
        value = self.take(name, None)
        if not any(type(value) is type(known) and value == known for known in supported):
            raise self.unsupported(name)

    def error(self, name: str, expected: str) -> TinymoeError:
        """What to raise for a field with a wrong value."""
        return TinymoeError(
            f"{self.where}: expected {name!r} to be {expected}, found {self.config.get(name)!r}"
        )

    def unsupported(self, name: str) -> TinymoeError:
        """What to raise for a field that asks for arithmetic we do not have."""
        return TinymoeError(
            f"{self.where}: {name!r} is {self.config.get(name)!r}, which this version of tinymoe "
            "does not support; it would change the results, so the model is not run without it"
        )

    def finish(self, harmless: frozenset[str] = HARMLESS) -> None:
        """Refuse what is left over, unless it is known to change nothing."""
        unknown = sorted(self._left - harmless)
        if unknown:
            listed = ", ".join(f"{name} = {self.config[name]!r}" for name in unknown[:8])
            raise TinymoeError(
                f"{self.where}: unknown fields that may change the arithmetic: {listed}. tinymoe "
                "does not guess: remove a field only if you know that it changes nothing"
            )
