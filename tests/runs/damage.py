"""Ways in which files go bad."""

from pathlib import Path


def files(directory: Path) -> list[Path]:
    """All files below a directory, in a fixed order."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def flip(file: Path, bit: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
