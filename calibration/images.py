"""Image files: which ones there are, and their pixels as uint8 [H, W, 3] RGB (Pillow)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from edgeopt.errors import DataError
from edgeopt.graph import Array

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


def is_image(path: Path) -> bool:
    """Whether the file's name ends like that of an image."""
    return path.suffix.lower() in SUFFIXES


def read(path: Path) -> Array:
    """Decode an image to uint8 [H, W, 3], RGB; EXIF orientation is not applied (as in torchvision).

    Raises:
        DataError: not an image, truncated, suspiciously large, or more than 8 bits a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise DataError(
                        f"has more than 8 bits a channel (mode {image.mode})",
                        where=str(path),
                        hint="store such images as .npy arrays",
                    )
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"cannot be read as an image: {' '.join(str(error).split())}", where=str(path)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"is suspiciously large: {error}", where=str(path)) from error
