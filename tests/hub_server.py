"As much of the Hugging Face hub as one model repository needs, served on this machine"
import base64, hashlib, http.server, json, urllib.parse

COMMIT = 'c'*40


def git_hash(content): return hashlib.sha1(content).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    "`repos` maps a name to (private, {path: content}); one token is right"
    repos = {}
    token = 'hf_right'
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args): pass

    def answer(self, code, body=b'', **headers):
        if not isinstance(body, bytes): body = json.dumps(body).encode()
        self.send_response(code)
        for name, value in {'Content-Length': len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def url(self, path): return f'http://{self.headers["host"]}/{path}'

    def not_found(self, code, error):
        self.answer(code, {'error': error}, **{'X-Error-Code': 'RepoNotFound'})

    def refused(self):
        "The hub shows private repositories only to those who may see them"
        if self.headers.get('authorization') == f'Bearer {self.token}': return False
        self.not_found(401, 'Invalid username or password.')
        return True

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        path = urllib.parse.unquote(self.path).split('?')[0]
        if path == '/api/validate-yaml': return self.answer(200, {'errors': [], 'warnings': []})
        if self.refused(): return
        if path == '/api/repos/create': return self.create(json.loads(body))
        _, _, _, owner, name, what, _ = path.split('/')        # /api/models/owner/name/what/main
        if what == 'preupload': return self.preupload(json.loads(body))
        self.commit(f'{owner}/{name}', [json.loads(line) for line in body.splitlines()])

    def create(self, asked):
        name = '/'.join(o for o in (asked.get('organization'), asked['name']) if o)
        new = name not in self.repos
        if new:
            private = asked.get('private', asked.get('visibility') == 'private')
            self.repos[name] = private, {}
        error = 'You already created this model repo'
        self.answer(200 if new else 409, {'url': self.url(name), 'error': error})

    def preupload(self, asked):
        files = [dict(path=o['path'], uploadMode='regular', shouldIgnore=False) for o in asked['files']]
        self.answer(200, {'files': files})

    def commit(self, repo, changes):
        files = self.repos[repo][1]
        for change in changes:
            value = change['value']
            if change['key'] == 'deletedFile': del files[value['path']]
            if change['key'] == 'file': files[value['path']] = base64.b64decode(value['content'])
        self.answer(200, dict(success=True, commitOid=COMMIT, commitUrl=self.url(f'{repo}/commit/{COMMIT}')))

    def do_GET(self):
        path = urllib.parse.unquote(self.path).split('?')[0].strip('/').split('/')
        if self.refused(): return
        api = path[0] == 'api'
        repo = '/'.join(path[2:4] if api else path[:2])
        if repo not in self.repos: return self.not_found(404, 'Repository not found')
        files = self.repos[repo][1]
        if api and 'tree' in path: return self.answer(200, [self.entry(*o) for o in files.items()])
        if api:
            siblings = [{'rfilename': name} for name in files]
            return self.answer(200, dict(id=repo, sha=COMMIT, siblings=siblings, private=True))
        content = files['/'.join(path[4:])]
        self.answer(200, content, **{'ETag': f'"{git_hash(content)}"', 'X-Repo-Commit': COMMIT})

    do_HEAD = do_GET

    def entry(self, name, content):
        return dict(type='file', path=name, size=len(content), oid=git_hash(content))
