from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeopt.calibration import images
from edgeopt.errors import DataError
from tests.calibration.specs import pixels


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    rgb = pixels(4, 5, 3)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), rgb)
    Image.fromarray(rgb[:, :, 0]).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(images.read(tmp_path / "gray.png"), np.repeat(rgb[:, :, :1], 3, axis=2))
    Image.fromarray(np.dstack([rgb, rgb[:, :, 0]])).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(images.read(tmp_path / "alpha.png"), rgb)
    Image.fromarray(rgb).quantize(8).save(tmp_path / "palette.png")
    assert images.read(tmp_path / "palette.png").shape == (4, 5, 3)


def test_is_image() -> None:
    assert images.is_image(Path("A.JPEG"))
    assert not images.is_image(Path("a.npy"))


def test_bad_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(pixels(64, 64, 3)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    for name, message in {
        "text.png": "cannot be read as an image",
        "cut.png": "cannot be read as an image",
        "absent.png": "cannot be read as an image",
        "deep.png": "more than 8 bits",
    }.items():
        with pytest.raises(DataError, match=message):
            images.read(tmp_path / name)
    for limit in (3000, 1000):  # Pillow warns above its limit and refuses above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match="suspiciously large"):
            images.read(tmp_path / "whole.png")
