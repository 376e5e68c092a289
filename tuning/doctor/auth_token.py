"""The token without which Ray refuses: where this machine keeps it, and how it comes to be there.

One token opens all clusters that were started from this machine: `ray up` copies it there.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from trainables.errors import InputError


def token_file() -> Path:
    """$RAY_AUTH_TOKEN_PATH, else where Ray itself looks."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def read_token() -> str | None:
    """$RAY_AUTH_TOKEN, else what the file holds; None if there is neither.

    Raises:
        InputError: the file can not be read, or is empty.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = token_file()
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"token file {str(path)!r} can not be read: {error}") from error
    if not token:
        raise InputError(f"token file {str(path)!r} is empty; remove it, then thaw doctor --mend")
    return token


def make_token() -> bool:
    """Make the file if it is missing, so that nobody else ever can read it; whether it was.

    Raises:
        InputError: its folder can not be written.
    """
    path = token_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The mode counts from the first moment on. `ray get-auth-token` leaves it to the umask.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise InputError(f"token file {str(path)!r} can not be made: {error}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return True
