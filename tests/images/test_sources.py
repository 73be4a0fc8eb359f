"""Digits and photographs are read from wherever they are; what is broken is named."""

import gzip
import io
import socket
import tarfile
import threading
import time

import numpy as np
import pytest
from PIL import Image

from conftest import shared, write_idx
from metasdf.errors import InputError
from metasdf.images import sources
from metasdf.images.download import check_reachable, download, first_hop
from metasdf.images.sources import load_digits, load_photographs, read_idx, read_image

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
DIGITS = np.random.default_rng(0).integers(0, 256, (5, 7, 6), dtype=np.uint8)


@pytest.fixture
def no_internet(monkeypatch):
    def refuse(url, md5, folder):
        raise InputError(f"{url}: cannot be downloaded (no internet)")

    monkeypatch.setattr(sources, "download", refuse)


def noise(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def rows(array):
    return {image.tobytes() for image in array}


# MNIST's files


@pytest.mark.parametrize("name", [TRAIN, TRAIN + ".gz"])
def test_idx_files_are_read_gzipped_or_not(name, tmp_path):
    write_idx(tmp_path / name, DIGITS)
    read = read_idx(tmp_path / name)
    assert read.dtype == np.uint8
    assert np.array_equal(read, DIGITS)


def test_a_folder_gives_the_digits_to_train_on_and_to_test_on(tmp_path):
    write_idx(tmp_path / TRAIN, DIGITS)
    write_idx(tmp_path / f"{TEST}.gz", DIGITS[:2])
    assert np.array_equal(load_digits(str(tmp_path), "train", "nowhere"), DIGITS)
    assert np.array_equal(load_digits(str(tmp_path), "test", "nowhere"), DIGITS[:2])


def test_a_folder_without_digits_is_named(tmp_path):
    with pytest.raises(InputError, match=rf"{tmp_path}: holds no {TRAIN}\[.gz\]"):
        load_digits(str(tmp_path), "train", "nowhere")


GOOD = b"\0\0\x08\x03" + np.array(DIGITS.shape, ">u4").tobytes() + DIGITS.tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no idx file of images"),
        (GOOD[:10], "no idx file of images"),
        (b"\0\0\x08\x01" + GOOD[4:], "no idx file of images"),  # one of labels
        (GOOD[:-1], "not as long as its header says"),
        (GOOD + b"0", "not as long as its header says"),
        (GOOD[:4] + bytes(12), "holds no images"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_no_idx_file_of_images_is_an_input_error(content, message, packed, tmp_path):
    path = tmp_path / (TRAIN + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_damaged_gzip_or_a_missing_file_is_an_input_error(tmp_path):
    whole = gzip.compress(GOOD)
    for broken in (whole[:-30], b"", GOOD, whole[:20] + b"\xff" * 20 + whole[40:]):
        path = tmp_path / f"{TRAIN}.gz"
        path.write_bytes(broken)
        with pytest.raises(InputError):
            read_idx(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path / "absent.gz")
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path)


def test_real_mnist_is_read():
    folder = str(shared("data", "mnist"))
    test = load_digits(folder, "test", "nowhere")
    assert test.shape == (10_000, 28, 28)
    train = load_digits(folder, "train", "nowhere")
    assert train.shape == (60_000, 28, 28)
    assert 0.15 < (train[:2000] >= 128).mean() * 28 * 28 / (20 * 20) < 0.35


# Digits without files


def test_embedded_digits_to_train_on_and_to_test_on_are_apart():
    train, test = (load_digits("embedded", part, "nowhere") for part in ("train", "test"))
    assert train.dtype == test.dtype == np.uint8
    assert train.shape == (1500, 28, 28)
    assert test.shape == (297, 28, 28)
    assert not rows(train) & rows(test)
    assert train.max() == 255
    frame = np.ones((28, 28), bool)
    frame[4:-4, 4:-4] = False
    assert (train[:, frame] > 127).mean() < 1e-3  # as in MNIST, none touches the border


@pytest.mark.usefixtures("no_internet")
def test_auto_falls_back_to_embedded_digits_and_says_so(tmp_path, caplog):
    digits = load_digits("auto", "test", tmp_path)
    assert np.array_equal(digits, load_digits("embedded", "test", tmp_path))
    (message,) = caplog.messages
    assert "\n" not in message
    assert "cannot be downloaded" in message
    assert "using the digits of scikit-learn instead" in message


@pytest.mark.usefixtures("no_internet")
def test_auto_takes_what_is_in_the_cache(tmp_path, caplog):
    write_idx(tmp_path / "mnist" / f"{TEST}.gz", DIGITS)
    write_idx(tmp_path / "mnist" / TRAIN, DIGITS[:2])
    assert np.array_equal(load_digits("auto", "test", tmp_path), DIGITS)
    assert caplog.messages == []


@pytest.mark.usefixtures("no_internet")
def test_auto_never_tests_on_other_digits_than_it_trains_on(tmp_path):
    write_idx(tmp_path / "mnist" / TRAIN, DIGITS)  # and what there is to test on is missing
    for part in ("train", "test"):
        expected = load_digits("embedded", part, tmp_path)
        assert np.array_equal(load_digits("auto", part, tmp_path), expected)


def test_auto_takes_what_it_downloads(tmp_path, monkeypatch):
    def fetch(url, md5, folder):
        write_idx(folder / url.rsplit("/", 1)[1], DIGITS)
        return folder / url.rsplit("/", 1)[1]

    monkeypatch.setattr(sources, "download", fetch)
    assert np.array_equal(load_digits("auto", "train", tmp_path), DIGITS)


@pytest.mark.parametrize("error", [OSError("no route\nto host"), ValueError("hash"), OSError()])
def test_a_download_that_fails_is_an_input_error_of_one_line(error, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("metasdf.images.download.check_reachable", lambda url: None)
    monkeypatch.setattr("pooch.retrieve", fail)
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        download("https://nowhere.invalid/a.gz", "0" * 32, tmp_path)
    assert "\n" not in str(caught.value)


# Whether there is internet


@pytest.fixture
def no_proxies(monkeypatch):
    """The environment names no proxies; the test may add some."""
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)


@pytest.fixture
def released():
    """An event that threads may hang on until the test is over."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("hanging", ["getaddrinfo", "create_connection"])
def test_a_host_that_never_answers_is_given_up_after_seconds(
    hanging, released, tmp_path, monkeypatch, caplog
):
    def hang(*arguments, **options):
        released.wait()
        raise OSError

    monkeypatch.setattr(socket, hanging, hang)
    monkeypatch.setattr("metasdf.images.download.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("pooch.retrieve", lambda *arguments, **options: pytest.fail("called"))
    start = time.perf_counter()
    digits = load_digits("auto", "test", tmp_path)
    photographs, _ = load_photographs("auto", "test", tmp_path, 8)
    assert time.perf_counter() - start < 10
    assert len(digits) == 297
    assert len(photographs) == 200
    assert [m.split(":")[0] for m in caplog.messages] == ["MNIST", "CIFAR-10"]
    assert caplog.text.count("cannot be downloaded (no connection within 0.2 s)") == 2


@pytest.mark.usefixtures("no_proxies")
def test_a_host_without_address_or_that_refuses_is_unreachable(monkeypatch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        check_reachable(f"http://127.0.0.1:{port}/file")

    def unknown(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError, match=r"cannot be downloaded \(.*Name or service not known\)"):
        download("https://nowhere.invalid/a.gz", "0" * 32, tmp_path)


@pytest.mark.usefixtures("no_proxies")
def test_a_host_or_proxy_that_listens_is_reachable(monkeypatch):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        check_reachable(f"http://127.0.0.1:{port}/file")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        check_reachable("https://nowhere.invalid/file")


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("data.example", 443)),
        ({"https_proxy": "http://proxy.example:3128"}, ("proxy.example", 3128)),
        ({"https_proxy": "user:word@proxy.example:3128"}, ("proxy.example", 3128)),
        ({"HTTPS_PROXY": "http://proxy.example"}, ("proxy.example", 80)),
        ({"all_proxy": "socks5://proxy.example"}, ("proxy.example", 1080)),
        ({"http_proxy": "http://proxy.example:3128"}, ("data.example", 443)),
        ({"https_proxy": "http://proxy.example", "no_proxy": ".example"}, ("data.example", 443)),
    ],
)
def test_a_request_goes_to_the_proxy_where_there_is_one(variables, expected, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert first_hop("https://data.example/images/file.gz") == expected


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("proxy", ["http://proxy.example:port", "http://"])
def test_a_proxy_that_is_no_address_is_an_input_error(proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(InputError, match="cannot be downloaded"):
        download("https://data.example/a.gz", "0" * 32, tmp_path)


# Photographs


def test_embedded_photographs_to_train_on_and_to_test_on_are_apart():
    train, left_out = load_photographs("embedded", "train", "nowhere", 16)
    test, _ = load_photographs("embedded", "test", "nowhere", 16)
    assert left_out == 0
    assert train.dtype == np.uint8
    assert train.shape == (2000, 16, 16, 3)
    assert test.shape == (200, 16, 16, 3)
    assert len(rows(train)) > 1900
    assert not rows(train) & rows(test)
    assert not set(sources.PHOTOGRAPHS["train"]) & set(sources.PHOTOGRAPHS["test"])
    assert np.array_equal(test, load_photographs("embedded", "test", "nowhere", 16)[0])


def test_an_npz_file_gives_its_images_as_they_are(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, train_images=noise(4, 8), test_images=noise(2, 8, seed=1))
    assert np.array_equal(load_photographs(str(path), "train", "nowhere", 8)[0], noise(4, 8))
    test, left_out = load_photographs(str(path), "test", "nowhere", 8)
    assert np.array_equal(test, noise(2, 8, seed=1))
    assert left_out == 0


def test_an_npz_files_images_are_resized_and_cropped_to_the_middle(tmp_path):
    path = tmp_path / "images.npz"
    wide = np.zeros((1, 20, 60, 3), np.uint8)
    wide[:, :, 20:30], wide[:, :, 30:40] = (200, 100, 50), (0, 0, 250)
    np.savez(path, train_images=wide)
    resized, _ = load_photographs(str(path), "train", "nowhere", 10)
    assert resized.shape == (1, 10, 10, 3)
    assert np.abs(resized[0, :, 1:4].mean((0, 1)) - [200, 100, 50]).max() < 8
    assert np.abs(resized[0, :, 6:9].mean((0, 1)) - [0, 0, 250]).max() < 8


@pytest.mark.parametrize(
    "array",
    [
        noise(3, 8).astype(np.float32),
        noise(3, 8)[..., 0],
        noise(3, 8)[..., :2],
        noise(0, 8),
    ],
)
def test_an_npz_array_of_another_type_or_shape_is_an_input_error(array, tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, train_images=array)
    with pytest.raises(InputError, match="want uint8"):
        load_photographs(str(path), "train", "nowhere", 8)


def test_an_npz_file_that_is_damaged_missing_or_lacks_a_part_is_an_input_error(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, train_images=noise(3, 8))
    with pytest.raises(InputError, match="has no array 'test_images'"):
        load_photographs(str(path), "test", "nowhere", 8)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="damaged"):
        load_photographs(str(path), "train", "nowhere", 8)
    with pytest.raises(InputError, match="not found"):
        load_photographs(str(tmp_path / "absent.npz"), "train", "nowhere", 8)


# Folders


def write_plain(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (grey, grey, grey)).save(path)


def test_every_tenth_image_of_a_folder_is_to_test_on(tmp_path):
    for number in range(25):
        write_plain(tmp_path / ("a" if number < 12 else "b") / f"{number:02}.png", number)
    (tmp_path / "notes.txt").write_text("no image")
    train, _ = load_photographs(str(tmp_path), "train", "nowhere", 4)
    test, _ = load_photographs(str(tmp_path), "test", "nowhere", 4)
    assert test.shape == (2, 4, 4, 3)
    assert test[:, 0, 0, 0].tolist() == [9, 19]
    assert train[:, 0, 0, 0].tolist() == [n for n in range(25) if n not in (9, 19)]


@pytest.mark.parametrize("count", [2, 3, 9])
def test_of_few_images_the_last_is_to_test_on(count, tmp_path):
    for number in range(count):
        write_plain(tmp_path / f"{number}.bmp", number)
    test, _ = load_photographs(str(tmp_path), "test", "nowhere", 4)
    train, _ = load_photographs(str(tmp_path), "train", "nowhere", 4)
    assert test[:, 0, 0, 0].tolist() == [count - 1]
    assert len(train) == count - 1


def test_an_image_that_cannot_be_read_is_reported_and_counted(tmp_path, caplog):
    for number in range(4):
        write_plain(tmp_path / f"{number}.png", number)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    (tmp_path / "2.jpg").write_text("no image")
    train, left_out = load_photographs(str(tmp_path), "train", "nowhere", 4)
    assert train[:, 0, 0, 0].tolist() == [0, 2]
    assert left_out == 2
    error = caplog.messages
    assert [line.startswith("left out: ") for line in error] == [True, True]
    assert "1.png" in error[0]
    assert "2.jpg" in error[1]


def test_a_folder_with_too_few_or_no_readable_images_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="is no folder of images"):
        load_photographs(str(tmp_path / "absent"), "train", "nowhere", 4)
    write_plain(tmp_path / "0.png", 0)
    with pytest.raises(InputError, match="holds 1 images; needs one to train, one to test on"):
        load_photographs(str(tmp_path), "train", "nowhere", 4)
    (tmp_path / "1.png").write_text("no image")
    with pytest.raises(InputError, match="none of 1 images to test on can be read"):
        load_photographs(str(tmp_path), "test", "nowhere", 4)


def test_what_is_transparent_becomes_white(tmp_path):
    image = np.zeros((8, 8, 4), np.uint8)
    image[:, :4] = 10, 20, 30, 255
    Image.fromarray(image).save(tmp_path / "rgba.png")
    read = read_image(tmp_path / "rgba.png", 8)
    assert (read[:, :3] == [10, 20, 30]).all()
    assert (read[:, 5:] == 255).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert (read_image(tmp_path / "palette.png", 4) == 255).all()


def test_grey_images_of_any_depth_become_three_equal_channels(tmp_path):
    grey = np.tile(np.linspace(0, 255, 8).round().astype(np.uint8), (8, 1))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey > 127).save(tmp_path / "bits.png")
    expected = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(read_image(tmp_path / "grey.png", 8), expected)
    assert np.array_equal(read_image(tmp_path / "deep.png", 8), expected)
    assert np.array_equal(read_image(tmp_path / "bits.png", 8), 255 * (expected > 127))


# CIFAR-10


def cifar_archive(cache, batches):
    """The binary version: a byte of label, then the planes of red, green and blue."""
    path = cache / "cifar10" / "cifar-10-binary.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in batches.items():
            if not isinstance(content, bytes):
                planes = content.transpose(0, 3, 1, 2).reshape(len(content), -1)
                content = np.pad(planes, ((0, 0), (1, 0)), constant_values=7).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


BATCHES = {
    "data_batch_2.bin": noise(3, 32, seed=2),
    "data_batch_1.bin": noise(2, 32, seed=1),
    "test_batch.bin": noise(4, 32, seed=3),
    "readme.html": b"<html>",
}


@pytest.mark.usefixtures("no_internet")
def test_auto_reads_cifar_from_the_cache(tmp_path, caplog):
    cifar_archive(tmp_path, BATCHES)
    train, left_out = load_photographs("auto", "train", tmp_path, 32)
    first, second = BATCHES["data_batch_1.bin"], BATCHES["data_batch_2.bin"]
    assert np.array_equal(train, np.concatenate([first, second]))
    test, _ = load_photographs("auto", "test", tmp_path, 32)
    assert np.array_equal(test, BATCHES["test_batch.bin"])
    assert left_out == 0
    assert load_photographs("auto", "test", tmp_path, 16)[0].shape == (4, 16, 16, 3)
    assert caplog.messages == []


@pytest.mark.usefixtures("no_internet")
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (None, "is damaged"),
        ({"test_batch.bin": b"short"}, "is damaged"),
        ({"readme.html": b"<html>"}, "holds no images"),
        ({"test_batch.bin": b""}, "holds no images"),
    ],
)
def test_a_damaged_archive_of_cifar_is_named(batches, message, tmp_path):
    path = cifar_archive(tmp_path, batches or BATCHES)
    if batches is None:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=message) as caught:
        load_photographs("auto", "test", tmp_path, 8)
    assert str(path) in str(caught.value)
    assert "delete it" in str(caught.value)


@pytest.mark.usefixtures("no_internet")
def test_auto_falls_back_to_embedded_photographs_and_says_so(tmp_path, caplog):
    test, _ = load_photographs("auto", "test", tmp_path, 8)
    assert test.shape == (200, 8, 8, 3)
    assert "cannot be downloaded (no internet); using photographs" in caplog.text


def test_real_photographs_of_cifar_are_read():
    path = shared("data", "cifar10", "cifar10_subset.npz")
    test, _ = load_photographs(str(path), "test", "nowhere", 32)
    assert test.shape == (983, 32, 32, 3)
