"""What simple methods reach on the same split: a classifier that is not better is not worth its price."""

import importlib.util
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llm.modules.classification_metrics import score

STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # of the regression, of which validation chooses
INSTALL = "for TF-IDF + logistic regression beside it: pip install 'labyrinth-llm[classify]'"
MAJORITY, LINEAR = "majority class", "TF-IDF + logistic regression"

Split = tuple[Sequence[str], np.ndarray]  # texts, and labels int64 [N], or bool [N, C] where a text can have several
SURE = 1e-9  # the least probability that a method may give


def majority(train: np.ndarray, n_classes: int, n_texts: int) -> Tensor:
    """Logits [n_texts, C] that say how often each class is in `train`, int64 [N] or bool [N, C], whatever the text."""
    several = train.ndim == 2
    shares = train.mean(0) if several else np.bincount(train, minlength=n_classes) / len(train)
    return _logits(shares, several).expand(n_texts, -1)


def linear(train: Split, validation: Split | None, texts: Sequence[str], n_classes: int) -> Tensor | None:
    """Logits [N, C] of TF-IDF of words and pairs, and logistic regression on them; None without scikit-learn.

    Where a text can have several labels, each has a regression of its own. The strength of the regression is chosen on
    validation, where there is one.
    """
    if importlib.util.find_spec("sklearn") is None:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    features, labels = words.fit_transform(train[0]), train[1]
    several = labels.ndim == 2

    def shares(truth: np.ndarray, strength: float, texts: Sequence[str], n_classes: int) -> np.ndarray:
        found, there = np.zeros((len(texts), n_classes)), np.unique(truth)
        if len(there) == 1:  # a label that all texts have, or none
            found[:, there] = 1.0
        else:
            regression = LogisticRegression(C=strength, max_iter=1000).fit(features, truth)
            found[:, there] = regression.predict_proba(words.transform(texts))
        return found

    def answer(strength: float, texts: Sequence[str]) -> Tensor:
        if not several:
            return _logits(shares(labels, strength, texts, n_classes), several)
        each = [shares(column, strength, texts, 2)[:, 1] for column in labels.T.astype(int)]
        return _logits(np.stack(each, 1), several)

    if validation is None:
        return answer(1.0, texts)
    truth = torch.from_numpy(validation[1])
    scores = {strength: score(answer(strength, validation[0]), truth)["macro_f1"] for strength in STRENGTHS}
    return answer(max(scores, key=scores.__getitem__), texts)


def _logits(shares: np.ndarray, several: bool) -> Tensor:
    """Of which softmax, or for several labels sigmoid, gives the shares back."""
    shares = np.clip(shares, SURE, 1 - SURE)
    return torch.from_numpy(np.log(shares) - (np.log1p(-shares) if several else 0)).float()
