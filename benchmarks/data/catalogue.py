"""What is known about each dataset: a table of facts, without behaviour.

Checksums are those that torchvision or Avalanche publish; where they publish none, none is known
and the entry says so. Sizes are approximate. Terms are short forms of what the source named beside
them says; where none was read, the entry says so. The home page has the last word.
"""

from dataclasses import dataclass, replace

__all__ = ["CATALOGUE", "Counts", "Entry", "Remote"]

_NOT_VERIFIED = "not verified, see the home page"
_MB = 1_000_000
_GB = 1_000_000_000


@dataclass(frozen=True)
class Remote:
    """One file that can be fetched.

    Args:
        urls: Addresses of the same file, tried in this order.
        folder: Where it goes, relative to the data root.
        about_bytes: Approximate size; twice as much is refused.
        md5: Published checksum; None where none is known.
        unpack_into: Folder, relative to the data root, into which the archive is unpacked; None
            for files that are used as they are.
        unpacked_bytes: Most that the archive may unpack to.
    """

    urls: tuple[str, ...]
    folder: str
    about_bytes: int
    md5: str | None = None
    unpack_into: str | None = None
    unpacked_bytes: int = 0

    @property
    def name(self) -> str:
        """The file's name."""
        return self.urls[0].rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Counts:
    """What a complete dataset holds.

    Args:
        train: Samples in its official training part.
        test: Samples in its official test part.
        classes: Number of classes.
    """

    train: int
    test: int
    classes: int


@dataclass(frozen=True)
class Entry:
    """One dataset.

    Args:
        name: Short name in commands and messages.
        title: Full name.
        home: Home page.
        folders: Where it may lie, relative to a data root; the first is where it is put.
        needs: Files or folders that make it complete; "a|b" is either of two.
        counts: Sizes of the complete set, or None where they are not known for certain.
        remotes: What is fetched.
        manual: What to put where, for sets that cannot be fetched.
        by_hand_bytes: Approximate bytes to get by hand, for sets that cannot be fetched.
        system: Folders outside any data root in which it may lie.
        terms: Licence or terms of use.
        md5: Published checksums of files of the set, relative to its folder.
        cached_bytes: Approximate size of the decoded copy at 256x256 pixels (or native size).
        notes: Anything else that a user should know.
    """

    name: str
    title: str
    home: str
    folders: tuple[str, ...]
    needs: tuple[str, ...]
    counts: Counts | None
    remotes: tuple[Remote, ...] = ()
    manual: str = ""
    by_hand_bytes: int = 0
    system: tuple[str, ...] = ()
    terms: str = _NOT_VERIFIED
    md5: tuple[tuple[str, str], ...] = ()
    cached_bytes: int = 0
    notes: str = ""

    @property
    def download_bytes(self) -> int:
        """Approximate bytes to get."""
        return sum(remote.about_bytes for remote in self.remotes) or self.by_hand_bytes


def _idx_entry(
    name: str,
    title: str,
    home: str,
    folder: str,
    mirrors: tuple[str, ...],
    md5: tuple[str, ...],
    sizes: tuple[int, ...],
) -> Entry:
    stems = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = [f"{stem}-ubyte" for stem in stems]
    return Entry(
        name=name,
        title=title,
        home=home,
        folders=(
            f"{folder}/raw",
            f"{name.replace('_', '')}/{folder}/raw",  # Avalanche
            folder,
            name.replace("_", "-"),
            name,
        ),
        needs=tuple(f"{file}|{file}.gz" for file in files),
        counts=Counts(60_000, 10_000, 10),
        remotes=tuple(
            Remote(
                tuple(f"{mirror}{file}.gz" for mirror in mirrors), f"{folder}/raw", size, checksum
            )
            for file, size, checksum in zip(files, sizes, md5, strict=True)
        ),
        cached_bytes=55 * _MB,
    )


_MNIST = replace(
    _idx_entry(
        "mnist",
        "MNIST handwritten digits",
        "http://yann.lecun.com/exdb/mnist/",
        "MNIST",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        (9_912_422, 28_881, 1_648_877, 4_542),
    ),
    terms="CC BY-SA 3.0 (as Keras states it)",
)

