"""``recbole.trainer.HyperTuning``: ``exhaustive`` runs with today's hyperopt, and tries what it promises to try."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from recbole_vae.errors import ConfigError
from recbole_vae.options.names import tuned
from recbole_vae.plugin.import_hooks import replace


def hook(hyper_tuning: ModuleType) -> None:
    """Change ``recbole.trainer.hyper_tuning``."""
    hyper_tuning.np = _with_generator(hyper_tuning.np)  # type: ignore[attr-defined]
    replace(hyper_tuning, "exhaustive_search", _exhaustive_search)
    replace(hyper_tuning.HyperTuning, "__init__", _init)
    replace(hyper_tuning.HyperTuning, "run", _run)
    replace(hyper_tuning.HyperTuning, "trial", _trial)


def _with_generator(np: Any) -> Any:
    """Give ``exhaustive_search`` a ``Generator``, which hyperopt needs to draw integers, in place of a ``RandomState``."""
    random = SimpleNamespace(RandomState=np.random.default_rng)
    return SimpleNamespace(array=np.array, prod=np.prod, str=str, random=random)


def _exhaustive_search(original: Any) -> Any:
    def exhaustive_search(new_ids: Any, domain: Any, trials: Any, seed: Any, nbMaxSucessiveFailures: int = 1000) -> Any:
        # It draws until a combination is new. For the last of n, 1000 draws may be too few; 50 n miss it once in e^50 times.
        return original(new_ids, domain, trials, seed, max(nbMaxSucessiveFailures, 50 * len(trials.trials)))

    return exhaustive_search


def _init(original: Any) -> Any:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        # RecBole counts the combinations of the choices alone, and would draw each range that often: once if there is no choice.
        ranges = [name for name, node in self.space.items() if node.name != "switch"] if _is_exhaustive(self) else []
        if ranges:
            raise ConfigError(
                f"{', '.join(ranges)}: algo='exhaustive' tries all combinations of choices, and a range has no end of "
                "values. List some under 'choice', or use algo='random' or 'bayes'."
            )

    return init


def _is_exhaustive(tuning: Any) -> bool:
    from recbole.trainer import hyper_tuning

    return getattr(tuning.algo, "func", None) is hyper_tuning.exhaustive_search and isinstance(tuning.space, dict)


def _run(original: Any) -> Any:
    def run(self: Any) -> None:
        given = {word[2:].partition("=")[0] for word in sys.argv[1:] if word.startswith("--") and "=" in word}
        overruled = sorted(given & set(self.space)) if isinstance(self.space, dict) else []
        if overruled:
            raise ConfigError(
                f"{overruled[0]} is to be tuned, but the command line sets it for all trials. Leave out "
                f"--{overruled[0]}, or take it out of the search space."
            )
        original(self)
        if _is_exhaustive(self) and len(self.score_list) < self.max_evals:
            print(
                f"Tried {len(self.score_list)} of {self.max_evals} combinations: the last ones were no better. For all, "
                f"pass early_stop={self.max_evals}."
            )

    return run


def _trial(original: Any) -> Any:
    def trial(self: Any, params: Any) -> Any:
        token = tuned.set(frozenset(params))  # the Config that is made in here refuses what its model has not
        try:
            return original(self, params)
        finally:
            tuned.reset(token)

    return trial
