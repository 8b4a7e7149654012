"""A model is evaluated on classes of its own, found by their names."""

import json
import os

import numpy as np
import pytest
from members import members
from test_folders import pairs, write_images

from resnet_jax import create_model
from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.inference.class_matching import match_classes

NUMBERS = [str(i) for i in range(1000)]
SYNSETS = ['n01440764', 'n01443537', 'n01484850']  # labels 0, 1 and 2 of ImageNet


@pytest.mark.parametrize(
    ('model', 'data', 'expected', 'words'),
    [
        (['cat', 'dog'], ['cat', 'dog'], (0, 1), ''),
        (['cat', 'dog'], ['dog', 'cat'], (1, 0), ''),
        (['bee', 'cat', 'dog'], ['dog', 'bee'], (2, 0), ''),
        (['0', '1', '2'], ['0', '2'], (0, 2), ''),
        # Sorted as text, as folders are.
        (NUMBERS, sorted(NUMBERS), tuple(map(int, sorted(NUMBERS))), ''),
        (NUMBERS, SYNSETS, (0, 1, 2), 'ImageNet'),
        (NUMBERS, ['tench', 'goldfish', 'great white shark'], (0, 1, 2), 'ImageNet'),
        (SYNSETS, ['Goldfish', 'great_white_shark'], (1, 2), 'ImageNet'),
        (['goldfish, Carassius auratus', 'tench, Tinca tinca'], SYNSETS[:2], (1, 0), 'ImageNet'),
        (['tench', 'goldfish'], ['1', '0'], (1, 0), 'label numbers'),
        (['0', '1'], ['cat', 'dog'], (0, 1), 'do not name'),
    ],
    ids=lambda value: '' if isinstance(value, tuple) else str(value)[:24],
)
def test_classes_are_matched(model, data, expected, words):
    found, how = match_classes(model, data)
    assert found == expected
    assert words in how and bool(how) == bool(words)


@pytest.mark.parametrize(
    ('model', 'data', 'words'),
    [
        (['cat', 'dog'], ['cat', 'wolf'], 'wolf'),
        (['cat', 'dog'], ['Cat', 'dog'], 'Cat'),
        (['cat', 'dog'], ['a', 'b'], 'a, b'),
        (['0', '1', '2'], ['cat', 'dog'], 'numbers only'),
        (NUMBERS, ['crane', 'tench'], 'crane'),  # two classes of ImageNet are called so
        (NUMBERS, ['n01440764', 'tench'], 'tench'),  # the same class twice
        (['cat', 'dog'], ['1', '2'], '1, 2'),
        (['cat', 'dog'], ['0', '00'], '0, 00'),
    ],
)
def test_other_classes_are_refused(model, data, words):
    with pytest.raises(InputError) as caught:
        match_classes(model, data)
    assert words in str(caught.value) and '\n' not in str(caught.value)


def test_the_list_of_imagenets_classes():
    """Facts about its labels that everybody knows: 1,000, sorted by id, two of them cranes."""
    names = [
        *('n02012849', 'n03126707'),  # crane, the bird (134) and the machine (517)
        *('n02123045', 'n04557648', 'n15075141'),  # tabby 281, water bottle 898, toilet tissue 999
    ]
    assert match_classes(NUMBERS, names)[0] == (134, 517, 281, 898, 999)
    assert match_classes(NUMBERS, ['tabby', 'water bottle', 'toilet paper'])[0] == (281, 898, 999)


@pytest.fixture(scope='module')
def model_of_four(tmp_path_factory):
    """Weights of a net for the classes a, b, c and d, and a folder of images of c and a."""
    import jax
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save_file

    from resnet_jax.data import known_preprocessing

    folder = tmp_path_factory.mktemp('four')
    model = create_model('cifar_resnet8', 4)
    variables = model.init(jax.random.key(3), np.zeros((1, 32, 32, 3), np.float32), train=False)
    tensors = {name: np.asarray(x) for name, x in flatten_dict(variables, sep='/').items()}
    preprocessing = known_preprocessing('cifar', ('a', 'b', 'c', 'd'))
    save_file(tensors, folder / 'net.safetensors', {'preprocessing': preprocessing.to_json()})
    write_images(folder / 'data', pairs('test', ('c', 'a'), 8))
    return folder, model, variables, preprocessing


