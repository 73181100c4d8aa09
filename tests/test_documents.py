"""Figures in the documents come from the committed result files."""

import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parent.parent


def test_the_table_of_the_readme_is_the_committed_result():
    spec = importlib.util.spec_from_file_location("purification", ROOT / "benchmarks" / "purification.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    results = json.loads((ROOT / "benchmarks" / "results" / "purification.json").read_text())
    for seeds in (benchmark.SEEDS, benchmark.FRESH_SEEDS):
        assert benchmark.table(results["rows"], seeds) in (ROOT / "README.md").read_text()
    assert results["versions"]["torch"] and results["hardware"]["cpu"] and results["seeds"] == [0, 1, 2]


def test_links_lead_somewhere():
    for page in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("recipes/*.md"),
        *ROOT.glob("model_cards/*/*.md"),
    ]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_tables_of_the_attacks_are_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import attacks
    import poisoning

    page = (ROOT / "docs" / "attacks.md").read_text()
    results = {
        name: json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        for name in ("attacks", "poisoning")
    }
    for table in attacks.tables(results["attacks"]["rows"]).values():
        assert table in page
    assert poisoning.tables(results["poisoning"]["image_rows"], results["poisoning"]["text_rows"]) in page
    for result in results.values():
        assert result["versions"]["torch"] and result["hardware"]["cpu"]


@pytest.mark.parametrize("name", ["paradigms", "sequela"])
def test_the_tables_of_a_page_are_the_committed_results(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module(name)
    page = (ROOT / "docs" / f"{name}.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    tables = benchmark.tables(results["rows"])
    assert tables and results["versions"]["torch"] and results["hardware"]["cpu"]
    for table in tables.values():
        assert table in page
    if name == "paradigms":
        assert importlib.import_module("summaries").summary(results["rows"]) in (ROOT / "docs/which_one.md").read_text()


def test_every_attack_has_a_recipe_and_a_place_in_the_gallery():
    from hf_backdoor.attacks import attack_names

    used = set()
    for path in (ROOT / "recipes" / "attacks").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        assert path.stem.endswith("benign") or "benign" in path.stem or content["attack"]
        if content.get("poisoned", True):
            used.add(content["attack"])
    gallery = (ROOT / "docs" / "gallery" / "README.md").read_text()
    for name in attack_names():
        assert name in used or name == "word_combination", f"{name} has no recipe"
        assert f"\n## {name}\n" in gallery
