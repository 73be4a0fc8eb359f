"""Arrays of npz files, memory-mapped where possible; damage becomes a clear error."""

import math
import threading
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from metasdf.errors import InputError

# What reading a damaged npz file may raise: a flipped byte can mimic a password or a long array.
DAMAGED = (
    *(OSError, ValueError, EOFError, OverflowError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)

# NumPy parses a header as Python; in two threads at once that can fail in Python 3.11 (SystemError,
# "AST constructor recursion depth mismatch").
HEADER_LOCK = threading.Lock()


def map_npz(path: Path, name: str) -> np.ndarray:
    """Array `name` of an npz file, memory-mapped if stored uncompressed, else read.

    Raises:
        InputError: the file is missing, truncated or no npz file, or holds no such array of
            numbers.
    """
    member = name + ".npy"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            info = archive.getinfo(member)
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            with HEADER_LOCK:
                shape, fortran_order, dtype = read_header(stream)
            header_size = stream.tell()
            if dtype.hasobject:
                raise InputError(f"{path}: array {name!r} holds Python objects, not numbers")
            if header_size + math.prod(shape) * dtype.itemsize != info.file_size:
                raise InputError(f"{path}: array {name!r} is not as long as its header says")
            order = "F" if fortran_order else "C"
            if info.compress_type != zipfile.ZIP_STORED:
                return np.frombuffer(bytearray(stream.read()), dtype).reshape(shape, order=order)
        with open(path, "rb") as file:
            file.seek(info.header_offset + 26)
            name_length, extra_length = np.frombuffer(file.read(4), "<u2")
        start = info.header_offset + 30 + int(name_length) + int(extra_length) + header_size
        import torch  # takes a second, which workers that only write files are spared

        # Mapped by torch: NumPy's mappings keep their files open, and a split has thousands.
        whole = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
        return np.ndarray(shape, dtype, whole.numpy(), start, order=order)
    except KeyError:
        raise InputError(f"{path}: has no array {name!r}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{path}: is damaged or no npz file ({error})") from error
