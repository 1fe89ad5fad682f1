"""JupyterLab in a headless Chromium: `make lab` on a copy of the notebooks, and what a reader sees of it

As a reader does it: open the notebook, choose the kernel in its dialog, click Run All Cells, scroll. Only the state of cells is
asked of the application itself (`window.jupyterapp`), as what lies outside the window need not be in the page.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import TimeoutError as TooLate
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SCREEN = dict(width=1280, height=800)
SILENT = re.compile(r"(?m)^os\.environ\['REFERS_NB_PROGRESS'\] = '0'.*\n?")
LAB_SETTINGS = {
    'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False),
    'docmanager-extension/plugin': dict(autosave=False)}

LOOK = (Path(__file__).parent/'look.js').read_text(encoding='utf-8')

# Of the notebook that is shown: whether its kernel waits, and how far its cells are
KERNEL = 'jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel'
IDLE = f"{KERNEL}?.status === 'idle'"
STATE = '''() => {
  const cells = jupyterapp.shell.currentWidget.content.widgets.map(o => o.model);
  const code = cells.filter(o => o.type === 'code' && o.sharedModel.source.trim());
  const outputs = code.flatMap(o => o.outputs.toJSON());
  const failed = outputs.filter(o => o.output_type === 'error' || o.name === 'stderr');
  return {
    open: code.filter(o => o.executionCount === null).length + (IDLE ? 0 : 1),
    stopped: outputs.some(o => o.output_type === 'error'),
    errors: failed.map(o => o.evalue ? `${o.ename}: ${o.evalue}` : [o.text].flat().join('')),
    code: code.length}}'''.replace('IDLE', IDLE)


def chromium():
    "Path of a Chromium, or None"
    env = os.environ | {'PYTHON': sys.executable}
    r = subprocess.run(['bash', ROOT/'tests/chromium.sh'], env=env, capture_output=True, text=True)
    return r.stdout.strip().splitlines()[-1] if r.returncode == 0 else None


@contextmanager
def browser_page(executable):
    "An empty page of 1280 x 800"
    flags = ['--no-sandbox'] if os.geteuid() == 0 else []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=executable, args=flags)
        try:
            page = browser.new_page(viewport=SCREEN)
            page.set_default_timeout(90_000)
            yield page
        finally:
            browser.close()


def copy_notebooks(folder):
    "nbs/ without stored outputs, so that none is taken for a new one, and with the bars that a stored page is without"
    shutil.copytree(ROOT/'nbs', folder, ignore=shutil.ignore_patterns('.*', '_*'))
    for path in folder.rglob('*.ipynb'):
        nb = json.loads(path.read_text(encoding='utf-8'))
        for cell in nb['cells']:
            if cell['cell_type'] != 'code': continue
            cell.update(outputs=[], execution_count=None)
            cell['source'] = SILENT.sub('', ''.join(cell['source']))
        path.write_text(json.dumps(nb), encoding='utf-8')


class Lab:
    "`make lab` on a copy of the notebooks, on a free port and with a token"
    def __init__(self, folder):
        self.folder = folder/'nbs'
        copy_notebooks(self.folder)
        for name, settings in LAB_SETTINGS.items():
            path = folder/'settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))
        own = dict(JUPYTER_CONFIG_DIR='config', JUPYTER_DATA_DIR='data', IPYTHONDIR='ipython',
                   JUPYTERLAB_SETTINGS_DIR='settings', JUPYTERLAB_WORKSPACES_DIR='workspaces')
        env = os.environ | {k: str(folder/v) for k, v in own.items()}
        options = '--no-browser --port=0 --expose-app-in-browser'
        if os.geteuid() == 0: options += ' --allow-root'
        command = ['make', '--no-print-directory', 'lab', f'LAB={options}', f'NBS={self.folder}']
        self.log = folder/'lab.log'
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=self.log.open('w'), stderr=subprocess.STDOUT)
        try:
            self.address, self.token = self.wait_for_address()
        except BaseException:
            self.close()
            raise

    def wait_for_address(self, timeout=120):
        "Address and token that the server tells"
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            text = self.log.read_text()
            m = re.search(r'(http://127\.0\.0\.1:\d+)/lab\S*\?token=(\w+)', text)
            if m: return m[1], m[2]
            if self.process.poll() is not None: break
            time.sleep(.2)
        raise RuntimeError(f'JupyterLab did not start:\n{self.log.read_text()[-3000:]}')

    def url(self, notebook):
        return f'{self.address}/lab/tree/{notebook}?reset&token={self.token}'

    def close(self):
        "End the server and its kernels"
        if self.process.poll() is not None: return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


class OpenNotebook:
    "A notebook in a page of JupyterLab"
    def __init__(self, page, lab, notebook, screens):
        self.page, self.screens = page, screens
        shutil.rmtree(screens, ignore_errors=True)
        page.goto(lab.url(notebook))
        self.panel = page.locator('.jp-NotebookPanel')
        self.panel.wait_for()

    def choose_kernel(self):
        "In the dialog that comes by itself or by a click on the name of the kernel"
        dialog = self.page.locator('.jp-Dialog')
        self.page.wait_for_function(f'() => {IDLE} || document.querySelector(".jp-Dialog")')
        before = self.page.evaluate(f'{KERNEL}?.id')          # it runs on until the new one is there
        if not dialog.count(): self.panel.locator('.jp-KernelName').click()
        dialog.locator('select').select_option(label='Python 3 (ipykernel)')
        dialog.locator('.jp-mod-accept').click()
        dialog.wait_for(state='detached')
        self.page.wait_for_function(f'o => {IDLE} && {KERNEL}.id !== o', arg=before)

    def close(self):
        "End the kernel, which would keep its memory"
        self.page.evaluate('jupyterapp.shell.currentWidget.sessionContext.shutdown()')

    def run_all(self, timeout=600):
        "Run all cells by the menu, wait for the last, return what went wrong"
        self.page.locator('.lm-MenuBar-item', has_text='Run').click()
        self.page.locator('.lm-Menu-item', has_text=re.compile('^Run All Cells')).click()
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.page.wait_for_timeout(500)
            state = self.page.evaluate(STATE)
            if state['stopped'] or not state['open']: return state['errors']
        return [f"{state['open']} of {state['code']} cells had not ended after {timeout} s"]

    def keep_screen(self, name):
        self.screens.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.screens/f'{name}.jpg', type='jpeg', quality=70)

    def read(self):
        "Scroll from top to bottom, take a picture of each screen, return what a reader would mind"
        found = {}
        self.page.mouse.move(SCREEN['width'] - 4, SCREEN['height'] - 4)
        place, more, n = 0, True, 0
        while more:
            more = self.page.evaluate(f'({LOOK}).scroll({place})')
            self.page.wait_for_timeout(250)
            self.keep_screen(f'{n:02}')
            for o in self.page.evaluate(f'({LOOK}).look()'): found[o] = None
            place, n = place + 640, n + 1
        return list(found)


def touch(page, output):
    "Move each control of an interactive output in turn: those after which the figure stayed the same"
    dead = []
    controls = output.locator('.interact > *')
    for i in range(controls.count()):
        control = controls.nth(i)
        control.scroll_into_view_if_needed()
        before = seen(output)
        move(control)
        try:
            page.wait_for_function(
                '([o, before]) => [...o.querySelectorAll("img")].map(o => o.src).join() !== before',
                arg=[output.element_handle(), before], timeout=20_000)
        except TooLate:
            dead.append(control.inner_text() or f'control {i}')
        page.wait_for_timeout(300)
    return dead


def seen(output):
    "The pictures of an output, as addresses"
    return output.evaluate('o => [...o.querySelectorAll("img")].map(o => o.src).join()')


def move(control):
    "Do to a control what a hand would: slide, tick, choose, type"
    slider = control.locator('.noUi-handle')
    choice = control.locator('select')
    if slider.count():
        slider.first.focus()
        slider.first.press('ArrowRight')
        slider.first.press('ArrowRight')
    elif choice.count():
        options = choice.evaluate('o => [...o.options].filter(p => !p.selected).map(p => p.value)')
        choice.select_option(options[-1])
    elif control.locator('input[type=checkbox]').count():
        control.locator('input[type=checkbox]').click()
    elif control.locator('button').count():
        control.locator('button:not(.mod-active)').last.click()
    else:
        control.locator('input').fill('Pneumothorax.')
        control.locator('input').press('Enter')
