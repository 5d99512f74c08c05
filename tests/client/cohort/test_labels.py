"""labels.csv as engineers and their spreadsheets write it."""

import pytest

from manikin.client.cohort.labels import Entry, Labels
from manikin.client.cohort.native import UNLABELLED
from manikin.common.errors import BadData, Misconfigured


@pytest.fixture
def read(tmp_path):
    def read(text, encoding="utf-8"):
        (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
        return Labels.read(tmp_path / "labels.csv")

    return read


def test_columns_may_come_in_any_order(read):
    labels = read("Label,site,FILE,patient\nill,north,a/b.png,17\n")
    assert labels.find("nothing", "a/b.png") == Entry("ill", "17", "north")
    assert labels.has_patients


def test_spreadsheets_write_marks_semicolons_and_backslashes(read):
    labels = read("file;patient;label\r\n.\\a\\b.png;1;ill\r\n;;\r\n\r\n", "utf-8-sig")
    assert labels.find("a/b.png") == Entry("ill", "1")


def test_an_empty_label_is_unlabelled(read):
    labels = read("file,label\na.nii,\n")
    assert labels.label("a.nii") == labels.label("b.nii") == UNLABELLED
    assert not labels.has_patients


def test_a_repeated_line_is_harmless_and_a_contradiction_is_not(read):
    assert read("file,label\na,x\na,x\n").label("a") == "x"
    with pytest.raises(BadData, match="line 3"):
        read("file,label\na,x\na,y\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file,patient\na,1\n",
        "a.png,1,ill\n",
        "file,patient,label\na,,ill\n",
        "file,label\n,x\n",
        'file,label\n"a,x',
    ],
)
def test_what_cannot_be_meant_is_refused(read, text):
    with pytest.raises(BadData):
        read(text)


def test_other_encodings_are_refused(read):
    with pytest.raises(BadData, match="UTF-8"):
        read("file,label\nä,ü\n", "latin-1")


def test_a_missing_file_is_misconfigured(tmp_path):
    with pytest.raises(Misconfigured):
        Labels.read(tmp_path / "none.csv")


def test_rows_that_name_nothing_are_counted_and_the_first_few_shown(read):
    labels = read("file,label\n" + "".join(f"x{i}.png,a\n" for i in range(9)) + "here.png,a\n")
    with pytest.raises(BadData, match=r"9 of 10 rows .* line 2, 3, 4, \.\.\."):
        labels.check_all_found(["here.png", "other.png"])
    labels.check_all_found([f"x{i}.png" for i in range(9)] + ["here.png"])
