"""The data set that needs no download: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels.

They are the test part of the UCI Machine Learning Repository's "Optical Recognition of Handwritten Digits". Who wrote
which digit is not recorded, so records have no group.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from unsee.records.candidates import Candidate, Intake
from unsee.records.training_set import Quarantined

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LICENSE = "CC-BY-4.0"
_TOP = 16


def intake() -> Intake:
    """The digits, white on black, in the order that scikit-learn gives them."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / _TOP)).astype(np.uint8)

    def items() -> Iterator[Candidate | Quarantined]:
        for i, (grey, digit) in enumerate(zip(pixels, bunch.target, strict=True)):
            picture = Image.fromarray(grey).convert("RGB")
            caption = f"a handwritten digit {WORDS[int(digit)]}"
            yield Candidate(picture, (caption,), f"digits/{i:04d}", license=LICENSE, conversion="greyscale to RGB")

    return Intake("scikit-learn's load_digits", len(pixels), items())
