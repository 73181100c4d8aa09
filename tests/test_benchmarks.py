"""Benchmarks go on where another machine stopped: rows of the committed results count, weights do not come with them."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hf_backdoor.results import write_json


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from cells import Benchmark, Run, replaced, to_do  # noqa: E402


@pytest.fixture
def runs(tmp_path):
    victim = Run("a/victim", "train", {"seed": 0}, tmp_path / "work" / "victim", about={"place": "a"})
    first = Run("a/sft", "purify", {"seed": 0}, tmp_path / "work" / "sft", [victim], about={"place": "a"})
    second = Run("a/lora", "purify", {"peft": "lora"}, tmp_path / "work" / "lora", [victim], about={"place": "a"})
    return victim, first, second


def benchmark_of(runs, tmp_path) -> Benchmark:
    class Elsewhere(Benchmark):
        results = tmp_path / "results.json"

    rows = [{"key": run.key, "settings_sha256": run.digest(), "place": "a", "found": run.key} for run in runs]
    write_json(tmp_path / "results.json", {"rows": rows})
    return Elsewhere("elsewhere", "", (0,), lambda options: list(runs), lambda rows: {}, kind="place")


def test_rows_of_the_results_count_as_done_and_weights_are_made_again_only_where_needed(runs, tmp_path):
    victim, first, second = runs
    benchmark_of((victim, first), tmp_path).restore(runs)
    assert [run.done() for run in runs] == [True, True, False]
    assert first.row()["found"] == "a/sft"
    assert to_do([victim, first]) == [], "what is in the results is not run again for itself"
    assert to_do(runs) == [victim, second], "a purification needs the victim's weights"
    victim.folder.mkdir()
    assert to_do(runs) == [second]


def test_a_row_of_other_settings_counts_for_nothing(runs, tmp_path):
    victim, first, _ = runs
    benchmark = benchmark_of((victim, first), tmp_path)
    other = replace(victim, settings={"seed": 1})
    benchmark.restore([other, replace(first, needs=[other])])
    assert not other.done() and not first.done()


def test_a_run_that_was_kept_here_is_not_overwritten_by_the_results(runs, tmp_path):
    victim = runs[0]
    victim.folder.mkdir(parents=True)
    write_json(victim.kept, {"settings_sha256": victim.digest(), "found": "here"})
    benchmark_of(runs, tmp_path).restore(runs)
    assert victim.row()["found"] == "here"


def test_folders_of_one_machine_are_no_settings(runs):
    victim = runs[0]
    there = replace(victim, settings={"model": "org/model", "args": {"base": "org/model"}}, stand_ins={})
    here = replace(there, stand_ins={"org/model": "folder"})
    assert there.digest() == here.digest() != victim.digest()
    assert replaced(here.settings, here.stand_ins) == {"model": "folder", "args": {"base": "folder"}}


def test_the_committed_results_are_those_of_the_present_plan():
    """On a new machine the command has to find them: a changed recipe or method needs new runs."""
    import paradigms

    folders = dict.fromkeys(paradigms.FOLDERS) | {"sst2": "folder"}
    planned = {run.key: run for run in paradigms.planned(argparse.Namespace(gpu=False, **folders))}
    for row in paradigms.BENCHMARK.stored():
        if row["key"] in planned:
            assert planned[row["key"]].digest() == row["settings_sha256"], row["key"]
