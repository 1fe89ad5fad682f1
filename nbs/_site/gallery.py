"A page with every figure of the notebooks, each leading to the place where it is drawn"
import html

from lxml import html as dom

PLACE = 'GALLERY-OF-FIGURES'
HEADINGS = ('h1', 'h2', 'h3', 'h4')
PARTS = (('Tutorials', 'nbs/tutorials'), ('Explain', 'nbs/explain'), ('Library', 'nbs'))


def in_output(image):
    "Whether a cell made a picture"
    return any('cell_output' in (o.get('class') or '') for o in image.iterancestors())


def figures(page):
    "Yield (source, heading, fragment) of every figure that a notebook's cell made"
    tree = dom.parse(str(page), parser=dom.HTMLParser(encoding='utf-8')).getroot()
    article = tree.find('.//article')
    heading, fragment = '', ''
    for o in article.iter() if article is not None else ():
        if o.tag in HEADINGS:
            heading = o.text_content().rstrip('#').strip()
            section = o.getparent()
            fragment = section.get('id') or ''
        elif o.tag == 'img' and in_output(o):
            yield o.get('src'), heading, fragment


def title_of(page):
    tree = dom.parse(str(page), parser=dom.HTMLParser(encoding='utf-8')).getroot()
    return tree.find('.//h1').text_content().rstrip('#').strip()


def cards(out, folder):
    "HTML of the figures of the notebooks of one folder"
    found = []
    for page in sorted((out/folder).glob('*.html')):
        made = list(figures(page))
        if not made: continue
        title = title_of(page)
        for source, heading, fragment in made:
            path = (page.parent/source).resolve().relative_to(out)
            text = html.escape(title if heading == title else f'{title}: {heading}')
            link = f'{folder}/{page.name}' + (f'#{fragment}' if fragment else '')
            image = f'<img loading="lazy" src="{path}" alt="{text}">'
            found.append(f'<a href="{link}">{image}<span>{text}</span></a>')
    return found


def fill(out):
    "Put the figures into the page that was left empty for them"
    parts = []
    for name, folder in PARTS:
        found = cards(out, folder)
        parts.append(f'<h2>{name}</h2>\n<div class="gallery">\n' + '\n'.join(found) + '\n</div>')
    page = out/'gallery.html'
    text = page.read_text(encoding='utf-8')
    page.write_text(text.replace(f'<p>{PLACE}</p>', '\n'.join(parts)), encoding='utf-8')
