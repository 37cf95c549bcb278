"""Operations of AutoAugment on a batch of uint8 images, another one for every image, in fixed shapes.

Every operation is of one of three kinds. A batch goes through all three, and an operation of one kind changes nothing in the
other two, so that no image waits for another one's kind:
    movement   a pixel comes from another place: a row of a table, place -> source (shear, translation, rotation)
    values     a pixel depends on its old value alone: a row of a table, old -> new (invert, posterize, solarize, brightness),
               or one made from the image's own statistics (autocontrast, equalize, contrast)
    blend      a weighted sum with the image without colour (color) or blurred (sharpness)

Example: a batch of two, of which the first is to be inverted, and the second to be sharpened by half.
    movement   sources of both are 0 1 2 3 ...
    values     255 254 253 ... for the first, 0 1 2 ... for the second
    blend      1 * image + 0 * blurred for the first, 1.5 * image - 0.5 * blurred for the second

The result has the bits of `torchvision.transforms.functional` on each image: tables are made by its functions, sums of
integers are exact in any order, and all else is the same float32 arithmetic, pixel by pixel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import atan, degrees

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from runners.augmenting.draws import Pixels

LEVELS = 10
# Largest magnitudes of operations whose magnitude has a sign; of translations as a share of the image's side.
MOST = {"shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331, "rotate": 30.0}
MOST |= {"brightness": 0.9, "color": 0.9, "contrast": 0.9, "sharpness": 0.9}
GREY = (0.2989, 0.587, 0.114)  # luminance of red, green and blue, as torchvision rounds it
VALUES = 256


@dataclass(frozen=True)
class Operation:
    """An operation on an image of known size; the first of a table is `nothing`."""

    name: str
    magnitude: float = 0.0


NOTHING = Operation("nothing")


def operation(name: str, level: int, *, negative: bool, height: int, width: int) -> Operation:
    """The operation of a level, which is a tenth of the range of magnitudes each; its sign counts where it has one."""
    if name in MOST:
        most = MOST[name] * {"translate_x": width, "translate_y": height}.get(name, 1)
        size = torch.linspace(0.0, most, LEVELS)[level].item()
        return Operation(name, -size if negative else size)
    if name == "posterize":
        return Operation(name, 8 - round(level / ((LEVELS - 1) / 4)))
    if name == "solarize":
        return Operation(name, torch.linspace(255.0, 0.0, LEVELS)[level].item())
    return Operation(name)


def _shear(image: Tensor, x: float, y: float) -> Tensor:
    angles = [degrees(atan(x)), degrees(atan(y))]
    return TF.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, center=[0, 0])


def _translation(image: Tensor, x: float, y: float) -> Tensor:
    return TF.affine(image, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0])


MOVEMENTS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "shear_x": lambda image, size: _shear(image, size, 0.0),
    "shear_y": lambda image, size: _shear(image, 0.0, size),
    "translate_x": lambda image, size: _translation(image, size, 0),
    "translate_y": lambda image, size: _translation(image, 0, size),
    "rotate": TF.rotate,
}
OF_VALUES: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "invert": lambda image, _: TF.invert(image),
    "posterize": lambda image, bits: TF.posterize(image, int(bits)),
    "solarize": TF.solarize,
    "brightness": lambda image, size: TF.adjust_brightness(image, 1 + size),
}


@dataclass(frozen=True)
class Tables:
    """All that operations need to know, one row each; kinds that none of them is of are skipped.

    Args:
        sources: of every pixel after a movement; those beyond the last pixel lie outside the image.
        values: new values of old ones.
        ratios: of the image in its contrast and its blend, and of what is added to it.
        greyed: blends with the image without colour, not the blurred one.
    """

    fill: int
    moves: bool
    maps: bool
    blends: bool
    sources: Int64[Tensor, "operations pixels"]
    values: UInt8[Tensor, "operations values"]
    autocontrast: Bool[Tensor, " operations"]
    equalize: Bool[Tensor, " operations"]
    contrast: Float[Tensor, "operations 2"]
    blend: Float[Tensor, "operations 2"]
    greyed: Bool[Tensor, " operations"]


def tables(operations: Sequence[Operation], shape: tuple[int, int, int], *, fill: int, device: torch.device) -> Tables:
    """The tables of these operations for images of `shape`."""
    channels, height, width = shape
    # Images of one channel have no colour, and those of two rows no inside that could be blurred: nothing is done.
    without = {"color"} if channels == 1 else set()
    without |= {"sharpness"} if min(height, width) <= 2 else set()
    operations = [NOTHING if each.name in without else each for each in operations]
    names = [each.name for each in operations]
    return Tables(
        fill,
        any(name in MOVEMENTS for name in names),
        any(name in OF_VALUES or name in ("autocontrast", "equalize", "contrast") for name in names),
        any(name in ("color", "sharpness") for name in names),
        torch.stack([_sources(each, height, width) for each in operations]).to(device),
        torch.stack([_values(each) for each in operations]).to(device),
        torch.tensor([name == "autocontrast" for name in names], device=device),
        torch.tensor([name == "equalize" for name in names], device=device),
        torch.tensor([_ratios(each, ("contrast",)) for each in operations], device=device),
        torch.tensor([_ratios(each, ("color", "sharpness")) for each in operations], device=device),
        torch.tensor([name == "color" for name in names], device=device),
    )


def _sources(operation: Operation, height: int, width: int) -> Int64[Tensor, " pixels"]:
    """The source of every pixel, found by moving an image of pixel numbers from 1 on; 0 is outside."""
    numbers = torch.arange(1.0, height * width + 1).view(1, height, width)
    move = MOVEMENTS.get(operation.name)
    found = (move(numbers, operation.magnitude) if move else numbers).flatten().long()
    return torch.where(found == 0, height * width, found - 1)


def _values(operation: Operation) -> UInt8[Tensor, " values"]:
    """The new values of 0 to 255, found on an image of them."""
    image = torch.arange(VALUES, dtype=torch.uint8).view(1, 1, VALUES)
    change = OF_VALUES.get(operation.name)
    return (change(image, operation.magnitude) if change else image).flatten()


def _ratios(operation: Operation, names: Sequence[str]) -> tuple[float, float]:
    ratio = 1 + operation.magnitude if operation.name in names else 1.0
    return ratio, 1 - ratio


def apply(pixels: Pixels, which: Int64[Tensor, " images"], tables: Tables) -> Pixels:
    """The images after one operation each, by its row in the tables."""
    if tables.moves:
        pixels = _moved(pixels, tables.sources.index_select(0, which), tables.fill)
    if tables.maps:
        index = pixels.flatten(2).long()
        pixels = _maps(pixels, index, which, tables).gather(2, index).view(pixels.shape)
    return _blended(pixels, which, tables) if tables.blends else pixels


def _moved(pixels: Pixels, sources: Int64[Tensor, "images pixels"], fill: int) -> Pixels:
    """Every pixel from its source; from beyond the image, `fill`."""
    channels = pixels.shape[1]
    flat = F.pad(pixels.flatten(2), (0, 1), value=fill)
    return flat.gather(2, sources[:, None].expand(-1, channels, -1)).view(pixels.shape)


def _maps(
    pixels: Pixels, index: Int64[Tensor, "images channels pixels"], which: Int64[Tensor, " images"], tables: Tables
) -> UInt8[Tensor, "images channels values"]:
    """The new value of every old one, image by image and channel by channel."""
    found = tables.values.index_select(0, which)[:, None].expand(-1, pixels.shape[1], -1)
    known = torch.arange(VALUES, device=pixels.device)
    contrast = tables.contrast.index_select(0, which)[:, :, None, None]
    toned = _blend(known.float(), _mean_grey(pixels), contrast)
    changed = (contrast[:, 0] != 1).view(-1, 1, 1)
    found = torch.where(changed, toned, found)
    found = torch.where(tables.autocontrast.index_select(0, which)[:, None, None], _stretched(pixels, known), found)
    return torch.where(tables.equalize.index_select(0, which)[:, None, None], _equalized(index, known), found)


def _mean_grey(pixels: Pixels) -> Float[Tensor, "images 1 1"]:
    """The mean luminance of every image; float64 adds up whole numbers in any order alike."""
    total = _grey(pixels).sum((1, 2, 3), dtype=torch.float64)
    return (total.float() / pixels[0, 0].numel())[:, None, None]


def _stretched(pixels: Pixels, known: Int64[Tensor, " values"]) -> UInt8[Tensor, "images channels values"]:
    """Autocontrast: the darkest value of a channel becomes 0, the brightest 255; one value alone stays as it is."""
    low, high = pixels.flatten(2).aminmax(dim=2, keepdim=True)
    scale = 255 / (high.float() - low.float())
    flat = low == high
    return ((known - low.float().masked_fill(flat, 0)) * scale.masked_fill(flat, 1)).clamp(0, 255).to(torch.uint8)


def _equalized(
    index: Int64[Tensor, "images channels pixels"], known: Int64[Tensor, " values"]
) -> UInt8[Tensor, "images channels values"]:
    """Equalize: values in proportion to the pixels that are darker, all but those of the brightest value shared by 255."""
    images, channels, _ = index.shape
    counts = index.new_zeros(images, channels, VALUES).scatter_add_(2, index, torch.ones_like(index[:1, :1]).expand_as(index))
    brightest = counts.gather(2, index.amax(2, keepdim=True))
    step = (index.shape[2] - brightest) // 255
    darker = counts.cumsum(2) - counts
    # Quotients of whole numbers of pixels, in float64: one that is not whole is too far from the next to be rounded to it.
    found = ((darker + step // 2).double() / step.clamp(min=1)).floor().clamp(max=255)
    return torch.where(step == 0, known, found).to(torch.uint8)


def _blended(pixels: Pixels, which: Int64[Tensor, " images"], tables: Tables) -> Pixels:
    """Weighted sums with the image without colour or with the blurred one."""
    ratios = tables.blend.index_select(0, which)[:, :, None, None, None]
    greyed = tables.greyed.index_select(0, which)[:, None, None, None]
    return _blend(pixels, torch.where(greyed, _grey(pixels), _blurred(pixels)), ratios)


def _blend(image: Tensor, other: Tensor, ratios: Tensor) -> Tensor:
    """The first ratio of the image and the second of the other one, cut off at 0 and 255 and rounded down."""
    return (ratios[:, 0] * image + ratios[:, 1] * other).clamp(0, 255).to(torch.uint8)


def _grey(pixels: Pixels) -> UInt8[Tensor, "images 1 h w"]:
    """Luminance, rounded down; an image of one channel is its own."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.unbind(1)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).to(torch.uint8)[:, None]


def _blurred(pixels: Pixels) -> Pixels:
    """The mean of every pixel, five times as heavy, and its eight neighbours; pixels at the border stay as they are.

    A whole number of thirteenths is never nearer than 1/26 to a half, so that all float arithmetic rounds it alike.
    """
    wide = pixels.short()
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide[:, :, 1:-1, 1:-1]
    found = pixels.clone()
    found[:, :, 1:-1, 1:-1] = (total / 13).round().to(torch.uint8)
    return found