@pytest.mark.parametrize('over', members(['all', 'subset'], ('all',)))
def test_some_of_a_models_classes(model_of_four, over, ask, monkeypatch, tmp_path):
    folder, model, variables, preprocessing = model_of_four
    monkeypatch.chdir(tmp_path)
    found = ask(
        *('eval', '--model', 'cifar_resnet8', '--weights', folder / 'net.safetensors'),
        *('--data', f'folder:{folder}/data', '--over', over, '--per-class'),
    )
    from resnet_jax.data import open_source

    source = open_source(f'folder:{folder}/data', 'test')
    images = np.stack([preprocessing.prepare(source[i]['image']) for i in range(16)])
    logits = model.apply(variables, preprocessing.normalize(images), train=False)
    logits = np.asarray(logits, np.float64)
    mine = [0, 2]  # a and c
    if over == 'subset':
        logits = logits[:, mine]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    labels = source.labels() if over == 'subset' else np.asarray(mine)[source.labels()]
    assert found['over'] == over and found['n'] == 16
    assert found['loss'] == pytest.approx(-log_p[np.arange(16), labels].mean(), rel=1e-4)
    assert found['top1'] == pytest.approx(np.mean(logits.argmax(axis=1) == labels))
    assert list(found['per_class']) == ['a', 'c']
    assert np.shape(found['confusion']) == ((4, 4) if over == 'all' else (2, 2))
    assert os.path.exists(found['confusion_png'])


def test_what_was_scored_is_said(model_of_four, capsys):
    folder = model_of_four[0]
    arguments = ['eval', '--model', 'cifar_resnet8', '--weights', f'{folder}/net.safetensors']
    arguments += ['--data', f'folder:{folder}/data']
    assert main(arguments) == 0
    (line,) = capsys.readouterr().err.splitlines()  # a note does not look like an error
    assert line == 'note: scored over all 4 classes of the model; the data has 2 of 4'
    assert main([*arguments, '--over', 'subset', '--json']) == 0
    out, err = capsys.readouterr()
    assert 'scored over the classes of the data alone' in err and json.loads(out)['n'] == 16
    (folder / 'names.txt').write_text('a\nb\nwolf\nd\n')
    assert main([*arguments, '--class-names', f'{folder}/names.txt']) == 2
    assert 'classes that the model does not have: c' in capsys.readouterr().err


ODD_NAMES = [
    '$x_1',
    'a\nb',
    '\x1b[31mred',
    '=1+1',
    '\u732b',
    '\U0001f431',
    'caf\u00e9',
    '\u202eright',
    '',
]


def test_figures_take_any_names(tmp_path):
    """No warning, of which any would fail the test, and no crash; names without a font: numbers."""
    from resnet_jax.figures import figure_text
    from resnet_jax.inference.plots import plot_confusion

    confusion = np.eye(len(ODD_NAMES), dtype=int)
    plot_confusion(confusion, ODD_NAMES, 'odd $ names \u732b', tmp_path / 'confusion.png')
    assert (tmp_path / 'confusion.png').stat().st_size > 10_000
    long = ['great white shark, man-eater, Carcharodon carcharias', '$' * 60]
    plot_confusion(np.eye(2, dtype=int), long, 'a long title ' * 9, tmp_path / 'long.png')
    assert figure_text('\u732b', 'class 4') == 'class 4' and figure_text('\u732b!') == '?!'
    assert figure_text('a\nb$') == r'a\nb\$' and figure_text('caf\u00e9') == 'caf\u00e9'
