"""Portable adapters: two files that can be read without JAX, in Python with NumPy or in anything that knows safetensors.

    adapter.safetensors    the MLP: "first.kernel" float32 [F, W], "first.bias" [W], "second.kernel" [W, W], "second.bias" [W],
                           "last.kernel" [W, A], "last.bias" [A]; F features, W the width, A actions
    adapter_config.json    its own SHA-256; format; what the adapter is (kind, inputs, actions, ..., see `save_adapter`);
                           "weights": size and SHA-256 of adapter.safetensors

The MLP is Linear, SiLU, Linear, SiLU, Linear, with x @ kernel + bias. What it sees: `features` in adaptive_jax/policies.
"""

import hashlib
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

CONFIG = "adapter_config.json"
WEIGHTS = "adapter.safetensors"
FORMAT = 1
OWN = {"sha256", "format", "weights"}  # fields of the file, not of the adapter


class DamagedRecord(ValueError):
    """What is on disk is not what was written; the message names the file."""


class NewerRecord(ValueError):
    """What is on disk was written by a newer version of this package."""


def write_portable(directory: Path, arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> None:
    """Write the two files into a directory that is there.

    Args:
        directory: where to.
        arrays: by name.
        description: JSON; has none of the fields "sha256", "format" and "weights".
    """
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    weights = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (directory / WEIGHTS).write_bytes(content)
    (directory / CONFIG).write_text(signed({"format": FORMAT, **description, "weights": weights}))


def read_portable(directory: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Description and arrays of a portable adapter, once both files have been found to be what was written.

    Raises:
        DamagedRecord: a file is missing, cut short, unreadable or changed, be it by one bit.
        NewerRecord: a newer version wrote it.
    """
    config, file = directory / CONFIG, directory / WEIGHTS
    description = read_signed(config)
    version, weights = description.get("format"), description.get("weights")
    if type(version) is not int:
        raise DamagedRecord(f"{config}: 'format' cannot be {reprlib.repr(version)}")
    if version > FORMAT:
        raise NewerRecord(
            f"{config} has format {version}, from a newer version of adaptive_jax, and this one reads up to {FORMAT}: "
            "update adaptive_jax"
        )
    if type(weights) is not dict or [type(weights.get(field)) for field in ("bytes", "sha256")] != [int, str]:
        raise DamagedRecord(f"{config}: 'weights' cannot be {reprlib.repr(weights)}")
    try:
        size = file.stat().st_size
        if size != weights["bytes"]:
            raise DamagedRecord(f"{file} has {size} bytes instead of {weights['bytes']}")
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise DamagedRecord(f"{file} is missing") from error
    except OSError as error:  # as on a disk that is broken
        raise DamagedRecord(f"{file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != weights["sha256"]:
        raise DamagedRecord(f"{file} is not what was written: its SHA-256 differs")
    try:
        arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:  # KeyError: a dtype that NumPy has not
        raise DamagedRecord(f"{file} cannot be read: {error}") from error
    return {field: value for field, value in description.items() if field not in OWN}, arrays


def signed(content: Mapping[str, Any]) -> str:
    """JSON with its own SHA-256 in it, for `read_signed`."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({"sha256": digest, **content}, indent=1) + "\n"


def read_signed(file: Path) -> dict[str, Any]:
    """What `signed` was given, from a file.

    Raises:
        DamagedRecord: the file is missing, or not what was written.
    """
    try:
        text = file.read_bytes().decode()
        content = json.loads(text)
        del content["sha256"]
        sound = signed(content) == text
    except FileNotFoundError as error:
        raise DamagedRecord(f"{file} is missing") from error
    except OSError as error:
        raise DamagedRecord(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise DamagedRecord(f"{file} is not what was written: its SHA-256 differs")
    return content
