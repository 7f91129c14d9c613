"""The command line: parse, one library call, print. Heavy imports sit inside the commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from audit.thresholds import COLLATERAL

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

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

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, errors too.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of every draw (bootstrap, permutations, training).")]
ConfigOption = Annotated[Path | None, typer.Option(help="Folder with config.json, if not beside the weights.")]
TokenizerOption = Annotated[Path | None, typer.Option(help="Folder with the tokenizer, if not beside the weights.")]
KnownVectorsFlag = Annotated[
    bool, typer.Option("--known-vectors", help="Follow the vectors that a concept's file names; do not find them.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for result.json and report.html.")]


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="The model before unlearning: file or folder.")],
    unlearned: Annotated[Path, typer.Argument(help="The model after unlearning: file or folder.")],
    retained: Annotated[Path | None, typer.Option(help="A model trained without the forgotten data.")] = None,
    concept: Annotated[list[str] | None, typer.Option(help="Library name or file; may be given again.")] = None,
    translations: Annotated[
        Path | None, typer.Option(help="JSON with each concept's questions in German, for the prompts in German.")
    ] = None,
    known_vectors: KnownVectorsFlag = False,
    skill: Annotated[
        list[Path] | None, typer.Option(help="Queries that need a skill: TOML, JSONL, GSM8K, HumanEval, SQuAD...")
    ] = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Run programs that the models write, in a bounded process.")
    ] = False,
    guard: Annotated[Path | None, typer.Option(help="The protection served around the unlearned weights.")] = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    output: OutputOption = OUTPUT,
    statement: Annotated[
        Path | None, typer.Option(help="Write the result here as an in-toto statement as well.")
    ] = None,
    fail_on: Annotated[str, typer.Option(help="Verdicts that end with exit code 3, e.g. hidden,present.")] = "",
    device: Annotated[str, typer.Option(help="Where models run: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Number format models run in: float32, bfloat16, float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in one forward pass.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many questions of each kind.")] = None,
    seed: SeedOption = 0,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would run and what it would take; run nothing.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Compare two checkpoints: what changed in the weights, and was the knowledge removed or only hidden?"""
    with report_errors(as_json, debug):
        failing = parse_verdicts(fail_on)
        from audit.commands.compare import compare
        from audit.commands.plan import plan_comparison
        from audit.result import refuse_output
        from audit.settings import Settings
        from reports.text import render_plan

        settings = Settings(
            seed=seed,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            limit=limit,
            run_code=run_code,
            known_vectors=known_vectors,
        )
        arguments: dict[str, Any] = {
            "retained": retained,
            "concepts": concept or [],
            "translations": translations,
            "skills": skill or [],
            "guard": guard,
            "config": config,
            "tokenizer": tokenizer,
            "settings": settings,
        }
        if plan:
            planned = plan_comparison(base, unlearned, **arguments)
            typer.echo(json.dumps(planned.as_json(), indent=1) if as_json else render_plan(planned))
            return
        refuse_output(output)
        with show_progress(quiet) as progress:
            result = compare(base, unlearned, **arguments, progress=progress, command=command_line())
        save(result, output)
        if statement is not None:
            from audit.checkpoint.statement import write_statement

            write_statement(output / "result.json", statement)
        show(result, output, as_json)
        if failing & set(result.verdicts()):
            raise typer.Exit(3)


@app.command()
def find(
    model: Annotated[Path, typer.Argument(help="A checkpoint: file or folder.")],
    concept: Annotated[str, typer.Option(help="Library name, concept file, text file (.txt), or any word.")],
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many vectors to list.")] = 20,
    fold_norm: Annotated[bool, typer.Option("--fold-norm", help="Fold the final norm's scale into the head.")] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Ablate them: do answers about the concept rest on them, and no others?")
    ] = False,
    activations: Annotated[
        bool, typer.Option("--activations", help="With --validate: hold coefficients as well, by TransformerLens.")
    ] = False,
    generate: Annotated[
        bool, typer.Option("--generate", help="With --validate: write answers as well, scored by BLEU and ROUGE-L.")
    ] = False,
    collateral: Annotated[
        float, typer.Option(min=0, help="With --validate: the most unrelated answers may lose, nats per token.")
    ] = COLLATERAL,
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
            context = RunContext(Settings(seed=seed), progress, command_line())
            search = find(model, concept, options, config=config, tokenizer=tokenizer, context=context)
        document = search.model_dump(mode="json")
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1) if as_json else render_vectors(search))


