"""Ways to read images for training, each in a process of its own that `input_pipeline.py` asks.

A question names a reader and a section:
  decode    whole JPEGs from memory to uint8, one thread
  crop      from memory to a random-resized crop, uint8 [224, 224, 3], one thread
  pipeline  files on disk to uint8 batches, shuffled, on the device where there is JAX
The answer is images per second. It imports what it measures only, so that TensorFlow can have an
environment of its own.
"""

import functools
import io
import itertools
import math
import os
import pathlib
import random
import resource
import time

import harness
import numpy as np

SIZE, BATCH = 224, 64
DRAINED, TIMED = 10, 10  # batches: those that lie ready are not timed
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def box(width, height):
    """Left, top, width, height, as torchvision's RandomResizedCrop.get_params draws them."""
    for _ in range(10):
        area = width * height * random.uniform(*SCALE)
        aspect = math.exp(random.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def pillow_decode(data):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


def pillow_crop(data):
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert('RGB')
    left, top, w, h = box(*image.size)
    corners = (left, top, left + w, top + h)
    return np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, corners))


def opencv_decode(data):
    import cv2

    cv2.setNumThreads(1)
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def simplejpeg_decode(data):
    import simplejpeg

    return simplejpeg.decode_jpeg(data)


@functools.cache
def turbojpeg():
    from turbojpeg import TurboJPEG

    return TurboJPEG()


def turbojpeg_decode(data):
    return turbojpeg().decode(data, pixel_format=0)


def our_decode(data):
    from resnet_jax.data import decode_image

    return decode_image(data)


def our_crop(data):
    from resnet_jax.data import Picture, random_resized_crop

    return random_resized_crop(Picture(data), SIZE, np.random.default_rng(random.getrandbits(32)))


def tensorflow_decode(data):
    import tensorflow as tf

    return tf.io.decode_jpeg(data, channels=3).numpy()


def tensorflow_crop(data, antialias=False):
    return tensorflow_function(antialias)(data).numpy()


@functools.cache
def tensorflow_function(antialias):
    """Bytes -> crop, with the fused tf.io.decode_and_crop_jpeg, as a graph."""
    import tensorflow as tf

    def crop(data):
        shape = tf.io.extract_jpeg_shape(data)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([1, 0, 4], tf.float32),
            area_range=SCALE,
            aspect_ratio_range=RATIO,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
        image = tf.io.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.image.resize(image, (SIZE, SIZE), antialias=antialias)
        return tf.cast(tf.clip_by_value(image + 0.5, 0, 255), tf.uint8)

    return tf.function(crop, input_signature=[tf.TensorSpec([], tf.string)])


def our_batches(folder, workers):
    import jax

    from resnet_jax import data

    source = data.open_source(f'folder:{folder}', 'train')
    made = data.Preprocessing(SIZE, 3, None, (0.5,) * 3, (1.0,) * 3, source.class_names)
    batches = data.train_batches(
        source,
        made,
        seed=0,
        batch_size=BATCH,
        first_step=0,
        last_step=10**7,
        workers=workers,
        transforms=(f'random_resized_crop(scale={SCALE})',),
    )
    for batch in batches:
        yield jax.block_until_ready(jax.device_put(batch))


class PillowFiles:
    """The files of a folder, cropped by Pillow; what Grain and PyTorch index."""

    def __init__(self, folder):
        self.paths = sorted(pathlib.Path(folder).rglob('*.jpg'))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return pillow_crop(self.paths[index].read_bytes())


def grain_batches(folder, workers):
    import grain
    import jax
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain reads them when it starts processes
    found = grain.MapDataset.source(PillowFiles(folder)).shuffle(seed=0).repeat()
    if workers:
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BATCH)
        found = found.to_iter_dataset(reading).batch(BATCH)
        found = found.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    else:
        found = found.to_iter_dataset(grain.ReadOptions(num_threads=harness.cpus())).batch(BATCH)
    for batch in found:
        yield jax.block_until_ready(jax.device_put(batch))


def torch_batches(folder, workers):
    import torch

    loader = torch.utils.data.DataLoader(
        PillowFiles(folder),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def tensorflow_batches(folder, workers, antialias=False):
    import tensorflow as tf

    parallel = workers or tf.data.AUTOTUNE
    paths = sorted(map(str, pathlib.Path(folder).rglob('*.jpg')))
    crop = tensorflow_function(antialias)
    found = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    found = found.map(
        lambda path: crop(tf.io.read_file(path)), num_parallel_calls=parallel, deterministic=False
    )
    # Not AUTOTUNE, which lets any number of batches lie ready while the others have their turn.
    found = found.batch(BATCH, drop_remainder=True).prefetch(2)
    if workers:
        options = tf.data.Options()
        options.threading.private_threadpool_size = workers
        found = found.with_options(options)
    yield from found.as_numpy_iterator()


# section -> reader -> function; those whose name begins with tf run in TensorFlow's environment.
READERS = {
    'decode': {
        'ours': our_decode,
        'simplejpeg': simplejpeg_decode,
        'PyTurboJPEG': turbojpeg_decode,
        'OpenCV': opencv_decode,
        'Pillow': pillow_decode,
        'tf.io': tensorflow_decode,
    },
    'crop': {
        'ours': our_crop,
        'Pillow': pillow_crop,
        'tf.io': tensorflow_crop,
        'tf.io, antialiased': functools.partial(tensorflow_crop, antialias=True),
    },
    'pipeline': {
        'ours': our_batches,
        'Grain with Pillow': grain_batches,
        'PyTorch with Pillow': torch_batches,
        'tf.data': tensorflow_batches,
        'tf.data, antialiased': functools.partial(tensorflow_batches, antialias=True),
    },
}


def peak_mib():
    """Largest memory of this process and, the largest of, its ended children."""
    own, ended = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own / 1024, ended / 1024


def main():
    streams = {}

    def answer(question):
        section, reader = question['section'], question['reader']
        read = READERS[section][reader]
        try:
            if section != 'pipeline':
                files = [
                    p.read_bytes() for p in sorted(pathlib.Path(question['folder']).rglob('*.jpg'))
                ]
                read(files[0])
                random.seed(0)
                start = time.perf_counter()
                for file in files:
                    read(file)
                return len(files) / (time.perf_counter() - start)
            key = reader, question['folder'], question['workers']
            if key not in streams:
                streams[key] = read(question['folder'], question['workers'])
            taken = sum(1 for _ in itertools.islice(streams[key], DRAINED))
            start = time.perf_counter()
            taken += sum(1 for _ in itertools.islice(streams[key], TIMED))
            seconds = time.perf_counter() - start
            if taken < DRAINED + TIMED:
                return {'error': f'the stream ended after {taken} batches'}
            return BATCH * TIMED / seconds
        except Exception as error:  # whoever asked decides what it means
            return {'error': ' '.join(f'{type(error).__name__}: {error}'.split())[:300]}

    harness.serve(answer)


if __name__ == '__main__':
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    main()
