"""Whether maps of attribution are about the network: deletion, insertion and random weights.

Sources: rise2018 is arXiv 1806.07421, adebayo2018 is arXiv 1810.03292.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from resnet_jax.analysis.attribution import Maps, enlarged, padded
from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.parts import Chain
from resnet_jax.analysis.responses import of_targets
from resnet_jax.models import ResNet
from resnet_jax.models.stages import unstack_blocks
from resnet_jax.statistics import estimate
from resnet_jax.training.compilation import jit

RANDOM = 'random'  # the order of pixels that maps are compared with
BLUR = 1 / 16  # standard deviation of insertion's blurred image, as a share of the image's side

Ranks = Int[np.ndarray, 'n h w']
Scores = Callable[[Array], Float[np.ndarray, ' n']]


# Deletion and insertion


def ranks(maps: Float[np.ndarray, 'n h w'], ties: Ranks) -> Ranks:
    """The rank of each pixel, 0 for the largest value; equal values in the order of `ties`.

    Args:
      maps: at the size of the images.
      ties: ranks; random ones, so that a map without any difference is a random order.
    """
    n, h, w = maps.shape
    order = np.lexsort((ties.reshape(n, -1), -maps.reshape(n, -1)), axis=-1)
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.broadcast_to(np.arange(h * w), order.shape), axis=-1)
    return found.reshape(n, h, w)


def random_ranks(numbers: Int[np.ndarray, ' n'], size: int, seed: int) -> Ranks:
    """Ranks at random, that depend on the seed and on each example's number alone."""
    drawn = [np.random.default_rng([seed, int(n)]).permutation(size * size) for n in numbers]
    return np.stack(drawn).reshape(len(drawn), size, size)


def curve(
    score: Scores,
    start: Float[Array, 'n h w c'],
    end: Float[Array, 'n h w c'],
    order: Ranks,
    fractions: Sequence[float],
) -> Float[np.ndarray, 'n points']:
    """The scores while a fraction of the pixels is replaced, those of the lowest ranks first.

    Args:
      score: of images, such as the probability of a class.
      start: the images before.
      end: the images after.
      order: ranks of the pixels.
      fractions: of the pixels, one for each point of the curve.
    """
    size = order[0].size
    points = []
    for fraction in fractions:
        replaced = jnp.asarray(order < round(fraction * size))[..., None]
        points.append(score(jnp.where(replaced, end, start)))
    return np.stack(points, axis=1)


def area(
    curves: Float[np.ndarray, 'n points'], fractions: Sequence[float]
) -> Float[np.ndarray, ' n']:
    """The area under each curve by the trapezoidal rule: a mean score."""
    return np.trapezoid(curves, fractions, axis=1)


def blurred(images: Float[Array, 'n h w c']) -> Float[Array, 'n h w c']:
    """Images without detail, from which insertion begins, so that no pixel makes an edge.

    rise2018 blurs less, for images of 224 pixels; by this much no network knows them any more.
    """
    from scipy import ndimage

    sigma = BLUR * images.shape[1]
    found = ndimage.gaussian_filter(np.asarray(images), (0, sigma, sigma, 0), mode='nearest')
    return jnp.asarray(found)


def deletion_and_insertion(
    model: ResNet,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    targets: Int[np.ndarray, ' n'],
    maps: Mapping[str, Maps],
    *,
    baseline: Float[Array, 'h w c'],
    points: int = 21,
    seed: int = 0,
) -> dict[str, Any]:
    """How fast the probability of a class falls and rises with the pixels of a map's order.

    Deletion replaces the pixels of the highest values first, by those of the baseline: a low area
    under the curve is good. Insertion begins with a blurred image and gives it the pixels of the
    highest values first: a high area is good. Both are compared with a random order, which also
    decides between equal values.

    Args:
      model: from `create_model`.
      variables: `params` and `batch_stats`.
      batches: the examples.
      targets: the class of each example.
      maps: by method, the raw maps of all examples.
      baseline: a normalised image without information.
      points: of each curve, from no pixel to all.
      seed: of the random order.

    Returns:
      'deletion' and 'insertion': method, and 'random' -> mean area, from 0 to 1; 'curves':
      'fraction', and for both: method -> {'mean': the mean curve, 'minus_random': {'mean', 'low',
      'high'}, of the area, with the 95 % interval over the examples}.
    """
    fractions = np.linspace(0, 1, points).tolist()
    names = (*maps, RANDOM)
    found: dict[str, dict[str, list[np.ndarray]]] = {
        kind: {name: [] for name in names} for kind in ('deletion', 'insertion')
    }
    first = 0
    for batch in batches:
        here = slice(first, first + int(batch.mask.sum()))
        images, size = batch.images, batch.images.shape[1]
        chosen = jnp.asarray(padded(targets[here], batch.mask), jnp.int32)
        score = functools.partial(_probabilities, model, variables, chosen)
        random = random_ranks(np.arange(first, first + len(images)), size, seed)
        ways = {
            'deletion': (images, jnp.broadcast_to(baseline, images.shape)),
            'insertion': (blurred(images), images),
        }
        for name in names:
            order = random
            if name != RANDOM:
                order = ranks(enlarged(padded(maps[name][here], batch.mask), size), random)
            for kind, (start, end) in ways.items():
                values = curve(score, start, end, order, fractions)
                found[kind][name].append(values[batch.mask])
        first = here.stop
    return _summary(found, fractions)


