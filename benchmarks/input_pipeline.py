"""Images per second: decoding, decoding with a random crop, and whole input pipelines, with peers.

    python benchmarks/input_pipeline.py --data-dir DIR --tensorflow PYTHON

DIR holds the TFDS data set imagenette224, and PYTHON is that of an environment with
tensorflow-cpu and numpy; without it TensorFlow is left out. The images are Imagenette's, JPEGs of
224x224, and the same enlarged to 500x375 (bicubic, quality 90): those have the size of ImageNet's,
and less detail. Every reader runs in a process of its own, a repetition each in turn; one that
resizes without antialiasing does less work than the others; the tables name it as such.
"""

import contextlib
import io
import os
import pathlib
import statistics
import tempfile
import time

import harness

IMAGES = 256
SIZES = {'224x224': None, '500x375': (500, 375)}
WORKERS = (0, 1, 2)  # 0: as many threads as there are cores, and what tf.data tunes itself
READERS = str(pathlib.Path(__file__).parent / 'input_readers.py')
TENSORFLOW = 'tf'


def write_files(data_dir, folder):
    """The files of each size, as PATH/SIZE/train/CLASS/NUMBER.jpg."""
    from PIL import Image

    from resnet_jax import data

    source = data.open_source('tfds:imagenette224', 'train', data_dir)
    step = len(source) // IMAGES
    for i, (picture, label) in enumerate(source.pictures(range(0, step * IMAGES, step))):
        for name, size in SIZES.items():
            file = picture.image
            if size is not None:
                out = io.BytesIO()
                image = Image.open(io.BytesIO(file)).convert('RGB')
                image.resize(size, Image.Resampling.BICUBIC).save(out, 'JPEG', quality=90)
                file = out.getvalue()
            path = folder / name / 'train' / str(label) / f'{i}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file)


def questions(sections, with_tensorflow):
    """Name -> (section, size, reader, workers) of everything that is measured."""
    import input_readers

    for section in sections:
        for size in SIZES:
            for workers in WORKERS if section == 'pipeline' else (0,):
                for reader in input_readers.READERS[section]:
                    if reader.startswith(TENSORFLOW) and not with_tensorflow:
                        continue
                    yield section, size, reader, workers


def measure(options, folder):
    """(section, size, reader, workers) -> images per second of each repetition, or an error."""
    found = {}
    for section in options.sections:
        keys = list(questions([section], options.tensorflow))
        for size in SIZES:
            for workers in options.workers:
                here = [key for key in keys if key[1] == size and key[3] == workers]
                with contextlib.ExitStack() as stack:
                    found |= _in_turn(here, options, folder / size, stack)
    return found


def _in_turn(keys, options, folder, stack):
    programs = {}
    for key in keys:
        section, _, reader, workers = key
        python = {'python': options.tensorflow} if reader.startswith(TENSORFLOW) else {}
        quiet = {'TF_CPP_MIN_LOG_LEVEL': '3', 'TF_ENABLE_ONEDNN_OPTS': '0'}
        threads = {'OMP_NUM_THREADS': '1', 'TF_NUM_INTEROP_THREADS': '1'}
        one = {**threads, 'TF_NUM_INTRAOP_THREADS': '1'} if section != 'pipeline' else {}
        environment = {**quiet, **one}
        worker = harness.start_worker([READERS], environment, **python)
        stack.callback(harness.stop_worker, worker)
        question = {
            'section': section, 'reader': reader, 'folder': str(folder), 'workers': workers
        }  # fmt: skip
        programs[key] = lambda worker=worker, question=question: harness.ask(worker, question)
    for program in programs.values():
        program()  # warms up
    return harness.in_turn(programs, options.repetitions)


def first_batch(data_dir):
    """Seconds from nothing to the first batch of Imagenette, imports included, in a new process."""
    code = (
        'import sys, time; began = time.perf_counter()\n'
        'from resnet_jax import data\n'
        f'source = data.open_source("tfds:imagenette224", "train", {data_dir!r})\n'
        'made = data.Preprocessing(224, 3, None, (.5,) * 3, (1.,) * 3, source.class_names)\n'
        'opened = time.perf_counter()\n'
        'batches = data.train_batches(source, made, seed=0, batch_size=64, first_step=0,\n'
        '    last_step=100, transforms=("random_resized_crop",))\n'
        'next(iter(batches)); batches.close()\n'
        'print(time.perf_counter() - began, time.perf_counter() - opened)'
    )
    return [float(x) for x in harness.output_of(['-c', code]).split()]


