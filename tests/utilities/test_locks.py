"""Two runs never write to the same folder or file at the same time, and a lock ends with its process."""

import errno
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.locking import held
from vit_interactions.utilities import locks
from vit_interactions.utilities.files import WriteError
from vit_interactions.utilities.locks import locked, locked_file


@pytest.mark.parametrize(("lock", "name"), [(locked, "out"), (locked_file, "curve.png")])
def test_a_lock_excludes_other_processes_until_its_process_ends(
    lock: Callable[[Path], object], name: str, tmp_path: Path
) -> None:
    out = tmp_path / name
    with held(out, lock.__name__) as process:
        with pytest.raises(BlockingIOError, match=f"{name} is in use by another run"):
            lock(out).__enter__()  # type: ignore[attr-defined]
        with locked(tmp_path / "other"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock(out):  # type: ignore[attr-defined]
            pass
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs fork")
def test_workers_of_a_killed_run_do_not_keep_the_lock(tmp_path: Path) -> None:
    # Data loader workers can outlive their parent by seconds.
    with held(tmp_path / "out", fork=True) as process:
        process.kill()
        process.wait()
        with locked(tmp_path / "out"):
            pass
        assert process.stdout is not None
        process.stdout.close()


def test_a_lock_excludes_other_threads_and_is_reentrant(tmp_path: Path) -> None:
    blocked: list[BaseException] = []

    def other() -> None:
        try:
            with locked(tmp_path):
                pass
        except BlockingIOError as error:
            blocked.append(error)

    with locked(tmp_path):
        with locked(tmp_path / "sub" / ".."), locked(tmp_path):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with pytest.raises(AssertionError), held(tmp_path):  # the inner blocks did not release the lock
            pass
    assert len(blocked) == 1
    other()
    assert len(blocked) == 1


def test_created_folders_are_removed_if_empty(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / ".lock").exists()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="broken"), locked(tmp_path / "a" / "b"):
        raise ValueError("broken")
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_processes_of_one_run_do_not_exclude_each_other(tmp_path: Path) -> None:
    with held(tmp_path):
        with locked(tmp_path, first=False):
            pass
        with locked(tmp_path, rank=1):
            assert (tmp_path / ".1.lock").exists()


def test_a_file_where_a_folder_is_needed_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with (
        pytest.raises(ValueError, match=r"`out` must be a folder, got .*file, which is a file"),
        locked(tmp_path / "file"),
    ):
        pass
    with (
        pytest.raises(WriteError, match=r"file.* could not be written: (Not a directory|File exists)"),
        locked(tmp_path / "file" / "out"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "kept"


def test_a_symlink_instead_of_the_lock_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WriteError, match="could not be written"), locked(tmp_path / "out"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_read_only_file_system_raises_write_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(locks.os, "open", fail)
    with (
        pytest.raises(WriteError, match=r"out could not be written: Read-only file system\. Choose another place"),
        locked(tmp_path / "out"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", fail)
    with locked(tmp_path / "out"):
        (tmp_path / "out" / "file").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
