"Links of a finished site that lead nowhere: python nbs/_site/links.py FOLDER"
import re
import sys
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from lxml import html

ELSEWHERE = re.compile(r'(?i)^(?:[a-z][a-z0-9+.-]*:|//)')


@lru_cache(maxsize=None)
def parsed(page):
    return html.parse(str(page), parser=html.HTMLParser(encoding='utf-8')).getroot()


@lru_cache(maxsize=None)
def places(page):
    "Fragments that a page has"
    named = parsed(page).xpath('//@id | //a/@name')
    return set(map(str, named))


def links(page):
    "Every link, picture, script and style of a page, as it is written"
    return set(map(str, parsed(page).xpath('//@href | //@src')))


def leads_nowhere(page, link, out):
    "Why a link is dead; '' for one that is not, or that leaves the site"
    if ELSEWHERE.match(link): return ''
    place, _, fragment = link.partition('#')
    path = (page.parent/unquote(place.split('?')[0])).resolve() if place else page
    if path.is_dir(): path /= 'index.html'
    if not path.is_relative_to(out): return 'outside of the site'
    if not path.is_file(): return 'no such file'
    if not fragment or path.suffix != '.html': return ''
    return '' if unquote(fragment) in places(path) else 'no such place'


def dead_links(out):
    "Every dead link of the site: 'page: link (reason)'"
    out = Path(out).resolve()
    found = []
    for page in sorted(out.rglob('*.html')):
        for link in sorted(links(page)):
            reason = leads_nowhere(page, link, out)
            if reason: found.append(f'{page.relative_to(out)}: {link} ({reason})')
    return found


def fetched(out):
    "What a page would load from another host, so that it could not be read without a network"
    out = Path(out).resolve()
    found = []
    for page in sorted(out.rglob('*.html')):
        loaded = parsed(page).xpath('//img/@src | //script/@src | //link[@rel="stylesheet"]/@href')
        found += [f'{page.relative_to(out)}: {o}' for o in loaded if ELSEWHERE.match(str(o))
                  and not str(o).startswith('data:')]
    return found


if __name__ == '__main__':
    dead = dead_links(sys.argv[1]) + fetched(sys.argv[1])
    sys.stdout.write('\n'.join([*dead, f'{len(dead)} dead links']) + '\n')
    sys.exit(bool(dead))
