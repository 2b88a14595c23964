"""Names of options: which one a misspelt name was meant to be, and where a value was set."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from recbole_vae.errors import ConfigError
from recbole_vae.options.recbole import properties_folder, recbole_folder

if TYPE_CHECKING:
    from recbole.config import Config

Where = Callable[[str], str]
"""Tells where the value of an option was set, such as ``plan.yaml, line 3``; nothing where that is not known."""


SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "batch_size": ("train_batch_size",),
    "beta": ("anneal_cap",),
    "dropout": ("dropout_prob",),
    "dropout_rate": ("dropout_prob",),
    "early_stop": ("stopping_step",),
    "embedding_dim": ("embedding_size", "latent_dimension"),
    "hidden_dims": ("mlp_hidden_size", "hidden_size"),
    "hidden_size": ("mlp_hidden_size", "embedding_size"),
    "lr": ("learning_rate",),
    "max_epochs": ("epochs",),
    "mlp_hidden_size": ("hidden_size",),
    "n_epochs": ("epochs",),
    "neg_sampling": ("train_neg_sample_args",),
    "optimizer": ("learner",),
    "patience": ("stopping_step",),
    "training_neg_sample_num": ("train_neg_sample_args",),
    "z_dim": ("latent_dimension",),
}
"""Names by which other libraries, or other models, call an option; the first that the model has is meant."""

tuned: ContextVar[frozenset[str]] = ContextVar("tuned", default=frozenset())
"""Options that HyperTuning varies: they are meant for the model that is tuned, as those of the command line are."""


def synonym(name: str, names: Iterable[str]) -> str | None:
    """Return the name that another library or model has for what is meant, or None."""
    return next((each for each in SYNONYMS.get(name.lower(), ()) if each in names), None)


def near(name: str, names: Iterable[str], alike: float = 0.75) -> str | None:
    """Return the name that a misspelt one was probably meant to be, or None; ``alike`` is the least share of equal letters."""
    by_lower = {each.lower(): each for each in names}
    known = synonym(name, by_lower)
    found = [known] if known else difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=alike)
    if not found:
        # `latent` for `latent_dimension`
        found = [each for each in sorted(by_lower, key=len) if len(name) >= 5 and name.lower() in each][:1]
    return by_lower[found[0]] if found else None


def _all_of(model_name: str) -> str:
    """Say which file has all options of a model; nothing for a model that comes from elsewhere."""
    folders = (properties_folder(), recbole_folder() / "properties")
    found = (folder / "model" / f"{model_name}.yaml" for folder in folders)
    return next((f" The model's options are in {file}." for file in found if file.is_file()), "")


def check_names(
    given: Collection[str],
    known: Collection[str],
    of_others: Collection[str],
    model_name: str,
    where: Where,
    declared: bool,
    models_with: Callable[[str], Collection[str]],
) -> list[str]:
    """Look for options that have no effect: RecBole ignores them, so that what they were meant to set keeps its default.

    Args:
        given: names of the options that the user set.
        known: names of the options that have an effect.
        of_others: names of other models' options. A file or a dictionary may serve several models; the command line is meant
            for this one, and so is what HyperTuning varies.
        model_name: for the message.
        where: tells where the value of an option was set.
        declared: whether ``known`` is complete; a class in RecBole's style may read options that nobody knows of.
        models_with: returns the models of this package that have an option.

    Returns:
        Options without effect that are let through: those of other models, and where not all are ``declared``.

    Raises:
        ConfigError: an option has no effect and is let through for none of these reasons.
    """
    ignored = []
    for name in sorted(set(given) - set(known)):
        place = "params_dict" if name in tuned.get() else where(name)
        alone = place in ("params_dict", "command line")
        shared = name in of_others and not alone
        owners = list(models_with(name)) if name in of_others else []
        of_another = shared or bool(owners)  # another model's option is no misspelling
        meant = synonym(name, known) if of_another else near(name, known)
        if (shared and (meant is None or meant in given)) or (not declared and meant is None):
            ignored.append(name)
            continue
        said = f"neither {model_name} nor RecBole has this option.{f' Did you mean {meant}?' if meant else _all_of(model_name)}"
        if owners and not meant:
            said = f"{model_name} has no such option; {' and '.join(owners)} ha{'ve' if len(owners) > 1 else 's'} it."
        raise ConfigError(f"{name}{place and f' ({place})'}: {said}")
    return ignored


def check_keys(name: str, value: Any, keys: Collection[str], where: Where) -> None:
    """Raise a ConfigError if a mapping has a key without effect; RecBole ignores it and takes a default."""
    for key in value if isinstance(value, dict) else ():
        if key not in keys:
            place, meant = where(name), near(str(key), keys)
            raise ConfigError(
                f"{name}: the key {key!r}{place and f' ({place})'} has no effect{f'; did you mean {meant}?' if meant else '.'} "
                f"There are {', '.join(keys)}."
            )


def refuse(key: str, value: Any, where: Where, allowed: str, part: str = "") -> NoReturn:
    """Raise a ConfigError for a value of an option, or of a part of it, such as ``split: RS``."""
    place = where(key)
    raise ConfigError(
        f"{key}: {part and f'{part}: '}{value!r}{place and f' ({place})'} is not allowed; it must be {allowed}."
    )


def place_of(config: Config, config_files: Iterable[str]) -> Where:
    """Return a function that tells where an option was set: a file and line, the command line, or the call."""

    def where(key: str) -> str:
        if key in config.cmd_config_dict:
            return "command line"
        if key in config.variable_config_dict:
            # recbole-vae refit passes on what was typed
            return "command line" if "refit" in config.variable_config_dict else "config_dict"
        if key in config.file_config_dict:
            for file in reversed(list(config_files)):
                lines = Path(file).read_text(encoding="utf-8").splitlines()
                for number, line in reversed(list(enumerate(lines, start=1))):
                    if re.match(rf"""\s*["']?{re.escape(key)}["']?\s*:""", line):
                        return f"{file}, line {number}"
        return ""

    return where
