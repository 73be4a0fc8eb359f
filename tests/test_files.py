"""Files are written whole or not at all; errors a user can mend end in one line and a code."""

import json
import os
import stat
import subprocess
import sys

import pytest

from metasdf.commands.console import run_command
from metasdf.errors import InputError
from metasdf.files import atomic_path, read_json, write_json


def test_a_finished_block_replaces_the_old_file(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    for text in ("old", "new"):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent  # else the rename could not be atomic
            assert temporary.suffix == ".txt"
            assert temporary.name.startswith(".")
        assert path.read_text() == text
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, InputError])
def test_a_failed_block_leaves_the_old_file_and_no_trace(tmp_path, failure):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def half_written():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"  # a reader never sees a part
            raise failure("stop")

    with pytest.raises(failure):
        half_written()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_have_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "file.json", 1)
        assert os.umask(0o027) == 0o027  # left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == 0o640


def test_a_place_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/below\.json: cannot be written"):
        write_json(tmp_path / "file" / "below.json", 1)


def test_a_folder_in_the_place_of_the_file_is_an_input_error(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder: cannot be written"):
        write_json(tmp_path / "folder", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_json_comes_back_as_written_and_is_legible(tmp_path):
    value = {"name": "Stühle", "list": [1, 2.5, None, True]}
    path = tmp_path / "file.json"
    write_json(path, value)
    assert read_json(path) == value
    text = path.read_text(encoding="utf-8")
    assert "Stühle" in text
    assert '\n  "list"' in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_is_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "file.json"
    write_json(path, 1)
    with pytest.raises((ValueError, TypeError), match="JSON"):
        write_json(path, {"x": value})
    assert json.loads(path.read_text()) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "line 1 column 1"),
        (b'{"a": 1,\n}', "line 2 column 1"),
        (b"\xff\xfe{}", "decode"),
        (b"[" * 100_000, "not valid JSON"),
    ],
    ids=["missing", "empty", "comma", "encoding", "endless"],
)
def test_bad_json_is_an_input_error_that_names_file_and_place(tmp_path, content, reason):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_exits_with_the_code_of_its_main(code, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: code)
    assert exit_.value.code == code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(InputError("x.json: bad"), 2, "error: x.json: bad\n"), (KeyboardInterrupt(), 130, "interr")],
    ids=["input", "interrupt"],
)
def test_mendable_errors_end_in_one_line_without_traceback(error, code, line, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as exit_:
        run_command(main)
    assert exit_.value.code == code
    printed = capsys.readouterr()
    assert printed.err.startswith(line)
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_fault_of_the_program_keeps_its_traceback():
    program = "from metasdf.commands.console import run_command; run_command(lambda: 1 / 0)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr
