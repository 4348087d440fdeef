"""Sequences of different lengths: the set, and the files of the UEA archive's format."""

import pytest
import torch
from torch.nn.utils.rnn import pad_packed_sequence

from fastvision import data

HEADER = "# a comment\n@problemName steps\n@timeStamps false\n@dimensions 2\n@classLabel true low high\n@data\n"
TRAIN = HEADER + "1,2,3:4,5,6:low\n7:8:high\n\n1.5,-2e-1:0,1:high\n"
TEST = HEADER + "1:2:low\n"


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / "steps"
    folder.mkdir()
    (folder / "steps_TRAIN.ts").write_text(TRAIN)
    (folder / "steps_TEST.ts").write_text(TEST)
    return folder


def test_reads_sequences_of_their_lengths(directory):
    train, test = data.load(directory)
    assert (train.name, train.classes, train.sample_shape) == ("steps", ("low", "high"), (2,))
    assert (len(train), len(test)) == (3, 1)
    assert train.labels.tolist() == [0, 1, 1]
    assert [sequence.tolist() for sequence in train.sequences[:2]] == [[[1, 4], [2, 5], [3, 6]], [[7, 8]]]
    torch.testing.assert_close(train.sequences[2], torch.tensor([[1.5, 0], [-0.2, 1]]), rtol=0, atol=0)
    assert data.load(directory / "steps_TEST.ts")[0].labels.tolist() == [0, 1, 1]


def test_batches_are_packed_in_the_order_of_the_indices(directory):
    train, _ = data.load(directory)
    sequences, labels = train[torch.tensor([1, 0, 2])]
    padded, lengths = pad_packed_sequence(sequences, batch_first=True)
    assert lengths.tolist() == [1, 3, 2]
    assert labels.tolist() == [1, 0, 1]
    for row, length, index in zip(padded, lengths, (1, 0, 2), strict=True):
        assert torch.equal(row[:length], train.sequences[index])
    first, second = data.batches(train, 2)
    assert (first[1].tolist(), second[1].tolist()) == ([0, 1], [1])


def test_subsets_split_and_folds(directory):
    train, _ = data.load(directory)
    part = train.subset(torch.tensor([2, 0]))
    assert [len(sequence) for sequence in part.sequences] == [2, 3]
    assert part.labels.tolist() == [1, 0]
    kept, taken = data.split(train, 1 / 3)
    assert (len(kept), len(taken)) == (2, 1)
    assert sum(len(test) for _, test in data.folds(train, 3)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "no @data there"),
        (HEADER.replace("true low high", "false"), "expected a line '@classLabel true'"),
        (HEADER.replace("timeStamps false", "timeStamps true"), "has time stamps"),
        (HEADER + "1,2:3:low\n", "line 7: expected dimensions of one length, got 1, 2"),
        (HEADER + "1,?:3,4:low\n", "line 7: expected numbers"),
        (HEADER + "1:3:middle\n", "line 7: expected one of the classes low, high, got 'middle'"),
        (HEADER + "1:2:low\n1:low\n", r"sequences: expected shape \(steps, 2\), got \(1, 1\) of number 1"),
    ],
)
def test_broken_files(directory, text, message):
    (directory / "steps_TRAIN.ts").write_text(text)
    with pytest.raises(data.DataError, match=message):
        data.load(directory)


def test_which_of_several_sets(directory):
    for ending in ("TRAIN", "TEST"):
        (directory / f"other_{ending}.ts").write_text(TEST)
    assert len(data.load(directory)[0]) == 3  # called as the directory
    named = directory.rename(directory.with_name("sets"))
    with pytest.raises(data.DataError, match=r"has several sets \(other, steps\)"):
        data.load(named)
    assert len(data.load(named / "other_TRAIN.ts")[0]) == 1


def test_files_that_do_not_belong_together(directory):
    (directory / "steps_TEST.ts").write_text(TEST.replace("low high", "low"))
    with pytest.raises(data.DataError, match="different classes or numbers of dimensions"):
        data.load(directory)
    (directory / "steps_TEST.ts").unlink()
    with pytest.raises(data.DataError, match=r"steps_TEST\.ts: can't be read: No such file"):
        data.load(directory)