@app.command()
def ablate(
    model: Annotated[Path, typer.Argument(help="A checkpoint: file or folder with its config.")],
    concept: Annotated[str, typer.Option(help="Library name or concept file.")],
    method: Annotated[str, typer.Option(help="noise, zero, mean, project, demote or needle.")] = "zero",
    vectors: Annotated[
        str, typer.Option(help="Value vectors as layer.neuron, separated by commas; default: the set that carries it.")
    ] = "",
    known_vectors: KnownVectorsFlag = False,
    strength: Annotated[
        float | None, typer.Option(help="How far to go: 0 nothing, 1 the method in full; default: by the dose curve.")
    ] = None,
    collateral: Annotated[
        float, typer.Option(min=0, help="The most unrelated answers may lose, nats per answer token.")
    ] = COLLATERAL,
    raw: Annotated[bool, typer.Option("--raw", help="Noise of the paper's standard deviation, 0.1.")] = False,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="Project every value vector of the model.")] = False,
    save_to: Annotated[Path | None, typer.Option("--save", help="Folder for the edited model.")] = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    output: OutputOption = OUTPUT,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Number format it runs in: float32, bfloat16, float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in one forward pass.")] = 16,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Edit the vectors that carry a concept, measure what it did, and audit the edited model."""
    with report_errors(as_json, debug):
        from audit.commands.ablate import EditOptions, ablate, parse_neurons
        from audit.request import RunContext
        from audit.result import refuse_output
        from audit.settings import Settings

        refuse_output(output)
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
        save(result, output)
        show(result, output, as_json)
        if save_to is not None and not as_json:
            typer.echo(f"Model:  {save_to}")


@app.command()
def skill(
    model: Annotated[Path, typer.Argument(help="A checkpoint: folder with its config.")],
    forget: Annotated[
        Path, typer.Option(help="Queries of the skill to guard: TOML, JSONL, GSM8K, HumanEval, SQuAD...")
    ],
    retain: Annotated[list[Path], typer.Option(help="A skill to leave alone; may be given again.")],
    method: Annotated[str, typer.Option(help="key-space, neuron-adjust or prune.")] = "key-space",
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
        float, typer.Option(min=0, max=1, help="With key-space: share of the skill that the vote may miss.")
    ] = 0.02,
    background: Annotated[
        bool,
        typer.Option(
            help="Tell the region from prompts of other kinds besides; leave out for a skill of one of these kinds "
            "(other European languages, Japanese, stories, requests, statements, markup)."
        ),
    ] = True,
    absolute: Annotated[bool, typer.Option("--absolute", help="Choose neurons by the size of the difference.")] = False,
    post: Annotated[bool, typer.Option("--post", help="Choose neurons by post-activations.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many queries of each skill.")] = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    output: OutputOption = OUTPUT,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Number format it runs in: float32, bfloat16, float16.")] = "float32",
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Fit a guard that keeps a skill from showing, and measure it on queries it was not fitted on."""
    with report_errors(as_json, debug):
        chosen = parse_layers(layers)
        from audit.commands.skill import Options, guard_skill
        from audit.result import refuse_output
        from audit.settings import Settings
        from reports.text import render_skill

        refuse_output(output)
        with show_progress(quiet) as progress:
            result = guard_skill(
                model,
                forget,
                retain,
                method,
                options=Options(chosen, region, misses, background, share, absolute, post),
                save=save_to,
                save_edited=save_model,
                config=config,
                tokenizer=tokenizer,
                settings=Settings(seed=seed, device=device, dtype=dtype, limit=limit),
                progress=progress,
                command=command_line(),
            )
        save(result, output)
        show(result, output, as_json, render_skill)
        for name, folder in (("Guard", save_to), ("Model", save_model)):
            if folder is not None and not as_json:
                typer.echo(f"{name}:  {folder}")


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(help="Checkpoints: files or folders; the first is the base.")],
    concept: Annotated[list[str] | None, typer.Option(help="Count asking about it in the estimate.")] = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    hashes: Annotated[bool, typer.Option("--hash/--no-hash", help="Hash the files, or read headers alone.")] = True,
    public_key: Annotated[
        Path | None, typer.Option(help="Whose signature beside the weights is believed (PEM).")
    ] = None,
    certificate: Annotated[
        list[Path] | None, typer.Option(help="The same by certificate, up to a root (PEM); may be given again.")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Are these checkpoints whole, safe and comparable, and what could an audit of them do?"""
    with report_errors(as_json, debug):
        from audit.checkpoint.signature import Trust
        from audit.commands.check import check
        from reports.text import render_check

        trust = Trust(public_key, tuple(certificate or ()))
        with show_progress(quiet) as progress:
            found = check(
                paths,
                concepts=concept or [],
                config=config,
                tokenizer=tokenizer,
                hashes=hashes,
                trust=trust,
                progress=progress,
            )
        typer.echo(json.dumps(found.as_json(), indent=1) if as_json else render_check(found))
        if not found.sound:
            raise typer.Exit(1)


