"""The digits that scikit-learn ships."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from unsee.records import digits
from unsee.records.candidates import Candidate
from unsee.records.training_set import TrainingSetWriter


def candidates() -> list[Candidate]:
    return [item for item in digits.intake().items if isinstance(item, Candidate)]


def test_all_1797_with_ten_captions() -> None:
    items = candidates()
    assert len(items) == digits.intake().total == 1797
    assert Counter(item.captions for item in items)[("a handwritten digit seven",)] == 179
    assert len({item.captions for item in items}) == 10
    assert len({item.source for item in items}) == 1797
    assert {item.license for item in items} == {"CC-BY-4.0"}


def test_the_whole_range_of_grey_is_used() -> None:
    pixels = np.stack([np.asarray(item.picture) for item in candidates()])
    assert pixels.shape == (1797, 8, 8, 3)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(np.unique(pixels)) == 17
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("resolution", [8, 32, 64])
def test_any_resolution(tmp_path: Path, resolution: int) -> None:
    writer = TrainingSetWriter(tmp_path, resolution)
    for item in candidates()[:20]:
        writer.add(item.picture, item.captions, item.source)
    assert writer.finish("digits")["records"] == 20
