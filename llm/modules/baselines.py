"""What simple methods reach on the same split: a classifier that is not better is not worth its price."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.modules.classification_metrics import score

STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # of the regression, of which validation chooses
INSTALL = "for TF-IDF + logistic regression beside it: pip install 'labyrinth-llm[classify]'"
MAJORITY, LINEAR = "majority class", "TF-IDF + logistic regression"

Split = tuple[Sequence[str], np.ndarray]  # texts, and labels int64 [N]


def majority(train: np.ndarray, n_classes: int, n_texts: int) -> Tensor:
    """Logits [n_texts, C] that say how often each class is in `train`, int64 [N], whatever the text."""
    shares = np.bincount(train, minlength=n_classes) / len(train)
    return torch.from_numpy(np.log(np.maximum(shares, 1e-9))).float().expand(n_texts, -1)


def linear(train: Split, validation: Split | None, texts: Sequence[str], n_classes: int) -> Tensor | None:
    """Logits [N, C] of TF-IDF of words and pairs, and logistic regression on them; None without scikit-learn.

    The strength of the regression is chosen on validation, where there is one.
    """
    if importlib.util.find_spec("sklearn") is None:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def fitted(strength: float) -> Callable[[Sequence[str]], Tensor]:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        model: Any = make_pipeline(words, LogisticRegression(C=strength, max_iter=1000)).fit(*train)

        def logits(texts: Sequence[str]) -> Tensor:
            found = torch.full((len(texts), n_classes), -50.0)
            known = torch.from_numpy(model.classes_)
            found[:, known] = torch.from_numpy(np.log(np.maximum(model.predict_proba(texts), 1e-9))).float()
            return found

        return logits

    models = {strength: fitted(strength) for strength in (STRENGTHS if validation else (1.0,))}
    if validation is None:
        return models[1.0](texts)
    truth = torch.from_numpy(validation[1])
    best = max(models, key=lambda strength: score(models[strength](validation[0]), truth)["macro_f1"])
    return models[best](texts)
