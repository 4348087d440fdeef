"""Labelled sequences of different lengths, and the files that time series come in."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import Dataset

from fastvision.data.dataset import DataError, ImageDataset

TRAIN_ENDING, TEST_ENDING = "_TRAIN.ts", "_TEST.ts"


class SequenceDataset(Dataset[tuple[PackedSequence, Tensor]]):
    """Labelled sequences in memory.

    ``dataset[indices]`` is ``(sequences, labels)``, the sequences packed, in the order of the indices: a tensor, a list
    or a slice.

    Args:
        name: What the set is called in messages.
        sequences: ``(steps, features)`` each, float32, of any number of steps from 1 on.
        labels: ``(N,)``, int64, from 0 to ``len(classes) - 1``.
        classes: The classes' names.

    Raises:
        DataError: Where the sequences and labels don't fit together.
    """

    noun = "sequences"

    def __init__(self, name: str, sequences: Sequence[Tensor], labels: Tensor, classes: Sequence[str]) -> None:
        self.features = sequences[0].shape[-1] if sequences else 0
        for number, sequence in enumerate(sequences):
            if sequence.dim() != 2 or not len(sequence) or sequence.shape[1] != self.features:
                raise DataError(
                    f"{name}: sequences: expected shape (steps, {self.features}), got {tuple(sequence.shape)} of "
                    f"number {number}"
                )
        if labels.shape != (len(sequences),) or labels.dtype != torch.int64:
            raise DataError(
                f"{name}: labels: expected one int64 for each of the {len(sequences)} sequences, "
                f"got {labels.dtype} of {tuple(labels.shape)}"
            )
        self.name = name
        self.sequences = list(sequences)
        self.labels = labels
        self.classes = tuple(classes)

    @property
    def sample_shape(self) -> tuple[int]:
        """The features of a step."""
        return (self.features,)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index) -> tuple[PackedSequence, Tensor]:
        chosen = torch.arange(len(self))[index]
        return pack_sequence([self.sequences[i] for i in chosen.tolist()], enforce_sorted=False), self.labels[chosen]

    def stored(self) -> "SequenceDataset":
        """What training reads from: here the set itself."""
        return self

    @staticmethod
    def prepare(sequences: PackedSequence) -> PackedSequence:
        """What a model sees of a batch as stored: here all of it."""
        return sequences

    def subset(self, indices: Tensor | Sequence[int] | slice) -> "SequenceDataset":
        """The sequences that `indices` select, as a set of the same name and classes."""
        chosen = torch.arange(len(self))[indices]
        return SequenceDataset(
            self.name, [self.sequences[i] for i in chosen.tolist()], self.labels[chosen], self.classes
        )


Samples = ImageDataset | SequenceDataset


def has_ts_files(directory: Path) -> bool:
    return any(directory.glob(f"*{TRAIN_ENDING}"))


def load_ts(path: str | Path) -> tuple[SequenceDataset, SequenceDataset]:
    """Loads ``(train, test)`` from files of the UEA and UCR archives' format, ``NAME_TRAIN.ts`` and ``NAME_TEST.ts``.

    Args:
        path: A directory with one such pair, or one that is called NAME; or one of the two files.

    Raises:
        DataError: Where a file is missing or broken, or the two do not fit together.
    """
    stem = _stem(Path(path))
    parts = [read_ts(stem.with_name(stem.name + ending), stem.name) for ending in (TRAIN_ENDING, TEST_ENDING)]
    train, test = parts
    if (train.classes, train.features) != (test.classes, test.features):
        raise DataError(f"{stem}: the files to train and to test have different classes or numbers of dimensions")
    return train, test


def _stem(path: Path) -> Path:
    """Of the two files, their common beginning."""
    if not path.is_dir():
        for ending in (TRAIN_ENDING, TEST_ENDING):
            if path.name.endswith(ending):
                return path.with_name(path.name.removesuffix(ending))
        raise DataError(f"{path}: expected a file whose name ends with {TRAIN_ENDING} or {TEST_ENDING}")
    names = sorted(file.name.removesuffix(TRAIN_ENDING) for file in path.glob(f"*{TRAIN_ENDING}"))
    name = names[0] if len(names) == 1 else path.resolve().name
    if name not in names:
        raise DataError(f"{path}: has several sets ({', '.join(names)}): name the file of one of them")
    return path / name


def read_ts(path: str | Path, name: str | None = None) -> SequenceDataset:
    """Reads one ``.ts`` file of labelled sequences, whose lengths may differ: a line each, its dimensions between
    colons, their values between commas, and the class's name at the end.

    Args:
        path: Of the file.
        name: What to call the set; the file's name by default.

    Raises:
        DataError: Where the file can't be read, is broken, lacks values, or has time stamps or no classes.
    """
    path = Path(path)
    try:
        lines = enumerate(path.read_text().splitlines(), start=1)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    classes = _read_header(path, lines)
    numbers = {label: number for number, label in enumerate(classes)}
    sequences, labels = [], []
    for number, line in lines:
        if not line.strip():
            continue
        *dimensions, label = (part.strip() for part in line.split(":"))
        if label not in numbers:
            raise DataError(f"{path}, line {number}: expected one of the classes {', '.join(classes)}, got {label!r}")
        sequences.append(_read_sequence(f"{path}, line {number}", dimensions))
        labels.append(numbers[label])
    return SequenceDataset(name or path.stem, sequences, torch.tensor(labels, dtype=torch.int64), classes)


def _read_header(path: Path, lines: Iterator[tuple[int, str]]) -> list[str]:
    """The classes' names; leaves the lines of the data."""
    facts: dict[str, list[str]] = {}
    for _, line in lines:
        words = line.split()
        if words and words[0].lower() == "@data":
            break
        if words and words[0].startswith("@"):
            facts[words[0][1:].lower()] = words[1:]
    else:
        raise DataError(f"{path}: no @data there")
    if [word.lower() for word in facts.get("timestamps", [])] == ["true"]:
        raise DataError(f"{path}: has time stamps, which are not supported")
    has_classes, *classes = facts.get("classlabel", ["false"])
    if has_classes.lower() != "true" or not classes:
        raise DataError(f"{path}: expected a line '@classLabel true' with the classes' names")
    return classes


def _read_sequence(place: str, dimensions: list[str]) -> Tensor:
    try:
        values = [np.array(dimension.split(","), dtype=np.float32) for dimension in dimensions]
    except ValueError as error:  # also '?', which stands for a value that is not known
        raise DataError(f"{place}: expected numbers: {error}") from error
    lengths = {len(value) for value in values}
    if len(lengths) != 1:
        raise DataError(f"{place}: expected dimensions of one length, got {', '.join(map(str, sorted(lengths)))}")
    return torch.from_numpy(np.stack(values, axis=1))
