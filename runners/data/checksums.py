"""The published files of every data set that has some, and who printed their checksums; imports no torch.

An archive is downloaded only if a checksum of it stands in a project that many rely on, or in two that do not depend on each
other, and only over https. No file is checked by an MD5 sum alone.
"""

from collections.abc import Mapping

from runners.data.published import Archive, Published

KRIZHEVSKY = "https://www.cs.toronto.edu/~kriz/cifar.html"

# The archive's SHA-256 is the one in Keras (keras.datasets.cifar10); those of its members are of files that have the MD5
# sums in torchvision.datasets.CIFAR10.
CIFAR10 = Published(
    KRIZHEVSKY,
    (
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            170_498_071,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            {
                "cifar-10-batches-py/batches.meta": "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb",
                "cifar-10-batches-py/data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
                "cifar-10-batches-py/data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
                "cifar-10-batches-py/data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
                "cifar-10-batches-py/data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
                "cifar-10-batches-py/data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
                "cifar-10-batches-py/test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
            },
        ),
    ),
)

# The archive's SHA-256 is the one in Keras (keras.datasets.cifar100); those of its members stand in several unrelated public
# repositories beside it.
CIFAR100 = Published(
    KRIZHEVSKY,
    (
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            169_001_437,
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            {
                "cifar-100-python/meta": "a5d4786345c961390f865e93b434dbd5c6904ce880667e0cb888c97d449f28b9",
                "cifar-100-python/test": "4b67687d9933c4db8f0831104447f15b93774f4f464bd0516f0f0f2ac83b7864",
                "cifar-100-python/train": "735e79b04f092ca3d2e6d07f368c0a7d70d48c48d28865950cc24454cf45129b",
            },
        ),
    ),
)

# What shared/data/unpack.py makes of its images with numpy 2: pickles of another order, so nobody else has published them.
CIFAR100_PART = Published(
    "the project's shared/data (python unpack.py DIR --only cifar100, with numpy 2)",
    by_hand={
        "cifar-100-python/meta": "4ab08b6fcc9bcad9915ea206c27bada0bd535afe392838a3519fa9af0b3ae682",
        "cifar-100-python/test": "f4ee2670c692aa18de5743e1a2a25e78929ddb27f852b2c9b1b14255e268bb47",
        "cifar-100-python/train": "b87ecafb7f1379b646495915242d21241be8fe6b04b1e1afa6b9801e06c4ea14",
    },
)


def _idx(folder: str, address: str, parts: Mapping[str, tuple[int, str, str]]) -> tuple[Archive, ...]:
    """Files of MNIST's format, each published alone and packed.

    Args:
        parts: name -> bytes and SHA-256 of the packed file, and SHA-256 of what is in it.
    """
    return tuple(
        Archive(f"{address}/{name}.gz", size, packed, {f"{folder}/{name}": content}, folder)
        for name, (size, packed, content) in parts.items()
    )


# Packed: TensorFlow Datasets (url_checksums/mnist.txt). Unpacked: of files that have the MD5 sums that the four unpacked files
# have in every copy; several public repositories print the same.
MNIST = Published(
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    _idx(
        "MNIST/raw",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        {
            "train-images-idx3-ubyte": (
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            "train-labels-idx1-ubyte": (
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            "t10k-images-idx3-ubyte": (
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            "t10k-labels-idx1-ubyte": (
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        },
    ),
)

# Packed: TensorFlow Datasets (url_checksums/fashion_mnist.txt), the files in the authors' repository. Unpacked: several
# unrelated public repositories print the same.
FASHION_MNIST = Published(
    "https://github.com/zalandoresearch/fashion-mnist",
    _idx(
        "FashionMNIST/raw",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        {
            "train-images-idx3-ubyte": (
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            "train-labels-idx1-ubyte": (
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            "t10k-images-idx3-ubyte": (
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            "t10k-labels-idx1-ubyte": (
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        },
    ),
)

# The archive: TensorFlow Datasets (url_checksums/emnist.txt), and several others. Nobody publishes checksums of what is in it;
# of files that were unpacked elsewhere only sizes (a header and 784 bytes an image, or one a label) can be compared.
EMNIST = Published(
    "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
    (
        Archive(
            "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
            561_753_746,
            "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
            {
                "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte": 16 + 112_800 * 784,
                "EMNIST/raw/emnist-balanced-train-labels-idx1-ubyte": 8 + 112_800,
                "EMNIST/raw/emnist-balanced-test-images-idx3-ubyte": 16 + 18_800 * 784,
                "EMNIST/raw/emnist-balanced-test-labels-idx1-ubyte": 8 + 18_800,
            },
            "EMNIST/raw",
            "gzip/",
        ),
    ),
)

# TensorFlow Datasets (url_checksums/svhn_cropped.txt); offered over http alone.
SVHN = Published(
    "http://ufldl.stanford.edu/housenumbers",
    by_hand={
        "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        "extra_32x32.mat": "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
    },
    needs={"extra_32x32.mat": "extra"},
)

# The function that reads a data set -> its published files.
PUBLISHED: Mapping[str, Published] = {
    "runners.data.cifar.cifar10": CIFAR10,
    "runners.data.cifar.cifar100": CIFAR100,
    "runners.data.cifar.cifar100_part": CIFAR100_PART,
    "runners.data.mnist.mnist": MNIST,
    "runners.data.mnist.fashion_mnist": FASHION_MNIST,
    "runners.data.mnist.emnist": EMNIST,
    "runners.data.svhn.svhn": SVHN,
}

TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
# Of folders of images, which nobody checks.
ADDRESSES: Mapping[str, str] = {
    "runners.data.image_folder.image_folders": "https://image-net.org/challenges/LSVRC/2012",
    "runners.data.image_folder.image_folder": "the project's shared/data (python unpack.py DIR --only imagenet_sample)",
    "runners.data.folder.tiny_imagenet": TINY_IMAGENET,
}
