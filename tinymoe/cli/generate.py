"""`python -m tinymoe generate`: text from prompts."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tinymoe.cli import backends, options, prompts, report
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.api import Latent, Model, Token
    from tinymoe.cli.stats import Answer, Work
    from tinymoe.core import Sampling


def generate(
    prompt: options.Prompts = None,
    file: options.Files = None,
    ids: options.Ids = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Send the prompt as a message, by the model's chat template. "
            "Without a prompt: a conversation.",
            rich_help_panel=options.PROMPT,
        ),
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="With --chat: the message that says who the model shall be.",
            show_default=False,
            rich_help_panel=options.PROMPT,
        ),
    ] = None,
    max_tokens: options.MaxTokens = 128,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    presence_penalty: options.PresencePenalty = 0.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    stop: options.Stop = None,
    seed: options.Seed = None,
    ignore_eos: options.IgnoreEos = False,
    model: options.Model = None,
    numerics: options.Numerics = "fp32",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    repack_cache: options.RepackCache = False,
    memory: options.Memory = None,
    latent: options.Latent = "absorbed",
    positions: options.Positions = None,
    stats: Annotated[
        bool,
        typer.Option(
            "--stats",
            help="Afterwards, on stderr: speed, and where the experts went.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    logprobs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Log-probabilities: of each token, and of the N likeliest in its place.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    no_echo: Annotated[
        bool,
        typer.Option(
            "--no-echo",
            help="Do not show the prompt before its continuation (only a terminal shows it).",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Continue a text, token by token, as the model finds them.

    [bold]Examples[/bold]

    python -m tinymoe generate "Once upon a time"

    python -m tinymoe generate "Tom had a" "The sun is" --temperature 0 --stats

    python -m tinymoe generate --chat "Who are you?"

    echo "Once upon a time" | python -m tinymoe generate --seed 7 --json
    """
    with report.outcome(as_json):
        asked = prompts.collect(prompt, file, ids)
        _check_chat(chat, system, asked, as_json)
        wish = backend
        backend = backends.choose(
            wish,
            model,
            numerics,
            threads=threads,
            memory=memory,
            positions=positions,
            repack_cache=repack_cache,
        )
        backends.check(backend, memory)
        from tinymoe.api import load

        def open_with(backend: str) -> Model:
            opened = load(
                model,
                backend=backend,
                threads=threads,
                repack_cache=repack_cache,
                numerics=numerics,
                memory=memory,
                latent=cast("Latent", latent),
                positions=positions,
            )
            report.say_if_on_demand(opened.reads)
            backends.make_ready(opened, backend)
            return opened

        begin = time.perf_counter()
        opened = open_with(backend)
        load_seconds = time.perf_counter() - begin
        chosen = opened.default_sampling(
            **_given(
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
            ),
            max_tokens=max_tokens,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            stop=tuple(stop or ()),
            seed=int.from_bytes(os.urandom(4)) if seed is None else seed,
            ignore_eos=ignore_eos,
            logprobs=logprobs,
        )
        if chat and not asked:
            from tinymoe.cli.chat import converse

            def faster() -> Model | None:
                waits = wish == backends.AUTO and backend == "numpy" and memory is None
                found = waits and backends.ready_now(model, numerics, positions)
                return open_with("numba") if found else None

            converse(opened, chosen, system, faster)
            return
        if not asked:
            asked = [prompts.default()]
        work = _prepare(opened, asked, chosen, system, chat, load_seconds)
        _work(opened, work, show=not as_json, echo=not (no_echo or chat))
        settings = f"seed {chosen.seed}, {opened.numerics.name}, {backend}"
        if as_json:
            report.print_json(_as_dict(opened, work, backend))
        elif logprobs is not None:
            _show_logprobs(opened, work)
        if stats:
            from tinymoe.cli.stats import show as show_stats

            show_stats(work, settings, opened.reads)
        if work.interrupted:
            raise typer.Exit(report.INTERRUPTED)


def _given(**settings: Any) -> dict[str, Any]:
    """What was asked for; the rest is the model's own."""
    return {name: value for name, value in settings.items() if value is not None}


