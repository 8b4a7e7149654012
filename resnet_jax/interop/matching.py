"""Match the tensors of a file with those of a model: find the layout and what does not fit."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.interop import branches
from resnet_jax.interop.layouts import (
    IGNORED,
    OURS,
    Path,
    input_channels,
    model_shapes,
    same_shape,
    tensor_names,
    their_shape,
)
from resnet_jax.interop.publishers import LAYOUTS
from resnet_jax.models.quantized import RANGE
from resnet_jax.models.registry import create_model
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.rows import MODELS
from resnet_jax.models.stem import STEMS

Sizes = Mapping[str, tuple[int, ...]]  # shapes of the tensors of a file, by name
STEM_KERNEL = ('params', 'stem', 'conv1', 'kernel')
# Every net has this tensor, or a factor of it, and its name stands in no other place of a net.
ANCHOR = ('params', 'stage1', 'block1', 'conv1', 'kernel')
GROUPS_SHOWN = 3
# What classifiers are called, in layouts and in the training scripts around them.
HEADS = ('fc', 'head.fc', 'linear', 'classifier.1', 'classifier', 'head', 'last_linear')
_NEW_HEAD = 'to train a new head, set reset_head: init.reset_head=True of a config'


def image_kernels(model: ResNet) -> tuple[Path, ...]:
    """The paths of the kernels that take the images: of the stem, or of the first block."""
    if STEMS[model.stem].convolutions:
        return (STEM_KERNEL,)
    names = 'conv1', 'shortcut_conv', 'gate_conv'
    return tuple(('params', 'stage1', 'block1', name, 'kernel') for name in names)


@dataclasses.dataclass(frozen=True)
class Match:
    """The tensors of a file compared with those of a model.

    Attributes:
      layout: a key of `LAYOUTS`, or `OURS`.
      branch: what precedes the body's names in the file, see `branches`.
      names: path in the model -> name in the file, of the tensors that fit.
      head: names in the file of the head's tensors; empty if it has none.
      missing: names that the branch lacks.
      foreign: names in the branch that belong to another body than the model's.
      wrong: (name, shape in the file, shape in the model).
      left_over: names in the file that the model does not use and that are no fault: projections,
        queues, losses, other branches.
    """

    layout: str
    branch: str
    names: dict[Path, str]
    head: list[str]
    missing: list[str]
    foreign: list[str]
    wrong: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    left_over: list[str]

    @property
    def faults(self) -> int:
        """The number of tensors that do not fit."""
        return len(self.missing) + len(self.foreign) + len(self.wrong)


def match(
    sizes: Sizes, model: ResNet, reset_head: bool = False, weights_key: str | None = None
) -> Match:
    """Finds the layout and the branch of a file: those in which most tensors fit the model.

    Args:
      sizes: shapes of the file's tensors.
      model: the model.
      reset_head: leave out the head on both sides.
      weights_key: of the branch; None: of those that fit, the one of the lowest `branches.rank`.

    Raises:
      InputError: if the file has no such branch.
    """
    expected = {}
    for layout in (OURS, *LAYOUTS):
        try:
            # Ranges of quantised inputs are ours, and need not be there: training begins without.
            paths = [p for p in model_shapes(model) if layout == OURS or p[-1] != RANGE]
            expected[layout] = tensor_names(model, paths, layout)
        except InputError:  # the layout has no names for such a model
            continue
    found = {
        layout: branches.find(sizes, _bare(_anchor(names), layout))
        for layout, names in expected.items()
    }
    if weights_key is not None:
        known = branches.choose([b for one in found.values() for b in one], weights_key)
        found = {layout: [b for b in one if b in known] for layout, one in found.items()}
    elif not any(found.values()):
        found = {layout: [''] for layout in found}
    matches = [
        _compare(sizes, model, layout, expected[layout], branch, reset_head)
        for layout, one in found.items()
        for branch in one
    ]
    return min(matches, key=_preference)


def _preference(found: Match) -> tuple[int, int, bool, int]:
    """The lowest is the match to take; of layouts that fit, that with its own name of the head."""
    own = '/kernel' if found.layout == OURS else f'{LAYOUTS[found.layout].head}.weight'
    foreign_head = not any(name.endswith(own) for name in found.head)
    return found.faults, branches.rank(found.branch), foreign_head, -len(found.names)


def _anchor(names: Mapping[Path, str]) -> str:
    return names[ANCHOR] if ANCHOR in names else names[(*ANCHOR[:-1], 'down', ANCHOR[-1])]


def _bare(name: str, layout: str) -> str:
    """The name of a part of the body, without what the publisher puts before it."""
    return name if layout == OURS else name.removeprefix(LAYOUTS[layout].body_prefix)


def _compare(
    sizes: Sizes,
    model: ResNet,
    layout: str,
    expected: Mapping[Path, str],
    branch: str,
    reset_head: bool,
) -> Match:
    shapes = model_shapes(model)
    own = 'params/head' if layout == OURS else LAYOUTS[layout].head
    leaves = {p: name.removeprefix(own) for p, name in expected.items() if p[1] == 'head'}
    module = _find_head(sizes, layout, own, leaves.values(), branch)
    head = {path: (module or branch + own) + leaf for path, leaf in leaves.items()}
    body = {p: branch + _bare(name, layout) for p, name in expected.items() if p not in head}
    names: dict[Path, str] = {}
    missing, wrong = [], []
    for path, name in (body if reset_head else body | head).items():
        shape = shapes[path].shape
        if path in image_kernels(model):  # images may have any number of channels
            shape = (*shape[:-2], _channels(sizes, name, layout) or shape[-2], shape[-1])
        ours = their_shape(path, shape, layout)
        if path[-1] == RANGE and name not in sizes:
            continue
        if name not in sizes or (path in head and module is None):
            missing.append(name.removeprefix(branch))
        elif not same_shape(path, tuple(sizes[name]), ours, layout):
            wrong.append((name.removeprefix(branch), tuple(sizes[name]), ours))
        else:
            names[path] = name
    stored = [] if module is None else sorted(head.values())
    known = {*body.values(), *stored}
    unused = [name for name in sizes if name not in known and not name.endswith(IGNORED)]
    kinds = {_kind(name, branch) for name in body.values()}
    foreign = {n for n in unused if n.startswith(branch) and _kind(n, branch) in kinds}
    return Match(
        layout,
        branch,
        names,
        stored,
        missing,
        [name.removeprefix(branch) for name in unused if name in foreign],
        wrong,
        [name for name in unused if name not in foreign],
    )


def _kind(name: str, branch: str) -> str:
    """The first segment of a name in a branch, without its number: 'layer' of 'layer3.0.conv1'."""
    return branches.segments(name.removeprefix(branch))[0].rstrip('0123456789')


def _find_head(
    sizes: Sizes, layout: str, own: str, leaves: Iterable[str], branch: str
) -> str | None:
    """The name of the classifier: in the branch or, as around a backbone, beside it; None: none.

    In a file with MoCo's queue, a layer of such a name is a projection.
    """
    parents, leaves = branches.parents(branch), list(leaves)
    if layout == OURS:
        parents = [branch]
    elif any(f'{parent}queue' in sizes for parent in parents):
        return None
    kinds = (own,) if layout == OURS else (own, *HEADS)
    modules = (parent + kind for parent in parents for kind in kinds)
    return next((m for m in modules if all(m + leaf in sizes for leaf in leaves)), None)


def _channels(sizes: Sizes, stem: str, layout: str) -> int | None:
    """The number of channels of the images that the file's stem takes, None without a stem."""
    shape = sizes.get(stem)
    if shape is None or len(shape) < 3:
        return None
    return input_channels(tuple(shape), layout)


