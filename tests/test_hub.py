"""Fetching weights by name: the real clients against a server in this process."""

import collections
import functools
import hashlib
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest
from random_models import random_variables
from running import differing

from resnet_jax import create_model, from_pretrained
from resnet_jax.data.known_preprocessing import PREPROCESSINGS
from resnet_jax.errors import InputError
from resnet_jax.inference.published import pretrained_preprocessing
from resnet_jax.interop import hub, save_weights
from resnet_jax.models.registry import list_models

WEIGHTS = bytes(range(256)) * 40
SHA = hashlib.sha256(WEIGHTS).hexdigest()
FILE = f'resnet18-{SHA[:8]}.pth'
COMMIT = 'c0ffee' * 6 + 'abcd'


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> body or status) and counts the requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Answer)
        self.files, self.headers, self.requests = {}, {}, collections.Counter()
        self.address = f'http://127.0.0.1:{self.server_address[1]}'

    def handle_error(self, request, client_address):
        pass  # a client that hangs up


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def answer(self, with_body):
        path = self.path.partition('?')[0]
        self.server.requests[self.command, path] += 1
        found = self.server.files.get(path, 404)
        status, body = (200, found) if isinstance(found, bytes) else (found, b'')
        headers = dict(self.server.headers.get(path, {}))
        cut = headers.pop('cut', len(body))
        self.send_response(status)
        for name, value in {'Content-Length': len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if with_body:
            self.wfile.write(body[:cut])
        if cut < len(body):
            self.close_connection = True

    do_GET = functools.partialmethod(answer, True)
    do_HEAD = functools.partialmethod(answer, False)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def closed():
    """An address without a server."""
    with socket.socket() as held:
        held.bind(('127.0.0.1', 0))
        yield f'http://127.0.0.1:{held.getsockname()[1]}'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'resnet_jax'


@pytest.fixture
def torchvision(server, cache, monkeypatch):
    """torchvision's address with one small file."""
    pytest.importorskip('torch')
    monkeypatch.setattr(hub, 'TORCHVISION_ADDRESS', f'{server.address}/models')
    monkeypatch.setitem(hub.TORCHVISION, 'resnet18', {'v1': (FILE, 'torchvision')})
    server.files[f'/models/{FILE}'] = WEIGHTS
    return server


def use_hugging_face(monkeypatch, address, folder):
    constants = pytest.importorskip('huggingface_hub.constants')
    monkeypatch.setattr(hub, 'HUGGING_FACE_ADDRESS', address)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(folder))
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_IMPLICIT_TOKEN', True)


@pytest.fixture
def hugging_face(server, tmp_path, monkeypatch):
    """Hugging Face's address with the repository owner/net of a few files."""
    use_hugging_face(monkeypatch, server.address, tmp_path / 'hf')
    put_repository(server, 'model.safetensors', 'pytorch_model.bin', 'README.md', 'old/net.pth')
    return server


def body_of(file):
    return WEIGHTS + file.encode()


def put_repository(server, *files, revision='main'):
    siblings = [{'rfilename': file} for file in files]
    info = {'id': 'owner/net', 'sha': COMMIT, 'siblings': siblings, 'tags': [], 'private': False}
    server.files['/api/models/owner/net'] = json.dumps(info).encode()
    server.files[f'/api/models/owner/net/revision/{revision}'] = json.dumps(info).encode()
    for file in files:
        path = f'/owner/net/resolve/{revision}/{file}'
        server.files[path] = body_of(file)
        etag = hashlib.sha256(body_of(file)).hexdigest()
        server.headers[path] = {'ETag': f'"{etag}"', 'X-Repo-Commit': COMMIT}


def bodies(server):
    """Counts the files that were sent."""
    return sum(
        n for (verb, path), n in server.requests.items() if verb == 'GET' and '/api/' not in path
    )


def complaint(spec):
    """The one-line error for a spec."""
    with pytest.raises(InputError) as caught:
        hub.fetch(spec)
    message = str(caught.value)
    assert message
    assert '\n' not in message
    return message


def files_in(folder):
    return [path for path in pathlib.Path(folder).rglob('*') if path.is_file()]


def test_a_path_is_returned_unchanged(tmp_path, monkeypatch):
    path = tmp_path / 'weights.pth'
    path.write_bytes(b'x')
    assert hub.fetch(path) == hub.fetch(str(path)) == path
    assert hub.fetch(tmp_path) == tmp_path
    monkeypatch.setenv('HOME', str(tmp_path))
    assert hub.fetch('~/weights.pth') == path
    odd = tmp_path / 'odd:name'
    odd.write_bytes(b'x')
    monkeypatch.chdir(tmp_path)
    assert hub.fetch('odd:name') == pathlib.Path('odd:name')


