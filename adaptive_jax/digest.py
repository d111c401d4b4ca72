"""Digests of pytrees, by which two processes or two runs are told apart."""

import hashlib
from typing import Any

import jax
import numpy as np


def tree_digest(tree: Any) -> str:
    """SHA-256 over the leaves of a pytree: names, dtypes, shapes and bytes; in hexadecimal."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)  # one leaf at a time on the host
        digest.update(f"{leaf_name(path)} {array.dtype.name} {np.shape(leaf)};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def leaf_name(path: tuple[Any, ...]) -> str:
    """A leaf's name: the keys on the way to it, joined by dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".")
