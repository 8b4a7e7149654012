"""Match the tensors of a file with those of a model: find the layout and what does not fit."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping

from resnet_jax.errors import InputError
from resnet_jax.interop.layouts import (
    IGNORED,
    LAYOUTS,
    OURS,
    WRAPPERS,
    Path,
    input_channels,
    model_shapes,
    same_shape,
    tensor_names,
    their_shape,
)
from resnet_jax.models.registry import MODELS, create_model
from resnet_jax.models.resnet import ResNet

Sizes = Mapping[str, tuple[int, ...]]  # shapes of the tensors of a file, by name
STEM_KERNEL = ('params', 'stem', 'conv1', 'kernel')
GROUPS_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Match:
    """The tensors of a file compared with those of a model.

    Attributes:
      layout: a key of `LAYOUTS`, or `OURS`.
      names: path in the model -> name in the file, of the tensors that fit.
      head: names of the head's tensors in this layout.
      missing: names that the file lacks.
      left_over: names that the model does not use.
      wrong: (name, shape in the file, shape in the model).
    """

    layout: str
    names: dict[Path, str]
    head: list[str]
    missing: list[str]
    left_over: list[str]
    wrong: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    @property
    def faults(self) -> int:
        """The number of tensors that do not fit."""
        return len(self.missing) + len(self.left_over) + len(self.wrong)


def match(sizes: Sizes, model: ResNet, reset_head: bool = False) -> Match:
    """Finds the layout of a file: the one in which most tensors fit the model.

    Args:
      sizes: shapes of the file's tensors.
      model: the model.
      reset_head: leave out the head on both sides.
    """
    wrapper = _wrapper([name for name in sizes if not name.endswith(IGNORED)])
    bare = {name.removeprefix(wrapper): shape for name, shape in sizes.items()}
    matches = []
    for layout in (OURS, *LAYOUTS):
        try:
            matches.append(_match(bare, model, layout, reset_head))
        except InputError:  # the layout has no names for such a model
            continue
    best = min(matches, key=lambda m: (m.faults, -len(m.names)))
    return dataclasses.replace(
        best,
        names={path: wrapper + name for path, name in best.names.items()},
        head=[wrapper + name for name in best.head],
    )


def _wrapper(names: Iterable[str]) -> str:
    """The prefix of all names that comes from wrapping the model: 'module.', 'model.module.'."""
    names, wrapper = list(names), ''
    while found := next((w for w in WRAPPERS if all(n.startswith(w) for n in names)), ''):
        names, wrapper = [name.removeprefix(found) for name in names], wrapper + found
        if not names:
            break
    return wrapper


def _match(sizes: Sizes, model: ResNet, layout: str, reset_head: bool) -> Match:
    shapes = model_shapes(model, _channels(sizes, model, layout))
    expected = tensor_names(model, shapes, layout)
    if layout != OURS:
        prefix = LAYOUTS[layout].body_prefix
        if not any(name.startswith(prefix) for name in sizes):  # a file of the body alone
            expected = {path: name.removeprefix(prefix) for path, name in expected.items()}
    head = {name for path, name in expected.items() if path[1] == 'head'}
    if reset_head:
        expected = {path: name for path, name in expected.items() if name not in head}
    names: dict[Path, str] = {}
    missing, wrong = [], []
    for path, name in expected.items():
        ours = their_shape(path, shapes[path].shape, layout)
        if name not in sizes:
            missing.append(name)
        elif not same_shape(path, tuple(sizes[name]), ours, layout):
            wrong.append((name, tuple(sizes[name]), ours))
        else:
            names[path] = name
    known = head | set(expected.values())
    left_over = [n for n in sizes if n not in known and not n.endswith(IGNORED)]
    return Match(layout, names, sorted(head), missing, left_over, wrong)


def _channels(sizes: Sizes, model: ResNet, layout: str) -> int:
    """The number of channels of the images that the file's stem takes."""
    stem = sizes.get(tensor_names(model, [STEM_KERNEL], layout)[STEM_KERNEL])
    if stem is None or len(stem) < 3:
        return 3
    return input_channels(tuple(stem), layout)


def check(found: Match, sizes: Sizes, where: str, model: ResNet, reset_head: bool) -> None:
    """Raises an error for a file that does not fit.

    Args:
      found: from `match`.
      sizes: shapes of the file's tensors.
      where: the file, for messages.
      model: the model.
      reset_head: as for `match`.

    Raises:
      InputError: listing, in groups, what is missing, left over or of another shape, and the
        registered models that would fit.
    """
    if not found.faults:
        return
    raw = dataclasses.replace(model.block, raw_first_shortcut=True)
    if raw != model.block and not match(sizes, model.clone(block=raw), reset_head).faults:
        raise InputError(
            f'{where} has the names and shapes of the model, but in nets of that layout the first '
            'block activates only its branch, in this model its shortcut too (he2016): set '
            'raw_first_shortcut=True'
        )
    head = [w for w in found.wrong if re.search(r'(^|[./])(head|fc|linear|classifier)\b', w[0])]
    if found.faults == len(head):
        theirs, ours = head[0][1:]
        raise InputError(
            f'the head in {where} ({head[0][0]}) is {list(theirs)}, that of the model '
            f'{list(ours)}; make the model with as many classes as the file has, or set '
            'reset_head to initialise a new head'
        )
    parts = []
    if found.missing:
        parts.append(f'{len(found.missing)} tensors are missing ({_grouped(found.missing)})')
    if found.left_over:
        parts.append(f'{len(found.left_over)} are left over ({_grouped(found.left_over)})')
    if found.wrong:
        name, theirs, ours = found.wrong[0]
        parts.append(
            f'{len(found.wrong)} have another shape ({name} is {list(theirs)}, should be '
            f'{list(ours)}{", ..." if len(found.wrong) > 1 else ""})'
        )
    fits = fitting_models(sizes)
    hint = f'it fits {" or ".join(fits)}' if fits else 'it fits no registered model'
    raise InputError(f'{where} does not fit the model: {"; ".join(parts)}; {hint}')


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
    pattern = re.sub(r'\\\{(?:stage|block)(?::\d+)?\\\}', r'(\\d+)', re.escape(block))
    found = re.compile(rf'(?:^|[./]){pattern}[./]')
    blocks = {(m[1], m[2]) for name in names if (m := found.search(name))}
    counts = collections.Counter(int(stage) for stage, _ in blocks)
    return tuple(counts[stage] for stage in sorted(counts)) or None
