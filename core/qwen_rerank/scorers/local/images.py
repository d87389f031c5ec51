"""Images for Qwen3-VL: their tokens in a sequence, their pixels, and what the model sees in them.

A video is a row of images, each made of two frames.

Source of the sizes and the colors: QwenLM/Qwen3-VL-Embedding, src/models/qwen3_vl_reranker.py, and
QwenLM/Qwen3-VL, qwen-vl-utils/src/qwen_vl_utils/vision_process.py.
"""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.media import redacted_uri
from qwen_rerank.scorers.local.decoder import Inputs

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

__all__ = ["EmbedWithImages", "Image", "ImageReader", "TokensWithImages", "is_image_token"]

_MIN_TOKENS, _MAX_TOKENS = 4, 1_800
_MAX_WHOLE_FRAME_TOKENS = 16_384
_MIN_FRAME_TOKENS, _MAX_FRAME_TOKENS = 128, 768
_MAX_VIDEO_TOKENS = 7_680
_MAX_FRAMES = 64
_MAX_ASPECT_RATIO = 200
_COLORS, _MOMENTS = 3, 2  # of a patch
_FIRST_IMAGE_TOKEN = 2**32
_next_image_tokens = count(_FIRST_IMAGE_TOKEN, 2**16)


def is_image_token(token: int) -> bool:
    """Whether a token stands for a piece of an image."""
    return token >= _FIRST_IMAGE_TOKEN


@dataclass(frozen=True, eq=False)
class Image:
    """An image, or two frames of a video, that is read when it is needed.

    Attributes:
        data: The file.
        next_frame: The file of the second frame; None for an image.
        name: What the image belongs to, for errors.
        rows: Tokens from top to bottom.
        columns: Tokens from left to right.
        first_token: Its tokens are the numbers from here on. No two images of the process share
            one, so sequences with the same tokens have the same images.
    """

    data: bytes
    name: str
    rows: int
    columns: int
    next_frame: bytes | None = None
    first_token: int = field(default_factory=_next_image_tokens.__next__)

    @property
    def tokens(self) -> range:
        """Its tokens, row by row."""
        return range(self.first_token, self.first_token + self.rows * self.columns)


class TokensWithImages(tuple[int, ...]):
    """Tokens, some of which stand for images.

    Attributes:
        images: The images, in the order of their tokens.
    """

    images: tuple[Image, ...]

    def __new__(cls, tokens: Iterable[int], images: Iterable[Image]) -> TokensWithImages:
        self = super().__new__(cls, tokens)
        self.images = tuple(images)
        return self


