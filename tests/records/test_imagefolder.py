"""The imagefolder convention: what is accepted, what is quarantined, and what each mistake is told as."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unsee import artifacts
from unsee.errors import InputError
from unsee.records.candidates import Candidate
from unsee.records.imagefolder import fingerprint, intake, leads_out, read_metadata
from unsee.records.training_set import Quarantined, Record, TrainingSetWriter

LIMIT = 64.0


def paint(path: Path, colour: tuple[int, int, int] = (1, 2, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


def write_lines(folder: Path, *rows: Any) -> None:
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(folder: Path) -> list[Candidate | Quarantined]:
    return list(intake(folder, LIMIT).items)


def records_of(folder: Path, part: Path) -> list[Record]:
    part.mkdir()
    writer = TrainingSetWriter(part, 16)
    return [
        writer.add(item.picture, item.captions, item.source)
        for item in intake(folder, LIMIT).items
        if isinstance(item, Candidate)
    ]


def test_json_lines(tmp_path: Path) -> None:
    for name in ("b.png", "sub/a.png", "c.png"):
        paint(tmp_path / name)
    write_lines(
        tmp_path,
        {"file_name": "sub//a.png", "text": ["one", "two", "one"], "group": "Ada", "license": "CC0-1.0", "more": 1},
        "",
        {"file_name": "./b.png", "text": "naïve, “quoted”\u2028line", "group": " "},
        {"texts": ["three"], "file_name": "c.png", "license": None},
    )
    items = read(tmp_path)
    assert [(i.source, i.captions, i.group, i.license) for i in items if isinstance(i, Candidate)] == [
        ("b.png", ("naïve, “quoted”\u2028line",), None, None),
        ("c.png", ("three",), None, None),
        ("sub/a.png", ("one", "two"), "Ada", "CC0-1.0"),
    ]
    assert len(items) == intake(tmp_path, LIMIT).total == 3


def test_csv(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        paint(tmp_path / name)
    text = '\ufefffile_name,text,group\r\nb.png,"a comma, and\na new line",Ada\r\n\r\na.png,plain,\r\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8", newline="")
    items = [i for i in read(tmp_path) if isinstance(i, Candidate)]
    assert [(i.source, i.captions, i.group) for i in items] == [
        ("a.png", ("plain",), None),
        ("b.png", ("a comma, and\na new line",), "Ada"),
    ]


def test_what_cannot_be_read_or_is_not_named_is_quarantined(tmp_path: Path) -> None:
    paint(tmp_path / "good.png")
    paint(tmp_path / "deep" / "extra.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "README.md").write_text("hello")
    for hidden in (".DS_Store", ".git/config", "deep/good.png.dvc"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_text("")
    write_lines(tmp_path, {"file_name": "good.png", "text": "x"}, {"file_name": "empty.png", "text": "x"})
    assert [(i.source, i.reason) for i in read(tmp_path) if isinstance(i, Quarantined)] == [
        ("empty.png", "is empty (0 bytes)"),
        ("README.md", "is not named in the metadata"),
        ("deep/extra.png", "is not named in the metadata"),
    ]


def test_audits_kept_in_the_folder_are_no_data(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    write_lines(tmp_path, {"file_name": "a.png", "text": "one"})
    before = fingerprint(tmp_path)
    (tmp_path / "deep" / "audit" / ".state").mkdir(parents=True)
    (tmp_path / "deep" / "audit" / "mlflow.db").write_text("")
    (tmp_path / "deep" / "audit" / "mlartifacts").mkdir()
    (tmp_path / "deep" / "audit" / "mlartifacts" / "report.html").write_text("")
    with artifacts.writing(tmp_path / "set", "Thing", 1) as part:
        (part / "more.png").write_text("")
    assert fingerprint(tmp_path) == before
    assert [item.source for item in read(tmp_path)] == ["a.png"]


def test_a_name_that_is_not_utf8_can_still_be_told(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    write_lines(tmp_path, {"file_name": "a.png", "text": "x"})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"")
    assert Quarantined("\ufffd.png", "is not named in the metadata") in read(tmp_path)


def test_md5s_and_conversions_reach_the_candidate(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    write_lines(tmp_path, {"file_name": "./a.png", "text": "x"})
    (item,) = intake(tmp_path, LIMIT, md5s={"a.png": "abc"}).items
    assert isinstance(item, Candidate)
    assert (item.md5, item.conversion) == ("abc", "greyscale to RGB")


GOOD = {"file_name": "a.png", "text": "x"}


@pytest.mark.parametrize(
    ("row", "field", "problem"),
    [
        ("{", "line 2", "not valid JSON"),
        ("[" * 100_000, "line 2", "not valid JSON"),
        ('["b.png", "x"]', "line 2", "not a JSON object"),
        ('{"file_name": "b.png", "text": "x", "text": "y"}', "line 2: text", "is there twice"),
        ({"text": "x"}, "line 2: file_name", "is missing"),
        ({"file_name": "", "text": "x"}, "line 2: file_name", "is missing"),
        ({"file_name": 3, "text": "x"}, "line 2: file_name", "is not text (int: 3)"),
        ({"file_name": "b.png"}, "line 2: text", "missing or empty"),
        ({"file_name": "b.png", "text": None}, "line 2: text", "missing or empty"),
        ({"file_name": "b.png", "text": " \t"}, "line 2: text", "missing or empty"),
        ({"file_name": "b.png", "text": 7}, "line 2: text", "is not text (int: 7)"),
        ({"file_name": "b.png", "text": {"en": "x"}}, "line 2: text", "is not text (dict"),
        ('{"file_name": "b.png", "text": NaN}', "line 2: text", "is not text (float"),
        ('{"file_name": "b.png", "text": "\\ud83d"}', "line 2: text", "half a character"),
        ({"file_name": "b.png", "text": []}, "line 2: text", "holds no caption"),
        ({"file_name": "b.png", "text": ["x", ""]}, "line 2: text", "missing or empty"),
        ({"file_name": "b.png", "texts": ["x", 1]}, "line 2: texts", "is not text"),
        ({"file_name": "b.png", "text": "x", "texts": ["y"]}, "line 2: texts", "stands beside `text`"),
        ({"file_name": "b.png", "text": "x", "group": ["a"]}, "line 2: group", "is not text (list"),
        ({"file_name": "b.png", "text": "x", "license": 1}, "line 2: license", "is not text (int"),
        ({"file_name": "./a.png", "text": "y"}, "line 2: file_name", "already named in line 1"),
        ({"file_name": "absent.png", "text": "x"}, "line 2: file_name", "does not exist"),
        ({"file_name": "sub", "text": "x"}, "line 2: file_name", "is not a file"),
        ({"file_name": "../b.png", "text": "x"}, "line 2: file_name", "leads out of the folder"),
        ({"file_name": "sub/../b.png", "text": "x"}, "line 2: file_name", "leads out of the folder"),
        ({"file_name": "/etc/passwd", "text": "x"}, "line 2: file_name", "leads out of the folder"),
        ({"file_name": "link.png", "text": "x"}, "line 2: file_name", "leads out of the folder"),
        ({"file_name": "linked/c.png", "text": "x"}, "line 2: file_name", "leads out of the folder"),
        ({"file_name": "n\0.png", "text": "x"}, "line 2: file_name", "is not a usable path"),
        ({"file_name": "n" * 5000, "text": "x"}, "line 2: file_name", "is not a usable path"),
    ],
)
def test_mistakes_in_json_lines_name_file_line_field_and_remedy(
    tmp_path: Path, row: Any, field: str, problem: str
) -> None:
    folder = tmp_path / "data"
    for name in ("data/a.png", "data/b.png", "data/sub/s.png", "outside/c.png"):
        paint(tmp_path / name)
    (folder / "link.png").symlink_to(tmp_path / "outside" / "c.png")
    (folder / "linked").symlink_to(tmp_path / "outside")
    write_lines(folder, GOOD, row)
    with pytest.raises(InputError) as raised:
        intake(folder, LIMIT)
    assert raised.value.file == str(folder / "metadata.jsonl")
    assert raised.value.field == field
    assert problem in raised.value.problem
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("", "file_name", "column is missing"),
        ("file,text\na.png,x\n", "file_name", "column is missing"),
        ("file_name,caption\na.png,x\n", "text", "column is missing"),
        ("file_name,text,text\na.png,x,y\n", "text", "is there twice"),
        ("file_name,text\na.png,x,y\n", "line 2", "has 3 fields, the header has 2"),
        ("file_name,text\na.png,\n", "line 2: text", "missing or empty"),
        ('file_name,text\na.png,"x"y\n', "line 2", "not valid CSV"),
        ('file_name,text\na.png,"x\n', "line 2", "not valid CSV"),
        ("file_name,text\n", None, "names no image"),
        ("file_name,text\n../a.png,x\n", "line 2: file_name", "leads out"),
        ("file_name,text\na.png,x\na.png,y\n", "line 3: file_name", "already named in line 2"),
    ],
)
def test_mistakes_in_csv(tmp_path: Path, text: str, field: str | None, problem: str) -> None:
    paint(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(InputError) as raised:
        intake(tmp_path, LIMIT)
    assert (raised.value.file, raised.value.field) == (str(tmp_path / "metadata.csv"), field)
    assert problem in raised.value.problem
    assert raised.value.remedy


def test_mistakes_of_the_folder(tmp_path: Path) -> None:
    def told(folder: Path) -> InputError:
        with pytest.raises(InputError) as raised:
            intake(folder, LIMIT)
        assert raised.value.remedy
        return raised.value

    assert "does not exist" in told(tmp_path / "absent").problem
    (tmp_path / "file").write_text("")
    assert "is not a folder" in told(tmp_path / "file").problem
    data = tmp_path / "data"
    paint(data / "train" / "a.png")
    assert "holds no metadata.jsonl or metadata.csv" in told(data).problem
    write_lines(data / "train", GOOD)
    assert "There is one in 'train'" in told(data).remedy
    (data / "metadata.csv").write_text("file_name,text\n")
    write_lines(data, GOOD)
    assert "holds both metadata.jsonl and metadata.csv" in told(data).problem
    (data / "metadata.csv").unlink()
    (data / "metadata.jsonl").write_text("\n \n")
    assert "names no image" in told(data).problem
    (data / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "caf\xe9"}\n')
    assert "is not UTF-8 text" in told(data).problem
    (data / "metadata.jsonl").unlink()
    (data / "metadata.jsonl").symlink_to(tmp_path / "file")
    assert "leads out of the folder" in told(data).problem


def test_messages_name_the_folder_as_it_is_called(tmp_path: Path) -> None:
    write_lines(tmp_path, {"file_name": "absent.png", "text": "x"})
    with pytest.raises(InputError, match=r"^repo@v1:data/metadata\.jsonl: line 1: file_name: 'absent\.png'"):
        intake(tmp_path, LIMIT, called="repo@v1:data")


def test_a_link_inside_the_folder_is_a_file_like_any_other(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    write_lines(tmp_path, GOOD, {"file_name": "b.png", "text": "y"})
    first, second = records_of(tmp_path, tmp_path / "part")
    assert second.duplicate_of == first.record


@settings(deadline=None, max_examples=25)
@given(order=st.permutations(range(6)))
def test_ids_do_not_depend_on_the_order_of_the_metadata(order: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        rows = [{"file_name": f"{i}.png", "text": f"caption {i}"} for i in range(6)]
        for i in range(6):
            paint(folder / f"{i}.png", (i // 3, 0, 0))  # two pictures, three times each
        write_lines(folder, *rows)
        straight = records_of(folder, Path(name) / "straight")
        write_lines(folder, *(rows[i] for i in order))
        shuffled = records_of(folder, Path(name) / "shuffled")
        assert shuffled == straight
        assert len({record.record for record in straight}) == 6
        assert sum(record.duplicate_of is not None for record in straight) == 4


def test_a_circle_of_links_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "circle.png").symlink_to("circle.png")
    write_lines(tmp_path, {"file_name": "circle.png", "text": "x"})
    with pytest.raises(InputError, match=r"line 1: file_name: .*(is not a usable path|does not exist)"):
        intake(tmp_path, LIMIT)


PARTS = st.lists(st.sampled_from(["..", ".", "a", "b.png", "", "...", "~"]), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which, and around which, most made-up names lead to a picture."""
    outer = tmp_path_factory.mktemp("nested")
    for place in (outer, outer / "data"):
        for below in ("", "a", "a/a", "...", "~"):
            paint(place / below / "b.png")
    return outer / "data"


@settings(deadline=None, max_examples=300)
@given(parts=PARTS, absolute=st.booleans())
def test_no_name_leads_out(nested: Path, parts: list[str], absolute: bool) -> None:
    name = ("/" if absolute else "") + "/".join(parts)
    write_lines(nested, {"file_name": name, "text": "x"})
    leading_out = name.startswith("/") or ".." in parts
    assert leads_out(name) == leading_out
    try:
        (entry,) = read_metadata(nested, "data")
    except InputError as error:
        # There is a picture at the name, had it been followed; so this is why it was refused.
        assert not leading_out or "leads out of the folder" in error.problem  # noqa: PT017
        return
    assert not leading_out
    assert (nested / entry.file_name).resolve().is_relative_to(nested.resolve())
