"""Writes the options of all models as YAML, for people to read: ``python -m recbole_vae.model.yaml_files``.

The fields of each model's ``config_class`` are what counts; a test fails if the files in ``properties`` differ from them.
"""

from __future__ import annotations

import inspect
from decimal import Decimal
from typing import Any

import yaml

from recbole_vae.model.registry import BUILT_IN, model_class
from recbole_vae.options.fields import AS_TYPES, ModelConfig, describe
from recbole_vae.options.recbole import properties_folder


def yaml_of(config_class: type[ModelConfig]) -> str:
    """Return the defaults of a class with a comment each: the types, the limits and the meaning.

    Of a subclass of ModelConfig, the defaults that ModelConfig has already are left out.
    """
    inherited = {} if config_class is ModelConfig else ModelConfig.defaults()
    schemas = config_class.schemas()
    lines = [
        f"# Generated from {config_class.__name__} by python -m recbole_vae.model.yaml_files; changes here have no effect."
    ]
    lines += [f"# {line}".rstrip() for line in (inspect.getdoc(config_class) or "").splitlines()]
    for name, value in config_class.defaults().items():
        if name not in inherited or value != inherited[name]:
            allowed = describe(schemas[name], AS_TYPES)
            meaning = config_class.model_fields[name].description
            lines.append(f"{f'{name}: {_plain(value)}':<31} # ({allowed}) {meaning}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    if value is None:
        return "~"
    if isinstance(value, float):  # 4e-05 would be a string to YAML
        return format(Decimal(repr(value)), "f")
    if isinstance(value, bool):
        return str(value)
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def texts() -> dict[str, str]:
    """Return the content of each generated file by its path below ``properties``."""
    found = {"overall.yaml": yaml_of(ModelConfig)}
    for name in BUILT_IN:
        model = model_class(name)
        assert model is not None
        found[f"model/{name}.yaml"] = yaml_of(model.config_class)
    return found


if __name__ == "__main__":
    folder = properties_folder()
    for path, text in texts().items():
        (folder / path).write_text(text, encoding="utf-8")
        print(folder / path)
