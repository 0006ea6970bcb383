"""Names and addresses that come from outside."""

from __future__ import annotations

import hashlib

import google_crc32c
import pytest

from onesheet.data.sources.base import Checksum, SourceFile, retry
from onesheet.data.sources.git import is_git
from onesheet.data.sources.kaggle import kaggle_handle
from onesheet.data.sources.naming import dataset_names, is_picture, public_name
from onesheet.errors import FetchError, reason

HOSTILE = [
    "../evil.jpg",
    "..",
    ".jpg",
    "..jpg",
    ".hidden.png",
    "a\\b.jpg",
    "C:evil.jpg",
    "nul\0.jpg",
    "line\n.jpg",
    "bell\x07.jpg",
    "broken\udc80.jpg",
    "picture.exe",
    "picture.jpg.sh",
    "picture.jpg\n",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_picture_names_are_not_taken(name: str) -> None:
    assert not is_picture(name)
    names = dataset_names(["train.csv", "Images/good.jpg", f"Images/{name}"], "x")
    assert set(names) == {"train.csv", "Images/good.jpg"}


@pytest.mark.parametrize(
    "path",
    ["/etc/Images.jpg", "Images/sub/a.jpg", "../Images/a.jpg", "images/a.jpg", "Images/../a.jpg", "a.jpg"],
)
def test_pictures_elsewhere_are_not_taken(path: str) -> None:
    assert set(dataset_names(["train.csv", "Images/good.jpg", path], "x")) == {"train.csv", "Images/good.jpg"}


def test_whatever_the_paths_the_names_stay_inside() -> None:
    names = dataset_names(["../../up/train.csv", "../../up/Images/a.jpg"], "x")
    assert names == {"train.csv": "../../up/train.csv", "Images/a.jpg": "../../up/Images/a.jpg"}


def test_picture_names_that_are_taken() -> None:
    assert all(map(is_picture, ["tt1.jpg", "TT 2.JPEG", "é.webp", "a.b.gif", "x.PNG", "y.jpe", "z.jfif"]))


def test_root_is_the_nearest_with_pictures() -> None:
    paths = ["train.csv", "b/train.csv", "b/Images/1.jpg", "a/c/train.csv", "a/c/Images/1.jpg"]
    assert dataset_names(paths, "x")["train.csv"] == "b/train.csv"
    assert dataset_names([*paths, "Images/2.jpg"], "x")["Images/2.jpg"] == "Images/2.jpg"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://user:s3cret@host/a.git", "https://host/a.git"),
        ("https://host/a.git?token=s3cret#x", "https://host/a.git"),
        ("git+https://s3cret@host/a", "git+https://host/a"),
        ("git@host:a/b.git", "git@host:a/b.git"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("../data?#@", "../data?#@"),
        ("fatal: 'https://u:p@host/x?y=z' is gone", "fatal: 'https://host/x' is gone"),
    ],
)
def test_credentials_are_not_shown(address: str, public: str) -> None:
    assert public_name(address) == public


def test_what_is_git() -> None:
    addresses = ["https://host/a", "http://host/a", "git@host:a", "ssh://host/a", "git+file:///a", "../a.git", "a.git/"]
    assert all(map(is_git, addresses))
    assert not any(map(is_git, ["data/raw", "gs://bucket/a", "kaggle:a/b", "file:///a", "/a/.github"]))


def test_what_is_kaggle() -> None:
    assert kaggle_handle("kaggle:owner/na-me") == "owner/na-me"
    assert kaggle_handle("kaggle://owner/name/versions/3") == "owner/name/versions/3"
    assert kaggle_handle("data/kaggle") is None
    for false in ("kaggle:", "kaggle:owner", "kaggle:owner/name/more", "kaggle:../x/y", "kaggle:a/b\n"):
        with pytest.raises(FetchError, match="write kaggle:owner/name"):
            kaggle_handle(false)


def test_checksums() -> None:
    content = b"a poster"
    blob = b"blob 8\0" + content
    for checksum in (
        Checksum("md5", hashlib.md5(content, usedforsecurity=False).hexdigest()),
        Checksum("crc32c", google_crc32c.Checksum(content).digest().hex()),
        Checksum("git", hashlib.sha1(blob, usedforsecurity=False).hexdigest()),
        Checksum("git", hashlib.sha256(blob).hexdigest()),
    ):
        file = SourceFile("Images/a.jpg", "key", 8, checksum)
        assert file.matches(content)
        assert not file.matches(b"a p0ster")
        assert not file.matches(b"a poster ")


def test_retry_ends(no_pauses: None) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        retry(fail, (ConnectionError, TimeoutError))
    assert len(calls) == 4
    with pytest.raises(TimeoutError):
        retry(fail, (ConnectionError,))
    assert len(calls) == 5, "other errors stand at once"


def test_reasons_are_one_line_without_paths() -> None:
    assert reason(FileNotFoundError(2, "No such file or directory", "/home/me/x")) == "No such file or directory"
    assert reason(ValueError("first\nsecond")) == "first"
    assert reason(TimeoutError()) == "TimeoutError"
