"""The tensorflow-datasets builder of the digits: a plain dataset definition, imported only by `wspace.data.digits`.

Importing this module needs the `data` extra; it registers the dataset under the name `wspace_digits`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class WspaceDigits(tfds.core.GeneratorBasedBuilder):
    """scikit-learn's digits: 1797 scans of handwritten digits, 8x8 pixels of 0..16, ten classes.

    The split is stratified and has no randomness: sorted by class (stable), the first and then every fifth scan is
    test. Both splits keep the order of scikit-learn's file. The data come with scikit-learn; nothing is downloaded.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "train 1437, test 360"}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="8x8 handwritten digits of scikit-learn, with a fixed stratified train/test split.",
            citation="Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (CC BY 4.0)",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        from sklearn.datasets import load_digits

        scans = load_digits()
        is_test = np.zeros(len(scans.target), bool)
        is_test[np.argsort(scans.target, kind="stable")[::5]] = True
        return {
            "train": self._generate_examples(scans.images[~is_test], scans.target[~is_test]),
            "test": self._generate_examples(scans.images[is_test], scans.target[is_test]),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image.astype(np.uint8), "label": int(label)}
