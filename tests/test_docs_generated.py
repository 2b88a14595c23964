"""The parts of the documentation that are made from the code, and that nothing is missing from it."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import recbole_vae
from recbole_vae.cli.main import COMMANDS, module
from recbole_vae.compare import plan as plans
from recbole_vae.model.registry import BUILT_IN, model_class
from recbole_vae.options.evaluation import HeldOutArgs
from recbole_vae.options.fields import ModelConfig
from recbole_vae.storage.upgrade import FORMAT_VERSION
from tests.test_docs import PAGES, ROOT, blocks

DOCS = ROOT / "docs"


def load(name: str) -> ModuleType:
    """Import a module of the documentation's build."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated() -> Any:
    return load("generated")


def page(path: str) -> str:
    return (DOCS / "pages" / path).read_text(encoding="utf-8")


def options_in(table: str) -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_model_has_a_page_with_its_options(name: str, generated: Any) -> None:
    text = page(f"models/{name.lower()}.md")
    assert f"<!-- generated: options {name} -->" in text
    for heading in ("Equations", "When to use it", "Options", "Results", "References"):
        assert f"\n## {heading}\n" in text
    assert f"models/{name.lower()}.md" in (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"]({name.lower()}.md)" in page("models/index.md")
    kind = model_class(name).config_class
    shown = options_in(generated.options(name))
    defaults, common = kind.defaults(), ModelConfig.defaults()
    assert shown == {key for key, value in defaults.items() if key not in common or value != common[key]}
    assert all(field.description for key, field in kind.model_fields.items() if key in shown)


def test_a_table_of_options_has_defaults_limits_and_the_papers_values(generated: Any) -> None:
    lines = generated.options("MultVAE").splitlines()
    assert lines[0] == "| option | default | allowed | meaning | in the paper |"
    (cap,) = (line for line in lines if line.startswith("| `anneal_cap`"))
    cells = [cell.strip() for cell in cap.strip("|").split("|")]
    assert cells[1:3] == ["`0.3`", "a number ≥\u00a00, or auto"]
    assert cells[4] == "`0.2`"
    assert "[" not in cells[3]
    (hidden,) = (line for line in lines if line.startswith("| `mlp_hidden_size`"))
    assert "[]: items-latents-items." in hidden
    assert "`[600]`" in hidden
    assert generated.options("MultDAE").splitlines()[0] == "| option | default | allowed | meaning |"


def test_every_option_is_on_the_page_of_options(generated: Any) -> None:
    text = page("reference/options.md")
    for part in ("common_options", "recbole_options", "recbole_data_options", "plan_keys"):
        assert f"<!-- generated: {part} -->" in text
    assert options_in(generated.common_options()) == set(ModelConfig.model_fields)
    assert {"data_path", "eval_args", "valid_metric"} <= options_in(generated.recbole_options())
    assert {"load_col", "val_interval", "benchmark_filename"} <= options_in(generated.recbole_data_options())
    assert options_in(generated.plan_keys()) == set(plans.Plan.model_fields) - {"options"}
    assert set(HeldOutArgs.model_fields) <= options_in(text)
    assert all(f"models/{name.lower()}.md#options" in text for name in BUILT_IN)


def test_every_command_and_its_options_are_on_the_page_of_the_command_line(generated: Any) -> None:
    assert "<!-- generated: commands -->" in page("reference/command-line.md")
    parts = re.split(r"^### ", generated.commands(), flags=re.MULTILINE)[1:]
    by_name = {part.split()[0]: part for part in parts}
    assert list(by_name) == [name for names in COMMANDS.values() for name in names]
    for name, part in by_name.items():
        flags = module(name).parser()._option_string_actions
        assert all(f"`{flag}`" in part for flag in flags if flag not in ("-h", "--help"))
    assert "%(default)" not in generated.commands()


def test_every_metric_has_its_definition() -> None:
    from recbole.evaluator.register import metrics_dict

    headings = set(", ".join(re.findall(r"^### (.*)$", page("reference/metrics.md"), re.MULTILINE)).lower().split(", "))
    assert set(metrics_dict) <= headings
    assert {"tail recall", "novelty"} <= headings


def test_the_public_names_are_in_the_reference() -> None:
    found = {path.rpartition(".")[2] for path in re.findall(r"^::: ([\w.]+)", page("reference/api.md"), re.MULTILINE)}
    assert set(recbole_vae.__all__) - {"__version__", *BUILT_IN} <= found
    assert {"HistoryRecommender", "Histories", "Explainer", "ModelConfig", "LossTerms", "Capabilities"} <= found


def test_the_tables_of_docstrings_are_whole(generated: Any) -> None:
    from recbole_vae.plugin import register
    from recbole_vae.storage import checkpoint

    changes = generated.docstring_table("recbole_vae.plugin.register 1").splitlines()
    assert changes[0] == "| Place | File | What is changed |"
    assert (register.__doc__ or "").count("\n``") == len(changes) - 2
    content = generated.docstring_table("recbole_vae.storage.checkpoint 1 key content")
    assert all(f"`{key}`" in content for key in (*checkpoint._KEYS, "format", "format_version", "average"))
    assert "in the order of the parameters |" in content  # a cell over several lines
    text = page("reference/checkpoint.md")
    for number in range(1, FORMAT_VERSION):
        assert f"### Format {number} to {number + 1}" in text
        table = generated.docstring_table(f"recbole_vae.storage.upgrade {number} models option value")
        assert re.search(r"^\| (all|with \w+) \| ", table, re.MULTILINE)


def test_roles_in_docstrings_become_links(generated: Any) -> None:
    html = "<p>see :class:<code>~recbole_vae.nn.decoder.Decoder</code>, :meth:<code>load</code></p>"
    assert generated.with_links(html) == (
        '<p>see <autoref identifier="recbole_vae.nn.decoder.Decoder" optional><code>Decoder</code></autoref>, '
        '<autoref identifier="load" optional><code>load</code></autoref></p>'
    )


def test_charts_show_the_numbers_of_their_tables() -> None:
    charts = load("charts")
    table = "| model | NDCG@10 |\n|---|---|\n| `A` | **.3004** (.0015) |\n| RecBole's `B` | .2002 |\n"
    drawn = charts.with_charts(f"<!-- chart: dots NDCG@10 -->\n\n{table}")
    assert drawn.endswith(table)
    assert re.findall(r">(\.\d{4})</text>", drawn) == [".3004", ".2002"]
    places = {kind: float(x) for x, kind in re.findall(r'<circle cx="([\d.]+)"[^>]*class="(\w+)"', drawn)}
    assert places["own"] > places["other"]
    lines = "| cap | 0.1 | 0.2 | auto |\n|---|---|---|---|\n| X | (.20) | .25 | .3 |\n| Y | .5 | **.4** | .3 |\n"
    heights = re.findall(r'points="([^"]*)"', charts.with_charts(f"<!-- chart: relative lines -->\n\n{lines}"))
    (x1, x2), (y1, y2) = ([float(each.split(",")[1]) for each in points.split()] for points in heights)
    assert x1 > x2 == y1 < y2  # heights count from above: both best points lie at the top


@pytest.mark.parametrize(
    ("path", "number"),
    [(path, number) for path in PAGES for number, block in enumerate(blocks(path)) if block.language == "yaml"],
)
def test_every_plan_on_the_pages_is_valid(path: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_check_files", lambda *args: None)  # the data sets are not here
    block = blocks(path)[number]
    if not re.search(r"^rows:", block.code, re.MULTILINE):
        return
    Path("plan.yaml").write_text(block.code, encoding="utf-8")
    assert plans.read("plan.yaml", {}).rows


@pytest.mark.parametrize(
    "code", [block.code for path in PAGES for block in blocks(path) if block.mark.startswith("not run")]
)
def test_commands_that_are_not_run_are_understood(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recbole-vae"])
    for line in code.replace("\\\n", " ").splitlines():
        if line.startswith("recbole-vae "):
            _, name, *words = shlex.split(line, comments=True)
            module(name).parser().read(words)


def test_the_board_is_shown_as_its_archive_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results that are kept load, each page is there, and the kept tests are those of the kept values."""
    from recbole_vae.compare import analysis, tables

    monkeypatch.syspath_prepend(str(DOCS))
    pages = load("board_pages")
    made, front = pages.made(), page("results/board/index.md")
    names = {path.stem for path in (DOCS / "pages/results/board").glob("*.yaml")}
    assert set(made) == names | {"index"}
    assert "<!-- generated: board -->" in front
    assert "<!-- board: index 0 -->" in pages.front()
    for name, shown in made.items():
        for number, section in enumerate(shown.sections):
            assert f"<!-- board: {name} {number} -->" in (pages.front() if name == "index" else pages.of_plan(name))
            assert str(section.html) in pages.part(name, str(number))
    nav: list[Any] = [{"Results": [{"The board": ["results/board/index.md"]}]}]
    pages.add_to(nav)
    assert nav[0]["Results"][0]["The board"][1:] == [{name: f"results/board/{name}.md"} for name in sorted(names)]
    (entry,) = (each for each in pages.board.read(DOCS / "pages/results/board") if each.name == "ml-100k")
    kept = analysis.tables(entry.comparison, entry.archive.add_tests)
    assert tables.tests_csv(kept) == tables.tests_csv(analysis.tables(entry.comparison))