def check(found: Match, sizes: Sizes, where: str, model: ResNet) -> None:
    """Raises an error for a file that does not fit.

    Args:
      found: from `match`.
      sizes: shapes of the file's tensors.
      where: the file, for messages.
      model: the model.

    Raises:
      InputError: listing, in groups, what is missing, left over or of another shape, and the
        registered models that would fit.
    """
    if not found.faults:
        return
    if needed_fields(sizes, model):
        raise InputError(
            f'{where} has the names and shapes of the model, but in nets of that layout the first '
            'block activates only its branch, in this model its shortcut too (he2016): set '
            'raw_first_shortcut=True'
        )
    head = [w for w in found.wrong if {w[0], found.branch + w[0]} & set(found.head)]
    if found.faults == len(head):
        theirs, ours = head[0][1:]
        raise InputError(
            f'the head in {where} ({head[0][0]}) is {list(theirs)}, that of the model '
            f'{list(ours)}; make the model with as many classes as the file has, or '
            f'{_NEW_HEAD}'
        )
    if found.faults == len(found.missing) and not found.head and _is_body(found, model):
        raise InputError(
            f'{where} holds the body of the model and no head: {len(found.missing)} tensors are '
            f'missing ({_grouped(found.missing)}); {_NEW_HEAD}'
        )
    parts = []
    if found.missing:
        parts.append(f'{len(found.missing)} tensors are missing ({_grouped(found.missing)})')
    if unused := [*found.foreign, *found.left_over]:
        parts.append(f'{len(unused)} are left over ({_grouped(unused)})')
    if found.wrong:
        name, theirs, ours = found.wrong[0]
        parts.append(
            f'{len(found.wrong)} have another shape ({name} is {list(theirs)}, should be '
            f'{list(ours)}{", ..." if len(found.wrong) > 1 else ""})'
        )
    fits = fitting_models(sizes)
    hint = f'it fits {" or ".join(fits)}' if fits else 'it fits no registered model'
    raise InputError(f'{where} does not fit the model: {"; ".join(parts)}; {hint}')


