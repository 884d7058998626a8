"""What can go wrong with data, each in one sentence for the user."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["DamagedData", "DataError", "MissingData", "TransferError", "UnsafeArchive"]


class DataError(RuntimeError):
    """Anything wrong with a dataset that the user can put right."""


class MissingData(DataError):  # noqa: N818
    """A dataset is not on this machine.

    Args:
        dataset: Its name in the catalogue; of several, their names with commas between.
        where_looked: Folders that were searched.
        how_to_get: What to do, as the end of a sentence.
    """

    def __init__(self, dataset: str, where_looked: Sequence[Path], how_to_get: str) -> None:
        self.dataset = dataset
        self.where_looked = tuple(where_looked)
        self.how_to_get = how_to_get
        folders = ", ".join(map(str, where_looked))
        what = f"datasets {dataset} are" if "," in dataset else f"dataset {dataset!r} is"
        super().__init__(f"The {what} not in {folders}; {how_to_get}.")

    def __reduce__(self) -> tuple[type["MissingData"], tuple[str, tuple[Path, ...], str]]:
        return type(self), (self.dataset, self.where_looked, self.how_to_get)


class DamagedData(DataError):  # noqa: N818
    """A dataset is there, but a file of it cannot be used."""


class TransferError(DataError):
    """A download did not come through."""


class UnsafeArchive(DataError):  # noqa: N818
    """An archive holds something that is not unpacked."""