def test_a_path_that_does_not_exist(tmp_path):
    assert 'its folder is empty' in complaint(tmp_path / 'weights.pth')
    (tmp_path / 'resnet50_a1.pth').touch()
    assert "did you mean 'resnet50_a1.pth'?" in complaint(tmp_path / 'resnet50_al.pth')
    assert f'no folder {tmp_path}/nowhere' in complaint(tmp_path / 'nowhere' / 'x.pth')
    assert 'no weights named' in complaint('')
    assert 'too long' in complaint(tmp_path / ('x' * 300))
    assert "'hf:owner" in complaint(pathlib.Path('hf:owner'))


@pytest.mark.parametrize('spec', ['foo:bar', 'https://example.org/x.pth', 'HF:owner/net'])
def test_a_source_that_is_not_known(spec):
    message = complaint(spec)
    assert f'unknown source of weights {spec.split(":")[0]!r}' in message
    assert 'hf:OWNER/REPO[/FILE][@REVISION] or torchvision:NAME[:VARIANT]' in message
    assert "did you mean 'torchvision'?" in complaint('torchvison:resnet18')


@pytest.mark.parametrize(
    ('spec', 'words'),
    [
        ('torchvision:resnet19', "did you mean 'resnet1"),
        ('torchvision:', 'unknown torchvision model'),
        ('torchvision:../x', "unknown torchvision model '../x'"),
        ('torchvision:/etc/passwd', 'unknown torchvision model'),
        ('torchvision:resnet18:v2', "unknown variant of torchvision:resnet18 'v2'; "),
        ('torchvision:resnet50:../x', 'known: v1, v2'),
        ('torchvision:resnet50:', 'known: v1, v2'),
    ],
)
def test_bad_names_of_torchvision(cache, spec, words):
    assert words in complaint(spec)
    assert not cache.exists()


@pytest.mark.parametrize(
    'name',
    ['a/b/../../x', '../x', 'a/..', 'a/b/..', 'a/b/./x', 'a/b//etc/passwd', 'a', 'a/', '/a/b', '',
     'a/b@', 'a/b@../x', 'a/b@refs/../x', 'a/b/..\\x', 'a/b/C:x', 'a/b\n/x', 'a/b/x\0'],
)  # fmt: skip
def test_bad_names_of_hugging_face(hugging_face, tmp_path, name):
    assert 'write hf:OWNER/REPO' in complaint(f'hf:{name}')
    assert not hugging_face.requests
    assert not files_in(tmp_path)


def test_names_that_hugging_face_rejects(hugging_face):
    assert 'cannot read hf:a b/c' in complaint('hf:a b/c')
    assert not hugging_face.requests


def test_the_table_of_torchvision():
    for name, variants in hub.TORCHVISION.items():
        assert name in list_models()
        assert list(variants) in (['v1'], ['v1', 'v2'])
        for file, preprocessing in variants.values():
            stem, dash, digits = file.rpartition('-')
            assert (stem, dash) == (name, '-')
            assert len(digits.removesuffix('.pth')) == 8
            assert preprocessing in PREPROCESSINGS


@pytest.mark.parametrize(
    ('spec', 'name'),
    [
        ('torchvision:resnet18', 'torchvision'),
        ('torchvision:resnet50', 'torchvision_v2'),
        ('torchvision:resnet50:v1', 'torchvision'),
        ('torchvision:resnext101_64x4d', 'torchvision_v2'),
        ('hf:owner/net', None),
        ('weights.pth', None),
        (pathlib.Path('torchvision:resnet18'), None),
    ],
)
def test_preprocessing_of(spec, name):
    assert hub.preprocessing_of(spec) == name


def test_torchvision_is_fetched_once(torchvision, cache, capfd):
    path = hub.fetch('torchvision:resnet18')
    assert path == cache / FILE
    assert path.read_bytes() == WEIGHTS
    assert hub.fetch('torchvision:resnet18:v1') == path
    assert torchvision.requests == {('GET', f'/models/{FILE}'): 1}
    assert files_in(cache) == [path]
    assert capfd.readouterr() == ('', '')  # no progress bar without a terminal


def test_the_newest_variant_is_the_default(torchvision, monkeypatch):
    rows = {'v1': ('resnet50-00000000.pth', ''), 'v2': (FILE, '')}
    monkeypatch.setitem(hub.TORCHVISION, 'resnet50', rows)
    assert hub.fetch('torchvision:resnet50').name == FILE