def _summary(
    found: Mapping[str, Mapping[str, Sequence[np.ndarray]]], fractions: Sequence[float]
) -> dict[str, Any]:
    result: dict[str, Any] = {'curves': {'fraction': list(fractions)}}
    for kind, by_name in found.items():
        curves = {name: np.concatenate(each) for name, each in by_name.items()}
        areas = {name: area(each, fractions) for name, each in curves.items()}
        result[kind] = {name: float(each.mean()) for name, each in areas.items()}
        result['curves'][kind] = {
            name: {
                'mean': each.mean(axis=0).tolist(),
                'minus_random': _interval(areas[name] - areas[RANDOM]),
            }
            for name, each in curves.items()
        }
    return result


def _interval(values: np.ndarray) -> dict[str, Any]:
    found = estimate([float(value) for value in values])
    return {'mean': found.mean, 'low': found.low, 'high': found.high, 'n': found.n}


def _probabilities(
    model: ResNet, variables: Mapping[str, Any], targets: Array, images: Array
) -> np.ndarray:
    return np.asarray(_compiled_probabilities(model)(variables, images, targets), np.float64)


@functools.lru_cache(maxsize=16)
def _compiled_probabilities(model: ResNet) -> Any:
    def run(variables: Mapping[str, Any], images: Array, targets: Array) -> Array:
        logits: Any = model.apply(variables, images, train=False)
        return of_targets(jax.nn.softmax(logits), targets)

    return jit(run)


# Random weights


def cascade(
    chain: Chain, trained: Mapping[str, Any], fresh: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Networks with more and more random weights, from the head downwards: adebayo2018, 3.1.

    Args:
      chain: of the model.
      trained: variables.
      fresh: variables at the start of a training; parameters and statistics are taken.

    Yields:
      The part that has become random, 'tail', the last block, ..., 'stem'; and the variables with
      it and all parts before it random.
    """
    trained, fresh = unstack_blocks(trained), unstack_blocks(fresh)
    done: set[str] = set()
    for part in reversed(list(chain)):
        done.add(part.name)

        def mix(path: Any, old: Array, new: Array) -> Array:
            keys = [key.key for key in path[1:]]  # without the collection
            for owner in (keys[0], '/'.join(keys[:2])):
                if owner in {chain.stem.name, *chain.names}:
                    return new if owner in done else old
            return new if chain.tail.name in done else old

        yield part.name, jax.tree_util.tree_map_with_path(mix, dict(trained), dict(fresh))


def rank_correlations(
    a: Float[np.ndarray, 'n ...'], b: Float[np.ndarray, 'n ...']
) -> Float[np.ndarray, ' n']:
    """Spearman's rank correlation of each pair of maps; NaN where one of them is constant."""
    from scipy import stats

    def standardised(maps: np.ndarray) -> np.ndarray:
        found = stats.rankdata(maps.reshape(len(maps), -1), axis=1)
        found -= found.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(found, axis=1, keepdims=True)
        return np.divide(found, norm, out=np.full_like(found, np.nan), where=norm > 0)

    return np.sum(standardised(a) * standardised(b), axis=1)


def sanity(
    chain: Chain,
    trained: Mapping[str, Any],
    fresh: Mapping[str, Any],
    maps: Mapping[str, Maps],
    explain: Callable[[Mapping[str, Any]], Mapping[str, Maps]],
    signed: Mapping[str, bool],
) -> dict[str, Any]:
    """How much of the maps is left when the weights become random, from the head downwards.

    A map that stays the same does not show what the network has learnt.

    Args:
      chain: of the model.
      trained: variables.
      fresh: variables at the start of a training.
      maps: of the trained network, by method.
      explain: gives the maps of other variables, of the same examples and classes.
      signed: of each method, whether its maps have signs; these are ignored, since a random network
        turns them at random (adebayo2018, figure 4, "ABS").

    Returns:
      'sanity': method -> part -> mean rank correlation with the map of the trained network, None
      where all maps are constant; 'sanity_intervals': method -> part -> {'mean', 'low', 'high',
      'n'}, the 95 % interval over the n examples whose maps are not constant;
      'sanity_other_images': method -> the mean rank correlation of the maps of different images,
      which is what maps of images in general have in common.
    """

    def magnitude(name: str, each: Maps) -> Maps:
        return np.abs(each) if signed[name] else each

    intervals: dict[str, dict[str, Any]] = {name: {} for name in maps}
    for part, variables in cascade(chain, trained, fresh):
        for name, random in explain(variables).items():
            values = rank_correlations(
                magnitude(name, maps[name]), magnitude(name, np.nan_to_num(random))
            )
            intervals[name][part] = _defined(values)
    others = {}
    for name, each in maps.items():
        absolute = magnitude(name, each)
        others[name] = _defined(rank_correlations(absolute, np.roll(absolute, 1, axis=0)))['mean']
    return {
        'sanity': {
            name: {part: found['mean'] for part, found in parts.items()}
            for name, parts in intervals.items()
        },
        'sanity_intervals': intervals,
        'sanity_other_images': others,
    }


def _defined(values: np.ndarray) -> dict[str, Any]:
    kept = values[np.isfinite(values)]
    if not len(kept):
        return {'mean': None, 'low': None, 'high': None, 'n': 0}
    return _interval(kept)
