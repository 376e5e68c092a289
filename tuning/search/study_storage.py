"""Where an Optuna study is kept: a journal file in the sweep's folder, or a database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trainables.errors import InputError
from tuning.record.sweep import Sweep

JOURNAL_FILE = "study.journal"
_PASSWORD = r"(://[^:/@]*):.*@"  # to the last @, which a password may hold too
# Is a connection still good, after the server was away? And a host that does not answer is found
# out about within seconds.
_OF_A_SERVER = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
_EXAMPLES = "sqlite:///FILE.db, postgresql://USER@HOST/DATABASE"


def open_journal(path: Path) -> Any:
    """The storage of a journal file, which may end in a line that a crash cut short."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    lock = JournalFileOpenLock(str(path))
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def open_storage(url: str, option: str, *, to_read: bool = False) -> Any:
    """The storage at an address: ``journal://FILE``, or a database's as SQLAlchemy has it.

    Args:
        to_read: it has to be there already; SQLite would make an empty one.

    Raises:
        InputError: the address is wrong, or nothing answers there; ``option`` is named.
    """
    if url.startswith("journal://"):
        path = Path(url.removeprefix("journal://")).expanduser()
        if not path.is_file():
            raise InputError(f"{option} {url!r}: there is no such file")
        return open_journal(path)
    from optuna.storages import RDBStorage

    is_server = url.startswith("postgresql")
    try:
        file = sqlite_file(url) if to_read else None
        if file is not None and not file.is_file():
            raise FileNotFoundError("there is no such file")
        return RDBStorage(url, engine_kwargs=_OF_A_SERVER if is_server else None)
    except ImportError as error:
        raise InputError(
            f"{option} {masked(url)!r}: its driver is not installed ({error}); for postgresql:// "
            "pip install 'psycopg[binary]', as thaw's extra `postgresql` does"
        ) from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{option} {masked(url)!r}: can not be used as a study's storage ({reason}); "
            f"valid: {_EXAMPLES}"
        ) from None


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite address; None for another one."""
    if not url.startswith("sqlite"):
        return None
    from sqlalchemy import make_url

    return Path(make_url(url).database or "")


def study_address(sweep: Sweep) -> str:
    """Where a sweep's study is, to be shown."""
    return str(sweep.folder / JOURNAL_FILE) if sweep.storage is None else masked(sweep.storage)


def masked(url: str) -> str:
    """An address without its password, to be shown."""
    return re.sub(r"([?&]password=)[^&#]*", r"\1***", re.sub(_PASSWORD, r"\1:***@", url))


def check_no_password(url: str, option: str) -> None:
    """See that an address that will be kept and shown holds no password.

    Raises:
        InputError: it holds one; it is not shown.
    """
    if masked(url) != url:
        raise InputError(
            f"{option} {masked(url)!r}: must be without the password, which would be kept in the "
            "sweep's description; PostgreSQL's own $PGPASSWORD or ~/.pgpass are asked for it, also "
            "by `thaw resume`"
        )
