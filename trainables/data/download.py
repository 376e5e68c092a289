"""Files from the web, fetched whole or not at all, and never waited for without end. Torch-free."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

# Without any byte arriving; a name may stand for eight addresses, and each is tried for so long.
_TIMEOUT_SECONDS = 6


def download(url: str, path: Path, digest: str) -> None:
    """Fetch ``url`` to ``path``, which appears only when it is whole.

    Args:
        digest: what the content's digest begins with, after the name of the algorithm:
            ``md5:f68b3c…``.

    Raises:
        ConnectionError: it could not be reached, broke off, or is not what was expected; one line
            says which.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "thaw"})
        with (
            os.fdopen(handle, "wb") as file,
            urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer,
        ):
            shutil.copyfileobj(answer, file)
        algorithm, _, expected = digest.partition(":")
        with open(partial, "rb") as file:
            content = hashlib.file_digest(
                file, lambda: hashlib.new(algorithm, usedforsecurity=False)
            )
        actual = content.hexdigest()
        if not actual.startswith(expected):
            raise ConnectionError(
                f"the answer is not the expected file ({digest} expected, got {actual})"
            )
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except urllib.error.HTTPError as error:
        raise ConnectionError(f"the server answered {error.code} {error.reason}") from None
    except (urllib.error.URLError, HTTPException, TimeoutError) as error:
        raise ConnectionError(
            str(getattr(error, "reason", error)) or type(error).__name__
        ) from None
    finally:
        Path(partial).unlink(missing_ok=True)
