"""What RecBole 1.2 needs on today's libraries: one function for each fault, named after it.

RecBole 1.2.1 was written for setuptools < 82, numpy < 2, torch < 2.6, scipy < 1.13 and pandas < 3. Each function here
mends one thing that has changed since, where it has changed, for RecBole alone; on an older library it does nothing.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from recbole_vae.errors import CheckpointError
from recbole_vae.plugin.import_hooks import after_import, during_import, module_exists


@functools.cache
def mend() -> None:
    """Mend all faults, once, each as soon as the module of RecBole that has it is imported."""
    during_import("recbole.quick_start.quick_start", ray_cannot_be_imported)
    after_import("recbole.config.configurator", numpy_lost_aliases)
    after_import("recbole.utils.utils", torch_load_refuses_recboles_checkpoints)
    after_import("recbole.utils.utils", scipy_dok_matrix_lost_update)
    after_import("recbole.data.dataset.dataset", pandas_fills_a_copy)
    after_import("recbole.data.dataset.dataset", pandas_strings_are_not_objects)
    after_import("recbole.data.dataset.dataset", pandas_agg_does_not_map)


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
    """``torch.load`` reads tensors and plain values only, since torch 2.6; RecBole's checkpoints hold its ``Config``.

    Calls from RecBole read RecBole's checkpoints all the same, but only what these hold: anything else in a file is refused
    and not run. And ``load_data_and_model``, which is given a file of either kind, gets a ``Config`` from ours too.
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
        return _load_for_recbole(original, f, map_location)

    torch.load = load


def _load_for_recbole(torch_load: Callable[..., Any], file: str | Path, map_location: Any) -> Any:
    from recbole_vae.storage import checkpoint

    checkpoint.check_archive(file)
    try:
        state = checkpoint.load(file)
    except CheckpointError:
        state = _load_recboles(torch_load, file, map_location)
        if state.get("format") == checkpoint.FORMAT:
            raise  # ours, and damaged
        return state
    from recbole_vae.training.restore import config_of_checkpoint

    return {**state, "config": config_of_checkpoint(file), "other_parameter": None}


def _load_recboles(torch_load: Callable[..., Any], file: str | Path, map_location: Any) -> Any:
    try:
        state = torch_load(file, map_location=map_location, weights_only=False, pickle_module=_RESTRICTED)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file}: not a checkpoint of RecBole, or a malicious one ({error}).") from None
    except Exception as error:  # a damaged archive or pickle fails anywhere
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file}: truncated or not a checkpoint ({reason}).") from None
    if not isinstance(state, dict) or "state_dict" not in state:
        raise CheckpointError(f"{file}: not a checkpoint of RecBole or recbole_vae.")
    if type(state.get("config")).__name__ == "Config":
        import yaml
        from recbole.config import Config
        from recbole.utils import get_model

        # The stand-in has all that the Config had but its classes.
        config = state["config"]
        config.__class__ = Config
        config.yaml_loader, config.model_class = yaml.FullLoader, get_model(config.model)
        # RecBole unpickles data that it finds there, and here a file would say where.
        config.final_config_dict.update(dataset_save_path=None, dataloaders_save_path=None, checkpoint_dir="saved")
    return state


# All that RecBole's checkpoints hold, by the names that the releases of numpy, scipy and Python gave it.
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_SPARSE = ("csr", "csc", "coo", "dok", "lil")
_BUILTINS = ("object", "set", "frozenset", "complex", "int", "float", "str", "list", "dict", "tuple", "bool")
_DATA = {
    *(("builtins", name) for name in _BUILTINS),
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "Counter"),
    ("copyreg", "_reconstructor"), ("_codecs", "encode"),
    ("torch", "device"), ("torch", "Size"), ("torch.serialization", "_get_layout"),
    ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_sparse_tensor"),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy", "matrix"), ("numpy.matrixlib.defmatrix", "matrix"),
    ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"),
    *((module, name) for module in _MULTIARRAY for name in ("_reconstruct", "scalar")),
    *((f"scipy.sparse._{kind}", f"{kind}_{what}") for kind in _SPARSE for what in ("matrix", "array")),
}  # fmt: skip


def _never_called(self: Any, *args: Any, **kwargs: Any) -> None:
    raise pickle.UnpicklingError(f"it calls {type(self).__name__}, which was not run")


def _enum_member(enumeration: Any, name: str) -> Any:
    """Stand in for ``getattr``, by which some releases of Python 3.11 pickle members of enumerations."""
    from enum import EnumMeta

    if not isinstance(enumeration, EnumMeta):
        raise pickle.UnpicklingError("it calls getattr, which was not run")
    return enumeration[name]


_PythonUnpickler: Any = pickle._Unpickler


class _RestrictedUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Reads containers, tensors, arrays, sparse matrices, and RecBole's enumerations; refuses everything else.

    RecBole's ``Config``, which evaluates strings, and its models come as empty stand-ins, and nothing is imported for
    them. Pickle's own class in Python, not in C, because BUILD, which sets attributes, must be kept from classes.
    """

    dispatch: ClassVar = dict(_PythonUnpickler.dispatch)

    def load_build(self) -> None:
        """Refuse to change a class or a function; otherwise as ever."""
        target = self.stack[-2]
        if isinstance(target, type | types.FunctionType | types.BuiltinFunctionType | ModuleType):
            raise pickle.UnpicklingError(f"it changes {target!r}, which was not done")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        """Return what a global of the file stands for."""
        if (module, name) in _DATA:
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _enum_member
        if module == "recbole.utils.enum_type" and name in ("ModelType", "InputType", "EvaluatorType"):
            return super().find_class(module, name)
        if (
            module.startswith("recbole.model.")
            or (module, name) == ("recbole.config.configurator", "Config")
            or (module, name) == ("yaml.loader", "FullLoader")
        ):
            return type(name, (), {"__init__": _never_called, "__module__": module})
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which was not run")


# What torch.load asks of a pickle module.
_RESTRICTED = types.SimpleNamespace(
    Unpickler=_RestrictedUnpickler, UnpicklingError=pickle.UnpicklingError, __name__="pickle"
)


def scipy_dok_matrix_lost_update(utils: ModuleType) -> None:
    """The graph models (LightGCN, NGCF, ...) fill a ``dok_matrix`` by ``_update``, which scipy 1.13 dropped."""
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, data: self._dict.update(data)


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
