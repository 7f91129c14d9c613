"""The command line: parse, one library call, print. Heavy imports are inside the commands.

One file, although a long one: it is the table of contents, and most of its lines are options.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.thresholds import COLLATERAL
from reports.terminal import open_in_browser, print_paths, print_record, report_errors, show_progress

if TYPE_CHECKING:
    from audit.result import AuditResult

OUTPUT = Path("audit-report")

app = typer.Typer(
    name="audit",
    help="Was this knowledge removed from the weights, or only hidden?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def plugin_names(folder: str) -> str:
    """The names that a folder of ``audit`` offers, read from its file names: importing the files would load torch."""
    files = (Path(__file__).parent / "audit" / folder).glob("[!_]*.py")
    return ", ".join(sorted(file.stem.replace("_", "-") for file in files))


# ---- options that several commands share, and those with a long help

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, errors too.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of every draw (bootstrap, permutations, training).")]
ConfigOption = Annotated[Path | None, typer.Option(help="Folder with config.json, if not next to the weights.")]
TokenizerOption = Annotated[Path | None, typer.Option(help="Folder with the tokenizer, if not next to the weights.")]
DeviceOption = Annotated[str, typer.Option(help="Device that models run on: cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option(help="Number format that models run in: float32, bfloat16, float16.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Prompts in one forward pass.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="At most this many questions of each kind.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for result.json and report.html.")]
KnownVectorsFlag = Annotated[
    bool, typer.Option("--known-vectors", help="Use the vectors that the concept's file names; do not search.")
]
ConceptsOption = Annotated[list[str] | None, typer.Option(help="Library name or file; may be repeated.")]
QUERIES = "TOML, JSONL, GSM8K, HumanEval, SQuAD..."
SkillsOption = Annotated[list[Path] | None, typer.Option(help=f"Queries that need a skill: {QUERIES}")]
TranslationsOption = Annotated[
    Path | None, typer.Option(help="JSON with each concept's questions in German, for the prompts in German.")
]
RunCodeFlag = Annotated[
    bool, typer.Option("--run-code", help="Run programs that the models write, in a limited process.")
]
GuardOption = Annotated[Path | None, typer.Option(help="The protection served around the unlearned weights.")]
RetainedOption = Annotated[Path | None, typer.Option(help="A model trained without the forgotten data.")]
ReferenceOption = Annotated[
    Path | None, typer.Option(help="Any language model that never saw the data: what it says can be guessed.")
]
AttacksOption = Annotated[
    str, typer.Option(help=f"none, quick, full, or names separated by commas: {plugin_names('attacks')}.")
]


class Lens(StrEnum):
    """Through what the layers are read."""

    logit = "logit"
    tuned = "tuned"


LensOption = Annotated[Lens, typer.Option(help="Through what the layers are read.")]
RelearningStepsOption = Annotated[
    str, typer.Option(help="Steps after which a relearned model is read, e.g. 2,10,30,64,100; by default the attacks'.")
]
StatementOption = Annotated[Path | None, typer.Option(help="Also write the result here as an in-toto statement.")]
FailOnOption = Annotated[str, typer.Option(help="Verdicts that end with exit code 3, e.g. hidden,present.")]
BackgroundFlag = Annotated[
    bool,
    typer.Option(
        help="Also separate the region from background prompts (other European languages, Japanese, stories, requests, "
        "statements, markup); switch it off for a skill of one of these kinds."
    ),
]
PlanFlag = Annotated[bool, typer.Option("--plan", help="Show what would run and what it needs; run nothing.")]


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="The model before unlearning: file or folder.")],
    unlearned: Annotated[Path, typer.Argument(help="The model after unlearning: file or folder.")],
    retained: RetainedOption = None,
    reference: ReferenceOption = None,
    concept: ConceptsOption = None,
    translations: TranslationsOption = None,
    known_vectors: KnownVectorsFlag = False,
    skill: SkillsOption = None,
    run_code: RunCodeFlag = False,
    guard: GuardOption = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    output: OutputOption = OUTPUT,
    statement: StatementOption = None,
    fail_on: FailOnOption = "",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    batch_size: BatchOption = 16,
    limit: LimitOption = None,
    attacks: AttacksOption = "quick",
    relearning_steps: RelearningStepsOption = "",
    lens: LensOption = Lens.logit,
    seed: SeedOption = 0,
    plan: PlanFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Compare two checkpoints: what changed in the weights, and was the knowledge removed or only hidden?"""
    with report_errors(as_json, debug):
        failing = parse_verdicts(fail_on)
        from audit.commands.compare import compare
        from audit.commands.plan import plan_comparison
        from audit.request import Request, RunContext
        from audit.result import check_output
        from audit.settings import Settings, default_cache
        from reports.text import render_plan

        models = {"retained": retained, "reference": reference, "config": config, "tokenizer": tokenizer}
        settings = Settings(
            seed,
            device,
            dtype,
            batch_size,
            limit,
            run_code,
            known_vectors,
            attacks,
            parse_steps(relearning_steps),
            lens,
        )
        request = Request(concept or (), translations, skill or (), guard)
        if plan:
            planned = plan_comparison(base, unlearned, **models, request=request, context=RunContext(settings))
            print_record(planned, render_plan, as_json)
            return
        check_output(output)
        with show_progress(quiet) as progress:
            context = RunContext(settings, progress, command_line(), default_cache() / "units")
            result = compare(base, unlearned, **models, request=request, context=context)
        deliver(result, output, as_json, statement=statement)
        if failing & set(result.verdicts()):
            raise typer.Exit(3)


