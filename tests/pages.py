"""Pages of reports, opened in a browser."""

import html
import json
import re
import shutil
import subprocess

import pytest

WRAPPED = """
const found = {};
%s
found.errors = window.errors;
document.body.append(Object.assign(document.createElement('pre'),
  { id: 'probe', textContent: JSON.stringify(found) }));
"""


def browser():
    """The path of a browser; the test is skipped if there is none."""
    for name in ('chromium', 'google-chrome', 'chromium-browser'):
        if path := shutil.which(name):
            return path
    pytest.skip('no chromium or google-chrome here: the page was not opened in a browser')


def probe(page, script, folder):
    """Opens a page and runs a script in it.

    Args:
      page: HTML.
      script: JavaScript that sets fields of an object `found`.
      folder: for files.

    Returns:
      The fields of `found`, and 'errors', what went wrong in the page.
    """
    watch = (
        '<script>window.errors = [];'
        "addEventListener('error', (e) => errors.push(e.message));"
        "addEventListener('securitypolicyviolation', (e) => errors.push(e.blockedURI));</script>"
    )
    probed = page.replace('<head>', f'<head>{watch}', 1)
    probed = probed.replace('</body>', f'<script>{WRAPPED % script}</script></body>', 1)
    (folder / 'page.html').write_text(probed)
    done = subprocess.run(
        [
            *(browser(), '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom'),
            *(f'--user-data-dir={folder / "profile"}', '--window-size=1000,900'),
            (folder / 'page.html').as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    shown = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert shown, done.stderr[-2000:] + done.stdout[-2000:]
    return json.loads(html.unescape(shown[1]))
