"""Checks the shapes and dtypes of arrays that signatures state, and nothing else of them: tests pass stand-ins for the rest."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook

ROOT = Path(__file__).parents[1]
BETWEEN = ("jaxtyping", "beartype", "tests.shapes")  # and a frame of jaxtyping's own making
OURS = ("adaptive_jax", "experiments", "tests", "dataclasses")


def arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with those of its hints checked that tell of arrays."""
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _has_array(hint)}
    checked = beartype(function)
    if function.__name__ != "__init__":
        return checked

    @functools.wraps(checked)
    def where_we_construct(*arguments: Any, **named: Any) -> Any:
        return checked(*arguments, **named) if _constructed_by_us() else None

    return where_we_construct


def _constructed_by_us() -> bool:
    """Whether the frame that constructs a struct is this project's; JAX puts placeholders into structs, too."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "jaxtyping").startswith(BETWEEN):
        frame = frame.f_back
    return frame.f_globals["__name__"].startswith(OURS)


def _has_array(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_has_array, get_args(hint)))


def check_shapes() -> None:
    """Have every module of the package that states shapes checked from its import on."""
    files = [path for path in (ROOT / "adaptive_jax").rglob("*.py") if "from jaxtyping import" in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    install_import_hook(names, "tests.shapes.arrays")