@app.command()
def find(
    model: Annotated[Path, typer.Argument(help="A checkpoint: file or folder.")],
    concept: Annotated[str, typer.Option(help="Library name, concept file, text file (.txt), or any word.")],
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of vectors to list.")] = 20,
    fold_norm: Annotated[bool, typer.Option("--fold-norm", help="Fold the final norm's scale into the head.")] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Ablate the vectors: does it affect answers about the concept alone?")
    ] = False,
    activations: Annotated[
        bool, typer.Option("--activations", help="With --validate: also hold their coefficients, by TransformerLens.")
    ] = False,
    generate: Annotated[
        bool, typer.Option("--generate", help="With --validate: also generate answers, scored by BLEU and ROUGE-L.")
    ] = False,
    collateral: Annotated[
        float, typer.Option(min=0, help="With --validate: the most that unrelated answers may lose, nats per token.")
    ] = COLLATERAL,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Find the value vectors of one model that write a concept, with their tokens and p-values."""
    with report_errors(as_json, debug):
        from audit.commands.find import FindOptions, find
        from audit.request import RunContext
        from audit.settings import Settings
        from reports.text import render_vectors

        options = FindOptions(limit, fold_norm, validate, activations, generate, collateral)
        with show_progress(quiet) as progress:
            context = RunContext(Settings(seed, device, dtype), progress, command_line())
            search = find(model, concept, options, config=config, tokenizer=tokenizer, context=context)
        document = search.model_dump(mode="json")
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1) if as_json else render_vectors(search))


@app.command()
def ablate(
    model: Annotated[Path, typer.Argument(help="A checkpoint: file or folder with its config.")],
    concept: Annotated[str, typer.Option(help="Library name or concept file.")],
    method: Annotated[str, typer.Option(help=f"{plugin_names('interventions')}.")] = "zero",
    vectors: Annotated[
        str, typer.Option(help="Value vectors as layer.neuron, separated by commas; default: the set that carries it.")
    ] = "",
    known_vectors: KnownVectorsFlag = False,
    strength: Annotated[
        float | None, typer.Option(help="0 changes nothing, 1 is the full method; default: by the dose curve.")
    ] = None,
    collateral: Annotated[
        float, typer.Option(min=0, help="The most that unrelated answers may lose, in nats per answer token.")
    ] = COLLATERAL,
    raw: Annotated[bool, typer.Option("--raw", help="Noise with the paper's standard deviation, 0.1.")] = False,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="Project every value vector of the model.")] = False,
    save_to: Annotated[Path | None, typer.Option("--save", help="Folder for the edited model.")] = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    output: OutputOption = OUTPUT,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    batch_size: BatchOption = 16,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Edit the vectors that carry a concept, measure what it did, and audit the edited model."""
    with report_errors(as_json, debug):
        from audit.commands.ablate import ablate, parse_neurons
        from audit.request import RunContext
        from audit.result import check_output
        from audit.settings import Settings
        from audit.vectors.edit import EditOptions

        check_output(output)
        neurons = parse_neurons(vectors) if vectors else ()
        options = EditOptions(neurons, strength, collateral, raw, everywhere)
        settings = Settings(seed=seed, device=device, dtype=dtype, batch_size=batch_size, known_vectors=known_vectors)
        with show_progress(quiet) as progress:
            result = ablate(
                model,
                concept,
                method,
                options,
                save=save_to,
                config=config,
                tokenizer=tokenizer,
                context=RunContext(settings, progress, command_line()),
            )
        deliver(result, output, as_json)
        print_paths(as_json, Model=save_to)


