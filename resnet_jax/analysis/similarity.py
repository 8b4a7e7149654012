"""How alike layers represent images: centred kernel alignment, within a network or between two.

Linear CKA (Kornblith et al. 2019, arXiv 1905.00414, section 3) compares two layers by the Gram
matrices K = X X^T and L = Y Y^T of their outputs X [n, p] and Y [n, q] for the same n examples:

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

It is 1 for layers that differ by a rotation and a factor. The two estimators differ in how they
centre the Gram matrices, whose inner product is then HSIC:

    full       one n x n matrix of all examples, centred over them: the usual, biased one, equal to
               ||Yc^T Xc||_F^2 / (||Xc^T Xc||_F ||Yc^T Yc||_F) with centred features
    minibatch  the mean over batches of the unbiased HSIC_1 (Song et al. 2012), as in Nguyen,
               Raghu and Kornblith 2021, arXiv 2010.15327, section 2.2

Feature maps are flattened, so that every position counts; `pool` averages them over space first.
"""

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from resnet_jax.analysis.examples import Batch
from resnet_jax.errors import InputError, unknown_name
from resnet_jax.inference.features import feature_extractor
from resnet_jax.models import ResNet
from resnet_jax.training.compilation import matmul_precision

ESTIMATORS = ('full', 'minibatch')
DEFAULT_LAYERS = ('stem', 'stage*/block*', 'pooled', 'logits')
FEWEST = 4  # examples from which HSIC_1 can be computed
_ROUNDING = 1e-13  # of centred Gram matrices in float64, relative to the largest entry
_PANEL_BYTES = 2**29  # of features that are kept while others are compared with them

Rows = Mapping[str, Float[np.ndarray, 'n features']]
Square = Float[np.ndarray, 'n n']


@dataclasses.dataclass(frozen=True)
class View:
    """A network, and the examples as it sees them.

    Attributes:
      model: the network.
      variables: `params` and `batch_stats`.
      layers: names out of `features.layers(model)`.
      batches: can be iterated several times; all but the last hold as many examples.
      count: number of examples.
      pool: whether feature maps are averaged over space.
      precision: of products, see `compilation.matmul_precision`.
    """

    model: ResNet
    variables: Mapping[str, Any]
    layers: tuple[str, ...]
    batches: Iterable[Batch]
    count: int
    pool: bool = False
    precision: str | None = None

    def rows(self, batch: Batch) -> Rows:
        """The outputs of the layers, flattened, without those for padding."""
        with matmul_precision(self.precision):
            found = feature_extractor(self.model, self.layers)(self.variables, batch.images)
        rows = {}
        for name in self.layers:
            x = np.asarray(found[name], np.float32)[batch.mask]
            if self.pool and x.ndim > 2:
                x = x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=np.float64)
            rows[name] = x.reshape(len(x), -1)
        return rows


def choose_layers(
    patterns: Sequence[str], known: Sequence[str], kind: str = 'layer'
) -> tuple[str, ...]:
    """The layers that names and patterns choose, in the order of the network.

    Args:
      patterns: names such as 'stage3/block2', and patterns such as 'stage*/block*', compared part
        by part: that one chooses the blocks and not the layers inside them.
      known: all layers.
      kind: what a wrong name is called in the message.

    Raises:
      InputError: for a name or pattern that chooses nothing, with the nearest names.
    """
    chosen = set()
    for pattern in patterns:
        found = [name for name in known if _matches(name, pattern)]
        if not found:
            raise unknown_name(kind, pattern, known)
        chosen.update(found)
    return tuple(name for name in known if name in chosen)


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split('/'), pattern.split('/')
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def centred(gram: Square) -> Square:
    """A Gram matrix of centred features: H K H with H = I - 1/n."""
    found = gram - gram.mean(axis=0)[None] - gram.mean(axis=1)[:, None] + gram.mean()
    return _without_rounding(found, gram)


def u_centred(gram: Square) -> Square:
    """A Gram matrix centred without bias: the inner product of two is n (n - 3) HSIC_1.

    Székely and Rizzo 2014, "Partial distance correlation with methods for dissimilarities",
    definition 2; by expansion it equals the formula of Song et al. 2012 (theorem 2 there), equation
    3 of arXiv 2010.15327.

    Args:
      gram: of at least `FEWEST` examples.
    """
    n = len(gram)
    plain = gram - np.diag(np.diag(gram))
    sums = plain.sum(axis=1) / (n - 2)
    found = plain - sums[None] - sums[:, None] + plain.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(found, 0.0)
    return _without_rounding(found, gram)


def _without_rounding(found: Square, gram: Square) -> Square:
    """Zero where features do not vary: what centring leaves of them is rounding."""
    varies = np.abs(found).max() > _ROUNDING * np.abs(gram).max()
    return found if varies else np.zeros_like(found)


def linear_cka(
    x: Float[np.ndarray, 'n ...'], y: Float[np.ndarray, 'n ...'], estimator: str = 'full'
) -> float:
    """Linear CKA of two arrays of features of the same examples, flattened per example.

    Args:
      x: features.
      y: others.
      estimator: of `ESTIMATORS`; 'minibatch' takes the examples as a single batch.

    Returns:
      NaN where one of the two does not vary.
    """
    centre = centred if estimator == 'full' else u_centred
    grams = [[centre(_product(each, each))] for each in (_flat(x), _flat(y))]
    return float(_normalised(*_inner_products(*grams))[0, 0])


