"""Runs that differ in their seeds alone."""

SEEDS = (3, 0, 11)
FIELDS = {'train.steps': 8, 'train.eval_every': 4, 'checkpoint.every': 4,
          'augment.transforms': 'pad_crop(pad=1), mixup_or_cutmix'}  # fmt: skip


def folders_in(path):
    return [path / f'seed{seed}' for seed in SEEDS]
