"""``recbole.quick_start``: the first line of a run's log, and child processes that know the registered models."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from recbole_vae.model.registry import import_models, registered_classes
from recbole_vae.options import command_line
from recbole_vae.options.processes import alone, is_first, torchrun_group
from recbole_vae.plugin import evaluator
from recbole_vae.plugin.cmd_line import report
from recbole_vae.plugin.import_hooks import replace
from recbole_vae.storage.once import read_once
from recbole_vae.version import __version__


def hook(quick_start: ModuleType) -> None:
    """Change ``recbole.quick_start.quick_start``."""
    replace(quick_start, "init_logger", _init_logger)
    replace(quick_start, "run_recboles", _RunRecboles)
    replace(quick_start, "run_recbole", _run_recbole)


def _run_recbole(original: Any) -> Any:
    """Make the process one of a group where ``torchrun`` has started several."""

    def run_recbole(
        model: Any = None, dataset: Any = None, config_file_list: Any = None, config_dict: Any = None, *rest: Any,
        **others: Any,
    ) -> Any:  # fmt: skip
        group = torchrun_group()
        if group is not None and "local_rank" not in (config_dict or {}):
            config_dict = {**(config_dict or {}), **group}
            if is_first():
                print(f"{group['world_size']} processes meet at {group['ip']}:{group['port']} ...", file=sys.stderr)
        if said := alone():
            print(f"warning: {said}", file=sys.stderr)
        return original(model, dataset, config_file_list, config_dict, *rest, **others)

    return run_recbole


def _init_logger(original: Any) -> Any:
    def init_logger(config: Any) -> None:
        if config["local_rank"] + (config["offset"] or 0):  # one process of several writes the log
            logging.basicConfig(level=logging.ERROR)
            return
        original(config)
        cls = config.model_class
        if report(config):
            logging.getLogger().info(report(config))
        if getattr(config, "chosen_metric", None):
            logging.getLogger().info(
                f"The best epoch is chosen by {config.chosen_metric}, the first of metrics; valid_metric chooses another."
            )
        if getattr(config, "settings_of_data", None):
            logging.getLogger().info(f"Settings of the data set are those of {config.settings_of_data}")
        package = cls.__module__.partition(".")[0]
        versions = {"recbole_vae": f", of recbole_vae {__version__}", "recbole": f", of RecBole {_recbole_version()}"}
        logging.getLogger().info(f"{cls.__name__} is {cls.__module__}.{cls.__qualname__}{versions.get(package, '')}")
        ignored = getattr(config, "ignored_options", ())
        if ignored:
            logging.getLogger().warning(f"Without effect, as {cls.__name__} has no such option: {', '.join(ignored)}.")

    return init_logger


def _recbole_version() -> str:
    return str(import_module("recbole").__version__)


class _RunRecboles:
    """What RecBole starts in each child process, in place of its ``run_recboles``.

    RecBole starts its children by ``spawn``. A child imports the module of the function that it is to run, which would be
    RecBole's, and so no registered model. This object is pickled as a call of :func:`_in_child` instead.
    """

    def __init__(self, original: Callable[..., None]) -> None:
        self.original = original

    def __call__(self, rank: int, *args: Any) -> None:
        with read_once():
            self.original(rank, *args)

    def __reduce__(self) -> Any:
        # A child runs the main module by itself.
        modules = {each.__module__ for each in (*registered_classes(), *evaluator.own)} - {"__main__"}
        return _in_child, (sorted(modules), command_line.is_ours())


def _in_child(modules: Sequence[str], is_ours: bool) -> Any:
    """Register what the parent has registered, and return what is to run. Unpickling imports recbole_vae."""
    import_models(modules)
    run_recboles = import_module("recbole.quick_start.quick_start").run_recboles

    def run(*args: Any) -> None:
        with command_line.ours(is_ours):
            run_recboles(*args)

    return run
