"""Paths of a data set: below its root, and image files that lie in their folder, nowhere else."""

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import unquote

from .faults import DataError

NUM_SUGGESTIONS = 3


def below(root: str, name: str) -> Path:
    """The path `name` as seen from `root`; ~ is the home folder in both."""
    return Path(os.path.expanduser(root), os.path.expanduser(name))


def is_there(path: Path, *, folder: bool = False) -> bool:
    """Whether the file, or folder, exists; False for a name that none can have."""
    try:
        return path.is_dir() if folder else path.is_file()
    except OSError:  # too long
        return False


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Where the images of a data set lie.

    path: the folder, resolved
    follow_links: links in it may lead to files elsewhere
    """

    path: Path
    follow_links: bool = False

    def file(self, name: str, source: str) -> Path:
        """The image file `name`; `source` says in the error where the name stands.

        Raises DataError as `path_inside` does, and for a file that does not exist.
        """
        path = path_inside(self.path, name, source, follow_links=self.follow_links)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.islink(self.path / name):
                raise DataError(
                    f"{source}: {self.path / name}: a link to {path}, which is not there: copy the "
                    "images that links lead to, or mend the links"
                ) from error
            raise DataError(
                f"{source}: {path}: no such image file{self.suggestion(name)}: "
                "check the image folder and file_name"
            ) from error
        except (OSError, ValueError) as error:  # ValueError: no name that this system can have
            raise DataError(
                f"{source}: {path}: cannot be read ({error}): check its name and its rights"
            ) from error
        return path

    def suggestion(self, name: object) -> str:
        """What the folder has under nearly that name (or the name in a URL), as part of an error.

        Looks past other folders, blanks around it, backslashes, %20, upper and lower case, the two
        Unicode forms of one letter and, where nothing else fits, the ending.
        """
        if not isinstance(name, str):
            return ""
        wanted = _plain(name)
        there = [
            (Path(folder).relative_to(self.path) / file).as_posix()
            for folder, _, files in os.walk(self.path)
            for file in files
            if PurePath(_plain(file)).stem == PurePath(wanted).stem
        ]
        alike = sorted(file for file in there if _plain(file) == wanted) or sorted(there)
        if not alike:
            return ""
        told = f", but there is {' and '.join(map(repr, alike[:NUM_SUGGESTIONS]))}"
        same = unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", alike[0])
        return f"{told}, whose letters are the same in another Unicode form" if same else told


def path_inside(folder: Path, name: str, source: str, *, follow_links: bool = False) -> Path:
    """The path of `name` in `folder`, which is resolved already.

    Raises DataError for an absolute name, for one with '..' and, unless links are followed, for one
    that a link leads out of the folder.
    """
    if not name or "\0" in name:
        raise DataError(f"{source}: file_name is {name!r}: give the image's path in {folder}")
    given = PurePath(name)
    anchor, parts = given.anchor, given.parts
    if anchor or ".." in parts:  # a drive is an anchor too
        raise DataError(
            f"{source}: file_name {name!r} leaves the image folder {folder}: "
            "write it relative to that folder, without '..'"
        )
    path = folder / given
    if not _is_linked(folder, parts):  # resolving every name would take most of the opening
        return path
    path = Path(os.path.realpath(path))
    if not follow_links and not path.is_relative_to(folder):
        raise DataError(
            f"{source}: file_name {name!r} is a link that leaves the image folder {folder}: "
            "allow that with data.follow_links=true, or name the folder that holds the files "
            "themselves as the image folder"
        )
    return path


def _is_linked(folder: Path, parts: tuple[str, ...]) -> bool:
    """Whether a link stands on the way from the folder to the file."""
    path = str(folder)
    for part in parts:
        path = f"{path}{os.sep}{part}"
        if os.path.islink(path):
            return True
    return False


def _plain(name: str) -> str:
    """The last part of a name as it compares with others."""
    last = unquote(name).replace("\\", "/").rpartition("/")[2].strip()
    return unicodedata.normalize("NFC", last).casefold()
