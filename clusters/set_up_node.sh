#!/usr/bin/env bash
# Installs this project on a node, from the folder above this one, which Ray has mounted there.
#
#   set_up_node.sh PYTHON_VERSION      that of your own machine, such as 3.11
#
# Safe to run again: when neither code nor versions have changed it ends at once. The head resolves
# the versions of all packages into uv.lock; workers get that file, and so the same versions.
set -euo pipefail

python_version=${1:?usage: set_up_node.sh PYTHON_VERSION}
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${THAW_VENV:-$HOME/.thaw/venv}
uv_version=0.13.9

find_uv() {
    local candidate
    for candidate in "$(command -v uv || true)" "$HOME/.local/bin/uv" "$HOME/.thaw/uv/bin/uv"; do
        if [ -n "$candidate" ] && "$candidate" --version >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
}

install_uv() {
    if python3 -m venv "$HOME/.thaw/uv" >/dev/null 2>&1; then # a Debian without venv has no pip either
        "$HOME/.thaw/uv/bin/pip" install --quiet "uv==$uv_version"
    else
        curl -LsSf "https://astral.sh/uv/$uv_version/install.sh" | env UV_NO_MODIFY_PATH=1 sh
    fi
}

digest_of_project() {
    cd "$project"
    {
        echo "$python_version"
        find pyproject.toml search_spaces trainables tuning -type f \
            -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum
        if [ -f uv.lock ]; then sha256sum uv.lock; fi
    } | sha256sum
}

login_shells_find_it() {
    local line=". $project/clusters/node_env.sh"
    if ! grep -qxF "$line" "$HOME/.bashrc" 2>/dev/null; then
        printf '\n%s\n' "$line" >>"$HOME/.bashrc"
    fi
}

umask 077
mkdir -p "$HOME/.thaw"
if [ -e "$HOME/.ray/auth_token" ]; then chmod 600 "$HOME/.ray/auth_token"; fi
login_shells_find_it

stamp=$venv/installed
if [ -f "$stamp" ] && [ "$(digest_of_project)" = "$(cat "$stamp")" ]; then
    echo "thaw is installed in $venv, and nothing has changed"
    exit 0
fi
uv=$(find_uv)
if [ -z "$uv" ]; then
    install_uv
    uv=$(find_uv)
fi
# Not editable, and built anew: uv would take an old build for good where only our code has changed.
UV_PROJECT_ENVIRONMENT=$venv "$uv" sync --project "$project" --python "$python_version" \
    --no-dev --extra cluster --no-editable --reinstall-package thaw
digest_of_project >"$stamp"
echo "thaw is installed in $venv"
