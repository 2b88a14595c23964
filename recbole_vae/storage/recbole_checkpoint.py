"""RecBole's own checkpoints, read without running code from them.

RecBole pickles its whole ``Config`` with the parameters, so ``torch.load`` would have to unpickle arbitrary objects. This
reader makes only the objects that RecBole's checkpoints hold. It refuses any other file, and runs or imports nothing of it.
"""

from __future__ import annotations

import pickle
import types
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy import dtype

from recbole_vae.errors import CheckpointError
from recbole_vae.storage import checkpoint


def is_ours(path: str | Path) -> bool:
    """Tell whether a file is a checkpoint of recbole_vae, even a damaged one; else it may be RecBole's.

    Raises:
        CheckpointError: ``torch.save`` did not write the file.
    """
    return checkpoint.FORMAT.encode() in _pickle(path)


def is_recboles(path: str | Path) -> bool:
    """Tell whether a file is a checkpoint of one of RecBole's own models, which have RecBole's ``Config`` in them.

    Raises:
        CheckpointError: ``torch.save`` did not write the file.
    """
    return not is_ours(path) and b"recbole.config.configurator" in _pickle(path)


def _pickle(path: str | Path) -> bytes:
    checkpoint.check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            return b"".join(map(archive.read, names))
    except checkpoint.BAD_ARCHIVE:
        checkpoint.check_whole(path)  # says what is damaged
        raise


def load(path: str | Path, map_location: Any = "cpu", classes: Collection[tuple[str, str]] = ()) -> dict[str, Any]:
    """Read a checkpoint of RecBole.

    Args:
        path: the file that RecBole's trainer wrote.
        map_location: as for ``torch.load``.
        classes: module and name of each model class that the ``Config`` may name in addition to RecBole's own.

    Returns:
        What RecBole saved. ``config`` is an empty class with the attributes of the ``Config``, such as ``final_config_dict``.

    Raises:
        CheckpointError: the file is not a checkpoint of RecBole, is truncated, or holds what RecBole's do not.
    """
    checkpoint.check_whole(path)
    unpickler = type("_Unpickler", (_RestrictedUnpickler,), {"classes": frozenset(classes)})
    # What torch.load asks of a pickle module.
    module = types.SimpleNamespace(Unpickler=unpickler, UnpicklingError=pickle.UnpicklingError, __name__="pickle")
    try:
        state = torch.load(path, map_location=map_location, weights_only=False, pickle_module=module)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: not a checkpoint of RecBole, or a malicious one ({error}).") from None
    except Exception as error:  # a damaged archive or pickle fails anywhere
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: truncated or not a checkpoint ({reason}).") from None
    if not isinstance(state, dict) or "state_dict" not in state:
        raise CheckpointError(f"{path}: not a checkpoint of RecBole or recbole_vae.")
    return state


# All that RecBole's checkpoints hold, by the names that it has in the releases of NumPy, SciPy and Python.
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
    ("numpy", "dtype"), ("numpy", "matrix"), ("numpy.matrixlib.defmatrix", "matrix"),
    ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"),
    *((f"scipy.sparse._{kind}", f"{kind}_{what}") for kind in _SPARSE for what in ("matrix", "array")),
}  # fmt: skip


def _never_called(self: Any, *args: Any, **kwargs: Any) -> None:
    raise pickle.UnpicklingError(f"it calls {type(self).__name__}, which was not run")


class _Array:
    """Stand in for ``numpy.ndarray``. NumPy pickles only its name; a call could take bytes of the file for addresses."""

    __init__ = _never_called


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> Any:
    """Make the empty array that the state of an array is then put into."""
    from numpy import empty, matrix

    if kind not in (_Array, matrix) or shape != (0,):
        raise pickle.UnpicklingError("it holds an array that NumPy did not pickle")
    array = empty(0, dtype)
    return array if kind is _Array else array.view(matrix)


def _scalar(dtype: Any, content: Any = b"") -> Any:
    from numpy import frombuffer

    if dtype.hasobject:
        raise pickle.UnpicklingError("it holds an object where a number is expected")
    return frombuffer(content, dtype)[0]


def _enum_member(enumeration: Any, name: str) -> Any:
    """Stand in for ``getattr``, by which some releases of Python 3.11 pickle members of enumerations."""
    from enum import EnumMeta

    if not isinstance(enumeration, EnumMeta):
        raise pickle.UnpicklingError("it calls getattr, which was not run")
    return enumeration[name]


_PythonUnpickler: Any = pickle._Unpickler


class _RestrictedUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Reads containers, tensors, arrays, sparse matrices, and RecBole's enumerations; refuses everything else.

    RecBole's ``Config``, which evaluates strings, and its models become empty stand-ins, for which nothing is imported.
    The base class is pickle's in Python, not that in C, because BUILD, which sets attributes, must not reach classes.
    """

    classes: frozenset[tuple[str, str]] = frozenset()
    """Further model classes that become stand-ins."""
    dispatch: ClassVar = dict(_PythonUnpickler.dispatch)

    def load_build(self) -> None:
        """Set the attributes of an object, but never those of a class, a function or a module."""
        target = self.stack[-2]
        if isinstance(target, type | types.FunctionType | types.BuiltinFunctionType | types.ModuleType):
            raise pickle.UnpicklingError(f"it changes {target!r}, which was not done")
        if isinstance(target, dtype):  # fields, or flags that hide pointers
            state = self.stack[-1]
            if any(each is not None for each in state[2:5]) or state[7] != target.flags:
                raise pickle.UnpicklingError("it changes a dtype, which was not done")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        """Return what a global of the file stands for."""
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # their names in Python 2
        if (module, name) in _DATA:
            return super().find_class(module, name)
        if (module, name) == ("numpy", "ndarray"):
            return _Array
        if module in _MULTIARRAY and name in ("_reconstruct", "scalar"):
            return _reconstruct if name == "_reconstruct" else _scalar
        if (module, name) == ("builtins", "getattr"):
            return _enum_member
        if module == "recbole.utils.enum_type" and name in ("ModelType", "InputType", "EvaluatorType"):
            return super().find_class(module, name)
        if (
            module.startswith("recbole.model.")
            or (module, name) == ("recbole.config.configurator", "Config")
            or (module, name) == ("yaml.loader", "FullLoader")
            or (module, name) in self.classes
        ):
            return type(name, (), {"__init__": _never_called, "__module__": module})
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which was not run")
