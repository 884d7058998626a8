"""The command line: ``python -m benchmarks run|report|bench|speed|data|sync``.

Exit codes: 0 when all is well; 1 when a reported run failed or diverged, or a report differs from
what its records give; 2 for a mistake in the call, the study or the store; 130 when stopped by
Ctrl-C or SIGTERM.
"""

import argparse
import importlib
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import provenance
from benchmarks.cluster import START, Cluster, ClusterError, connected, gpus_of, num_slots
from benchmarks.dispatch import Interrupted, Mode, Settings, default_processes, run_plan
from benchmarks.exits import INTERRUPTED
from benchmarks.record import Record, RecordError, read_lines
from benchmarks.selection import Plan
from benchmarks.storage import Folder
from benchmarks.store import Store, StoreError
from benchmarks.study import Study, available, load
from benchmarks.view import Estimate, describe, duration, make_view

__all__ = ["main"]

OTHERS = {
    "speed": ("benchmarks.speed", "time training against a plain loop"),
    "data": ("benchmarks.data", "list, download or verify data sets"),
    "sync": ("benchmarks.tracking.sync", "send runs kept offline to Weights & Biases"),
}
"""Commands of other modules: each has ``main(arguments) -> int``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        arguments: Words after the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in OTHERS:
        module = OTHERS[words[0]][0]
        code: int = importlib.import_module(module).main(words[1:])
        return code
    options = _parser().parse_args(words)
    try:
        code = options.do(options)
    except (StoreError, RecordError, ClusterError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if not isinstance(stop, Interrupted):
            print("Stopped.", file=sys.stderr)
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run declared comparisons of continual-learning methods and report them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, do, text in (
        ("run", _run, "train what a study declares and has no record yet"),
        ("bench", _bench, "run a study, then report it"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        _add_study(command)
        _add_run_options(command)
        command.set_defaults(do=do)
    report = commands.add_parser("report", help="make a study's report from its records")
    _add_study(report, optional=True)
    report.add_argument(
        "other",
        nargs="?",
        metavar="OTHER",
        help="compare STUDY with this one; either may also be a folder of a report or its records",
    )
    report.add_argument(
        "--into", type=Path, help="folder of the comparison (default: comparisons/STUDY-OTHER)"
    )
    report.add_argument("--all", action="store_true", help="every study with published records")
    report.add_argument(
        "--check",
        action="store_true",
        help="write nothing; fail where the published report differs from its records",
    )
    report.set_defaults(do=_report)
    for command in (report, commands.choices["bench"]):
        command.add_argument("--out", type=Path, default=Path("reports"), help="folder of reports")
    for name, (_, text) in OTHERS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _add_study(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    command.add_argument(
        "study",
        nargs="?" if optional else None,
        metavar="STUDY",
        help=f"a name ({', '.join(available())}) or a .toml file",
    )
    command.add_argument(
        "--store",
        default="runs",
        help="folder of records, or a URL that fsspec knows, as s3://bucket/path (default: runs)",
    )


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--processes", type=_at_least_one, help="runs at a time (default: as the cores allow)"
    )
    command.add_argument(
        "--ray",
        nargs="?",
        const=START,
        metavar="ADDRESS",
        help="run on the Ray cluster at ADDRESS, as auto or ray://host:10001; without an address "
        "on one that is started here",
    )
    command.add_argument("--device", default="cpu", help="where to train (default: cpu)")
    command.add_argument(
        "--checkpoint-every",
        type=_not_negative,
        default=120.0,
        metavar="SECONDS",
        help="work inside a task that a run may lose when it is killed (default: 120)",
    )
    command.add_argument("--data-root", type=Path, help="folder of data sets that are not embedded")
    command.add_argument(
        "--wandb",
        choices=("offline", "online", "disabled"),
        help="mirror runs to Weights & Biases (default: WANDB_MODE, else offline)",
    )
    command.add_argument(
        "--retry-failed", action="store_true", help="run failed and diverged runs again"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="list what would run and how long it may take"
    )


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _not_negative(text: str) -> float:
    number = float(text)
    if not number >= 0.0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return number


def _run(options: argparse.Namespace) -> int:
    if options.ray is not None and options.processes is not None:
        raise ValueError(
            "Expected either --ray or --processes: on a cluster Ray divides the cores."
        )
    _check_device(options.device, here=options.ray is None)
    study = load(options.study)
    store = Store(options.store, study.name)
    records = store.records()
    plan = Plan(study, provenance.code_version(), records)
    _say_left_out(plan, records)
    if options.retry_failed:
        plan = _without_failed(plan, store, dry=options.dry_run)
    threads = max(part.threads for part in study.parts)
    processes = options.processes or default_processes(threads)
    if options.dry_run:
        return _list_runs(plan, Estimate(records), processes)
    store.prepare()
    if plan.pending():
        settings = _settings(options, store, processes)
        try:
            _do_runs(plan, store, settings, Estimate(records), options.ray)
        except Interrupted as stop:
            done, total = len(plan.records), plan.num_runs()
            print(
                f"Stopped by {stop}: {done} of {total} runs are recorded in {store.where()}. "
                "The same command goes on from there.",
                file=sys.stderr,
            )
            raise
    return _sum_up(plan, store)


def _check_device(name: str, *, here: bool) -> None:
    """Refuse a device that there is not; what nodes of a cluster have is not known here."""
    kind, _, index = name.partition(":")
    if re.fullmatch(r"(cpu|cuda)(:\d+)?", name) is None:
        raise ValueError(f"Expected --device to be cpu, cuda or cuda:NUMBER, got {name}.")
    if kind == "cpu" or not here:
        return
    import torch

    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise ValueError(
            f"Expected --device to be there, got {name}: torch sees {count} CUDA devices. "
            "Without a GPU leave --device out."
        )


def _settings(options: argparse.Namespace, store: Store, processes: int) -> Settings:
    wandb = _wandb_mode(options.wandb)
    if isinstance(store.storage, Folder):
        # Whole, as runs may be done in processes with other working directories.
        root = Path(store.root).absolute()
        place, mirror = str(root), root / "wandb"
    else:
        place, mirror = store.root, Path("runs/wandb").absolute()
        if wandb != "disabled":
            print(f"The store is no folder: wandb's files are kept in {mirror} of each machine.")
    return Settings(
        store=place,
        processes=processes,
        device=options.device,
        data_root=None if options.data_root is None else options.data_root.absolute(),
        wandb=wandb,
        wandb_folder=mirror,
        checkpoint_every=options.checkpoint_every,
        commit=provenance.commit(),
    )


def _do_runs(
    plan: Plan, store: Store, settings: Settings, estimate: Estimate, ray_address: str | None
) -> None:
    if ray_address is None:
        run_plan(plan, store, settings, make_view(), estimate)
        return
    with connected(ray_address) as ray:
        parts = plan.study.parts
        gpus = max(map(gpus_of, parts)) if settings.device.startswith("cuda") else 0.0
        slots = num_slots(ray, max(part.threads for part in parts), gpus)
        settings = replace(settings, processes=slots)
        run_plan(plan, store, settings, make_view(), estimate, partial(Cluster, ray=ray))


def _wandb_mode(chosen: Mode | None) -> Mode:
    if chosen is not None:
        return chosen
    from benchmarks.tracking.client import default_mode

    return default_mode()


def _say_left_out(plan: Plan, records: Sequence[Record]) -> None:
    """Count in words the records in the store that this study, as it is now, does not use."""
    other = [r for r in records if r.code_version != plan.code_version]
    undeclared = len(records) - len(other) - len(plan.records)
    if other:
        print(
            f"{_records(len(other))} left alone: made by other code than the present "
            f"{plan.code_version}."
        )
    if undeclared:
        print(f"{_records(undeclared)} left alone: the study no longer declares such runs.")


def _records(number: int) -> str:
    return "1 record is" if number == 1 else f"{number} records are"


def _without_failed(plan: Plan, store: Store, *, dry: bool) -> Plan:
    again = [record for record in plan.records.values() if record.status != "finished"]
    if not dry:
        for record in again:
            store.remove(record.id)
    kept = [record for record in plan.records.values() if record.status == "finished"]
    return Plan(plan.study, plan.code_version, kept)


def _list_runs(plan: Plan, estimate: Estimate, processes: int) -> int:
    pending = plan.pending()
    kinds = [(config.part, config.method) for config in pending.values()]
    for id, config in pending.items():
        seconds = estimate.of(config.part, config.method)
        about = "" if seconds is None else f"  (about {duration(seconds)})"
        print(f"{id}  {describe(config)}{about}")
    for (part, method), count in plan.waiting().items():
        print(f"then {count} x {part}: {method}, with the strength that is chosen")
        kinds += [(part, method)] * count
    total = estimate.total(kinds, processes)
    about = (
        "nothing of the kind has run yet, so the time is unknown"
        if total is None
        else f"about {duration(total)} with {processes} at a time"
    )
    print(f"{len(kinds)} of {plan.num_runs()} runs to do" + (f", {about}." if kinds else "."))
    return 0


def _sum_up(plan: Plan, store: Store) -> int:
    """Say how the study stands; 1 where a run that is reported did not finish."""
    counts = Counter((record.role, record.status) for record in plan.records.values())
    finished = sum(n for (_, status), n in counts.items() if status == "finished")
    print(f"{finished} of {plan.num_runs()} runs finished; records are in {store.where()}.")
    for (role, status), number in sorted(counts.items()):
        if status != "finished":
            print(f"{number} {role} {'run' if number == 1 else 'runs'} {status}.")
    unchosen = [key for key, choice in plan.choices().items() if choice.strength is None]
    for part, method in unchosen:
        print(
            f"{part}: no strength of {method} finished on the tuning seed, so it is not evaluated. "
            "Widen its grid downwards."
        )
    for (part, method), choice in plan.choices().items():
        if choice.at_edge:
            print(
                f"{part}: the best strength of {method}, {choice.strength:g}, is at the edge of "
                "its grid."
            )
    bad = counts["evaluation", "failed"] + counts["evaluation", "diverged"]
    return 1 if bad or counts["selection", "failed"] or unchosen else 0


def _bench(options: argparse.Namespace) -> int:
    code = _run(options)
    if options.dry_run:
        return code
    study = load(options.study)
    _render(study, _reported(study, options), options.out)
    return code


def _report(options: argparse.Namespace) -> int:
    if options.all == (options.study is not None):
        raise ValueError("Expected either a STUDY or --all, not both and not none.")
    if options.other is not None:
        return _compare(options)
    if options.check:
        return _check(options)
    if options.all:
        studies = sorted(path.parent.name for path in options.out.glob("*/records.jsonl"))
    else:
        studies = [options.study]
    for name in studies:
        study = load(name)
        _render(study, _reported(study, options), options.out)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from benchmarks.render import compare

    names = "-".join(Path(place).stem for place in (options.study, options.other))
    into = options.into or Path("comparisons") / names
    with _explained(into):
        print(compare(options.study, options.other, into, reports=options.out))
    print(f"The comparison lies at {into / 'README.md'} (and index.html beside it).")
    return 0


def _check(options: argparse.Namespace) -> int:
    from benchmarks.render import check

    differences = check(options.out)
    if not options.all:
        own = str(options.out / load(options.study).name)
        differences = [sentence for sentence in differences if own in sentence]
    for sentence in differences:
        print(sentence)
    return 1 if differences else 0


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"Expected {folder} to be a folder that can be written to, got: {error}. Make room on "
            "its disk, or name another folder."
        ) from error


def _render(study: Study, records: Sequence[Record], out: Path) -> None:
    from benchmarks.render import index, render

    with _explained(out):
        render(study, records, out / study.name)
        index(out)
    print(f"The report lies at {out / study.name / 'README.md'} (and index.html beside it).")


def _published(study: Study, out: Path) -> list[Record]:
    path = out / study.name / "records.jsonl"
    if not path.is_file():
        raise ValueError(
            f"Expected records of study `{study.name}` in the store or at {path}, got none. "
            f"Run it first: python -m benchmarks run {study.name}"
        )
    return read_lines(path)


def _reported(study: Study, options: argparse.Namespace) -> list[Record]:
    """Choose the records of a report: one code version's, never a mixture.

    That is the present one; else the one that ran last; else the published records.
    """
    records = Store(options.store, study.name).records()
    if not records:
        print("The store has no records of this study: the published ones are used.")
        return _published(study, options.out)
    latest = {record.code_version: record.started for record in sorted(records, key=_started)}
    present = provenance.code_version()
    version = present if present in latest else max(latest, key=lambda v: latest[v])
    if version != present:
        print(
            f"The store has no records of the present code {present}: those of {version} are "
            "reported. Run the study again to bring them up to date."
        )
    chosen = Plan(study, version, records)
    _say_left_out(chosen, records)
    return list(chosen.records.values())


def _started(record: Record) -> str:
    return record.started


if __name__ == "__main__":
    sys.exit(main())