class ImageReader:
    """Reads images as the model's authors do.

    Args:
        processor: The model's image processor: the size of a patch, and what colors become.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.patches_per_token: int = processor.merge_size  # in each direction
        self._token_pixels: int = processor.patch_size * processor.merge_size

    def image(self, uri: str, name: str) -> Image:
        """Read the size of an image.

        Args:
            uri: A data URI.
            name: What the image belongs to, for errors.

        Raises:
            InvalidInputError: It is an address, can't be read, or is over 200 times as wide as it
                is high, or the reverse.
        """
        data = _data(uri, name)
        width, height = _open(data, name).size
        rows, columns = self._size_in_tokens(width, height, name)
        return Image(data, name, rows, columns)

    def video(self, uris: Sequence[str], name: str) -> list[Image]:
        """Read the size of a video: an image for every two frames.

        Args:
            uris: Data URIs of its frames. Of more than 64, as many are taken at equal distances; an
                odd last one counts twice.
            name: What the video belongs to, for errors.

        Raises:
            InvalidInputError: See `image`; or the frames have different sizes.
        """
        frames = [_data(uris[index], name) for index in _sampled(len(uris))]
        sizes = {self._whole_frame(*_open(frame, name).size, name) for frame in frames}
        if len(sizes) > 1:
            raise InvalidInputError(
                f"The frames of {name} have different sizes.", remedy="Make them the same size."
            )
        frames += frames[-1:] * (len(frames) % 2)
        most = min(_MAX_FRAME_TOKENS, _MAX_VIDEO_TOKENS / len(frames) * 2)
        limits = _MIN_FRAME_TOKENS, max(most, _MIN_FRAME_TOKENS * 1.05)
        (size,) = sizes
        rows, columns = self._size_in_tokens(*size, name, limits)
        pairs = zip(frames[::2], frames[1::2], strict=True)
        return [Image(first, name, rows, columns, second) for first, second in pairs]

    def pixels(self, image: Image) -> Tensor:
        """The image's patches: (patches, values).

        Raises:
            InvalidInputError: The image can't be read.
        """
        if image.next_frame is None:
            return self._patches(image, image.data)
        # A patch has two moments, each in all colors. Those of an image are the same.
        first, second = (
            self._patches(image, data).unflatten(1, (_COLORS, _MOMENTS, -1))
            for data in (image.data, image.next_frame)
        )
        return torch.stack((first[:, :, 0], second[:, :, 1]), dim=2).flatten(1)

    def _patches(self, image: Image, data: bytes) -> Tensor:
        size = (image.columns * self._token_pixels, image.rows * self._token_pixels)
        try:
            whole = _on_white(_open(data, image.name))
            if image.next_frame is not None:
                whole = whole.resize(self._whole_frame(*whole.size, image.name))
                resized = _resized_frame(whole, size)
            else:
                resized = whole.resize(size)
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(image.name, error) from error
        patches: Tensor = self._processor(images=[resized], do_resize=False, return_tensors="pt")[
            "pixel_values"
        ]
        return patches

    def _whole_frame(self, width: int, height: int, name: str) -> tuple[int, int]:
        """The width and the height to which a frame is resized before its video is."""
        limits = _MIN_TOKENS, _MAX_WHOLE_FRAME_TOKENS
        rows, columns = self._size_in_tokens(width, height, name, limits)
        return columns * self._token_pixels, rows * self._token_pixels

    def _size_in_tokens(
        self,
        width: int,
        height: int,
        name: str,
        limits: tuple[float, float] = (_MIN_TOKENS, _MAX_TOKENS),
    ) -> tuple[int, int]:
        return _size_in_tokens(width, height, self._token_pixels, name, limits)


class EmbedWithImages:
    """Embeds sequences with images.

    Args:
        encoder: The model's vision encoder.
        reader: Reads the images.
    """

    def __init__(self, encoder: nn.Module, reader: ImageReader) -> None:
        self._encoder = encoder
        self._reader = reader

    def __call__(
        self, model: Qwen3VLTextModel, sequences: Sequence[Sequence[int]], start: int
    ) -> Inputs:
        """Embed packed sequences, each of which begins at the position `start`."""
        device = model.embed_tokens.weight.device
        tokens = torch.tensor([token for sequence in sequences for token in sequence])
        stand_for_images = tokens >= _FIRST_IMAGE_TOKEN
        embedded = model.embed_tokens(tokens.masked_fill(stand_for_images, 0).to(device))
        axes: list[list[int]] = [[], [], []]
        next_position = start
        for sequence in sequences:
            next_position = _add_positions(axes, sequence, start)
        positions = torch.tensor(axes, device=device).unsqueeze(1)
        images = [image for sequence in sequences for image in _images_in(sequence)]
        if not images:
            return Inputs(embedded, positions, next_position)
        features, deepstack = self._features(images, like=embedded)
        indices = stand_for_images.nonzero().squeeze(1).to(device)
        embedded = embedded.index_copy(0, indices, features)
        return Inputs(embedded, positions, next_position, indices, deepstack)

    def _features(self, images: Sequence[Image], like: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the decoder gets per image token, and what it adds after its first layers."""
        pixels = torch.cat([self._reader.pixels(image) for image in images]).to(like)
        patches = self._reader.patches_per_token
        grids = [(1, image.rows * patches, image.columns * patches) for image in images]
        encoded = self._encoder(pixels, grid_thw=torch.tensor(grids, device=like.device))
        if isinstance(encoded, tuple):  # transformers 4
            return encoded
        return encoded.pooler_output, encoded.deepstack_features


