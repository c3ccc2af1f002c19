"""14_vision: FacT's change of one piece, Tucker's small matrix, and VTAB's average."""

import numpy as np


def piece(U, S, V, s):
    """What FacT adds to one d x d piece of a weight (d_out, d_in): s V S U^T.

    Shapes  U and V (d, r), S (r, r) -> (d, d)
    """
    return s * V @ S @ U.T


def tucker(P, C):
    """FacT-TK's S of one piece: the sum over c of P[c] C[c].

    Shapes  P (r,), C (r, r, r) -> (r, r)
    """
    return np.tensordot(P, C, axes=1)


def group_average(scores, groups):
    """VTAB's average: the mean over groups of the mean over each group's tasks.

    scores is task -> percent, groups is task -> name of its group
    """
    names = sorted(set(groups.values()))
    return np.mean([np.mean([scores[t] for t in scores if groups[t] == g]) for g in names])
