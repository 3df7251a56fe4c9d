"""Arrays in scripts, beside a page: a page on disk may load scripts, but read no files."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CODES = {"uint8": "u1", "uint16": "u2", "uint32": "u4", "int32": "i4", "float32": "f4"}


def write_script(folder: Path, name: str, arrays: Mapping[str, NDArray[Any]], more: Mapping[str, Any]) -> None:
    """`<name>.js`, which hands the page these arrays and plain values. It is ASCII, and has nothing that ends a
    script element.
    """
    packed = {key: [_CODES[str(array.dtype)], _base64(array)] for key, array in arrays.items()}
    text = json.dumps({"arrays": packed, **more}, allow_nan=False).replace("<", r"\u003c")
    (folder / f"{name}.js").write_text(f'"use strict";\nhandOver({json.dumps(name)}, {text});\n', encoding="ascii")


def _base64(array: NDArray[Any]) -> str:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")
