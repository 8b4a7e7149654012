"""What is measured, and what a program to be measured is."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Case:
    """What is computed.

    Attributes:
      model: our name of the net.
      batch: images in a step.
      size: height and width of the images.
      classes: number of logits.
      dtype: of the computation; parameters are float32.
      fields: of our model that differ from its row; ours alone knows them.
      seeds: runs that are trained in one program; ours alone can.
      dispatch: steps in one call of the host; likewise.
    """

    model: str
    batch: int
    size: int
    classes: int = 10
    dtype: str = 'float32'
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: int = 1
    dispatch: int = 1


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      parameters: of the net.
      steps: takes n steps, a multiple of the case's dispatch, waits for them, and returns the last
        loss (0 in inference).
    """

    parameters: int
    steps: Callable[[int], float]