@app.command()
def verify(
    result: Annotated[Path, typer.Argument(help="The result.json of an audit.")],
    base: Annotated[Path | None, typer.Option(help="Where the base lies now, if it was moved.")] = None,
    unlearned: Annotated[Path | None, typer.Option(help="Where the unlearned model lies now.")] = None,
    retained: Annotated[Path | None, typer.Option(help="Where the retained model lies now.")] = None,
    config: ConfigOption = None,
    sample: Annotated[int, typer.Option(min=0, help="Tensors whose numbers are computed again.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    statement: Annotated[
        Path | None, typer.Option(help="Where the result holds, write it here as an in-toto statement.")
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

        places = {"base": base, "unlearned": unlearned, "retained": retained}
        moved = {role: path for role, path in places.items() if path is not None}
        with show_progress(quiet) as progress:
            found = verify(result, moved=moved, config=config, sample=sample, seed=seed, progress=progress)
        if found.holds and statement is not None:
            write_statement(result, statement)
        typer.echo(json.dumps(found.as_json(), indent=1) if as_json else render_verification(found))
        if not found.holds:
            raise typer.Exit(1)
        if statement is not None and not as_json:
            typer.echo(f"Statement: {statement}")


@app.command()
def view(
    places: Annotated[list[Path] | None, typer.Argument(help="Result files or folders; default audit-report/.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Draw one result into this HTML file.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Write the charts of one result into this folder as SVG.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the reports on 127.0.0.1 until interrupted.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for --serve; 0 picks a free one.")] = 8765,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """List reports, draw one again from its result.json, open it, or serve a folder of them on loopback."""
    with report_errors(as_json, debug):
        from reports import stored_results as shelf

        chosen = places or [OUTPUT]
        if figures is not None:
            save_figures(chosen, figures)
        elif output is not None:
            draw_again(chosen, output, open_page)
        elif serve:
            from reports import server

            server.serve(chosen, port, announce=lambda address: typer.echo(f"Serving on {address} (Ctrl+C ends it)"))
        elif open_page:
            open_in_browser(shelf.page_of(chosen))
        else:
            listing = shelf.list_results(chosen)
            typer.echo(json.dumps([row.as_json() for row in listing], indent=1) if as_json else shelf.as_table(listing))


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
        if not as_json:
            typer.echo(f"Reports: {output / 'index.html'}")


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
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # else it reads the metadata of every installed package
    app()


# ---- printing, saving, errors


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


def parse_layers(text: str) -> tuple[int, ...]:
    """Layer numbers separated by commas, each once, in order; a usage error says what is wrong."""
    try:
        return tuple(sorted({int(layer) for layer in text.split(",") if layer.strip()}))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of layers such as 12,15,18", param_hint="--layers") from None


def save(result: AuditResult, folder: Path) -> None:
    """``result.json`` and ``report.html`` in ``folder``, each written whole or not at all."""
    from audit.result import write_text
    from reports.html import render

    result.write(folder / "result.json")
    write_text(folder / "report.html", render(result))


def show(result: AuditResult, folder: Path, as_json: bool, draw: Callable[[AuditResult], str] | None = None) -> None:
    """The document, or a summary of it and where its files are."""
    from reports import text

    if as_json:
        typer.echo(result.to_json(), nl=False)
    else:
        typer.echo((draw or text.render)(result))
        typer.echo(f"Report: {folder / 'report.html'}")
        typer.echo(f"Result: {folder / 'result.json'}")


def draw_again(places: list[Path], output: Path, open_page: bool) -> None:
    """One result, or the index of several, drawn into ``output`` without reading any weights."""
    from reports import stored_results as shelf

    shelf.draw(places, output)
    typer.echo(f"Report: {output}")
    if open_page:
        open_in_browser(output)


def save_figures(places: list[Path], folder: Path) -> None:
    """The charts of the newest result among ``places``, for a paper."""
    from reports import paper_figures as paper
    from reports import stored_results as shelf

    (_, newest), *_ = shelf.readable(places)
    for path in paper.save_figures(newest, folder):
        typer.echo(f"Figure: {path}")


def open_in_browser(page: Path) -> None:
    if typer.launch(page.resolve().as_uri()) != 0:
        typer.echo(f"No browser could be started. Open {page} yourself.", err=True)


@contextmanager
def report_errors(as_json: bool, debug: bool) -> Iterator[None]:
    """Every error as one line (or one JSON document) and its exit code; a traceback only with ``--debug``."""
    from audit.errors import AuditError

    try:
        yield
    except typer.Exit:  # a RuntimeError, but no failure
        raise
    except AuditError as error:
        if debug:
            raise
        fail(str(error), error.as_json(), as_json)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Finished outputs are complete, nothing is half-written.", err=True)
        raise typer.Exit(130) from None
    except (OSError, MemoryError, RuntimeError) as error:
        if debug:
            raise
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        hint = "Run again with --debug for the traceback."
        document = {"error": {"kind": "unexpected", "message": message, "where": None, "hint": hint}}
        fail(f"{message} {hint}", document, as_json)


def fail(line: str, document: dict[str, Any], as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        typer.echo(f"audit: {line}", err=True)
    raise typer.Exit(1)


@dataclass
class BarProgress:
    """Progress as one line on stderr that names the step, with a bar where the number of units is known."""

    bar: Bar
    task: TaskID | None = None
    text: str = ""

    def step(self, text: str, done: int | None = None, total: int | None = None) -> None:
        if self.task is None or text != self.text:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task, self.text = self.bar.add_task(text, total=total), text
        self.bar.update(self.task, completed=done or 0, total=total)


@dataclass
class LineProgress:
    """Progress for logs: one line for each new step, and one for each quarter of a long one."""

    write: Callable[[str], None]
    shown: tuple[str, int] = ("", -1)

    def step(self, text: str, done: int | None = None, total: int | None = None) -> None:
        quarter = 4 * (done or 0) // total if total else 0
        if (text, quarter) != self.shown:
            self.shown = (text, quarter)
            self.write(f"{text} ({done} of {total})" if done and total else text)


@contextmanager
def show_progress(quiet: bool) -> Iterator[Any]:
    """A ``Progress`` drawn on stderr: a live line on a terminal, plain lines in a log, nothing when quiet."""
    from audit.progress import SILENT

    if quiet:
        yield SILENT
    elif not sys.stderr.isatty():
        yield LineProgress(lambda line: typer.echo(line, err=True))
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield BarProgress(bar)


if __name__ == "__main__":
    main()
