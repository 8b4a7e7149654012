"""The tables of gpu.py."""

from typing import Any

import harness


def tables(plan: Any, found: dict[str, dict[str, Any]], peers: dict[str, Any]) -> str:
    """All tables that have figures.

    Args:
      plan: gpu.py's.
      found: figures by section and name.
      peers: what tables call them, first.
    """
    rates = found.get('roofline', {}).get('rates')
    parts = [roofline(rates)] if rates else []
    if 'resnet' in found:
        parts += [resnet(plan, found['resnet'], rates, peers, mode) for mode in ('train', 'infer')]
    if 'cifar' in found:
        parts.append(cifar(plan, found['cifar']))
    small = f'{plan.cifar[0][0]} {plan.cifar[0][1]}, batch {plan.batch}'
    if 'dispatch' in found:
        parts.append(counted(f'{small}: steps in one call', 'steps', found['dispatch']))
    if 'seeds' in found:
        parts.append(counted(f'{small}: seeds in one program', 'seeds', found['seeds']))
    if 'variants' in found:
        parts.append(variants(plan, found['variants']))
    return '\n\n'.join(['', *parts])


def roofline(rates: dict[str, Any]) -> str:
    """What the device does at most."""
    rows = [
        [f'matrix products, {name}', f'{rate / 1e12:.3g} TFLOP/s']
        for name, rate in rates['product_flops_per_second'].items()
    ]
    rows.append(['copying, read and written', f'{rates["copied_bytes_per_second"] / 1e9:.1f} GB/s'])
    return harness.table([rates['device'], 'measured'], rows)


def resnet(
    plan: Any, figures: dict[str, Any], rates: dict[str, Any] | None, peers: Any, mode: str
) -> str:
    """Images a second and the share of what the device can do."""
    factor = {'train': 3, 'infer': 1}[mode]
    rows = []
    for batch in sorted(plan.batches):
        speeds = {peer: figures.get(f'{mode} {batch} {peer}') for peer in plan.peers}
        ours = (speeds.get('bare') or {}).get('images_per_second')
        for peer, found in speeds.items():
            name = 'ours' if peer == 'bare' else peers[peer][0]
            if found is None:
                continue
            if 'error' in found:
                rows.append([batch, name, found['error'][:60], *[''] * 5])
                continue
            speed, seconds = found['images_per_second'], found['step_seconds']
            cells = ['', '']
            if rates:
                flops = 2 * factor * rates['multiply_adds'][f'{plan.model} {plan.size}'] * speed
                peak = rates['product_flops_per_second']['bfloat16']
                cells = [f'{flops / 1e12:.3g}', f'{100 * flops / peak:.1f} %']
            span = f'{batch / seconds["max"]:.0f} to {batch / seconds["min"]:.0f}'
            ratio = f'{ours / speed:.2f}' if ours else ''
            build = f'{found["build_seconds"]:.0f}'
            rows.append([batch, name, f'{speed:.0f}', span, *cells, ratio, build])
    title = {'train': 'training step', 'infer': 'inference'}[mode]
    head = f'{plan.model}, {plan.size}x{plan.size}, {plan.dtype}: {title}'
    columns = ['batch', 'program', 'images/s', 'min to max', 'TFLOP/s', 'of the products']
    return f'{head}\n{harness.table([*columns, "ours / this", "build, s"], rows)}'


def cifar(plan: Any, figures: dict[str, Any]) -> str:
    """Epoch times."""
    rows = []
    for name, found in figures.items():
        if 'error' in found:
            rows.append([name, found['error'][:60], '', '', ''])
            continue
        speed, step = found['images_per_second'], found['step_seconds']
        span = f'{1e3 * step["min"]:.2f} to {1e3 * step["max"]:.2f}'
        seconds = [f'{plan.epoch / speed:.2f}', f'{1e3 * step["median"]:.2f}']
        rows.append([name, *seconds, span, f'{speed:.0f}'])
    head = f'an epoch of {plan.epoch} images on the device, batch {plan.batch}'
    return f'{head}\n' + harness.table(
        ['net', 'epoch, s', 'step, ms', 'min to max', 'images/s'], rows
    )


def counted(head: str, column: str, figures: dict[str, Any]) -> str:
    """Images a second of all runs by a count, over those at the first count."""
    base = next(iter(figures.values())).get('images_per_second')
    rows = []
    for count, found in figures.items():
        if 'error' in found:
            rows.append([count, found['error'][:60], '', ''])
            continue
        speed = found['images_per_second']
        step = f'{1e3 * found["step_seconds"]["median"]:.2f}'
        rows.append([count, f'{speed:.0f}', f'{speed / base:.2f}' if base else '', step])
    return f'{head}\n{harness.table([column, "images/s", "over the first", "step, ms"], rows)}'


def variants(plan: Any, figures: dict[str, Any]) -> str:
    """Speed under each set of flags over that without."""
    base = figures.get('as it is', {}).get('images_per_second')
    rows = []
    for name, found in figures.items():
        speed = found.get('images_per_second')
        if speed is None:
            rows.append([name, found['error'][:60], '', ''])
            continue
        ratio = f'{speed / base:.3f}' if base else ''
        rows.append([name, f'{speed:.0f}', ratio, f'{found["build_seconds"]:.0f}'])
    head = f'{plan.model}, batch {plan.batches[0]}, training under flags of XLA'
    return f'{head}\n{harness.table(["flags", "images/s", "over as it is", "build, s"], rows)}'