def _is_body(found: Match, model: ResNet) -> bool:
    """Whether all but the head fits."""
    return all(path[1] == 'head' or path in found.names for path in model_shapes(model))


def needed_fields(sizes: Sizes, model: ResNet, weights_key: str | None = None) -> dict[str, Any]:
    """The fields of a model without which the tensors of a file would compute another function.

    Args:
      sizes: shapes of the file's tensors.
      model: the model; its number of classes does not matter.
      weights_key: as for `match`.

    Returns:
      The fields and their values; none if the model is right as it is, or does not fit anyway.
    """
    raw = dataclasses.replace(model.block, raw_first_shortcut=True)
    if raw == model.block or not match(sizes, model, True, weights_key).faults:
        return {}
    fits = not match(sizes, model.clone(block=raw), True, weights_key).faults
    return {'raw_first_shortcut': True} if fits else {}


def choice_note(found: Match) -> str:
    """Which branch of a file was taken and what is left over; empty if nothing is."""
    if not found.left_over:
        return ''
    groups = branches.left_over_groups(found.left_over, found.branch)
    return (
        f'took {branches.label(found.branch)}, {len(found.names)} tensors; left over: {groups} '
        '(weights_key chooses another branch)'
    )


def _grouped(names: list[str]) -> str:
    """'layer*.*.conv*.weight x 16, fc.weight, ...': groups names that differ only in numbers."""
    groups = collections.Counter(re.sub(r'\d+', '*', n) if '.' in n else n for n in names)
    first = {re.sub(r'\d+', '*', n) if '.' in n else n: n for n in reversed(names)}
    shown = [
        first[group] if count == 1 else f'{group} x {count}'
        for group, count in groups.most_common(GROUPS_SHOWN)
    ]
    return ', '.join(shown + ['...'] * (len(groups) > GROUPS_SHOWN))


def fitting_models(sizes: Sizes) -> list[str]:
    """Finds the registered models that a file fits, up to the number of classes."""
    stages = {
        found for layout in (OURS, *LAYOUTS) if (found := _stage_sizes(sizes, layout)) is not None
    }
    candidates = [name for name, row in MODELS.items() if row.settings['stage_sizes'] in stages]
    return [n for n in candidates if not match(sizes, create_model(n), reset_head=True).faults]


def _stage_sizes(names: Iterable[str], layout: str) -> tuple[int, ...] | None:
    """The number of blocks in each stage of a file, from the names of its tensors."""
    block = 'stage{stage}/block{block}' if layout == OURS else LAYOUTS[layout].block
    if '{stage}' not in block:
        return None
    pattern = re.sub(r'\\\{(?:stage|block)(?::\d+)?\\\}', r'(\\d+)', re.escape(block))
    found = re.compile(rf'(?:^|[./]){pattern}[./]')
    blocks = {(m[1], m[2]) for name in names if (m := found.search(name))}
    counts = collections.Counter(int(stage) for stage, _ in blocks)
    return tuple(counts[stage] for stage in sorted(counts)) or None
