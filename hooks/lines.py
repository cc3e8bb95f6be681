"""Lines of text files: UTF-8, parted by newlines alone, as editors count them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

from graticule.hooks.artifact import users_file

_BOM = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1 and their line ends, a byte-order mark left out.

    Args:
        file: A text file, or one packed as `.gz`.

    Raises:
        ValueError: It is not UTF-8; file, line and way out are named. Or it is no file: `ArtifactError`.
    """
    file = users_file(file)
    with gzip.open(file, "rb") if file.suffix.lower() == ".gz" else open(file, "rb") as raw:
        for number, line in enumerate(raw, 1):
            if number == 1 and line.startswith(_WIDE):
                raise ValueError(f"{file} is UTF-16, not UTF-8: save it as UTF-8 (iconv -f utf-16 -t utf-8)")
            try:
                yield number, line.removeprefix(_BOM if number == 1 else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file}, line {number} is not UTF-8 (byte 0x{line[error.start]:02x}): save the file as "
                    "UTF-8 (iconv -f cp1252 -t utf-8, if it is from Windows)"
                ) from error


def plain_lines(file: Path) -> list[str]:
    """Lines without their line ends, `\\n` or `\\r\\n`.

    Args:
        file: As for `numbered_lines`.

    Raises:
        ValueError: As `numbered_lines` does.
    """
    return [line.removesuffix("\n").removesuffix("\r") for _, line in numbered_lines(file)]
