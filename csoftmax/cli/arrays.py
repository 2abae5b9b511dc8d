"""The arrays that ``csoftmax apply`` reads: a .npy file, one array of a .npz file, a zarr array.

.npy files are mapped and zarr's blocks are read as they are asked for, so that both may be larger than memory. What
goes wrong is a `Failure`, in one sentence.
"""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from csoftmax.cli.files import Failure

NPZ = ".npz"


class ZarrArray:
    """A zarr array, of which a block is read when it is asked for. bfloat16 is what it is, as in `_known`."""

    def __init__(self, path: Path, array: Any) -> None:
        self.path, self.array = path, array
        self.shape, self.ndim, self.size, self.chunks = array.shape, array.ndim, array.size, array.chunks
        self.dtype = _known(path, np.empty(0, array.dtype)).dtype

    def __getitem__(self, block: Any) -> NDArray[Any]:
        try:
            return np.asarray(self.array[block]).view(self.dtype)
        # whatever a codec, a store or a damaged chunk raises
        except Exception as error:
            _let_others_end()
            raise _unreadable(self.path, error, "a damaged chunk? ") from error


def _let_others_end() -> None:
    """Wait for zarr's reading of other chunks: at the interpreter's end it would be told of at length."""
    import asyncio

    from zarr.core.sync import sync

    async def rest() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*tasks, return_exceptions=True)

    sync(rest())


def open_array(source: str) -> Any:
    """Return the array that `source` names: the path of a .npy file or a zarr array, or FILE.npz:NAME.

    Raises
    ------
    Failure
        There is no such array, or it cannot be read.
    """
    path, name = Path(source), None
    if not path.exists() and f"{NPZ}:" in source:
        file, _, name = source.rpartition(":")
        path = Path(file)
    try:
        if path.is_dir():
            return _open_zarr(path)
        if path.exists() and not path.is_file():
            raise Failure(f"cannot read {path}: neither a file nor a folder")
        if zipfile.is_zipfile(path) or path.suffix == NPZ:
            return _open_npz(path, name)
        return _known(path, open_memmap(path, mode="r"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, OverflowError) as error:
        raise _explained(path, error) from error


def _explained(path: Path, error: Exception) -> Failure:
    """Return the failure for a file that NumPy does not read as .npy."""
    words = str(error)
    if "greater than file size" in words or words.startswith("EOF") or "is too short" in words:
        return Failure(f"cannot read {path}: the file is truncated ({words})")
    if "magic string" in words:
        return Failure(f"cannot read {path}: no .npy file, .npz file or zarr array ({words})")
    if "Python objects" in words:
        return Failure(f"cannot read {path}: its elements are pickled Python objects; save it as numbers first")
    return _unreadable(path, error)


def _unreadable(path: Path, error: Exception, guess: str = "") -> Failure:
    words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return Failure(f"cannot read {path}: {guess}{words}")


def _known(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Return the array, viewed as bfloat16 if its elements are two bytes without a type: so bfloat16 is saved."""
    if array.dtype.type is not np.void or array.dtype.names or array.dtype.itemsize != 2:
        return array
    return array.view(bfloat16(f"{path} holds bfloat16"))


def bfloat16(reason: str) -> np.dtype[Any]:
    """Return ml_dtypes' bfloat16; a failure, with the reason for wanting it, where that package is not there."""
    try:
        import ml_dtypes
    except ModuleNotFoundError as error:
        raise Failure(f"{reason}, which needs ml_dtypes: pip install ml_dtypes") from error
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _open_npz(path: Path, name: str | None) -> NDArray[Any]:
    """Return one array of a .npz file, which is read into memory: its name may be left out if there is one alone."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [member.removesuffix(".npy") for member in arrays.zip.namelist() if member.endswith(".npy")]
            if name is None and len(names) == 1:
                name = names[0]
            if name not in names:
                problem = "which of its arrays?" if name is None else f"it has no array {name!r}."
                there = ", ".join(f"{path}:{one}" for one in names)
                raise Failure(f"cannot read {path}: {problem} " + (f"There are {there}" if names else "It has none"))
            return _known(path, arrays[name])
    except Failure:
        raise
    # zipfile, zlib and NumPy raise what they like for what is damaged, encrypted or pickled
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        raise _explained(path, error) from error


def _open_zarr(path: Path) -> ZarrArray:
    """Return the array of a folder; a failure that names the arrays if it is a group."""
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise Failure(f"{path} is a folder; to read it as zarr: pip install zarr") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            node = zarr.open(path, mode="r")
        except FileNotFoundError as error:
            raise Failure(f"cannot read {path}: a folder, but neither a zarr array nor a group") from error
        # whatever the metadata lead to
        except Exception as error:
            raise _unreadable(path, error) from error
        if isinstance(node, zarr.Array):
            return ZarrArray(path, node)
        names = sorted(name for name, member in node.members(max_depth=None) if isinstance(member, zarr.Array))
    there = f"give one of its arrays: {', '.join(str(path / name) for name in names)}" if names else "without arrays"
    raise Failure(f"cannot read {path}: a zarr group, {there}")
