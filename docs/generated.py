"""Parts of the documentation that are made from the code, so that they cannot differ from it."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import recbole_vae  # noqa: F401 - the models need its hooks
from recbole_vae.cli.main import COMMANDS, module
from recbole_vae.compare.plan import Plan
from recbole_vae.evaluation.definitions import DEFINITIONS
from recbole_vae.model.registry import BUILT_IN, model_class
from recbole_vae.model.yaml_files import _plain as as_yaml
from recbole_vae.options.fields import ModelConfig, describe
from recbole_vae.options.recbole import recbole_defaults, recbole_folder

ROOT = Path(__file__).parents[1]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; a vertical bar in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _allowed(schema: Mapping[str, Any]) -> str:
    """Return what an option may be; a sign and its number stay on one line."""
    return re.sub(
        r"(>=|<=|>|<) ", lambda found: {">=": "≥", "<=": "≤"}.get(found[1], found[1]) + "\u00a0", describe(schema)
    )


def options(name: str) -> str:
    """Return the options of a model, without those that all models have with the same default."""
    kind = model_class(name).config_class
    common = ModelConfig.defaults()
    own = {key: value for key, value in kind.defaults().items() if key not in common or value != common[key]}
    schemas, rows = kind.schemas(), []
    for key, value in own.items():
        meaning = kind.model_fields[key].description or ""
        found = re.fullmatch(r"(.*[.)]) \[(.*)\]", meaning)  # the paper's value stands in brackets at the end
        meaning, papers = (found[1], f"`{found[2]}`") if found else (meaning, "")
        rows.append([f"`{key}`", f"`{as_yaml(value)}`", _allowed(schemas[key]), meaning, papers])
    header = ["option", "default", "allowed", "meaning", "in the paper"]
    columns = 5 if any(row[4] for row in rows) else 4
    return table(header[:columns], [row[:columns] for row in rows])


def common_options(_: str = "") -> str:
    """Return the options that all models of this package have."""
    defaults, schemas, recboles = ModelConfig.defaults(), ModelConfig.schemas(), recbole_defaults()
    comments = dict(_recboles_comments())
    rows = []
    for key, field in ModelConfig.model_fields.items():
        value = defaults[key] if key in defaults else recboles.get(key)
        meaning = field.description or comments.get(key, "")
        rows.append([f"`{key}`", f"`{as_yaml(value)}`", _allowed(schemas[key]), meaning])
    return table(["option", "default", "allowed", "meaning"], rows)


def recbole_options(_: str = "") -> str:
    """Return RecBole's options of runs, with its defaults and in its words, but for those of the table above."""
    values = recbole_defaults()
    rows = [
        [f"`{key}`", f"`{as_yaml(values[key])}`", meaning]
        for key, meaning in _recboles_comments()
        if key not in ModelConfig.model_fields
    ]
    return table(["option", "RecBole's default", "meaning, in RecBole's words"], rows)


def recbole_data_options(_: str = "") -> str:
    """Return RecBole's options of data sets, in its words, without those that are for sequences and knowledge graphs alone."""
    rows = [
        [f"`{key}`", meaning]
        for key, meaning in _recboles_comments("dataset/sample")
        if not re.search("sequence|entity|relation|kg|numerical|preload", f"{key} {meaning}", re.IGNORECASE)
    ]
    return table(["option", "meaning, in RecBole's words"], rows)


def _recboles_comments(file: str = "overall") -> list[tuple[str, str]]:
    text = (recbole_folder() / "properties" / f"{file}.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^(\w+):[^#\n]*#\s*\([^)]*\)\s*(.*?)\s*$", text, re.MULTILINE)
    return [(name, comment) for name, comment in found]


def plan_keys(_: str = "") -> str:
    """Return the keys of a plan of ``recbole-vae compare``."""
    helps = {action.dest: action.help or "" for action in import_module("recbole_vae.cli.compare").parser()._actions}
    helps["trials"] = helps["tune"]
    rows = []
    for key, field in Plan.model_fields.items():
        if key != "options":  # those of the command line
            default = "" if field.is_required() or field.default_factory else f"`{as_yaml(field.get_default())}`"
            rows.append([f"`{key}`", default, field.description or helps[key]])
    return table(["key", "default", "meaning"], rows)


