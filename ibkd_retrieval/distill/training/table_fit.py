"""The least-squares start of a static student: the token table that fits the teacher's vectors of its texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.students import principal_directions

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ibkd_retrieval.distill.data.batches import TokenIds

MOST_TEXTS = 20_000
"""Texts that a table is fitted to. More would take minutes."""
_RIDGE, _ITERATIONS, _ENOUGH = 1.0, 100, 1e-2


def fitted_table(
    table: NDArray[np.float32], tokens: TokenIds, positions: NDArray[np.int64], teacher: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The token table whose means over texts are nearest to the teacher's vectors, and which stays near its start.

    The start is `table`, turned towards the teacher's principal directions and scaled. That keeps all cosines, where d
    is at most D: a token that is in no text keeps its neighbours. Another token may move the farther, the fewer texts
    have it. Its penalty grows with the root of their number.

    Args:
        table: the token vectors [V, d].
        tokens: the tokens of texts.
        positions: the texts to fit, among those of `tokens` [n].
        teacher: the teacher's unit vectors of these texts [n, D].

    Returns:
        The new token vectors [V, d]. If d is larger than D, the last d - D numbers are 0.
    """
    from ibkd_retrieval.distill.objectives.projection import unstretched

    means = token_means(tokens, positions, len(table))
    wanted = teacher @ principal_directions(teacher, min(table.shape[1], teacher.shape[1])).T
    before = means @ table
    turn = unstretched(before, wanted)
    image = before @ turn.T
    start = (table @ turn.T * ((image * wanted).sum() / np.square(image).sum())).astype(np.float32)
    texts_of = np.bincount(means.indices, minlength=len(table))
    freedom = np.maximum(texts_of, 1).astype(np.float32) ** -0.25
    moved = ridge_solution(means.multiply(freedom).tocsr(), wanted - means @ start, _RIDGE)
    fitted = start + freedom[:, None] * moved
    return np.pad(fitted, ((0, 0), (0, table.shape[1] - fitted.shape[1])))


def token_means(tokens: TokenIds, positions: NDArray[np.int64], count: int) -> csr_matrix:
    """The matrix [n, V] that takes a token table to the mean vector of each text."""
    from scipy.sparse import csr_matrix

    lengths = tokens.lengths[positions]
    ids = np.concatenate([tokens[int(position)] for position in positions])
    rows = np.repeat(np.arange(len(positions)), lengths)
    return csr_matrix((1 / lengths[rows].astype(np.float32), (rows, ids)), shape=(len(positions), count))


def ridge_solution(matrix: csr_matrix, wanted: NDArray[np.float32], share: float = 0.1) -> NDArray[np.float32]:
    """The Z [V, d] that minimises |A Z - Y|^2 + r |Z|^2, by conjugate gradients. r is a share of a row's mean square.

    All columns are solved at once. scipy solves one at a time, and reads A again for each.

    Args:
        matrix: A [n, V].
        wanted: Y [n, d].
        share: r as a share of the mean squared length of a row of A.
    """
    ridge = np.float32(share * matrix.multiply(matrix).sum() / matrix.shape[0])
    turned = matrix.T.tocsr()
    residual: NDArray[np.float32] = turned @ wanted
    found, direction = np.zeros_like(residual), residual.copy()
    size = first = (residual**2).sum(0)
    for _ in range(_ITERATIONS):
        image = turned @ (matrix @ direction) + ridge * direction
        step = size / np.maximum((direction * image).sum(0), np.finfo(np.float32).tiny)
        found += step * direction
        residual -= step * image
        before, size = size, (residual**2).sum(0)
        if (size <= _ENOUGH**2 * first).all():
            break
        direction = residual + size / np.maximum(before, np.finfo(np.float32).tiny) * direction
    return found
