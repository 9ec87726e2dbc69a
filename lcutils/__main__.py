"""Command line: `python -m lcutils plan STUDY`, `… sweep STUDY`, and `torchrun … -m lcutils train STUDY MODEL`."""

from __future__ import annotations

import argparse
import sys

from lcutils.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(prog="python -m lcutils", description="Run a study of neural collapse.")
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser("plan", help="say what a study consists of and costs; runs nothing")
    sweep = commands.add_parser("sweep", help="run what is missing or stale of a study's grid")
    train = commands.add_parser("train", help="train one run; under torchrun its processes share each batch")
    for command in (plan, sweep, train):
        command.add_argument("study", help="a name in parameters/, or the path of a YAML file")
        command.add_argument("--outputs", default="outputs", help="folder below which the study's folder lies")
        values = command.add_mutually_exclusive_group()
        values.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="values that replace the YAML's")
        values.add_argument("--overrides", metavar="TEXT", help="the same in one text, of such words or JSON")
    train.add_argument("model", help="a run of the study's grid, such as 12x1024_10L")
    sweep.add_argument("--model", help="only this run, to its measurements")
    sweep.add_argument("--profile", help="a folder of parameters/profiles, such as slurm")
    sweep.add_argument("--cores", type=int, help="CPU cores to use (default: all)")
    sweep.add_argument("--dry-run", action="store_true", help="count the jobs of each stage, run none")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on standard error and exit status 2."""
    options = build_parser().parse_args(arguments)
    try:
        from lcutils.pipeline.overrides import open_study

        work = open_study(options.study, options.outputs, options.overrides or options.set)
        if options.command == "plan":
            from lcutils.pipeline.plan import describe_plan

            print(describe_plan(work))
            return 0
        if options.command == "train":
            from lcutils.stages import train_run

            train_run(work, options.model)
            return 0
        from lcutils.pipeline.sweep import run_sweep

        return run_sweep(
            work, model=options.model, profile=options.profile, cores=options.cores, dry_run=options.dry_run
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
