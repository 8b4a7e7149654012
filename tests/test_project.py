"""What the project says of itself agrees: version, changelog, extras, and what CI runs."""

import re
import subprocess
import tomllib

import pytest
from running import ROOT

yaml = pytest.importorskip('yaml')
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def name_of(requirement):
    return re.match(r'[\w.-]+', requirement)[0]


def test_the_table_of_extras_is_that_of_pyproject():
    lines = (ROOT / 'docs' / 'install.md').read_text().splitlines()
    rows = [re.fullmatch(r'\| `([\w-]+)` \| (.+?) \| .+ \|', line) for line in lines]
    table = {row[1]: row[2].split(', ') for row in rows if row}
    extras = PROJECT['optional-dependencies']
    assert {extra: sorted(names) for extra, names in table.items()} == {
        extra: sorted(map(name_of, requirements)) for extra, requirements in extras.items()
    }


def test_the_changelog_has_this_version():
    text = (ROOT / 'CHANGELOG.md').read_text()
    versions = re.findall(r'^## \[(.+?)\]', text, re.MULTILINE)
    assert versions[0] == 'Unreleased'
    assert PROJECT['version'] in versions[:2]


def test_the_workflow_runs_the_parts_of_ci():
    workflow = yaml.safe_load((ROOT / '.github' / 'workflows' / 'ci.yml').read_text())
    script = (ROOT / '.ci' / 'run').read_text()
    functions = set(re.findall(r'^(\w+)\(\) \{', script, re.MULTILINE))
    job = workflow['jobs']['check']
    runs = job['strategy']['matrix']['include']
    assert job['steps'][-1]['run'] == '.ci/run ${{ matrix.part }}'
    assert {run['part'].split()[0] for run in runs} == functions - {'python_for'}
    assert {run['python'] for run in runs} == {'3.11', '3.12', '3.13'}
    lowest = PROJECT['requires-python'].removeprefix('>=')
    assert lowest == min((run['python'] for run in runs), key=lambda v: int(v.split('.')[1]))


def test_ci_says_which_python_it_lacks():
    done = subprocess.run(
        [ROOT / '.ci' / 'run', 'newest', '2.9'], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert done.stderr.strip() == 'Python 2.9 is needed'


def test_forms_and_citation_can_be_read():
    for path in (ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.yml'):
        assert yaml.safe_load(path.read_text())
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= citation.keys()
    assert citation['license'] == PROJECT['license']