@app.command()
def skill(
    model: Annotated[Path, typer.Argument(help="A checkpoint: folder with its config.")],
    forget: Annotated[Path, typer.Option(help=f"Queries of the skill to guard: {QUERIES}")],
    retain: Annotated[list[Path], typer.Option(help="A skill to preserve; may be repeated.")],
    method: Annotated[str, typer.Option(help=f"{plugin_names('guards/methods')}.")] = "key-space",
    save_to: Annotated[Path | None, typer.Option("--save", help="Folder for the guard.")] = None,
    save_model: Annotated[Path | None, typer.Option(help="With prune: folder for the edited model.")] = None,
    region: Annotated[str, typer.Option(help="With key-space: vote, or the paper's hypercube.")] = "vote",
    layers: Annotated[
        str, typer.Option(help="Layers that the guard may read or change, e.g. 12,15,18; default: by the data, or all.")
    ] = "",
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of those layers' neurons that are adjusted or pruned.")
    ] = 0.02,
    misses: Annotated[
        float, typer.Option(min=0, max=1, help="With key-space: share of the skill's queries that the vote may miss.")
    ] = 0.02,
    background: BackgroundFlag = True,
    absolute: Annotated[bool, typer.Option("--absolute", help="Choose neurons by the size of the difference.")] = False,
    post: Annotated[bool, typer.Option("--post", help="Choose neurons by post-activations.")] = False,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: an option of the method by name; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many queries of each skill.")] = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    output: OutputOption = OUTPUT,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Fit a guard that suppresses a skill, and measure it on queries that it was not fitted on."""
    with report_errors(as_json, debug):
        chosen, named = parse_layers(layers), parse_options(option or [])
        from audit.commands.skill import GuardRequest, guard_skill
        from audit.request import RunContext
        from audit.result import check_output
        from audit.settings import Settings
        from reports.text import render_skill

        check_output(output)
        with show_progress(quiet) as progress:
            request = GuardRequest(
                forget=forget,
                retain=retain,
                method=method,
                options={
                    "layers": chosen,
                    "region": region,
                    "misses": misses,
                    "background": background,
                    "share": share,
                    "absolute": absolute,
                    "post": post,
                    **named,
                },
                save=save_to,
                save_edited=save_model,
            )
            settings = Settings(seed=seed, device=device, dtype=dtype, limit=limit)
            context = RunContext(settings, progress, command_line())
            result = guard_skill(model, request, config=config, tokenizer=tokenizer, context=context)
        deliver(result, output, as_json, render_skill)
        print_paths(as_json, Guard=save_to, Model=save_model)


