"""Image files, trees of them, and arrays."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fastvision import data

pytest.importorskip("PIL", reason='Pillow (the extra "vision") is not installed')
from PIL import Image


def write(path: Path, shade: int, size=(8, 6), mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), shade, np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.webp", "a.tiff"])
def test_read_image(tmp_path, name):
    path = write(tmp_path / name, 100)
    for shape, expected in (((3, 4, 5), (3, 4, 5)), ((1, None, None), (1, 8, 6)), ((None, 8, None), (3, 8, 6))):
        pixels = data.read_image(path, shape)
        assert pixels.shape == expected
        assert pixels.dtype == torch.uint8
        assert (pixels.int() - 100).abs().max() <= 2


def test_modes(tmp_path):
    """Grey of 1, 8 and 16 bits, transparency, and what a camera was turned by."""
    assert data.read_image(write(tmp_path / "grey.png", 77, mode="L")).shape == (1, 8, 6)
    assert data.read_image(write(tmp_path / "bits.png", 255, mode="1")).unique().tolist() == [255]
    Image.fromarray(np.full((4, 5), 0x8001, np.uint16)).save(tmp_path / "sixteen.png")
    assert data.read_image(tmp_path / "sixteen.png").unique().tolist() == [0x80]
    Image.fromarray(np.zeros((4, 5, 4), np.uint8)).save(tmp_path / "transparent.png")
    assert data.read_image(tmp_path / "transparent.png").unique().tolist() == [255]
    turned = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert data.read_image(tmp_path / "turned.png")[0].tolist() == [[3, 0], [4, 1], [5, 2]]


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "a.png").write_text("nonsense")
    with pytest.raises(data.DataError, match=r"a\.png: can't be read as an image: cannot identify"):
        data.read_image(tmp_path / "a.png")
    with pytest.raises(data.DataError, match=r"b\.png: can't be read as an image: No such file or directory"):
        data.read_image(tmp_path / "b.png")
    path = write(tmp_path / "c.png", 3, (200, 200))
    Image.effect_noise((200, 200), 50).save(path)
    content = path.read_bytes()
    for end in (len(content) // 2, 40, 10):
        path.write_bytes(content[:end])
        with pytest.raises(data.DataError, match=r"c\.png: can't be read as an image: "):
            data.read_image(path)
    with pytest.raises(data.DataError, match="image files have 1 channel or 3, not 4"):
        data.read_image(path, (4, 8, 8))


def test_one_tree_is_split(tmp_path):
    root = tmp_path / "pets"
    for number in range(10):
        write(root / "cat" / f"{number}.png", 10 + number)
        write(root / "dog" / "deeper" / f"{number}.jpg", 200)
    (root / "wolf").mkdir()
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / ".hidden.png").write_text("no image")
    (root / ".git").mkdir()
    train, test = data.load(root)
    assert (train.name, train.classes, train.image_shape) == ("pets", ("cat", "dog", "wolf"), (3, 8, 6))
    assert (len(train), len(test)) == (16, 4)
    for dataset in (train, test):
        dark = dataset.images.flatten(1).float().mean(1) < 100
        assert (dark == (dataset.labels == 0)).all()
    assert torch.equal(data.load(root)[1].images, test.images)
    assert not torch.equal(data.load(root, seed=1)[1].images, test.images)


@pytest.mark.parametrize(
    ("folders", "counts"),
    [(("train", "test"), (4, 2)), (("Train", "val"), (4, 2)), (("train", "test", "validation"), (6, 2))],
)
def test_trees_of_parts(tmp_path, folders, counts):
    for folder in folders:
        for name, shade in (("a", 0), ("b", 255)):
            for number in range(2 if folder.lower() == "train" else 1):
                write(tmp_path / folder / name / f"{number}.png", shade)
    sets = data.load_image_folders(tmp_path)
    assert tuple(map(len, sets)) == counts
    for dataset in sets:
        assert dataset.classes == ("a", "b")
        assert (dataset.images[:, 0, 0, 0] == 255 * dataset.labels).all()


def test_sizes_and_colours(tmp_path):
    for number in range(10):
        write(tmp_path / "a" / f"{number}.png", 50, mode="L")
    assert data.load(tmp_path)[0].image_shape == (1, 8, 6)
    assert data.load(tmp_path, image_shape=(3, None, 20))[0].image_shape == (3, 8, 20)
    write(tmp_path / "b" / "0.png", 50, size=(30, 40))
    assert data.load(tmp_path)[0].image_shape == (3, 64, 64)
    assert data.load(tmp_path, image_shape=(None, 16, 24))[0].image_shape == (3, 16, 24)


def test_broken_files_are_named_and_left_out(tmp_path):
    for number in range(10):
        write(tmp_path / "a" / f"{number}.png", number)
    (tmp_path / "a" / "3.png").write_bytes(b"nonsense")
    with pytest.raises(data.DataError, match=r"a/3\.png: can't be read as an image"):
        data.load(tmp_path)
    said = []
    train, test = data.load(tmp_path, on_broken=said.append)
    assert [str(error).partition(": ")[0] for error in said] == [str(tmp_path / "a" / "3.png")]
    found = torch.cat([train.images, test.images])[:, 0, 0, 0]
    assert sorted(found.tolist()) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_links_are_followed_but_not_in_circles(tmp_path):
    for number in range(5):
        write(tmp_path / "elsewhere" / f"{number}.png", 0)
    (tmp_path / "tree").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "tree" / "a")
    os.symlink(tmp_path / "elsewhere", tmp_path / "elsewhere" / "again")
    assert sum(map(len, data.load(tmp_path / "tree"))) == 5


def test_trees_that_cannot_be(tmp_path):
    write(tmp_path / "train" / "a" / "0.png", 0)
    write(tmp_path / "test" / "b" / "0.png", 0)
    with pytest.raises(data.DataError, match="test/b: there is no folder of this class to train on"):
        data.load(tmp_path)
    shutil.rmtree(tmp_path / "test" / "b")
    with pytest.raises(data.DataError, match="expected images to train and to test, got 1 and 0"):
        data.load(tmp_path)
    with pytest.raises(data.DataError, match="expected a folder for each class, got none"):
        data.load_image_folders(tmp_path / "test")


def test_from_arrays():
    grey = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert torch.equal(data.from_arrays("a", grey, [0, 2]).images, torch.from_numpy(grey)[:, None])
    assert data.from_arrays("a", grey, [0, 2]).classes == ("0", "1", "2")
    colour = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    last = data.from_arrays("a", colour, np.array([[1], [0]]), "xy")
    first = data.from_arrays("a", torch.from_numpy(colour).permute(0, 3, 1, 2), torch.tensor([1, 0]), "xy")
    assert last.image_shape == (3, 4, 5)
    assert torch.equal(last.images, first.images)
    assert torch.equal(last.labels, first.labels)
    assert data.from_arrays("a", np.float32([[[0, 0.5, 1]]]), [0]).images.flatten().tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 4)) - 1, [0, 1], "images: expected floating-point from 0 to 1, got -1 to -1"),
        (np.full((2, 3, 4), np.nan), [0, 1], "images: expected floating-point from 0 to 1, got nan"),
        (np.zeros((2, 3, 4), int), [0, 1], "images: expected uint8 or floating-point, got int64"),
        (np.zeros((2, 5, 5, 5), np.uint8), [0, 1], r"images: expected .* got \(2, 5, 5, 5\)"),
        (np.zeros((2, 5), np.uint8), [0, 1], r"images: expected .* got \(2, 5\)"),
        (np.zeros((2, 5, 5), np.uint8), [0.5, 1], "labels: expected integers, got float64"),
        (np.zeros((2, 5, 5), np.uint8), [0], "labels: expected one int64 for each of the 2 images"),
        (np.zeros((2, 5, 5), np.uint8), [0, -1], "labels: expected 0 to 0"),
    ],
)
def test_arrays_that_cannot_be(images, labels, message):
    with pytest.raises(data.DataError, match=f"a: {message}"):
        data.from_arrays("a", images, labels)


def test_load_npz(tmp_path):
    images, labels = np.arange(10 * 6, dtype=np.uint8).reshape(10, 2, 3), np.arange(10) % 3
    np.savez(tmp_path / "whole.npz", images=images, labels=labels)
    assert [len(dataset) for dataset in data.load(tmp_path / "whole.npz")] == [8, 2]
    np.savez(tmp_path / "parts.npz", x_train=images, y_train=labels * 0, x_test=images[:3], y_test=labels[:3])
    train, test = data.load(tmp_path / "parts.npz")
    assert (len(train), len(test), train.name) == (10, 3, "parts")
    assert train.classes == test.classes == ("0", "1", "2")
    np.savez(tmp_path / "other.npz", a=images)
    with pytest.raises(data.DataError, match=r"other\.npz: expected arrays x_train, .* got a"):
        data.load(tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:100])
    with pytest.raises(data.DataError, match=r"broken\.npz: can't be read: "):
        data.load(tmp_path / "broken.npz")
    (tmp_path / "a.txt").touch()
    with pytest.raises(data.DataError, match=r"a\.txt: expected a directory, an \.npz or a \.ts file"):
        data.load(tmp_path / "a.txt")


def test_folds():
    labels = torch.tensor([0] * 9 + [1] * 6)
    numbers = torch.arange(15, dtype=torch.uint8).view(-1, 1, 1, 1)
    whole = data.ImageDataset("set", numbers, labels, "ab")
    pairs = data.folds(whole, 3, seed=1)
    tested = torch.cat([test.images for _, test in pairs]).flatten()
    assert sorted(tested.tolist()) == list(range(15))
    for train, test in pairs:
        assert sorted(torch.cat([train.images, test.images]).flatten().tolist()) == list(range(15))
        assert test.labels.bincount().tolist() == [3, 2]
    again, other = data.folds(whole, 3, seed=1), data.folds(whole, 3, seed=2)
    assert torch.equal(pairs[0][1].images, again[0][1].images)
    assert not torch.equal(pairs[0][1].images, other[0][1].images)
    for count in (1, 16):
        with pytest.raises(ValueError, match=f"count: expected a number from 2 to the 15 images, got {count}"):
            data.folds(whole, count)
