"""What a face shows, after the experts' opinion and one human label: a Beta posterior.

Ours, not the paper's. Let theta be the share of people who would give a face this label. Experts that have not seen the
face say it is about p; believe them as much as s votes: theta ~ Beta(s p, s (1 - p)), whose mean is p. One human label
y (1 if it is this expression, else 0) is one draw with probability theta, so that the posterior is
Beta(s p + y, s (1 - p) + 1 - y), and its mean is (s p + y) / (s + 1). (For scores that sum to 1, the same follows from
a Dirichlet distribution over the expressions.) Experts and annotator err for different reasons, so the mean of both
witnesses is nearer to what many people see than either.

s cannot be learned from single labels: the probability of one label, integrated over theta, is p if y = 1 and 1 - p if
y = 0, whatever s is. It takes a second vote on the same face to see how far theta strays from p.
"""

import numpy as np
from scipy.optimize import minimize_scalar

PRECISION = 2.0  # in votes
_RANGE = (0.01, 1000.0)  # of a fitted precision: the label alone, nearly, and the experts alone


def posterior_of(scores: np.ndarray, labels: np.ndarray, precision: float) -> np.ndarray:
    """(N, C) posterior means: (precision * score + [label is this class]) / (precision + 1).

    `scores` (N, C) in [0, 1] of experts that have not seen the rows; `labels` (N,) indices of classes, one human's, -1
    for none: NaN there, as where scores are. `precision`, in votes, is how much the scores count for beside that vote.
    """
    human = labels[:, None] == np.arange(scores.shape[1])
    return np.where(labels[:, None] >= 0, (precision * scores + human) / (precision + 1), np.nan)


def fit_precision(scores: np.ndarray, labels: np.ndarray, votes: np.ndarray) -> float:
    """The precision, 0.01 to 1000 votes, under which the posterior's distribution is nearest to that of the votes.

    Smallest mean cross-entropy between the shares of `votes` (N, C) of several people a face, and the `posterior_of`
    these `scores` and `labels`, divided by its sum, over the classes that both know. Rows without votes or label among
    these are left out; `ValueError` where none is left.
    """
    of_both = ~np.isnan(scores + votes).any(axis=0)
    votes = np.where(of_both, votes, 0)
    rows = (labels >= 0) & of_both[labels] & (votes.sum(axis=1) > 0)
    if not rows.any():
        raise ValueError("No row has both a human label and votes: the prior precision cannot be fitted.")
    shares = votes[rows] / votes[rows].sum(axis=1, keepdims=True)

    def cross_entropy(log_precision):
        posterior = posterior_of(scores[rows], labels[rows], np.exp(log_precision))
        posterior = np.where(of_both, posterior, 0)
        distribution = posterior / posterior.sum(axis=1, keepdims=True)
        return -(shares * np.log(distribution.clip(1e-12))).sum(axis=1).mean()

    fitted = minimize_scalar(cross_entropy, bounds=np.log(_RANGE), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(fitted.x))
