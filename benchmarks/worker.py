"""A process that runs `programs` for another one, which talks to it by `harness.ask`.

`{'peer', 'mode', 'case'}` builds, compiles and warms up; then `{'steps': n}` measures. An error
that a question causes is an answer too: `{'error'}`.
"""

import gc
import time
from typing import Any

import harness
import programs
from cases import Case, Program


def main() -> None:
    current: list[Program] = []

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        try:
            if 'peer' in question:
                current.clear()
                gc.collect()  # what the last program held on the device
                case = Case(**question['case'])
                program, seconds = programs.build(question['peer'], question['mode'], case)
                current.append(program)
                return {'parameters': program.parameters, 'build_seconds': seconds}
            start = time.perf_counter()
            loss = current[0].steps(question['steps'])
            return {'seconds': time.perf_counter() - start, 'loss': loss}
        except Exception as error:  # whoever asked decides what it means
            return {'error': ' '.join(f'{type(error).__name__}: {error}'.split())[:300]}

    harness.serve(answer)


if __name__ == '__main__':
    main()
