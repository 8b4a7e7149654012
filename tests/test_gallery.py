"""The report of mistakes, against scikit-learn and brute force; its page is safe to open."""

import base64
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image
from running import flags
from sklearn import metrics

from resnet_jax.analysis import gallery
from resnet_jax.analysis.gallery import Observer
from resnet_jax.cli import main
from resnet_jax.experiments.reports.gallery_page import Card, gallery_page, thumbnail
from resnet_jax.text import Table

N, CLASSES = 90, 5


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


def observe(logits, labels, size=40, most_scores=gallery.MOST_SCORES):
    """Of batches of this size, the last one padded with what must not count."""
    found = Observer(len(labels), logits.shape[1], most_scores)
    for start in range(0, len(labels), size):
        x, y = logits[start : start + size], labels[start : start + size]
        padding = size - len(x)
        found(
            {
                'label': np.concatenate([y, np.zeros(padding, y.dtype)]),
                'mask': np.arange(size) < len(x),
            },
            np.concatenate([x, np.full((padding, x.shape[1]), 9, np.float32)]),
        )
    return found.predictions()


@pytest.fixture(scope='module')
def answers():
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES - 1, size=N)  # none is of the last class
    logits = rng.normal(size=(N, CLASSES)).astype(np.float32)
    logits[np.arange(N), labels] += 1
    return logits, labels


@pytest.mark.parametrize('size', [7, 40, 90])
def test_predictions_are_those_of_the_logits(answers, size):
    logits, labels = answers
    found = observe(logits, labels, size)
    p = softmax(logits.astype(np.float64))
    assert (found.labels == labels).all() and (found.guessed == p.argmax(1)).all()
    assert np.allclose(found.confidence, p.max(1))
    assert np.allclose(found.of_label, p[np.arange(N), labels])
    assert np.allclose(found.scores, np.log(p), atol=1e-5) and found.scores.dtype == np.float32


def test_certain_answers_keep_their_order():
    """Probabilities within 1e-15 of 1, equal as such in float32."""
    logits = np.array([[40, 0], [50, 0], [60, 0]], np.float32)
    scores = observe(logits, np.zeros(3, int)).scores[:, 0]
    assert scores[0] < scores[1] < scores[2]


@pytest.mark.parametrize('size', [7, 40])
def test_scores_are_thinned_evenly_where_there_are_too_many(answers, size):
    logits, labels = answers
    found = observe(logits, labels, size, most_scores=150)
    every = observe(logits, labels)
    assert found.every == 3 and found.scores.shape == (30, CLASSES)
    assert (found.scores == every.scores[::3]).all()
    assert (found.scored_labels == labels[::3]).all() and len(found.confidence) == N


def test_the_most_confident_mistakes(answers):
    logits, labels = answers
    p = softmax(logits.astype(np.float64))
    wrong = [i for i in range(N) if p[i].argmax() != labels[i]]
    expected = sorted(wrong, key=lambda i: -p[i].max())
    found = observe(logits, labels)
    assert len(expected) > 20
    assert gallery.confident_mistakes(found, 10) == expected[:10]
    assert gallery.confident_mistakes(found, N) == expected
    assert gallery.confident_mistakes(found, 0) == []
    # Of equal confidence, the first.
    same = observe(np.tile(np.float32([[0, 1]]), (4, 1)), np.array([0, 1, 0, 0]))
    assert gallery.confident_mistakes(same, 2) == [0, 2]


def test_the_most_confused_pairs(answers):
    logits, labels = answers
    found = observe(logits, labels)
    confusion = metrics.confusion_matrix(labels, found.guessed, labels=range(CLASSES))
    off = {(i, j): confusion[i, j] for i in range(5) for j in range(5) if i != j}
    pairs = gallery.confused_pairs(found, 100)
    assert {(p.true, p.predicted): p.count for p in pairs} == {k: n for k, n in off.items() if n}
    keys = [(-p.count, -p.share) for p in pairs]
    assert keys == sorted(keys) and gallery.confused_pairs(found, 3) == pairs[:3]
    for p in pairs:
        assert p.share == pytest.approx(p.count / confusion[p.true].sum())
        of = np.flatnonzero((labels == p.true) & (found.guessed == p.predicted))
        assert found.confidence[p.example] == found.confidence[of].max() and p.example in of


