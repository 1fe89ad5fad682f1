#!/usr/bin/env bash
# Print the path of a Chromium, from $CHROMIUM, from $PATH or, with --install, from Debian or playwright; else say what to do.
set -uo pipefail
python=${PYTHON:-python3}

find_one() {
    local name
    for name in "${CHROMIUM:-}" chromium google-chrome google-chrome-stable chrome; do
        [ -n "$name" ] && command -v "$name" && return 0
    done
    # one that `playwright install chromium` has put into its own folder
    "$python" - <<'END' 2>/dev/null
import sys
from pathlib import Path
from playwright.sync_api import sync_playwright
with sync_playwright() as p: path = Path(p.chromium.executable_path)
if not path.exists(): sys.exit(1)
print(path)
END
}

from_debian() {
    command -v apt-get || return 1
    local root=''
    [ "$(id -u)" = 0 ] || root='sudo -n'
    local install="$root apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core"
    $install || { $root apt-get update -q && $install; }
}

find_one && exit 0
if [ "${1:-}" = --install ]; then
    { from_debian || "$python" -m playwright install chromium; } >&2
    find_one && exit 0
fi
echo 'NO CHROMIUM: apt-get install chromium, or name one: CHROMIUM=/path/to/chromium make browser' >&2
exit 1