_FASHION_MNIST = replace(
    _idx_entry(
        "fashion_mnist",
        "Fashion-MNIST",
        "https://github.com/zalandoresearch/fashion-mnist",
        "FashionMNIST",
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        (27 * _MB, _MB // 10, 5 * _MB, _MB // 10),
    ),
    system=("/usr/share/datasets/fashion-mnist",),
    terms="MIT",
    notes="Debian and Ubuntu ship it: apt-get install dataset-fashion-mnist.",
)

_CIFAR10 = Entry(
    name="cifar10",
    title="CIFAR-10",
    home="https://www.cs.toronto.edu/~kriz/cifar.html",
    folders=("cifar-10-batches-py", "cifar10/cifar-10-batches-py", "CIFAR10/cifar-10-batches-py"),
    needs=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
    counts=Counts(50_000, 10_000, 10),
    remotes=(
        Remote(
            ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
            ".",
            171 * _MB,
            "c58f30108f718f92721af3b95e74349a",
            unpack_into=".",
            unpacked_bytes=400 * _MB,
        ),
    ),
    md5=(
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
        ("test_batch", "40351d587109b95175f43aff81a1287e"),
        ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
    ),
    terms="no licence stated; asks to cite the technical report (home page)",
    cached_bytes=185 * _MB,
)

_CIFAR100 = Entry(
    name="cifar100",
    title="CIFAR-100",
    home="https://www.cs.toronto.edu/~kriz/cifar.html",
    folders=("cifar-100-python", "cifar100/cifar-100-python", "CIFAR100/cifar-100-python"),
    needs=("train", "test", "meta"),
    counts=Counts(50_000, 10_000, 100),
    remotes=(
        Remote(
            ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
            ".",
            169 * _MB,
            "eb9058c3a382ffc7106e4002c42a8d85",
            unpack_into=".",
            unpacked_bytes=400 * _MB,
        ),
    ),
    md5=(
        ("train", "16019d7e3df5f24257cddd939b257f8d"),
        ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
        ("meta", "7973b15100ade9c7d40fb424638fde48"),
    ),
    terms="no licence stated; asks to cite the technical report (home page)",
    cached_bytes=185 * _MB,
)

_FLOWERS_HOME = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
_FLOWERS = Entry(
    name="flowers",
    title="Oxford Flowers-102",
    home=_FLOWERS_HOME,
    folders=("flowers-102",),
    needs=("jpg", "imagelabels.mat", "setid.mat"),
    counts=Counts(2_040, 6_149, 102),
    remotes=(
        Remote(
            (f"{_FLOWERS_HOME}102flowers.tgz",),
            "flowers-102",
            345 * _MB,
            "52808999861908f626f3c1f4e79d11fa",
            unpack_into="flowers-102",
            unpacked_bytes=_GB,
        ),
        Remote(
            (f"{_FLOWERS_HOME}imagelabels.mat",),
            "flowers-102",
            _MB // 10,
            "e0620be6f572b9609742df49c70aed4d",
        ),
        Remote(
            (f"{_FLOWERS_HOME}setid.mat",),
            "flowers-102",
            _MB // 10,
            "a5357ecc9cb78c4bef273ce3793fc85c",
        ),
    ),
    md5=(
        ("imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
        ("setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
    ),
    cached_bytes=1_610 * _MB,
    notes="The training part is the official training and validation part together.",
)

_SCENES = Entry(
    name="scenes",
    title="MIT Indoor-67",
    home="https://web.mit.edu/torralba/www/indoor.html",
    folders=("indoor67", "indoorCVPR_09", "MIT67"),
    needs=("Images|indoorCVPR_09/Images", "TrainImages.txt", "TestImages.txt"),
    counts=Counts(5_360, 1_340, 67),
    remotes=(
        Remote(
            ("http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",),
            "indoor67",
            2_400 * _MB,
            unpack_into="indoor67",
            unpacked_bytes=6 * _GB,
        ),
        Remote(("https://web.mit.edu/torralba/www/TrainImages.txt",), "indoor67", _MB // 5),
        Remote(("https://web.mit.edu/torralba/www/TestImages.txt",), "indoor67", _MB // 5),
    ),
    terms="research purposes only (home page)",
    cached_bytes=1_320 * _MB,
    notes="No published checksum is known. The list files name 80 + 20 images a class.",
)

_BIRDS = Entry(
    name="birds",
    title="Caltech-UCSD Birds CUB-200-2011",
    home="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    folders=("CUB_200_2011", "CUB_200_2011/CUB_200_2011", "cub200/CUB_200_2011"),
    needs=("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
    counts=Counts(5_994, 5_794, 200),
    remotes=(
        Remote(
            ("http://www.vision.caltech.edu/visipedia-data/CUB-200-2011/CUB_200_2011.tgz",),
            ".",
            1_150 * _MB,
            "97eceeb196236b17998738112f37df78",
            unpack_into=".",
            unpacked_bytes=3 * _GB,
        ),
    ),
    cached_bytes=2_320 * _MB,
)

_CARS = Entry(
    name="cars",
    title="Stanford Cars",
    home="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    folders=("stanford_cars",),
    needs=(
        "cars_train",
        "cars_test",
        "cars_test_annos_withlabels.mat",
        "devkit/cars_train_annos.mat",
        "devkit/cars_meta.mat",
    ),
    counts=Counts(8_144, 8_041, 196),
    manual=(
        "the official address is dead, so nothing is fetched; put into the folder stanford_cars "
        "of the data root: cars_train/ and cars_test/ (the images), "
        "cars_test_annos_withlabels.mat, devkit/cars_train_annos.mat and devkit/cars_meta.mat"
    ),
    by_hand_bytes=1_950 * _MB,
    cached_bytes=3_190 * _MB,
)

_AIRCRAFT = Entry(
    name="aircraft",
    title="FGVC-Aircraft 2013b, variants",
    home="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    folders=("fgvc-aircraft-2013b",),
    needs=(
        "data/images",
        "data/variants.txt",
        "data/images_variant_trainval.txt",
        "data/images_variant_test.txt",
    ),
    counts=Counts(6_667, 3_333, 100),
    remotes=(
        Remote(
            (
                "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/"
                "fgvc-aircraft-2013b.tar.gz",
            ),
            ".",
            2_750 * _MB,
            unpack_into=".",
            unpacked_bytes=8 * _GB,
        ),
    ),
    terms="non-commercial research only (README of the archive)",
    cached_bytes=1_970 * _MB,
    notes="No published checksum is known.",
)

_ACTIONS = Entry(
    name="actions",
    title="PASCAL VOC 2012 Actions",
    home="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    folders=("VOCdevkit/VOC2012", "VOC2012"),
    needs=("ImageSets/Action", "Annotations", "JPEGImages"),
    counts=None,
    remotes=(
        Remote(
            ("https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",),
            ".",
            2_000 * _MB,
            "6cd6e144f989b92b3379bac3b3de84fd",
            unpack_into=".",
            unpacked_bytes=4 * _GB,
        ),
    ),
    cached_bytes=1_230 * _MB,
    notes=(
        "One sample a person with exactly one action, cut out along the person's box; trained on "
        "the challenge's training part and tested on its validation part."
    ),
)

_LETTERS = Entry(
    name="letters",
    title="Chars74K, English letters in natural images",
    home="http://www.ee.surrey.ac.uk/CVSSP/demos/chars74k/",
    folders=("chars74k", "Chars74K"),
    needs=("English/Img/GoodImg/Bmp",),
    counts=None,
    remotes=(
        Remote(
            ("http://www.ee.surrey.ac.uk/CVSSP/demos/chars74k/EnglishImg.tgz",),
            "chars74k",
            134 * _MB,
            unpack_into="chars74k",
            unpacked_bytes=2 * _GB,
        ),
    ),
    terms="acknowledge the source and cite (home page)",
    cached_bytes=2_100 * _MB,
    notes=(
        "No published checksum and no official split are known: a seeded stratified one is used. "
        "The home page has a copy at https://teodecampos.github.io/chars74k/."
    ),
)

_SVHN_HOME = "http://ufldl.stanford.edu/housenumbers/"
_SVHN = Entry(
    name="svhn",
    title="Street View House Numbers, cropped digits",
    home=_SVHN_HOME,
    folders=("svhn", "SVHN", "."),
    needs=("train_32x32.mat", "test_32x32.mat"),
    counts=Counts(73_257, 26_032, 10),
    remotes=(
        Remote(
            (f"{_SVHN_HOME}train_32x32.mat",), "svhn", 182 * _MB, "e26dedcc434d2e4c54c9b2d4a06d8373"
        ),
        Remote(
            (f"{_SVHN_HOME}test_32x32.mat",), "svhn", 64 * _MB, "eb5a983be6a315427106f1b164d9cef3"
        ),
    ),
    md5=(
        ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
        ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
    ),
    terms="non-commercial use only (home page)",
    cached_bytes=305 * _MB,
)

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _MNIST,
        _FASHION_MNIST,
        _CIFAR10,
        _CIFAR100,
        _FLOWERS,
        _SCENES,
        _BIRDS,
        _CARS,
        _AIRCRAFT,
        _ACTIONS,
        _LETTERS,
        _SVHN,
    )
}
"""Every dataset by name, in the order in which ``data list`` shows them."""
