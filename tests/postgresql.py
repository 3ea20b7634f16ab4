"""A PostgreSQL of its own in a temporary folder, reached through a socket there."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_DEBIAN = Path("/usr/lib/postgresql")


@contextmanager
def postgresql() -> Iterator[str]:
    """Its URL while the block runs. Skips the test where PostgreSQL or the driver is not installed."""
    pytest.importorskip("psycopg")
    folders = [path.parent for path in sorted(_DEBIAN.glob("*/bin/initdb"))]
    found = folders[-1] / "initdb" if folders else shutil.which("initdb")
    if not found:
        pytest.skip("PostgreSQL is not installed")
    programs, data = Path(found).parent, Path(tempfile.mkdtemp(prefix="postgresql-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # as whom it refuses to run
        names = {one.pw_name for one in pwd.getpwall()}
        user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        os.chown(data, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), "-D", str(data / "data"), *arguments]
        done = subprocess.run(command, cwd=data, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
        options = f"-k {data} -c listen_addresses= -c fsync=off"
        run("pg_ctl", "-w", "-l", str(data / "log"), "-o", options, "start")
        try:
            yield f"postgresql://postgres@/postgres?host={data}"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(data)
