"""What resumable benchmarks share: runs of commands, each kept, and repeated only if its settings have changed."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from hf_backdoor.metrics import METRICS
from hf_backdoor.results import describe_run, portable, write_json


ROOT = Path(__file__).resolve().parent


@dataclass
class Run:
    """One run of a command.

    Args:
        key (`str`): its name, unlike all others.
        command (`str`): `"train"`, `"purify"` or another.
        settings (`dict`): of the command.
        folder (`Path`): to write to.
        needs (`list`): runs that must be there first.
        late (callable, *optional*): settings that are known only when those are there.
        about (`dict`): what a table wants to know of it.
        stand_ins (`dict`): folders of this machine that are read in place of what settings name; no part of a digest.
        shortcut (callable, *optional*): settings, known when it begins, that save work and change no result.
    """

    key: str
    command: str
    settings: dict[str, Any]
    folder: Path
    needs: list[Run] = field(default_factory=list)
    late: Callable[[], dict[str, Any]] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    stand_ins: dict[str, str] = field(default_factory=dict)
    shortcut: Callable[[], dict[str, Any]] | None = None

    @property
    def kept(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.json")

    def digest(self) -> str:
        """Changes with the settings, and with those of every run that it builds on."""
        parts = [self.command, json.dumps(self.settings, sort_keys=True), *(other.digest() for other in self.needs)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def done(self) -> bool:
        """Whether it has been run with its present settings."""
        return self.kept.is_file() and json.loads(self.kept.read_text())["settings_sha256"] == self.digest()

    def built(self) -> bool:
        """Whether others can build on it: a row of the results file has no weights."""
        return self.done() and self.folder.is_dir()

    def run(self) -> None:
        """Runs it in a process of its own, unless it is there already or what it needs is not."""
        if self.built() or not all(other.built() for other in self.needs):
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.kept.unlink(missing_ok=True)
        config = self.folder.with_name(f"{self.folder.name}.yaml")
        settings = replaced(self.settings, self.stand_ins)
        for more in filter(None, (self.late, self.shortcut)):
            settings |= more()
        config.write_text(yaml.safe_dump(settings | self.output()))
        started = time.perf_counter()
        with open(self.folder.with_name(f"{self.folder.name}.log"), "w") as log:
            command = [sys.executable, "-m", "hf_backdoor.cli", self.command, "--config", str(config)]
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            print(f"{self.key} FAILED, see {log.name}", flush=True)
            return
        self._keep(time.perf_counter() - started)

    def output(self) -> dict[str, Any]:
        """Settings that change nothing in the results."""
        return {"output_dir": str(self.folder), "disable_tqdm": True, "overwrite": True}

    def kept_results(self) -> dict[str, Any]:
        """What a table wants of what the command has left."""
        results = json.loads((self.folder / "results.json").read_text())
        measured = results.get("purified") or results.get("victim") or results.get("benign")
        names = (
            "attack",
            "cost",
            "training",
            "tuning",
            "defense",
            "clean_data",
            "data",
            "suspect",
            "versions",
            "hardware",
        )
        config = self.folder / "config.json"  # an adapter has none
        model_type = json.loads(config.read_text())["model_type"] if config.is_file() else None
        return {name: results.get(name) for name in names} | {"measured": measured, "model_type": model_type}

    def _keep(self, seconds: float) -> None:
        kept = self.kept_results()
        about = {"key": self.key, "settings_sha256": self.digest(), **self.about}
        write_json(self.kept, about | kept | {"wall_seconds": seconds})
        measured = kept.get("measured", {})
        shares = {name: round(measured[name], 3) for name in METRICS if measured.get(name) is not None}
        print(time.strftime("%H:%M:%S"), self.key, shares, f"{seconds:.0f} s", flush=True)

    def row(self) -> dict[str, Any]:
        """What was kept of it."""
        return json.loads(self.kept.read_text())


def replaced(value: Any, by: dict[str, Any]) -> Any:
    """Settings with some of their strings replaced, however deep they are."""
    if isinstance(value, dict):
        return {name: replaced(part, by) for name, part in value.items()}
    return by.get(value, value) if isinstance(value, str) else value


def with_needs(chosen: Iterable[Run], needed: Callable[[Run], bool] = lambda run: True) -> list[Run]:
    """The runs, each after those that it builds on, as far as these are needed, and each once."""
    found: dict[str, Run] = {}

    def add(run: Run) -> None:
        for other in filter(needed, run.needs):
            add(other)
        found.setdefault(run.key, run)

    for run in chosen:
        add(run)
    return list(found.values())


def to_do(chosen: Iterable[Run]) -> list[Run]:
    """What is not done of the runs, each after those that it builds on and that have no weights here."""
    return with_needs((run for run in chosen if not run.done()), lambda other: not other.built())


def run_all(chosen: Iterable[Run], workers: int) -> None:
    """Runs what is not done of them, several at a time, each as soon as what it needs is there."""
    runs = to_do(chosen)
    with ThreadPoolExecutor(workers) as pool:
        futures: dict[str, Any] = {}

        def follow(run: Run) -> None:
            for other in run.needs:
                if other.key in futures:
                    futures[other.key].result()
            run.run()

        # In this order a run waits only for runs that have begun, so the workers never wait for each other in a ring.
        for run in runs:
            futures[run.key] = pool.submit(follow, run)
        for future in futures.values():
            future.result()


def share(values: Iterable[float | None]) -> str:
    """Mean and standard deviation in percent."""
    numbers = [100 * value for value in values if value is not None]
    if not numbers:
        return ""
    return f"{mean(numbers):.1f} ± {stdev(numbers):.1f}" if len(numbers) > 1 else f"{mean(numbers):.1f}"


def fill(page: Path, contents: dict[str, str]) -> None:
    """Puts tables between the `<!-- name -->` and `<!-- end of name -->` of a page."""
    text = page.read_text()
    for name, table in contents.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, _, after = rest.partition(f"<!-- end of {name} -->")
        text = f"{before}<!-- {name} -->\n{table}\n<!-- end of {name} -->{after}"
    page.write_text(text)


@dataclass
class Benchmark:
    """A resumable benchmark: its command line, its results file, and the tables of its page.

    Args:
        name (`str`): of benchmarks/NAME.py, benchmarks/results/NAME.json and docs/NAME.md.
        doc (`str`): for `--help`.
        seeds (`tuple`): of the plan.
        planned (callable): from the options to all runs.
        tables (callable): from the rows of the results to what the page shows, by the name of its place there.
        kind (`str`): what of a run's `about` is chosen by `--only`.
        row (callable): from a finished run to its row.
        afterwards (callable, *optional*): called with the chosen runs and the options after they have run.
        elsewhere (callable, *optional*): given the rows of the results and the folder of the page, writes what other
            pages and pictures show of them.
    """

    name: str
    doc: str
    seeds: tuple[int, ...]
    planned: Callable[[argparse.Namespace], list[Run]]
    tables: Callable[[list[dict[str, Any]]], dict[str, str]]
    kind: str
    row: Callable[[Run], dict[str, Any]] = Run.row
    afterwards: Callable[[list[Run], argparse.Namespace], None] | None = None
    elsewhere: Callable[[list[dict[str, Any]], Path], None] | None = None

    @property
    def results(self) -> Path:
        return ROOT / "results" / f"{self.name}.json"

    def parser(self) -> argparse.ArgumentParser:
        """What all benchmarks are told; add what is special to one."""
        parser = argparse.ArgumentParser(description=self.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--only", nargs="+", metavar=self.kind.upper(), help=f"only runs of this {self.kind}")
        parser.add_argument("--methods", nargs="+", help="and of these only some methods, with what they need")
        parser.add_argument("--seeds", type=int, nargs="+", help="only these of the planned seeds")
        parser.add_argument("--workers", type=int, default=1, help="runs at a time, of one thread each")
        parser.set_defaults(go_on=False)
        if self.row is Run.row:  # elsewhere a row is made of several runs
            parser.add_argument(
                "--go_on", action="store_true", help="rows of the results file count as done: go on for another machine"
            )
        parser.add_argument("--collect", action="store_true", help="run nothing; write results and tables as they are")
        parser.add_argument("--tables", action="store_true", help="only write the tables of the results again")
        return parser

    def main(self, options: argparse.Namespace) -> None:
        """Runs what is chosen; if that is everything, or on `--collect`, writes results and tables.

        `--collect --only KIND` leaves what the results say of other kinds as it is, such as rows of another machine.
        """
        if options.tables:
            self._show(json.loads(self.results.read_text()))
            return
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads stall on models this small on a busy machine
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        runs = self.planned(options)
        wanted = (("only", self.kind), ("methods", "method"), ("seeds", "seed"))
        asked = {about: getattr(options, name) for name, about in wanted if getattr(options, name)}
        chosen = [run for run in runs if all(run.about[about] in values for about, values in asked.items())]
        if not chosen:
            raise SystemExit(f"There is no such run: {asked}")
        if options.go_on:
            self.restore(runs)
        if not options.collect:
            run_all(chosen, options.workers)
            if self.afterwards is not None:
                self.afterwards(chosen, options)
        if options.collect or not asked:
            self._collect(runs, options.only, options.go_on)

    def stored(self) -> list[dict[str, Any]]:
        """Rows of the results file."""
        return json.loads(self.results.read_text())["rows"] if self.results.is_file() else []

    def restore(self, runs: list[Run]) -> None:
        """Rows of the results file count as done, so that another machine goes on where the last one stopped."""
        for run, row in self._stored_rows_of(runs):
            if not run.kept.is_file():
                run.kept.parent.mkdir(parents=True, exist_ok=True)
                write_json(run.kept, row)

    def _stored_rows_of(self, runs: list[Run]) -> list[tuple[Run, dict[str, Any]]]:
        """Those runs that have a row of their present settings in the results file."""
        rows = {row["key"]: row for row in self.stored()}
        return [
            (run, rows[run.key])
            for run in runs
            if run.key in rows and rows[run.key].get("settings_sha256") == run.digest()
        ]

    def _collect(self, runs: list[Run], only: list[str] | None, keep: bool) -> None:
        kinds = only or [run.about[self.kind] for run in runs]
        done = {run.key: portable(self.row(run)) for run in runs if run.about[self.kind] in kinds and run.done()}
        rows = {row["key"]: row for row in self.stored() if row[self.kind] not in kinds} | done
        if keep:  # a model that was made again for its weights alone replaces no row
            rows |= {run.key: row for run, row in self._stored_rows_of(runs)}
        keys = dict.fromkeys([run.key for run in runs] + list(rows))
        missing = [key for key in keys if key not in rows]
        results = describe_run(f"benchmarks/{self.name}.py", seeds=self.seeds)
        results |= {"planned": len(keys), "missing": missing, "rows": [rows[key] for key in keys if key in rows]}
        write_json(self.results, results)
        self._show(results)

    def _show(self, results: dict[str, Any]) -> None:
        fill(self._page, self._places(results))
        if self.elsewhere is not None:
            self.elsewhere(results["rows"], self._page.parent)

    @property
    def _page(self) -> Path:
        return ROOT.parent / "docs" / f"{self.name}.md"

    def _places(self, results: dict[str, Any]) -> dict[str, str]:
        missing = results["missing"]
        state = f"**{len(missing)} of {results['planned']} runs are missing**; the file lists them." if missing else ""
        return self.tables(results["rows"]) | {"missing": state}