@app.command()
def unlearn(
    model: Annotated[Path, typer.Argument(help="A checkpoint: folder with its config. It stays as it is.")],
    method: Annotated[
        str,
        typer.Option(help=f"{plugin_names('unlearning/methods')}; or a guard: {plugin_names('guards/methods')}."),
    ],
    forget: Annotated[str, typer.Option(help="Library concept, or a file of questions with answers or of text.")],
    save_to: Annotated[Path, typer.Option("--save", help="Folder for the unlearned model, or the guard.")],
    retain: Annotated[
        str | None, typer.Option(help="The same of what is kept; by default general knowledge about other things.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: a setting of the method, e.g. steps=40; may be repeated.")
    ] = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Train a copy of a model to forget, by a method of the field, or fit a guard, and save it."""
    with report_errors(as_json, debug):
        named = parse_options(option or [])
        from audit.commands.unlearn import UnlearnRequest, unlearn
        from audit.guards.saving import is_guard
        from audit.request import RunContext
        from audit.settings import Settings
        from reports.text import render_unlearning

        request = UnlearnRequest(method, forget, save_to, retain, named)
        with show_progress(quiet) as progress:
            context = RunContext(Settings(seed=seed, device=device), progress, command_line())
            record = unlearn(model, request, config=config, tokenizer=tokenizer, context=context)
        print_record(record, render_unlearning, as_json)
        print_paths(as_json, **{"Guard" if is_guard(save_to) else "Model": save_to})


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(help="Checkpoints: files or folders; the first is the base.")],
    concept: Annotated[list[str] | None, typer.Option(help="Include its questions in the estimate.")] = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    hashes: Annotated[bool, typer.Option("--hash/--no-hash", help="Hash the files, or read headers only.")] = True,
    public_key: Annotated[Path | None, typer.Option(help="Key that signatures are verified with (PEM).")] = None,
    certificate: Annotated[
        list[Path] | None, typer.Option(help="Certificates up to a root (PEM), instead of a key; may be repeated.")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Are these checkpoints intact, safe and comparable, and what could an audit of them measure?"""
    with report_errors(as_json, debug):
        from audit.checkpoint.signature import Trust
        from audit.commands.check import check
        from reports.text import render_check

        trust = Trust(public_key, tuple(certificate or ()))
        with show_progress(quiet) as progress:
            checked = check(
                paths,
                concepts=concept or (),
                config=config,
                tokenizer=tokenizer,
                hashes=hashes,
                trust=trust,
                progress=progress,
            )
        print_record(checked, render_check, as_json)
        if not checked.sound:
            raise typer.Exit(1)


@app.command()
def verify(
    result: Annotated[Path, typer.Argument(help="The result.json of an audit.")],
    base: Annotated[Path | None, typer.Option(help="Present path of the base, if it was moved.")] = None,
    unlearned: Annotated[Path | None, typer.Option(help="Present path of the unlearned model.")] = None,
    retained: Annotated[Path | None, typer.Option(help="Present path of the retained model.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Present path of the reference model.")] = None,
    config: ConfigOption = None,
    sample: Annotated[int, typer.Option(min=0, help="Number of tensors whose numbers are computed again.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    statement: Annotated[
        Path | None, typer.Option(help="If the result holds, write it here as an in-toto statement.")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Hash a result's files again, compute a sample again, and name the first difference."""
    with report_errors(as_json, debug):
        from audit.checkpoint.statement import write_statement
        from audit.commands.verify import verify
        from reports.text import render_verification

        paths = {"base": base, "unlearned": unlearned, "retained": retained, "reference": reference}
        moved = {role: path for role, path in paths.items() if path is not None}
        with show_progress(quiet) as progress:
            verification = verify(result, moved=moved, config=config, sample=sample, seed=seed, progress=progress)
        if verification.holds and statement is not None:
            write_statement(result, statement)
        print_record(verification, render_verification, as_json)
        if not verification.holds:
            raise typer.Exit(1)
        print_paths(as_json, Statement=statement)


@app.command()
def view(
    paths: Annotated[list[Path] | None, typer.Argument(help="Result files or folders; default audit-report/.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw the report into this file: .html or .txt.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Write the charts of the newest result into this folder as SVG.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the reports on 127.0.0.1 until interrupted.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for --serve; 0 picks a free one.")] = 8765,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """List reports, draw one again from its result.json, open it, or serve a folder of them on loopback."""
    with report_errors(as_json, debug):
        from reports import stored_results

        chosen = paths or [OUTPUT]
        if figures is not None:
            for path in stored_results.save_figures(chosen, figures):
                typer.echo(f"Figure: {path}")
        elif output is not None:
            stored_results.draw(chosen, output)
            typer.echo(f"Report: {output}")
            if open_page:
                open_in_browser(output)
        elif serve:
            from reports import server

            server.serve(chosen, port, announce=lambda address: typer.echo(f"Serving on {address} (Ctrl+C ends it)"))
        elif open_page:
            open_in_browser(stored_results.page_of(chosen))
        else:
            from reports.text import render_listing

            rows = stored_results.list_results(chosen)
            typer.echo(json.dumps([row.as_json() for row in rows], indent=1) if as_json else render_listing(rows))


@app.command()
def demo(
    concept: Annotated[str, typer.Option(help="A concept of the library that the demo model knows.")] = "italy",
    output: OutputOption = OUTPUT / "demo",
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """The whole story on a real model: unlearn a concept in two ways, compare both, write the reports."""
    with report_errors(as_json, debug):
        from audit.commands import demo as story
        from reports import index, text
        from reports.stored_results import save

        with show_progress(quiet) as progress:
            outcome = story.run(output, concept=concept, seed=seed, progress=progress)
        for name, result in outcome.results.items():
            save(result, output / name)
        index.write(output / "index.html", outcome.results, story.conclusion(outcome))
        typer.echo(
            json.dumps(outcome.as_json(), indent=1)
            if as_json
            else text.render_demo(outcome.results, story.conclusion(outcome))
        )
        print_paths(as_json, Reports=output / "index.html")


def version_text(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"unlearning-audit {version('unlearning-audit')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=version_text, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Was this knowledge removed from the weights, or only hidden?"""


def main() -> None:
    """Entry point of ``audit`` and ``unlearn-audit``."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop ends a run as Ctrl+C does
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # else it reads the metadata of every installed package
    app()


# ---- parsing and delivering


def command_line() -> str:
    """The command as typed, for the record in the result."""
    import shlex

    return shlex.join(["audit", *sys.argv[1:]])


def parse_verdicts(text: str) -> set[str]:
    """Verdict names of a comma-separated list; a usage error names an unknown one."""
    from typing import get_args

    from audit.result import Verdict

    names = {name.strip() for name in text.split(",") if name.strip()}
    known = get_args(Verdict)
    for name in sorted(names - set(known)):
        raise typer.BadParameter(f"{name!r} is not a verdict; choose from {', '.join(known)}", param_hint="--fail-on")
    return names


def parse_steps(text: str) -> tuple[int, ...]:
    """Numbers of steps separated by commas, each once, in order; a usage error says what is wrong."""
    try:
        steps = tuple(sorted({int(step) for step in text.split(",") if step.strip()}))
    except ValueError:
        steps = (0,)
    if any(step < 1 for step in steps):
        raise typer.BadParameter(f"{text!r} is not a list of steps such as 2,10,30", param_hint="--relearning-steps")
    return steps


def parse_layers(text: str) -> tuple[int, ...]:
    """Layer numbers separated by commas, each once, in order; a usage error says what is wrong."""
    try:
        return tuple(sorted({int(layer) for layer in text.split(",") if layer.strip()}))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of layers such as 12,15,18", param_hint="--layers") from None


def parse_options(texts: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` as a mapping, hyphens of names as underscores; a usage error says what is wrong."""
    wrong = next((text for text in texts if not text.partition("=")[1]), None)
    if wrong is not None:
        raise typer.BadParameter(f"{wrong!r} is not NAME=VALUE", param_hint="--option")
    named = [(name.strip().replace("-", "_"), value) for name, _, value in (text.partition("=") for text in texts)]
    twice = next((name for at, (name, _) in enumerate(named) if name in dict(named[:at])), None)
    if twice is not None:
        raise typer.BadParameter(f"{twice!r} is given twice", param_hint="--option")
    return dict(named)


def deliver(
    result: AuditResult,
    folder: Path,
    as_json: bool,
    render: Callable[[AuditResult], str] | None = None,
    statement: Path | None = None,
) -> None:
    """Write the result, its report and its statement; then print the document, or a summary and the written paths."""
    from reports import stored_results, text

    stored_results.save(result, folder)
    if statement is not None:
        from audit.checkpoint.statement import write_statement

        write_statement(folder / stored_results.RESULT, statement)
    if as_json:
        typer.echo(result.to_json(), nl=False)
    else:
        typer.echo((render or text.render)(result))
        print_paths(as_json, Report=folder / stored_results.PAGE, Result=folder / stored_results.RESULT)


if __name__ == "__main__":
    main()