def test_curves_are_those_of_scikit_learn(answers):
    logits, labels = answers
    found = observe(logits, labels)
    p = softmax(logits.astype(np.float64))
    for c in range(CLASSES - 1):
        curves = gallery.class_curves(found, c)
        assert curves.auc == pytest.approx(metrics.roc_auc_score(labels == c, p[:, c]))
        average = metrics.average_precision_score(labels == c, p[:, c])
        assert curves.average_precision == pytest.approx(average)
        # A pair of an example of the class and another is in order with this probability.
        mine, others = p[labels == c, c], p[labels != c, c]
        in_order = np.mean(mine[:, None] > others[None])
        assert curves.auc == pytest.approx(in_order)
    assert gallery.class_curves(found, CLASSES - 1) is None
    assert gallery.class_curves(observe(logits, np.zeros(N, int)), 0) is None


def test_the_worst_classes():
    classes = [{'recall': r} for r in (0.5, None, 0.2, 0.9, 0.2)]
    assert gallery.worst_classes(classes, 3) == [0, 2, 4]
    assert gallery.worst_classes(classes, 9) == [0, 2, 3, 4]


class Page(html.parser.HTMLParser):
    """The elements of a page, its addresses and its text; fails where elements do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.tags, self.words, self.links = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ('src', 'href'):
                self.links.append(value)
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)


def test_the_page_escapes_names_and_holds_everything(tmp_path):
    evil = '<script>alert(1)</script>" onload="x'
    image = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    plot = tmp_path / 'plot.png'
    Image.fromarray(image).save(plot)
    card = Card(image, [('wrong', evil), ('', '{{facts}}')])
    table = Table(evil, ('class', 'n'), ((evil, '1'),))
    page = gallery_page(
        evil, [evil], [(evil, [card]), ('none', [])], [table], {evil: plot}, [(evil, evil)]
    )
    parsed = Page(page)
    assert 'script' not in parsed.tags and 'onload' not in parsed.tags
    assert parsed.words.count(evil) >= 5 and 'There are none.' in parsed.words
    assert len(parsed.links) == 2 and all(x.startswith('data:image/') for x in parsed.links)
    assert 'http://' not in page and 'https://' not in page
    assert '{{facts}}' in parsed.words, 'text that looks like a placeholder stays'


@pytest.mark.parametrize('channels', [1, 2, 3, 5])
def test_thumbnails(channels):
    small = np.random.default_rng(0).integers(256, size=(8, 8, channels), dtype=np.uint8)
    uri, pixelated = thumbnail(small)
    shown = Image.open(io.BytesIO(base64.b64decode(uri.split(',')[1])))
    expected = small[..., :3] if channels >= 3 else small[..., :1].repeat(3, axis=2)
    assert pixelated and (np.asarray(shown) == expected).all()
    uri, pixelated = thumbnail(np.zeros((224, 224, channels), np.uint8))
    assert not pixelated
    assert Image.open(io.BytesIO(base64.b64decode(uri.split(',')[1]))).size == (160, 160)


@pytest.mark.slow
def test_the_command_writes_a_report(tmp_path, ask, capsys):
    run = tmp_path / 'run'
    assert main(['train', *flags(), '--workdir', str(run)]) == 0
    found = ask('eval', '--workdir', run, '--report', '--mistakes', 5)
    folder = run / 'report_test'
    assert json.loads((folder / 'report.json').read_text()) | {'report': found['report']} == found
    assert found['report'] == str(folder / 'report.html')
    page = Page((folder / 'report.html').read_text())
    for name in ('roc.png', 'precision_recall.png', 'confusion.png', 'roc.svg'):
        assert (folder / name).stat().st_size > 1000
    assert len(found['mistakes']) == 5
    assert page.tags.count('img') == 5 + len(found['confused']) + 3
    certain = [each['confidence'] for each in found['mistakes']]
    assert certain == sorted(certain, reverse=True)
    assert all(each['true'] != each['predicted'] for each in found['mistakes'])
    confusion = np.array(found['confusion'])
    top = max(found['confused'], key=lambda each: each['count'])
    assert top['count'] == (confusion - np.diag(confusion.diagonal())).max()
    assert all(0 <= of['auc'] <= 1 for of in found['classes'].values())
    assert main(['eval', '--workdir', str(run), '--mistakes', '3']) == 2
    assert '--mistakes goes with --report' in capsys.readouterr().err
    assert main(['eval', '--workdir', str(run), '--report', str(run / 'config.json')]) == 2
    assert f'cannot write in {run / "config.json"}' in capsys.readouterr().err
