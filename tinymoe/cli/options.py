"""Options that commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

PROMPT, MODEL, SAMPLING, OUTPUT = "Prompt", "Model", "Sampling", "Output"
MODELS_OWN = "the model's own"

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        metavar="DIR",
        help="Folder with config.json, model.safetensors and tokenizer.json.",
        show_default="the shipped model",
        rich_help_panel=MODEL,
    ),
]


def _numerics(show_default: bool | str = True) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        metavar="exact|fp32|bf16|checkpoint",
        help="Arithmetic: float64 throughout; float32; bfloat16 between ops, as engines do; or "
        "that, with inputs and cache quantised as the checkpoint says (if it does not: bf16).",
        show_default=show_default,
        rich_help_panel=MODEL,
    )
    return option


Numerics = Annotated[str, _numerics()]
NumericsByReport = Annotated[
    str | None, _numerics("fp32; of a comparison or a sweep bf16, as other engines")
]
BACKENDS = "auto|numpy|numba|ptx|cuda"
_COMPUTES = (
    "What computes: numpy, the definition; numba, compiled, on all cores; ptx, the CUDA kernels on "
    "the CPU, all checks on (slow); cuda, on a GPU. auto is numba once it is compiled, and numpy "
    "before."
)


def _backend(**shown: Any) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        "--backend",
        metavar=BACKENDS,
        envvar="TINYMOE_BACKEND",
        help=_COMPUTES,
        rich_help_panel=MODEL,
        **shown,
    )
    return option


Backend = Annotated[str, _backend()]
BackendByNumerics = Annotated[str | None, _backend(show_default="auto for bf16, else numpy")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of the backend numba.",
        show_default="the cores there are",
        rich_help_panel=MODEL,
    ),
]
RepackCache = Annotated[
    bool,
    typer.Option(
        "--repack-cache",
        envvar="TINYMOE_REPACK_CACHE",
        help="Keep the weights as the backend numba lays them out, in the model's folder, and "
        "take them from there the next time if every hash is right. Takes disk space as the "
        "weights take memory; to be rid of it, delete DIR/.tinymoe.",
        rich_help_panel=MODEL,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="3GB",
        help="Bytes that weights may take. What does not fit is read when it is used, with the "
        "same results.",
        show_default="what is available",
        rich_help_panel=MODEL,
    ),
]
Latent = Annotated[
    str,
    typer.Option(
        metavar="absorbed|expanded",
        help="Latent attention (DeepSeek) with the latent vector cached, or with the keys and "
        "values of every head: other last bits. No other model has it.",
        rich_help_panel=MODEL,
    ),
]
Positions = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Tokens of the longest sequence wanted, answer included. Phi-3.5-MoE turns its "
        "queries and keys by other angles beyond 4,096; for other models it changes nothing.",
        show_default="what the model has at once",
        rich_help_panel=MODEL,
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PROMPT",
        help="Text to continue. Several prompts are decoded together.",
        show_default=False,
    ),
]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="A prompt from a UTF-8 file, without its last line break; - is standard input. "
        "Repeat for more.",
        show_default=False,
        rich_help_panel=PROMPT,
    ),
]
Ids = Annotated[
    list[str] | None,
    typer.Option(
        metavar="5,6,7",
        help="A prompt as token ids, or @FILE that holds them. Repeat for more.",
        show_default=False,
        rich_help_panel=PROMPT,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=OUTPUT),
]


def _number(help_text: str, default: str | bool = MODELS_OWN) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        help=help_text, show_default=default, rich_help_panel=SAMPLING
    )
    return option


MaxTokens = Annotated[
    int, typer.Option(help="Tokens to generate at most.", rich_help_panel=SAMPLING)
]
Temperature = Annotated[
    float | None, _number("0 always takes the likeliest token; higher is more adventurous.")
]
TopK = Annotated[int | None, _number("Choose among the K likeliest tokens. 0: off.")]
TopP = Annotated[
    float | None, _number("Choose among the likeliest tokens that together have P. 1: off.")
]
MinP = Annotated[
    float | None, _number("Drop tokens less likely than P times the likeliest. 0: off.")
]
RepetitionPenalty = Annotated[
    float | None, _number("Above 1: seen tokens, the prompt's too, become less likely. 1: off.")
]
PresencePenalty = Annotated[
    float, _number("Taken from the logits of tokens already generated. 0: off.", True)
]
FrequencyPenalty = Annotated[
    float, _number("The same, times how often each was generated. 0: off.", True)
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="End where this text would come; it is not shown. Repeat for more.",
        show_default=False,
        rich_help_panel=SAMPLING,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="The same seed gives the same text. --stats and --json say which one it was.",
        show_default="a new one each time",
        rich_help_panel=SAMPLING,
    ),
]
IgnoreEos = Annotated[
    bool,
    typer.Option(
        "--ignore-eos",
        help="Go on after the token that ends a text.",
        rich_help_panel=SAMPLING,
    ),
]

# What `diff` and `diagnose` ask of another engine's dump.
DUMP = "Dump"
Mine = Annotated[Path, typer.Argument(metavar="MINE", help="The engine's trace or dump.")]
StatedNumerics = Annotated[
    str | None,
    typer.Option(
        metavar="exact|fp32|bf16|checkpoint",
        help="In what MINE was computed, if the file does not say so.",
        show_default="as MINE says",
        rich_help_panel=MODEL,
    ),
]
Mapping = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="How MINE's names become taps: a mapping file, or a preset's name.",
        show_default=False,
        rich_help_panel=DUMP,
    ),
]
Rank = Annotated[
    int, typer.Option(min=0, help="Of a dump of several ranks: which.", rich_help_panel=DUMP)
]
Step = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Of a dump of several forward passes: which.",
        show_default="the first",
        rich_help_panel=DUMP,
    ),
]
TokensOfDump = Annotated[
    str | None,
    typer.Option(
        metavar="5,6,7",
        help="The tokens that MINE is of, or @FILE that holds them, if it does not say so.",
        show_default=False,
        rich_help_panel=DUMP,
    ),
]
