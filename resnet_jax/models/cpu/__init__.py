"""Forms of operations that XLA's CPU backend runs faster than the usual ones, behind one switch.

The models ask `enabled()` while they are traced; where it is false, nothing of this package gets
into the program. The forms compute the same functions as the ones they replace.

    convolution.py   convolutions of few channels or few pixels, and those inside a `lax.scan`
    batch_norm.py    the sums of batch normalisation and of its gradient
    transpose.py     linear functions with a hand-written transpose, which the other two use
    compiler.py      compiler options for the CPU backend
"""

import contextlib

import jax

# Part of the key under which JAX caches what it has traced: the same function is traced again
# where the switch has changed.
_forms_wanted = jax.make_user_context(True)


def enabled() -> bool:
    """Whether to trace the CPU forms: the default backend is the CPU and nothing disables them."""
    return _forms_wanted.value and jax.default_backend() == 'cpu'


def disabled() -> contextlib.AbstractContextManager[None]:
    """A context in which what is traced is the same for all backends.

    For a program that runs elsewhere than on this process's default backend, such as an exported
    one:

        with cpu.disabled():
            exported = jax.export.export(jax.jit(function), platforms=['cuda', 'tpu'])(images)
    """
    return _forms_wanted(False)