def test_the_variant_alone_gives_the_models_weights(torchvision, tmp_path, monkeypatch):
    """`torchvision:v2` for resnet18, with the preprocessing that belongs to it."""
    small = {'stage_sizes': (1, 1), 'width': 8, 'stem_width': 8}
    model = create_model('resnet18', 3, **small)
    expected = random_variables(model, (1, 32, 32, 3))
    save_weights(tmp_path / 'x.pth', expected, model, layout='torchvision')
    content = (tmp_path / 'x.pth').read_bytes()
    file = f'resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    rows = {'v1': (FILE, 'torchvision'), 'v2': (file, 'torchvision_v2'), 'v3': (FILE, '')}
    monkeypatch.setitem(hub.TORCHVISION, 'resnet18', rows)
    torchvision.files[f'/models/{file}'] = content
    found, variables = from_pretrained('resnet18', 'torchvision:v2', **small)
    assert found == model
    assert not differing(variables, expected)
    preprocessing, assumed = pretrained_preprocessing('resnet18', 'torchvision:v2', overrides=small)
    assert (preprocessing.resize, assumed) == (232, False)
    assert torchvision.requests == {('GET', f'/models/{file}'): 1}


def test_a_cached_file_needs_neither_network_nor_torch(torchvision, closed, monkeypatch):
    path = hub.fetch('torchvision:resnet18')
    monkeypatch.setattr(hub, 'TORCHVISION_ADDRESS', closed)
    monkeypatch.setitem(sys.modules, 'torch.hub', None)
    assert hub.fetch('torchvision:resnet18') == path


def test_a_corrupt_cached_file_is_fetched_again(torchvision, cache):
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(WEIGHTS[:-1])
    assert hub.fetch('torchvision:resnet18').read_bytes() == WEIGHTS
    assert files_in(cache) == [cache / FILE]


@pytest.mark.parametrize('before', [None, b'spoilt'])
@pytest.mark.parametrize('fault', ['other', 'cut', 404, 503])
def test_incomplete_downloads_are_not_kept(torchvision, cache, fault, before):
    path = f'/models/{FILE}'
    if fault == 'other':
        torchvision.files[path] = b'<html>log in to this hotel</html>'
    elif fault == 'cut':
        torchvision.headers[path] = {'cut': 5000}
    else:
        torchvision.files[path] = fault
    if before:
        cache.mkdir(parents=True)
        (cache / FILE).write_bytes(before)
    message = complaint('torchvision:resnet18')
    assert f'{torchvision.address}{path}' in message
    assert 'fetch the file by hand and give its path' in message
    assert ('SHA-256' if isinstance(fault, str) else str(fault)) in message
    assert files_in(cache) == []


def test_torchvision_offline(torchvision, cache, closed, monkeypatch):
    monkeypatch.setattr(hub, 'TORCHVISION_ADDRESS', closed)
    message = complaint('torchvision:resnet18')
    assert f'cannot fetch {closed}/{FILE}' in message
    assert 'refused' in message
    assert 'by hand' in message
    assert files_in(cache) == []


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / 'cache').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert 'set XDG_CACHE_HOME' in complaint('torchvision:resnet18')


@pytest.mark.parametrize('given', ['', 'relative'])
def test_where_the_cache_is_by_default(monkeypatch, tmp_path, given):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', given)
    assert hub._cache() == tmp_path / '.cache' / 'resnet_jax'


