"""What the site takes from outside of docs/: CONTRIBUTING.md, and files that pages link to.

MkDocs calls these functions while it builds the site (mkdocs.yml). In the checkout the links stay
what they are, so that they work there too.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
GUIDE = 'CONTRIBUTING.md'
LINK = re.compile(r'\]\(([^)#\s:]+)')
NAMED = re.compile(r'\[(?:docs/)?([\w./-]+\.md)\](\(([^)#\s:]+))')


def outside(page, link):
    """The path, from the checkout, of a linked file that is not in docs/, or ''."""
    if page == GUIDE:  # its links start at the checkout
        path = posixpath.normpath(link)
        return '' if path.startswith('docs/') else path
    path = posixpath.normpath(posixpath.join('docs', posixpath.dirname(page), link))
    return '' if path.startswith('docs/') else path


def on_files(files, config):
    """Adds the guide and every file outside of docs/ that a page links to."""
    files.append(File.generated(config, GUIDE, abs_src_path=str(ROOT / GUIDE)))
    for page in list(files.documentation_pages()):
        for link in LINK.findall(page.content_string):
            path = outside(page.src_uri, link)
            if path and path != GUIDE and files.get_file_from_path(path) is None:
                if not (ROOT / path).is_file():
                    raise FileNotFoundError(f'{page.src_uri} links to {path}, which is no file')
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links that leave docs/ go to where the site has the files; `[data.md]` gets its title."""

    def rewrite(found):
        link, uri = found[1], page.file.src_uri
        path = outside(uri, link)
        if not path and uri == GUIDE:
            path = posixpath.normpath(link).removeprefix('docs/')
        if not path:
            return found[0]
        return f']({posixpath.relpath(path, posixpath.dirname(uri) or ".")}'

    def entitle(found):
        folder = ROOT / 'docs' / posixpath.dirname(page.file.src_uri)
        title = (folder / found[3]).read_text().partition('\n')[0]
        return f'[{title.removeprefix("# ")}]{found[2]}'

    if page.file.src_uri != GUIDE:
        markdown = NAMED.sub(entitle, markdown)
    return LINK.sub(rewrite, markdown)