def memory(entries):
    """Peak MiB of a process that reads batches of a synthetic data set of `entries` images."""
    code = (
        'import functools, resource, numpy as np\n'
        'from resnet_jax import data\n'
        'from resnet_jax.data.sources import Source\n'
        'image = np.zeros((256, 256, 3), np.uint8)\n'
        'def read(split, indices): return [(image, 0) for _ in indices]\n'
        f'source = Source("many", "train", ("a",), 3, read, (("train", 0, {entries}),))\n'
        'made = data.Preprocessing(224, 3, None, (.5,) * 3, (1.,) * 3, ("a",))\n'
        'batches = data.train_batches(source, made, seed=0, batch_size=64, first_step=0,\n'
        '    last_step=20, transforms=("random_resized_crop",))\n'
        'for batch in batches: pass\n'
        'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)'
    )
    return float(harness.output_of(['-c', code]))


def report(found):
    """Prints a table for each section and size; the rows as they go to JSON."""
    rows = []
    for (section, size, reader, workers), values in found.items():
        errors = [value['error'] for value in values if isinstance(value, dict)]
        ours = found[section, size, 'ours', workers]
        row = {'section': section, 'size': size, 'reader': reader, 'workers': workers}
        if errors:
            rows.append({**row, 'error': errors[0]})
            continue
        times = statistics.median(ours) / statistics.median(values)
        rows.append({**row, 'images_per_second': harness.spread(values), 'ours_times': times})
    for section, size, workers in dict.fromkeys(
        (row['section'], row['size'], row['workers']) for row in rows
    ):
        print(
            f'\n{section}, {size}'
            + (f', {workers or "no"} workers' if section == 'pipeline' else '')
        )
        here = [
            r for r in rows if (r['section'], r['size'], r['workers']) == (section, size, workers)
        ]
        lines = []
        for row in here:
            if 'error' in row:
                lines.append([row['reader'], 'failed', row['error'][:60], ''])
                continue
            speed = row['images_per_second']
            ends = f'{speed["min"]:.0f} to {speed["max"]:.0f}'
            lines.append(
                [row['reader'], f'{speed["median"]:.0f}', ends, f'{row["ours_times"]:.2f}']
            )
        print(harness.table(['', 'images/s', 'range', 'ours, times'], lines))
    return rows


def main():
    parser = harness.parser(__doc__, repetitions=7)
    parser.add_argument('--data-dir', required=True, metavar='DIR', help='with imagenette224')
    parser.add_argument('--tensorflow', metavar='PYTHON', help='of an environment with TensorFlow')
    parser.add_argument(
        '--sections', nargs='+', default=['decode', 'crop', 'pipeline'], metavar='SECTION'
    )
    parser.add_argument('--workers', nargs='+', type=int, default=WORKERS, choices=WORKERS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_files(options.data_dir, pathlib.Path(folder))
        began = time.time()
        rows = report(measure(options, pathlib.Path(folder)))
    starts = [first_batch(options.data_dir) for _ in range(3)]
    sizes = {entries: memory(entries) for entries in (10_000, 1_280_000)}
    total, opened = (statistics.median(values) for values in zip(*starts, strict=True))
    print(f'\nfirst batch of Imagenette after {total:.2f} s, of which reading it {opened:.2f} s')
    for entries, mib in sizes.items():
        print(f'{entries:,} entries: {mib:.0f} MiB')
    figures = {
        'images': IMAGES,
        'tensorflow': options.tensorflow and harness.output_of(
            ['-c', 'import tensorflow; print(tensorflow.__version__)'], options.tensorflow
        ).split()[-1],
        'rows': rows,
        'first_batch_seconds': {'with imports': total, 'reading': opened},
        'peak_mib': {str(entries): mib for entries, mib in sizes.items()},
        'load_average_after': list(os.getloadavg()),
        'seconds': time.time() - began,
    }  # fmt: skip
    harness.write_json(options.json, figures, 'CPU')


if __name__ == '__main__':
    main()
