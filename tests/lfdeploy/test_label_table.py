"""Labels in a table: what is read, and one line for what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_pictures import classes

from lfdeploy.config import DataConfig
from lfdeploy.data import load
from lfdeploy.errors import LfdeployError
from lfdeploy.label_table import label_table


def write(root: Path, text: str, encoding: str = "utf-8") -> Path:
    classes(root, ("cat", "dog"), count=6)
    path = root / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def rows(split: bool = False) -> list[str]:
    lines = []
    for label in ("cat", "dog"):
        for i in range(6):
            end = f",{'Testing' if i > 3 else 'train'}" if split else ""
            lines.append(f"{label}/{i}.png,{label}{end}")
    return lines


def test_a_table_gives_the_same_data_as_the_folder(tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join(["path,label", *rows()]))
    assert load(DataConfig(data=str(path))).fingerprint == load(DataConfig(data=str(tmp_path))).fingerprint


@pytest.mark.parametrize("header", ["path,label,split", "Path, Label ,SPLIT", "\ufeffpath,label,split"])
def test_headers(tmp_path: Path, header: str) -> None:
    source = label_table(write(tmp_path, "\r\n".join([header, *rows(split=True), ""])))
    assert source.classes == ("cat", "dog")
    assert {split: np.bincount(labels).tolist() for split, (_, labels) in source.splits.items()} == {
        "train": [4, 4],
        "test": [2, 2],
    }


def test_columns_in_any_order_absolute_paths_quotes_and_blanks(tmp_path: Path) -> None:
    lines = [
        "split,who,label,path",
        f'train,"a, b",  cat ,{tmp_path / "cat" / "0.png"}',
        'train,c,"dog, wet",dog/0.png',
        "",
        "train,,7,cat/1.png",
    ]
    source = label_table(write(tmp_path, "\n".join(lines)))
    assert source.classes == ("7", "cat", "dog, wet")
    assert len(source.splits["train"][1]) == 3


def test_pictures_that_are_not_there_are_counted_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join(["path,label", *rows(), "cat/no.png,cat", "dog/no.png,dog"]))
    data = load(DataConfig(data=str(path)))
    assert len(data.train) + len(data.val) + len(data.test) == 12
    assert [fault.split("/")[-1] for fault in data.bad] == ["no.png: No such file or directory."] * 2
    assert any("left out as unreadable: 2 files" in remark for remark in data.remarks)
    with pytest.raises(LfdeployError, match="2 such files; --strict was given"):
        load(DataConfig(data=str(path), strict=True))


def test_a_row_that_repeats_another_counts_once(tmp_path: Path) -> None:
    lines = ["path,label", *rows(), "./cat/0.png,cat", "dog/../cat/1.png,cat"]
    source = label_table(write(tmp_path, "\n".join(lines)))
    assert len(source.splits["train"][1]) == 12
    assert source.remarks == ("2 rows of labels.csv repeat another and count once",)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "is empty"),
        (["path,label"], "has no rows"),
        (["file,class", "cat/0.png,cat"], "lacks the column path and label"),
        (["path;label", "cat/0.png;cat"], "separated by commas"),
        (["cat/0.png,cat"], "Its first line must be path,label"),
        (["path,label,label", "cat/0.png,cat,dog"], "2 columns called label"),
        (["path,label", "cat/0.png,"], "line 2: the label is empty"),
        (["path,label", ",cat"], "line 2: the path is empty"),
        (["path,label", "cat/0.png"], "line 2: 1 cell, but the header has 2"),
        (["path,label", "a, b.png,cat"], "goes into quotes"),
        (["path,label,split", "cat/0.png,cat,left"], "the split is 'left'; it must be train, val or test"),
        (["path,label,split", "cat/0.png,cat,train", "dog/0.png,dog,"], "line 3: the split is empty"),
        (["path,label,split", "cat/0.png,cat,test"], "no row has the split train; it has test"),
        (["path,label", "cat/0.png,cat", "cat/0.png,dog"], "two labels, cat (line 2) and dog (line 3)"),
        (["path,label", "cat/0.png,cat", "./cat/0.png,dog"], "two labels, cat (line 2) and dog (line 3)"),
        (
            ["path,label,split", "cat/0.png,cat,train", "cat/0.png,cat,test"],
            "two splits, train (line 2) and test (line 3)",
        ),
        (["path,label", "cat/0.png,Cat", "dog/0.png,cat"], "differ only in case"),
        (["path,label", "no/0.png,cat", "no/1.png,dog"], "none of its 2 pictures is there"),
        (["path,label", "cat\\0.png,cat", "dog\\0.png,dog"], "Write / in place of \\"),
        (["path,label", '"cat/0.png,cat'], "cannot be read as CSV"),
    ],
)
def test_refusals(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(LfdeployError) as caught:
        label_table(write(tmp_path, "\n".join(lines)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_utf_8_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(LfdeployError, match=r"not UTF-8 \(line 2\)"):
        label_table(write(tmp_path, "path,label\ncat/0.png,café", "latin-1"))


def test_no_such_table(tmp_path: Path) -> None:
    with pytest.raises(LfdeployError, match="no such file"):
        label_table(tmp_path / "none.csv")