def similarity(first: View, second: View | None, estimator: str) -> Float[np.ndarray, 'a b']:
    """Linear CKA of every layer of a network with every layer of another.

    Memory does not grow with the number of examples for 'minibatch'; for 'full' it holds a Gram
    matrix for each layer, `gram_bytes`.

    Args:
      first: the network.
      second: the other; None: the same, and its diagonal is exactly 1.
      estimator: of `ESTIMATORS`.

    Returns:
      [layers of the first, layers of the second]; NaN for layers that do not vary.

    Raises:
      InputError: if 'minibatch' meets no batch of at least `FEWEST` examples.
    """
    if estimator == 'minibatch':
        return _minibatch(first, second)
    grams = [list(gram_matrices(view).values()) for view in (first, second) if view]
    return _normalised(*_inner_products(grams[0], grams[-1]))


def gram_bytes(examples: int, layers: int) -> int:
    """The memory that the Gram matrices of the 'full' estimator take."""
    return 8 * examples**2 * layers


def gram_matrices(view: View, panel_bytes: int = _PANEL_BYTES) -> dict[str, Square]:
    """The centred Gram matrix of each layer over all examples, float64.

    Features are compared a panel at a time: as many batches as `panel_bytes` holds are kept, and
    all later ones are recomputed for each panel.

    Args:
      view: of the network.
      panel_bytes: of features that are kept.
    """
    grams = {name: np.zeros((view.count, view.count)) for name in view.layers}
    first: int | None = 0
    while first is not None:
        first = _compare_panel(view, grams, first, panel_bytes)
    for name in grams:  # one at a time
        grams[name] = centred(grams[name])
    return grams


def _compare_panel(view: View, grams: Mapping[str, Square], first: int, most: int) -> int | None:
    """Compares the batches from `first` on, as many as `most` bytes hold, with all later ones.

    Returns:
      The first batch that was not kept; None if all were.
    """
    panel: list[tuple[int, Rows]] = []
    held, start, rest = 0, 0, None
    for i, batch in enumerate(view.batches):
        if i >= first:
            rows = view.rows(batch)
            if rest is None and held >= most and panel:
                rest = i
            if rest is None:
                panel.append((start, rows))
                held += sum(x.nbytes for x in rows.values())
            for at, others in panel:
                _fill(grams, at, others, start, rows)
        start += int(batch.mask.sum())
    return rest


def _fill(grams: Mapping[str, Square], i: int, a: Rows, j: int, b: Rows) -> None:
    """Sets the part of the Gram matrices of examples from i on with examples from j on."""
    for name, gram in grams.items():
        block = _product(a[name], b[name])
        gram[i : i + len(a[name]), j : j + len(b[name])] = block
        gram[j : j + len(b[name]), i : i + len(a[name])] = block.T


def _minibatch(first: View, second: View | None) -> Float[np.ndarray, 'a b']:
    totals: list[np.ndarray] = []
    others: Iterable[Any] = second.batches if second else first.batches
    pairs = zip(first.batches, others, strict=True) if second else ((b, b) for b in first.batches)
    for batch, other in pairs:
        n = int(batch.mask.sum())
        if n < FEWEST:
            continue
        ours = _u_centred_grams(first.rows(batch))
        theirs = _u_centred_grams(second.rows(other)) if second else ours
        # The mean over batches of HSIC_1; a smaller last batch counts by its number of examples.
        found = [x / (n - 3) for x in _inner_products(ours, theirs)]
        totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
    if not totals:
        raise InputError(
            f'the minibatch estimator needs batches of at least {FEWEST} examples; raise '
            '--batch-size and --limit'
        )
    return _normalised(*totals)


def _u_centred_grams(rows: Rows) -> list[Square]:
    return [u_centred(_product(x, x)) for x in rows.values()]


def _flat(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).reshape(len(x), -1)


def _product(a: np.ndarray, b: np.ndarray) -> Square:
    """The product a b^T in float64."""
    return a.astype(np.float64) @ b.astype(np.float64).T


def _inner_products(
    a: Sequence[Square], b: Sequence[Square]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """<a_i, b_j>, <a_i, a_i> and <b_j, b_j>."""
    cross = np.zeros((len(a), len(b)))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            cross[i, j] = cross[j, i] if a is b and j < i else np.vdot(x, y)
    ours = np.array([np.vdot(x, x) for x in a])
    return cross, ours, ours if a is b else np.array([np.vdot(y, y) for y in b])


def _normalised(cross: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Exactly 1 where the three are equal: the root of a square is exact."""
    ours, theirs = (np.where(x > 0, x, np.nan) for x in (ours, theirs))
    return cross / np.sqrt(ours[:, None] * theirs[None])


def by_pair(
    first: Sequence[str], second: Sequence[str], values: Float[np.ndarray, 'a b']
) -> dict[str, float]:
    """Values by the pair of layers, 'A ~ B'."""
    return {
        f'{a} ~ {b}': float(values[i, j]) for i, a in enumerate(first) for j, b in enumerate(second)
    }
