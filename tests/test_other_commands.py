"""Every command on a run that takes no images: it works, or is refused in one line with code 2."""

import pytest
from small_sets import RATE, texts, tones

from resnet_jax.cli import main

THIN = {'model.width': 4, 'model.stem_width': 4, 'train.batch_size': 8, 'train.epochs': None}
RUNS = {
    'videos': ('moving_digits', 'moving_digits', {'model.width': 4, 'model.stem_width': 4}),
    'series': ('series:ItalyPowerDemand', 'aeon:ItalyPowerDemand', {'model.stage_widths': '4,8,8'}),
    'texts': ('text_bytes:{here}/texts', 'text:{here}/texts', {**THIN, 'data.length': 64}),
    'sounds': (
        *('audio:{here}/sounds', 'audio:{here}/sounds'),
        {**THIN, 'data.length': 2000, 'data.sample_rate': RATE},
    ),
}
LIMIT = ('--limit', '16')
SMALL = '--config.train.batch_size=8'
WORK = {
    'eval': ('eval', *LIMIT),
    **{
        kind: ('analyze', kind, *LIMIT)
        for kind in ('lesion', 'paths', 'signal', 'similarity', 'calibration', 'landscape')
    },
    'fold': ('compress', 'fold', *LIMIT, '--out', 'fold'),
    'channels': (
        *('compress', 'prune', '--unit', 'channel'),
        '--sparsity',
        '0.3',
        *LIMIT,
        '--out',
        'c',
    ),
    'stream': (
        *('compress', 'prune', '--unit', 'stream'),
        '--sparsity',
        '0.3',
        *LIMIT,
        '--out',
        's',
    ),
    'factorize': ('compress', 'factorize', '--budget', '0.8', *LIMIT, '--out', 'thin'),
    'quantize': ('compress', 'quantize', '--no-table', *LIMIT, '--out', 'int8'),
    'stablehlo': ('export', 'net.stablehlo'),
    'features': ('features', '--layer', 'pooled', '--out', 'features.npz'),
    'report': ('report',),
}
REFUSED = {
    'attribution': ('analyze', 'attribution', *LIMIT),
    'robustness': ('analyze', 'robustness', *LIMIT),
    'tta': ('eval', '--tta', 'flip', *LIMIT),
    'picture': ('predict', 'picture.png'),
    'missing': ('predict', 'missing.npy'),
}


@pytest.fixture(scope='module', params=RUNS)
def run(request, tmp_path_factory):
    """The folder of a short run, and how its data are named."""
    config, data, fields = RUNS[request.param]
    if request.param == 'series':
        pytest.importorskip('aeon')
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == 'texts':
        texts(folder)
    if request.param == 'sounds':
        pytest.importorskip('soundfile')
        tones(folder / 'sounds')
    config, data = (name.format(here=folder) for name in (config, data))
    fields = {**fields, 'train.steps': 2, 'train.eval_every': 0}
    given = [f'--config.{name}={value}' for name, value in fields.items()]
    assert main(['train', '--config', config, *given, '--workdir', str(folder / 'run')]) == 0
    return folder, config, data


def outcome(run, arguments, monkeypatch):
    folder, config, data = run
    monkeypatch.chdir(folder)
    (folder / 'picture.png').write_bytes(b'\x89PNG\r\n')
    if arguments[0] != 'data':
        arguments = (*arguments, '--workdir', 'run')
    return main([part.format(config=config, data=data) for part in arguments])


@pytest.mark.slow
@pytest.mark.parametrize('name', WORK)
def test_commands_that_work(run, name, monkeypatch):
    assert outcome(run, WORK[name], monkeypatch) == 0


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['check', 'bench'])
def test_data_commands(run, kind, monkeypatch):
    cut = {'text': ('--length', '64'), 'audio': ('--length', '2000', '--sample-rate', str(RATE))}
    more = {
        'check': ('--data', '{data}', *cut.get(run[2].partition(':')[0], ())),
        'bench': ('--config', '{config}', SMALL, '--seconds', '0.2'),
    }
    assert outcome(run, ('data', kind, *more[kind]), monkeypatch) == 0


@pytest.mark.slow
def test_onnx(run, monkeypatch):
    pytest.importorskip('onnxruntime')
    for dtype in ('float32', 'int8'):
        arguments = ('export', f'{dtype}.onnx', '--dtype', dtype)
        assert outcome(run, arguments, monkeypatch) == 0
    arguments = ('eval', '--exported', 'float32.onnx', *LIMIT)
    assert outcome(run, arguments, monkeypatch) == 0


@pytest.mark.slow
@pytest.mark.parametrize('name', REFUSED)
def test_commands_that_are_refused(run, name, monkeypatch, capsys):
    if name == 'picture' and run[2].startswith('text:'):
        pytest.skip('a file is a text whatever its name says')
    capsys.readouterr()
    assert outcome(run, REFUSED[name], monkeypatch) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith('resnet-jax: ')]
    assert line
    arguments = ('data', 'show', '--config', '{config}', SMALL, '--out', 's.png')
    assert outcome(run, arguments, monkeypatch) == 2
    assert 'images only' in capsys.readouterr().err
