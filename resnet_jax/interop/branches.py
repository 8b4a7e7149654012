"""Branches: the nets in one file of weights, told apart by what precedes the names of a body.

A training script saves more than one net's weights: averaged ones beside the last ones, the two
networks of self-supervised training, heads and queues. The names of a body, such as
`layer1.0.conv1.weight`, show where each net stands: its branch is what precedes them,
`state_dict.module.encoder_q.`.
"""

import collections
import re
from collections.abc import Iterable, Sequence

from resnet_jax.errors import InputError

# Which branch is taken of several that fit: the first of these rows with a segment of the branch
# gives its rank. The lowest is taken, and of the same rank the first in the file. What the
# publishers evaluate comes first.
RANKS: tuple[tuple[str, int], ...] = (
    # mmengine/hooks/ema_hook.py swaps the two when it saves: state_dict has the averaged weights.
    (r'ema_state_dict', 9),
    # timm/models/_helpers.py, load_state_dict(use_ema=True): the averaged weights.
    (r'\w+_ema|ema|ema_\w+', 0),
    # DINO, eval_linear.py and eval_knn.py: --checkpoint_key teacher.
    (r'teacher\w*', 1),
    # The net that is kept and that gradients train: MoCo, main_lincls.py, encoder_q; MoCo v3,
    # main_lincls.py, base_encoder; BYOL, arXiv 2006.07733, section 3.1, the online encoder. Those
    # below are their companions.
    (r'encoder_q|query_\w+|base_encoder|online\w*', 2),
    (r'encoder_k|key_\w+|momentum\w*|\w+_momentum|target\w*|student\w*', 9),
)
_OTHERWISE = 5
GROUPS_SHOWN = 6


def find(names: Iterable[str], anchor: str) -> list[str]:
    """The branches of a file in which a net of some layout stands.

    Args:
      names: of the file's tensors.
      anchor: a tensor that every body of the layout has.

    Returns:
      What precedes the anchor's name, such as 'module.', in the order of the file; the empty text
      where nothing does.
    """
    found = (name.removesuffix(anchor) for name in names if name.endswith(anchor))
    return [branch for branch in found if not branch or branch[-1] in './']


def rank(branch: str) -> int:
    """The rank of a branch among those that fit equally, see `RANKS`; the lowest is taken."""
    found = segments(branch)
    for pattern, number in RANKS:
        if any(re.fullmatch(pattern, segment) for segment in found):
            return number
    return _OTHERWISE


def segments(name: str) -> list[str]:
    """The parts of a name between dots or slashes."""
    return [part for part in re.split('[./]', name) if part]


def is_under(branch: str, key: str) -> bool:
    """Whether a branch is the one that a key names: some of its segments, one after another."""
    parts, wanted = segments(branch), segments(key)
    count = len(wanted)
    return any(parts[i : i + count] == wanted for i in range(len(parts) - count + 1))


def choose(branches: Sequence[str], key: str) -> list[str]:
    """The branches that a key names.

    Raises:
      InputError: if there is none, listing those that there are.
    """
    if found := [branch for branch in branches if is_under(branch, key)]:
        return found
    named = [label(branch) for branch in dict.fromkeys(branches) if branch]
    there = f'there are {", ".join(named)}' if named else 'the file has one net, leave the key out'
    raise InputError(f'no weights under the key {key!r} (weights_key); {there}')


def label(branch: str) -> str:
    """A branch for a message."""
    return branch.rstrip('./') or 'the names without a prefix'


def parents(branch: str) -> list[str]:
    """A branch and what it stands in, from the inside out: 'a.b.', 'a.', ''."""
    ends = [m.end() for m in re.finditer('[./]', branch)]
    return [branch[:end] for end in reversed(ends)] + ['']


def left_over_groups(names: Iterable[str], branch: str) -> str:
    """'encoder_k x 318, queue, ...': names outside a branch, by where they part from it."""
    taken = segments(branch)
    groups: collections.Counter[str] = collections.Counter()
    for name in names:
        parts = segments(name)
        same = 0
        while same < min(len(taken), len(parts) - 1) and parts[same] == taken[same]:
            same += 1
        groups['.'.join(parts[: same + 1])] += 1
    listed = [group if n == 1 else f'{group} x {n}' for group, n in groups.most_common()]
    return ', '.join(listed[:GROUPS_SHOWN] + ['...'] * (len(listed) > GROUPS_SHOWN))