def _check_chat(chat: bool, system: str | None, asked: list[prompts.Prompt], as_json: bool) -> None:
    if system is not None and not chat:
        raise TinymoeError("--system is a message of a conversation: add --chat")
    if chat and any(prompt.text is None for prompt in asked):
        raise TinymoeError("--chat wraps text; token ids are taken as they are: drop one of them")
    alone = report.is_terminal(sys.stdin) and report.is_terminal(sys.stdout) and not as_json
    if chat and not asked and not alone:
        raise TinymoeError(
            "--chat without a prompt is a conversation and needs a terminal (and no --json): "
            'give a message, as in --chat "Who are you?"'
        )


def _prepare(
    model: Model,
    asked: list[prompts.Prompt],
    sampling: Sampling,
    system: str | None,
    chat: bool,
    load_seconds: float,
) -> Work:
    """Every prompt as token ids, and an empty answer for it."""
    from tinymoe.cli.chat import first_message, wrap
    from tinymoe.cli.stats import Answer, Work
    from tinymoe.measure.expert_load import ExpertLoad

    answers = []
    for prompt in asked:
        if prompt.ids is not None:
            ids = prompt.ids
        elif chat:
            ids = wrap(model, first_message(system, prompt.text or ""))
        else:
            ids = model.encode(prompt.text or "")
        answers.append(Answer(prompt, ids, sampling))
    return Work(answers, ExpertLoad(model.config), load_seconds)


def _work(model: Model, work: Work, show: bool, echo: bool) -> None:
    """Generate, shown as it comes. Ctrl-C ends it early, with what there is."""
    from tinymoe.cli.show import InOrder, Screen

    answers = work.answers
    steps = model.generate_many(
        [a.ids for a in answers], [a.sampling for a in answers], tap=work.load
    )
    readable = model.checkpoint.has_tokenizer
    if show and not readable:
        print("this model folder has no tokenizer.json: token ids follow", file=sys.stderr)
    view = InOrder(Screen(), [a.prompt for a in answers], echo)
    work.begin = time.perf_counter()
    try:
        for number, token in steps:
            answers[number].tokens.append(token)
            if show:
                text = token.text if readable else f"{token.id} "
                view.add(number, text, token.finish is not None)
    except KeyboardInterrupt:
        work.interrupted = True
        view.close()


def _show_logprobs(model: Model, work: Work) -> None:
    from tinymoe.cli.stats import show_logprobs

    readable = model.checkpoint.has_tokenizer
    decode = (lambda i: model.tokenizer.decode([i])) if readable else (lambda i: "")
    show_logprobs(work.answers, decode)


def _as_dict(model: Model, work: Work, backend: str) -> dict[str, Any]:
    from tinymoe import __version__
    from tinymoe.cli.stats import as_dict
    from tinymoe.measure.reads import describe

    sampling = work.answers[0].sampling
    return {
        "tinymoe": __version__,
        "model": str(model.checkpoint.path),
        "numerics": model.numerics.name,
        "backend": backend,
        "seed": sampling.seed,
        "sampling": {
            name: getattr(sampling, name)
            for name in ("max_tokens", "temperature", "top_k", "top_p", "min_p", "stop",
                         "repetition_penalty", "presence_penalty", "frequency_penalty",
                         "ignore_eos")
        },
        "interrupted": work.interrupted,
        "answers": [_answer(answer, work.begin) for answer in work.answers],
        "stats": as_dict(work),
        "weights": describe(model.reads),
    }  # fmt: skip


def _answer(answer: Answer, begin: float) -> dict[str, Any]:
    from tinymoe.cli.stats import timing

    result: dict[str, Any] = {
        "prompt": answer.prompt.text,
        "prompt_ids": answer.ids,
        "text": answer.text,
        "token_ids": [token.id for token in answer.tokens],
        "finish_reason": answer.finish,
        "stats": timing(answer, begin),
    }
    if answer.sampling.logprobs is not None:
        result["logprobs"] = [_finite(token.logprob) for token in answer.tokens]
        result["top_logprobs"] = [_pairs(token) for token in answer.tokens]
    return result


def _pairs(token: Token) -> list[list[float | int | None]]:
    return [[i, _finite(logprob)] for i, logprob in token.top_logprobs]


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and abs(value) != float("inf") else None
