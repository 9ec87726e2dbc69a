"""Command line: `lcutils plan|sweep|list|export|import|repeat STUDY`, `measure`, `compare`, `train`, `extract`."""

from __future__ import annotations

import argparse
import os
import sys

from lcutils.errors import UserError
from lcutils.progress import said_if_slow


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(prog="lcutils", description="Measure neural collapse in language models.")
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser("plan", help="say what a study consists of and costs; runs nothing")
    sweep = commands.add_parser("sweep", help="run what is missing or stale of a study's grid")
    points = commands.add_parser("list", help="list a study's points, and how far each has come")
    export = commands.add_parser("export", help="write all finished points of a study into one small file, for git")
    taken = commands.add_parser("import", help="put exported points where they count as finished, and need no weights")
    repeat = commands.add_parser("repeat", help="make kept points again from the text, and say how far off they are")
    train = commands.add_parser("train", help="train one run; under torchrun its processes share each batch")
    extract = commands.add_parser("extract", help="extract a model's class statistics; under torchrun in shares")
    compare = commands.add_parser("compare", help="what develops with what in results tables, side by side")
    measure = commands.add_parser("measure", help="measure language models on a text, and write a table and a page")
    for command in (plan, sweep, points, export, taken, repeat, train, extract):
        command.add_argument("study", help="a name in parameters/, or the path of a YAML file")
    for command in (plan, sweep, points, export, taken, repeat, train, extract, measure):
        command.add_argument("--outputs", default="outputs", help="folder below which the study's folder lies")
        values = command.add_mutually_exclusive_group()
        values.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="values that replace the YAML's")
        values.add_argument("--overrides", metavar="TEXT", help="the same in one text, of such words or JSON")
    export.add_argument("folder", help="where points.tar.xz goes: rows, tables and manifests, without weights")
    export.add_argument(
        "--tokens",
        nargs="*",
        metavar="POINT",
        help="whose tables of tokens to keep (default: the largest model's, trained longest, and those kept before)",
    )
    taken.add_argument("folder", help="where points.tar.xz lies; or such an archive")
    repeat.add_argument("folder", help="where points.tar.xz lies; or such an archive")
    repeat.add_argument("points", nargs="+", metavar="POINT", help="such as 02x0768_01d@0; a run's name means all its")
    train.add_argument("model", help="a run of the study's grid, such as 12x1024_10L")
    extract.add_argument("model", help="a run of the study's grid, or one of its pretrained models")
    extract.add_argument("checkpoint", nargs="?", type=int, help="one of those that are measured (default: all)")
    sweep.add_argument("--model", help="only this run, or one point of it, to its measurements")
    sweep.add_argument("--profile", help="a folder of parameters/profiles, such as slurm")
    sweep.add_argument("--cores", type=int, help="CPU cores to use (default: all)")
    sweep.add_argument("--dry-run", action="store_true", help="count the jobs of each stage, run none")
    measure.add_argument("models", nargs="+", metavar="MODEL", help="a hub name, a folder, or a .txt list of these")
    measure.add_argument("--text", required=True, help="file, folder or hub dataset, or built-in")
    measure.add_argument("--validation", help="text for loss and agreement (default: a part of TEXT)")
    measure.add_argument(
        "--revision", nargs="+", default=[], help="of models on the hub, such as step{1000..5000..1000}"
    )
    measure.add_argument("--tokens", help="of the text to take statistics of: 10M, or auto (default: all)")
    measure.add_argument("--layers", action="store_true", help="measure all layers inside the models too")
    measure.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the models")
    measure.add_argument("--name", help="of the study and its folder (default: the model's)")
    compare.add_argument(
        "tables", nargs="+", metavar="TABLE", help="a results.csv, a published table or a folder of these, or a study"
    )
    compare.add_argument("--csv", metavar="FILE", help="write all findings there")
    compare.add_argument("--into", metavar="FILE", help="a Markdown page with a place for them, marked by comments")
    compare.add_argument("--outputs", default="outputs", help="folder below which the studies' folders lie")
    return parser


def _measure(options: argparse.Namespace) -> int:
    with said_if_slow("starting"):  # PyTorch is imported
        from lcutils.measuring import measure_models
        from lcutils.pipeline.outcome import describe_outcome

    outcome = measure_models(
        options.models,
        options.text,
        validation=options.validation,
        revisions=options.revision,
        tokens=options.tokens,
        layers="all" if options.layers else (),
        trust_remote_code=options.trust_remote_code,
        outputs=options.outputs,
        name=options.name,
        overrides=options.overrides or options.set,
    )
    print(describe_outcome(outcome.work))
    for point, line in outcome.failures.items():
        print(f"{point} failed: {line}", file=sys.stderr)
    return 1 if outcome.failures else 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on standard error and exit status 2."""
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "measure":
            return _measure(options)
        if options.command == "compare":
            with said_if_slow("starting"):
                from lcutils.comparing import compare_tables

            compare_tables(options.tables, options.outputs, options.csv, options.into)
            return 0
        from lcutils.pipeline.overrides import open_study

        work = open_study(options.study, options.outputs, options.overrides or options.set)
        if options.command == "plan":
            from lcutils.pipeline.jobs import check_corpora
            from lcutils.pipeline.plan import describe_plan

            check_corpora(work)
            print(describe_plan(work))
            return 0
        if options.command == "list":
            with said_if_slow(f"reading what is done of {len(work.study.points)} points"):
                from lcutils.pipeline.states import describe_states

                states = describe_states(work)
            print(states, flush=True)
            return 0
        if options.command in ("export", "import"):
            with said_if_slow(f"reading what is done of {len(work.study.points)} points"):
                from lcutils.pipeline.kept import export_points, import_points

                if options.command == "export":
                    said = export_points(work, options.folder, options.tokens)
                else:
                    said = import_points(work, options.folder)
            print(said)
            return 0
        if options.command == "repeat":
            with said_if_slow("starting"):
                from lcutils.repeating import repeat_points

            return repeat_points(work, options.folder, options.points)
        if options.command == "train":
            with said_if_slow("starting"):
                from lcutils.stages import train_run

            train_run(work, options.model)
            return 0
        if options.command == "extract":
            with said_if_slow("starting"):
                from lcutils.stages import extract_point

            kept = work.study.run(options.model).checkpoints
            for checkpoint in kept if options.checkpoint is None else [options.checkpoint]:
                extract_point(work, options.model, checkpoint)
            return 0
        with said_if_slow("starting"):  # PyTorch is imported
            from lcutils.pipeline.sweep import run_sweep

        points = None if options.model is None else work.points_of([options.model])
        return run_sweep(work, points=points, profile=options.profile, cores=options.cores, dry_run=options.dry_run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `lcutils list paper | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python writes the rest as it ends
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