def _images_in(sequence: Sequence[int]) -> tuple[Image, ...]:
    return sequence.images if isinstance(sequence, TokensWithImages) else ()


def _add_positions(axes: list[list[int]], sequence: Sequence[int], start: int) -> int:
    """Add the positions in time, from the top and from the left; return the next position.

    All tokens of an image have the same position in time. It takes as many positions as its longer
    side has tokens.
    """
    time, top, left = axes
    index, position = 0, start
    for image in _images_in(sequence):
        length = sequence.index(image.first_token, index) - index
        for axis in axes:
            axis.extend(range(position, position + length))
        position += length
        for row in range(image.rows):
            time.extend([position] * image.columns)
            top.extend([position + row] * image.columns)
            left.extend(range(position, position + image.columns))
        position += max(image.rows, image.columns)
        index += length + len(image.tokens)
    end = position + len(sequence) - index
    for axis in axes:
        axis.extend(range(position, end))
    return end


def _data(uri: str, name: str) -> bytes:
    if uri[:5].lower() != "data:":
        raise InvalidInputError(
            f"{name} holds the image {redacted_uri(uri)}, and LocalScorer does not download "
            "images.",
            remedy="Download it, and pass its bytes: Content(image=…).",
        )
    return b64decode(uri.partition(",")[2])


def _sampled(count: int) -> list[int]:
    """The indices of the frames to take: all, or 64 at equal distances."""
    if count <= _MAX_FRAMES:
        return list(range(count))
    step = (count - 1) / (_MAX_FRAMES - 1)
    return [*(int(index * step) for index in range(_MAX_FRAMES - 1)), count - 1]


def _resized_frame(frame: PILImage, size: tuple[int, int]) -> PILImage:
    """Resize as torchvision does, whose result differs from Pillow's by rounding."""
    import PIL.Image

    if frame.size == size:
        return frame
    colors = torch.frombuffer(bytearray(frame.tobytes()), dtype=torch.uint8)
    pixels = colors.view(1, frame.height, frame.width, _COLORS).permute(0, 3, 1, 2).float()
    resized = interpolate(pixels, size[::-1], mode="bicubic", antialias=True)
    rounded = resized.clamp(0, 255).round().byte()[0].permute(1, 2, 0)
    return PIL.Image.fromarray(rounded.contiguous().numpy())


def _size_in_tokens(
    width: int, height: int, token_pixels: int, name: str, limits: tuple[float, float]
) -> tuple[int, int]:
    """Rows and columns of tokens: about the image's own size and shape, within the limits."""
    least, most = limits
    if max(width, height) > _MAX_ASPECT_RATIO * min(width, height):
        raise InvalidInputError(
            f"The image of {name} has {width} × {height} pixels, but one side must not be over "
            f"{_MAX_ASPECT_RATIO} times the other.",
            remedy="Crop it.",
        )
    rows, columns = (max(1, round(side / token_pixels)) for side in (height, width))
    pixels = height * width
    if rows * columns > most:
        shrink = math.sqrt(pixels / (most * token_pixels**2))
        rows, columns = (math.floor(side / shrink / token_pixels) for side in (height, width))
    elif rows * columns < least:
        grow = math.sqrt(least * token_pixels**2 / pixels)
        rows, columns = (math.ceil(side * grow / token_pixels) for side in (height, width))
    return rows, columns


def _open(data: bytes, name: str) -> PILImage:
    """Open an image, whose pixels are read later."""
    import PIL.Image

    try:
        return PIL.Image.open(BytesIO(data))
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise _unreadable(name, error) from error


def _on_white(image: PILImage) -> PILImage:
    """The image in red, green and blue, on a white background if it is transparent."""
    import PIL.Image

    if image.mode != "RGBA":
        return image.convert("RGB")
    white = PIL.Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _unreadable(name: str, error: Exception) -> InvalidInputError:
    return InvalidInputError(f"Could not read the image of {name}: {error}")