@pytest.mark.parametrize(
    ('spec', 'module', 'extra'),
    [('hf:a/b', 'huggingface_hub', 'hub'), ('torchvision:resnet18', 'torch.hub', 'torch')],
)
def test_a_missing_extra(cache, monkeypatch, spec, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    assert f'pip install "resnet-jax[{extra}]"' in complaint(spec)


@pytest.mark.parametrize(
    ('spec', 'file'),
    [
        ('hf:owner/net', 'model.safetensors'),
        ('hf:owner/net@main', 'model.safetensors'),
        ('hf:owner/net/pytorch_model.bin', 'pytorch_model.bin'),
        ('hf:owner/net/old/net.pth', 'old/net.pth'),
    ],
)
def test_hugging_face_is_fetched_once(hugging_face, tmp_path, spec, file):
    path = hub.fetch(spec)
    assert path.read_bytes() == body_of(file)
    assert path.name == pathlib.Path(file).name
    assert path.is_relative_to(tmp_path / 'hf')
    assert hub.fetch(spec) == path
    assert bodies(hugging_face) == 1  # of one file, not the repository
    listings = sum(n for (_, path), n in hugging_face.requests.items() if '/api/' in path)
    assert listings == 2


def test_the_second_file_name_is_the_fallback(hugging_face):
    put_repository(hugging_face, 'pytorch_model.bin', 'README.md')
    assert hub.fetch('hf:owner/net').name == 'pytorch_model.bin'


def test_a_revision(hugging_face):
    put_repository(hugging_face, 'model.safetensors', revision='v1.0')
    assert hub.fetch('hf:owner/net@v1.0').read_bytes() == body_of('model.safetensors')
    asked = {path for _, path in hugging_face.requests}
    assert asked == {
        '/api/models/owner/net/revision/v1.0', '/owner/net/resolve/v1.0/model.safetensors',
    }  # fmt: skip


def test_a_repository_without_weights(hugging_face):
    put_repository(hugging_face, *(f'{i}.txt' for i in range(9)), 'net.pth')
    message = complaint('hf:owner/net')
    assert 'neither model.safetensors nor pytorch_model.bin' in message
    assert 'hf:owner/net/FILE, of net.pth, 0.txt' in message
    assert bodies(hugging_face) == 0


def test_a_file_that_is_not_in_the_repository(hugging_face):
    message = complaint('hf:owner/net/old/nets.pth')
    assert message == ("unknown file of hf:owner/net 'old/nets.pth'; did you mean 'old/net.pth'?")
    assert bodies(hugging_face) == 0


def test_a_gated_file(hugging_face):
    """The list of files of its repository is public."""
    path = '/owner/net/resolve/main/model.safetensors'
    hugging_face.files[path] = 403
    hugging_face.headers[path] = {'X-Error-Code': 'GatedRepo'}
    message = complaint('hf:owner/net')
    assert f'{hugging_face.address}/owner/net asks for consent' in message
    assert '`hf auth login`' in message


@pytest.mark.parametrize(
    ('spec', 'code', 'words'),
    [
        ('hf:owner/net', 'RepoNotFound', 'no repository owner/net at'),
        ('hf:owner/net/x.bin', 'RepoNotFound', 'check the name, or log in with `hf auth login`'),
        ('hf:owner/net@v9', 'RevisionNotFound', "has no revision 'v9'"),
        ('hf:owner/net/x.bin@v9', 'RevisionNotFound', "has no revision 'v9'"),
        ('hf:owner/net', 'GatedRepo', 'asks for consent'),
    ],
)
def test_errors_of_hugging_face(hugging_face, tmp_path, spec, code, words):
    """The header X-Error-Code is how the hub tells them apart."""
    for path in ('/api/models/owner/net', '/api/models/owner/net/revision/v9'):
        hugging_face.files[path] = 403 if code == 'GatedRepo' else 404
        hugging_face.headers[path] = {'X-Error-Code': code}
    message = complaint(spec)
    assert words in message
    assert hugging_face.address in message
    assert bodies(hugging_face) == 0


@pytest.mark.parametrize('spec', ['hf:owner/net', 'hf:owner/net/model.safetensors'])
def test_hugging_face_offline(hugging_face, closed, monkeypatch, capfd, spec):
    monkeypatch.setattr(hub, 'HUGGING_FACE_ADDRESS', closed)
    message = complaint(spec)
    assert f'cannot fetch hf:owner/net/model.safetensors from {closed} (' in message
    assert 'refused' in message
    assert 'fetch the file by hand and give its path' in message
    monkeypatch.setattr(hub, 'HUGGING_FACE_ADDRESS', hugging_face.address)
    path = hub.fetch(spec)
    monkeypatch.setattr(hub, 'HUGGING_FACE_ADDRESS', closed)
    assert hub.fetch(spec) == path  # from its cache
    assert capfd.readouterr() == ('', '')


def test_the_environment_of_hugging_face_counts(hugging_face, tmp_path):
    """HF_ENDPOINT and HF_HOME, which huggingface_hub reads when it is imported."""
    code = "from resnet_jax.interop import hub; print(hub.fetch('hf:owner/net'))"
    environment = os.environ | {
        'HF_ENDPOINT': hugging_face.address,
        'HF_HOME': str(tmp_path / 'home'),
        'HF_HUB_DISABLE_IMPLICIT_TOKEN': '1',
    }
    for name in ('HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_HUB_OFFLINE'):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env=environment, check=True
    )
    path = pathlib.Path(result.stdout.strip())
    assert path.is_relative_to(tmp_path / 'home')
    assert path.read_bytes() == body_of('model.safetensors')
    assert result.stderr == ''  # no progress bar without a terminal