def abilities(_: str = "") -> str:
    """Return what each model can do, as its class declares it."""

    def has(option: str) -> Callable[[Any], bool]:
        return lambda model: option in model.config_class.model_fields

    columns: dict[str, Callable[[Any], bool]] = {
        "`recommend`, `explain`, new users": lambda model: True,
        "`uncertainty`, `recommend --samples`, `--diversify`": lambda model: model.has_posterior,
        "`latent`": lambda model: model.has_code,
        "`generate` around users": lambda model: model.has_posterior and _probabilities(model),
        "`generate --source=prior`": lambda model: model.standard_prior and _probabilities(model),
        "`explain --method=gradient`": lambda model: model.begins_with_linear_layer,
        "`export`": lambda model: model.can_be_exported,
        "`value_field`, `propensity_weight`": lambda model: model.__name__ != "VASP",
        "`likelihood`, `label_smoothing`": has("likelihood"),
        "`n_negatives`": has("n_negatives"),
        "`tied_weights`": has("tied_weights"),
        "`anneal_cap: auto`": has("total_anneal_steps"),
    }
    models = [model_class(name) for name in BUILT_IN]
    rows = [[what, *("yes" if can(model) else "–" for model in models)] for what, can in columns.items()]
    return table(["", *(f"[{model.__name__}]({model.__name__.lower()}.md)" for model in models)], rows)


def _probabilities(model: Any) -> bool:
    """Return whether a model's softmax is a distribution of items; where that depends on the likelihood, for its default."""
    field = model.config_class.model_fields.get("likelihood")
    return bool(field.default == "multinomial" if field is not None else model.by_softmax)


def docstring_table(argument: str) -> str:
    """Return a table of a module's docstring as Markdown: ``MODULE NUMBER``, from 1, and, if it has no head, one for it."""
    module, number, *head = argument.split()
    lines = (inspect.getdoc(import_module(module)) or "").split("\n")
    found: list[list[list[str]]] = []
    rule = ""
    for before, line in zip(["", *lines], lines, strict=False):
        if re.fullmatch(r"=+( +=+)+", line):
            if not rule and not before:
                found.append([])  # a table begins
            rule = line
        elif not line:
            rule = ""
        elif rule:
            starts = [each.start() for each in re.finditer("=+", rule)]
            cells = [_markdown(line[a:b].strip()) for a, b in zip(starts, [*starts[1:], None], strict=True)]
            if cells[0]:
                found[-1].append(cells)
            else:  # goes on
                found[-1][-1] = [f"{one} {more}".strip() for one, more in zip(found[-1][-1], cells, strict=True)]
    first, *rows = found[int(number) - 1]
    return table(head, [first, *rows]) if head else table(first, rows)


def _markdown(text: str) -> str:
    """Return the text of a docstring, which has roles of Sphinx, as Markdown."""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")


def metric(name: str) -> str:
    """Return the definition of a metric in a sentence."""
    words = DEFINITIONS[name].partition(": ")[2]
    return f"{words[0].upper()}{words[1:]}."


def commands(_: str = "") -> str:
    """Return the help of all commands, from their parsers."""
    parts = []
    for group, names in COMMANDS.items():
        parts.append(f"## {group}")
        for name in names:
            parser = module(name).parser()
            parts += [f"### {name}", parser.description, f"```text\n{parser.format_usage().strip()}\n```"]
            rows = [_option(action) for action in parser._actions if action.dest != "help"]
            parts.append(table(["option", "value", "meaning"], rows))
            if parser.epilog:
                parts.append(parser.epilog)
    return "\n\n".join(parts)


def _option(action: argparse.Action) -> list[str]:
    names = ", ".join(f"`{flag}`{{ .nowrap }}" for flag in action.option_strings) or f"`{action.dest.upper()}`"
    value = action.metavar if isinstance(action.metavar, str) else "" if action.nargs == 0 else action.dest.upper()
    several = " …" if action.nargs in ("+", "*") else ""
    meaning = (action.help or "") % {"default": action.default, "prog": "recbole-vae"} if action.help else ""
    return [names, f"`{value}`{several}" if value else "", meaning]


def changelog(_: str = "") -> str:
    """Return the changes of each release, without the heading of the file."""
    file = ROOT / "CHANGELOG.md"
    return re.sub(r"\A# .*\n", "", file.read_text(encoding="utf-8")) if file.exists() else ""


GENERATED: dict[str, Callable[[str], str]] = {
    "options": options,
    "common_options": common_options,
    "recbole_options": recbole_options,
    "recbole_data_options": recbole_data_options,
    "plan_keys": plan_keys,
    "abilities": abilities,
    "table": docstring_table,
    "metric": metric,
    "commands": commands,
    "changelog": changelog,
}
"""The functions that write parts of pages, by the names that stand in the pages."""


def with_links(html: str) -> str:
    """Turn the roles of Sphinx in docstrings (``:class:`~module.Name```) into links, where the name is in the reference.

    Long names in tables may break after a point.
    """
    html = re.sub(r"<td><code>[\w.&;]{36,}</code>", lambda found: found[0].replace(".", ".<wbr>"), html)
    return re.sub(
        r":(?:class|func|meth|mod|data|attr):<code>~?([\w.]+)</code>",
        lambda found: f'<autoref identifier="{found[1]}" optional><code>{found[1].rpartition(".")[2]}</code></autoref>',
        html,
    )
