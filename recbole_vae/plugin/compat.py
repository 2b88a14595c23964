"""What RecBole 1.2 needs on today's libraries: one function for each fault, named after it.

RecBole 1.2.1 was written for setuptools < 82, numpy < 2, torch < 2.6, scipy < 1.13 and pandas < 3. Each function here
mends one thing that has changed since; on an older library it does nothing. ``torch.load`` and ``Series.agg`` are replaced for
the whole process, but act otherwise only when RecBole calls them. The old names in numpy and ``dok_matrix._update`` are
additions that the whole process sees. :mod:`recbole_vae.plugin.register` says when each function is called.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_vae.plugin.import_hooks import after_import, module_exists


def _called_by_recbole() -> bool:
    """Tell whether the function that asks was called from a module of RecBole."""
    name = str(sys._getframe(2).f_globals.get("__name__"))
    return name == "recbole" or name.startswith("recbole.")


@contextmanager
def ray_cannot_be_imported() -> Iterator[None]:
    """``recbole.quick_start`` imports ray, for one call: ``ray.tune.report``, after each trial of any tuner.

    The releases of ray that RecBole admits import ``pkg_resources``, which setuptools 82 dropped, and ``np.bool8``, which
    numpy 2 dropped; and on Python 3.12 there is none at all. Where one of these is so, a stand-in takes ray's place for the
    time of that import. Tuning through ray itself does not work there; RecBole's HyperTuning does.
    """
    import numpy as np

    works = module_exists("ray") and module_exists("pkg_resources") and hasattr(np, "bool8")
    if works or "ray" in sys.modules:
        yield
        return
    ray, tune = ModuleType("ray"), ModuleType("ray.tune")
    tune.report = lambda *args, **kwargs: None  # type: ignore[attr-defined]
    ray.tune = tune  # type: ignore[attr-defined]
    sys.modules.update({"ray": ray, "ray.tune": tune})
    try:
        yield
    finally:
        del sys.modules["ray"], sys.modules["ray.tune"]


@contextmanager
def tensorboard_and_pandas_take_long() -> Iterator[None]:
    """``recbole.utils`` imports TensorBoard and pandas, for two functions that no model calls; that is half of its time.

    For the time of that import a stand-in takes the place of each that is not imported yet. It imports the real one when it is
    first used.
    """
    tensorboard, pandas = _Later("torch.utils.tensorboard"), _Later("pandas")
    # ``from torch.utils.tensorboard import SummaryWriter`` is no use of it yet.
    tensorboard.SummaryWriter = lambda *args, **kwargs: tensorboard.real().SummaryWriter(*args, **kwargs)  # type: ignore[attr-defined]
    with _standing_in({each.__name__: each for each in (tensorboard, pandas) if each.__name__ not in sys.modules}):
        yield


_OF_SKLEARN = {
    "sklearn.metrics": ("auc", "mean_absolute_error", "mean_squared_error"),
    "sklearn.utils.extmath": ("randomized_svd",),
    "sklearn.linear_model": ("ElasticNet",),
    "sklearn.exceptions": (),
}
"""What RecBole calls of scikit-learn."""


@contextmanager
def sklearn_takes_long() -> Iterator[None]:
    """``recbole.evaluator`` and two models import scikit-learn, which all runs then wait for: a third of their imports.

    For the time of that import stand-ins take its place. They import scikit-learn when something of it is first called.
    """
    if "sklearn" in sys.modules:
        yield
        return
    added = {name: _Later(name) for name in _OF_SKLEARN if name not in sys.modules}
    for later in added.values():
        for name in _OF_SKLEARN[later.__name__]:
            setattr(later, name, functools.partial(_call_later, later, name))
    # SLIMElastic ignores these, and calls ElasticNet first.
    added["sklearn.exceptions"].ConvergenceWarning = UserWarning  # type: ignore[attr-defined]
    with _standing_in(added):
        yield


@contextmanager
def _standing_in(added: dict[str, _Later]) -> Iterator[None]:
    """Let modules be imported in place of others that are not imported yet."""
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _call_later(later: _Later, name: str, *args: Any, **kwargs: Any) -> Any:
    slim = sys.modules.get("recbole.model.general_recommender.slimelastic")
    if name == "ElasticNet" and slim is not None:
        slim.ConvergenceWarning = importlib.import_module("sklearn.exceptions").ConvergenceWarning  # type: ignore[attr-defined]
    return getattr(later.real(), name)(*args, **kwargs)


class _Later(ModuleType):
    """A module that is imported when one of its attributes is first asked for."""

    def real(self) -> ModuleType:
        return importlib.import_module(self.__name__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        return getattr(self.real(), name)


def numpy_lost_aliases(configurator: ModuleType) -> None:
    """``Config`` gives numpy its old names ``np.float``, ``np.bool``, ... by others that numpy 2 dropped (``np.float_``)."""
    import numpy as np

    if hasattr(np, "float_"):
        return
    # What the rest of RecBole uses.
    aliases = {
        "bool": np.bool_, "int": np.int_, "float": np.float64, "complex": np.complex128, "object": np.object_,
        "str": np.str_, "long": np.int_, "unicode": np.str_,
    }  # fmt: skip

    def compatibility_settings(self: Any) -> None:
        for name, kind in aliases.items():
            setattr(np, name, kind)

    configurator.Config.compatibility_settings = compatibility_settings


def torch_load_refuses_recboles_checkpoints(utils: ModuleType) -> None:
    """Since torch 2.6 ``torch.load`` reads only tensors and plain values; RecBole's checkpoints hold its ``Config``.

    Calls from RecBole still read them, by :mod:`recbole_vae.storage.recbole_checkpoint`, which runs no code of the file.
    ``load_data_and_model`` gets a ``Config`` from checkpoints of recbole_vae, too.
    """
    import torch

    if inspect.signature(torch.load).parameters["weights_only"].default is False:
        return
    original = torch.load

    @functools.wraps(original)
    def load(f: Any, *args: Any, **kwargs: Any) -> Any:
        if not _called_by_recbole() or args[1:] or "weights_only" in kwargs or "pickle_module" in kwargs:
            return original(f, *args, **kwargs)
        # Where RecBole names no device, tensors are for the one that they were on, as the model is; without a GPU for the CPU.
        default = None if torch.cuda.is_available() else "cpu"
        map_location = args[0] if args else kwargs.get("map_location", default)
        return _load_for_recbole(f, map_location)

    torch.load = load


def _load_for_recbole(file: str | Path, map_location: Any) -> Any:
    from recbole_vae.storage import checkpoint, recbole_checkpoint
    from recbole_vae.training import restore

    if not recbole_checkpoint.is_ours(file):
        return restore.load_recboles(file, map_location)
    state = checkpoint.load(file)
    return {**state, "config": restore.config_of_checkpoint(file), "other_parameter": None}


def scipy_dok_matrix_lost_update(utils: ModuleType) -> None:
    """The graph models (LightGCN, NGCF, ...) fill a ``dok_matrix`` by ``_update``, which scipy 1.13 dropped."""

    def add_it(sparse: Any) -> None:
        if not hasattr(sparse.dok_matrix, "_update"):
            sparse.dok_matrix._update = lambda self, data: self._dict.update(data)

    after_import("scipy.sparse", add_it)


def pandas_fills_a_copy(dataset: ModuleType) -> None:
    """``feat[field].fillna(..., inplace=True)`` fills a copy since pandas 3, and missing values silently stay missing."""
    import pandas as pd

    probe = pd.DataFrame({"a": [float("nan")]})
    with _no_warnings():
        probe["a"].fillna(0, inplace=True)
    if not probe["a"].isna().any():
        return
    token, number = dataset.FeatureType.TOKEN, dataset.FeatureType.FLOAT
    original = dataset.Dataset._fill_nan

    def _fill_nan(self: Any) -> None:
        for feat_name in self.feat_name_list:
            feat = getattr(self, feat_name)
            for field in feat:
                if self.field2type[field] == token:
                    feat[field] = feat[field].fillna(0)
                elif self.field2type[field] == number:
                    feat[field] = feat[field].fillna(feat[field].mean())
        with _no_warnings():
            original(self)

    dataset.Dataset._fill_nan = _fill_nan


def pandas_strings_are_not_objects(dataset: ModuleType) -> None:
    """Columns of strings have a dtype of their own since pandas 3, and a missing sequence cannot be filled in place.

    RecBole reads its files by ``pd.read_csv``; a stand-in for ``pd`` in its module gives the columns that it had before.
    """
    import pandas as pd

    if pd.Series(["a"]).dtype == object:
        return

    def read_csv(*args: Any, **kwargs: Any) -> Any:
        frame = pd.read_csv(*args, **kwargs)
        for column in frame.columns:
            if not pd.api.types.is_numeric_dtype(frame[column]):
                frame[column] = frame[column].astype(object)
                if str(column).endswith("_seq"):
                    frame[column] = frame[column].fillna("")
        return frame

    class Pandas(ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(pd, name)

    stand_in = Pandas("pandas")
    stand_in.read_csv = read_csv  # type: ignore[attr-defined]
    dataset.pd = stand_in  # type: ignore[attr-defined]


def pandas_agg_does_not_map(dataset: ModuleType) -> None:
    """``feat[field].agg(len)`` gave the length of each sequence; since pandas 3 it gives the number of rows."""
    import pandas as pd

    with _no_warnings():
        maps = isinstance(pd.Series([[1, 2]]).agg(len), pd.Series)
    if maps:
        return
    original = pd.Series.agg

    @functools.wraps(original)
    def agg(self: Any, func: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.map(len) if func is len and _called_by_recbole() else original(self, func, *args, **kwargs)

    pd.Series.agg = agg


@contextmanager
def _no_warnings() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
