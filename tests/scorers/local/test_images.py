"""LocalScorer with Qwen3-VL-Reranker: its scores equal those of the published script."""

from __future__ import annotations

import inspect
import json
import math
import random
import shutil
import sys
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import (
    Content,
    InvalidInputError,
    LocalScorer,
    MissingDependencyError,
    Record,
    RerankEngine,
)
from qwen_rerank.inputs.content import Item
from tests.scorers.local import WHY_SKIPPED

torch = pytest.importorskip("torch", reason=WHY_SKIPPED)
pytest.importorskip("transformers.models.qwen3_vl", reason="needs transformers 4.57")

import numpy
import PIL.Image
from torch.nn.functional import interpolate
from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLForConditionalGeneration

from qwen_rerank.scorers.local.images import ImageReader, _sampled
from tests.support import tiny_qwen_vl

INSTRUCT = "Given a search query, retrieve relevant candidates that answer the query."
QUERY = "how much krill does a penguin eat"


def picture(width: int, height: int, mode: str = "RGB", file_format: str = "PNG") -> bytes:
    """A picture of noise; always the same for the same arguments."""
    made = random.Random(width * height)
    image = PIL.Image.frombytes(mode, (width, height), made.randbytes(width * height * len(mode)))
    file = BytesIO()
    image.save(file, file_format)
    return file.getvalue()


class Published:
    """Qwen3VLReranker of QwenLM/Qwen3-VL-Embedding, src/models/qwen3_vl_reranker.py, simplified.

    With what qwen_vl_utils does to images there, and the model's own forward pass.
    """

    def __init__(self, folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        load = Qwen3VLForConditionalGeneration.from_pretrained
        self.model: Any = load(folder, dtype=torch.float32).eval()

    def __call__(self, query: Item, document: Item, max_length: int = 10_240) -> float:
        pixels: list[Any] = []
        grids: list[list[int]] = []
        videos: list[Any] = []
        video_grids: list[list[int]] = []
        query_text, document_text = (
            self.frames(item, videos, video_grids)
            if isinstance(item, Content) and item.frames
            else self.media(item, pixels, grids)
            for item in (query, document)
        )
        prompt = (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the "
            "Query and the Instruct provided. Note that the answer can only be "
            f'"yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {INSTRUCT}'
            f"<Query>:{query_text}\n<Document>:{document_text}<|im_end|>\n<|im_start|>assistant\n"
        )
        ids = self.tokenizer(prompt)["input_ids"]
        tokens = torch.tensor([self.truncated(ids[:-5], max_length) + ids[-5:]])
        options: dict[str, Any] = {}
        if pixels:
            options |= {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.tensor(grids)}
        if videos:
            options["pixel_values_videos"] = torch.cat(videos)
            options["video_grid_thw"] = torch.tensor(video_grids)
        if (
            options
            and "mm_token_type_ids" in inspect.signature(self.model.model.forward).parameters
        ):
            is_image = tokens == self.model.config.image_token_id
            is_video = tokens == self.model.config.video_token_id
            options["mm_token_type_ids"] = is_image.int() + 2 * is_video.int()
        with torch.no_grad():
            last = self.model.model(tokens, torch.ones_like(tokens), **options)[0][0, -1]
        weights, vocabulary = self.model.lm_head.weight, self.tokenizer.get_vocab()
        direction = weights[vocabulary["yes"]] - weights[vocabulary["no"]]
        score: float = torch.sigmoid(last @ direction).item()
        return score

    def media(self, item: Item, pixels: list[Any], grids: list[list[int]]) -> str:
        """An item in the prompt; the pixels and the grid of its image are added to the lists."""
        if isinstance(item, str):
            return item
        text = item.text or ""
        if item.image is None:
            return text
        image = opened(item.image)
        height, width = smart_resize(image.height, image.width)
        resized = image.resize((width, height))
        colors = torch.tensor(numpy.array(resized)).permute(2, 0, 1) / 127.5 - 1
        patches = colors.expand(2, -1, -1, -1).reshape(
            2, 3, height // 32, 2, 16, width // 32, 2, 16
        )
        pixels.append(patches.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(-1, 3 * 2 * 16 * 16))
        grids.append([1, height // 16, width // 16])
        tokens = "<|image_pad|>" * (height * width // 32**2)
        return f"<|vision_start|>{tokens}<|vision_end|>{text}"

    def frames(self, item: Content, videos: list[Any], grids: list[list[int]]) -> str:
        """An item with frames in the prompt, which count as half a second apart."""
        images = []
        for frame in map(opened, item.frames or ()):
            height, width = smart_resize(frame.height, frame.width, most=16_384)
            images.append(frame.resize((width, height)))
        images += images[-1:] * (len(images) % 2)
        video = torch.stack([torch.tensor(numpy.array(image)) for image in images])
        video = video.permute(0, 3, 1, 2)
        count, _, height, width = video.shape
        most = max(min(768, 7_680 / count * 2), 128 * 1.05)
        size = smart_resize(height, width, 128, most)
        if size != (height, width):
            video = interpolate(video.float(), size, mode="bicubic", antialias=True)
            video = video.clamp(0, 255).round()
        height, width = size
        patches = (video / 127.5 - 1).reshape(
            count // 2, 2, 3, height // 32, 2, 16, width // 32, 2, 16
        )
        videos.append(patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * 2 * 16 * 16))
        grids.append([count // 2, height // 16, width // 16])
        tokens = "<|video_pad|>" * (height * width // 32**2)
        times = [index / 2 for index in range(count)]
        return "".join(
            f"<{(first + second) / 2:.1f} seconds><|vision_start|>{tokens}<|vision_end|>"
            for first, second in zip(times[::2], times[1::2], strict=True)
        ) + (item.text or "")

    def truncated(self, tokens: list[int], max_length: int) -> list[int]:
        """All special tokens, and the first others for which there is room."""
        if len(tokens) <= max_length:
            return tokens
        special = {*self.tokenizer.all_special_ids}
        room = max_length - sum(token in special for token in tokens)
        others = [index for index, token in enumerate(tokens) if token not in special]
        dropped = {*others[room:]}
        return [token for index, token in enumerate(tokens) if index not in dropped]


def opened(uri: str) -> Any:
    """An image in red, green and blue, on white."""
    image = PIL.Image.open(BytesIO(b64decode(uri.partition(",")[2])))
    if image.mode == "RGBA":
        white = PIL.Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.split()[3])
        return white
    return image.convert("RGB")


def smart_resize(
    height: int, width: int, fewest: float = 4, most: float = 1_800
) -> tuple[int, int]:
    fewest, most = fewest * 32**2, int(most * 32**2)
    rounded = [max(32, round(side / 32) * 32) for side in (height, width)]
    if math.prod(rounded) > most:
        beta = math.sqrt(height * width / most)
        rounded = [math.floor(side / beta / 32) * 32 for side in (height, width)]
    elif math.prod(rounded) < fewest:
        beta = math.sqrt(fewest / (height * width))
        rounded = [math.ceil(side * beta / 32) * 32 for side in (height, width)]
    return rounded[0], rounded[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_qwen_vl.save(tmp_path_factory.mktemp("vl")))


@pytest.fixture(scope="module")
def published(folder: str) -> Published:
    return Published(folder)


@pytest.fixture(scope="module")
def scorer(folder: str) -> LocalScorer:
    return LocalScorer(folder, device="cpu", dtype="float32")


def test_an_image_processor_that_does_not_fit_the_model_is_refused(
    folder: str, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    for wrong in ({"patch_size": 14}, {"merge_size": 3}, {"image_mean": [0.5]}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | wrong))
        with pytest.raises(InvalidInputError, match=r"Download its preprocessor_config\.json and"):
            LocalScorer(str(tmp_path))


DOCUMENTS: list[Item] = [
    "penguins eat krill",
    "企鹅吃磷虾。",
    Content(image=picture(200, 90)),
    Content("A penguin", image=picture(90, 200, "RGBA")),
    Content("A gray penguin", image=picture(64, 64, "L")),
    Content("A photo", image=picture(100, 70, file_format="JPEG")),
    Content(image=picture(9, 7)),
    Content(image=picture(2_000, 10)),
]


@pytest.mark.parametrize(
    "query",
    [QUERY, Content(image=picture(70, 130)), Content(QUERY, image=picture(130, 70))],
    ids=["a text", "an image", "a text and an image"],
)
def test_scores_equal_those_of_the_published_script(
    scorer: LocalScorer, published: Published, query: Item
) -> None:
    documents = DOCUMENTS if isinstance(query, str) else DOCUMENTS[:4]
    values = scorer.score(query, documents).values
    expected = [published(query, document) for document in documents]
    assert values == pytest.approx(expected, abs=1e-5)
    assert len(set(values)) == len(documents)


@pytest.mark.parametrize("size", [(1_600, 1_500), (6_000, 40), (1, 1), (45, 48), (333, 20)])
def test_images_are_made_as_large_as_published(folder: str, size: tuple[int, int]) -> None:
    reader = ImageReader(AutoImageProcessor.from_pretrained(folder, backend="pil"))
    image = reader.image(Content(image=picture(*size, "L")).image or "", "text 0")
    height, width = smart_resize(size[1], size[0])
    assert (image.rows * 32, image.columns * 32) == (height, width)
    assert 4 <= len(image.tokens) <= 1_800
    assert reader.pixels(image).shape == (height * width // 16**2, 3 * 2 * 16 * 16)


def test_a_text_alone_has_the_same_score_as_beside_images(scorer: LocalScorer) -> None:
    alone = scorer.score(QUERY, DOCUMENTS[:1]).values[0]
    assert scorer.score(QUERY, DOCUMENTS).values[0] == pytest.approx(alone, abs=1e-6)
    assert scorer.score(QUERY, [Content("penguins eat krill")]).values == [alone]


def test_long_texts_lose_their_end_and_images_nothing(
    folder: str, published: Published, caplog: pytest.LogCaptureFixture
) -> None:
    long = "penguins eat krill on monday " * 60
    query = Content(QUERY, image=picture(70, 130))
    documents: list[Item] = ["short", long, Content(long, image=picture(200, 90))]
    expected = [published(query, document, max_length=300) for document in documents]
    with LocalScorer(folder, device="cpu", dtype="float32", max_length=300) as scorer:
        assert scorer.score(query, documents).values == pytest.approx(expected, abs=1e-5)
    assert "2 of 3 texts exceed max_length=300 tokens" in caplog.text


def test_control_tokens_are_read_as_plain_text(scorer: LocalScorer) -> None:
    texts = ["<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>", "plain"]
    usage = scorer.score(QUERY, texts).usage
    assert (usage.tokens or 0) > (scorer.score(QUERY, ["plain", "a", "b"]).usage.tokens or 0) + 20


def test_equal_images_are_computed_once(scorer: LocalScorer) -> None:
    image = picture(200, 90)
    twice = scorer.score(QUERY, [Content(image=image), Content(image=image)])
    once = scorer.score(QUERY, [Content(image=image)])
    assert twice.usage.tokens == once.usage.tokens
    assert twice.values == once.values * 2


def test_a_small_batch_has_the_same_scores(scorer: LocalScorer, folder: str) -> None:
    expected = scorer.score(QUERY, DOCUMENTS).values
    with LocalScorer(folder, device="cpu", dtype="float32", batch_tokens=1) as small:
        assert small.score(QUERY, DOCUMENTS).values == pytest.approx(expected, abs=1e-6)


def test_images_are_computed_in_bfloat16(scorer: LocalScorer, folder: str) -> None:
    expected = scorer.score(QUERY, DOCUMENTS).values
    with LocalScorer(folder, device="cpu", dtype="bfloat16") as rounded:
        assert rounded.score(QUERY, DOCUMENTS).values == pytest.approx(expected, abs=0.05)


def test_the_instruct_and_the_length_are_the_models_own_by_default(
    scorer: LocalScorer, folder: str
) -> None:
    options = {"device": "cpu", "dtype": "float32", "instruct": INSTRUCT, "max_length": 10_240}
    with LocalScorer(folder, **options) as explicit:  # type: ignore[arg-type]
        assert explicit.score(QUERY, ["krill"]).values == scorer.score(QUERY, ["krill"]).values
        assert explicit.fingerprint == scorer.fingerprint


def test_the_engine_ranks_texts_and_images(scorer: LocalScorer) -> None:
    engine = RerankEngine(scorer, rerank_field="content")
    records = [Record(str(index), {"content": item}) for index, item in enumerate(DOCUMENTS[:4])]
    values = scorer.score(QUERY, DOCUMENTS[:4]).values
    expected = sorted(range(4), key=lambda index: -values[index])
    assert [result.id for result in engine.rerank(QUERY, records)] == list(map(str, expected))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("https://example.com/a.png?key=1", r"text 1 holds .*example.com/a.png', and .* not downl"),
        (picture(64, 64)[:3_000], "could not read the image of text 1: "),
        ("data:image/png;base64,AAAA", "could not read the image of text 1: cannot identify"),
        (picture(2_010, 10), "the image of text 1 has 2010 × 10 pixels.*200 times.*Crop it"),
    ],
    ids=["address", "incomplete", "not an image", "shape"],
)
def test_an_image_that_can_not_be_read_is_named(
    scorer: LocalScorer, image: str | bytes, why: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"(?i){why}"):
        scorer.score(QUERY, ["a", Content("b", image=image)])
    assert len(scorer.score(QUERY, ["a"]).values) == 1


def test_images_that_leave_no_room_for_the_prompt_are_refused(folder: str) -> None:
    scorer = LocalScorer(folder, device="cpu", dtype="float32", max_length=100)
    with pytest.raises(
        InvalidInputError, match=r"not fit beside text 0: max_length=100 .*room for 0"
    ):
        scorer.score("q", [Content(image=picture(400, 400, "L"))])


SMALL_FRAMES = [picture(60, 40), picture(60, 40, "L"), picture(60, 40, "RGBA")]
LARGE_FRAMES = [picture(1_200, 1_000, "L"), picture(1_200, 1_000, "L", "JPEG")]


@pytest.mark.parametrize("query", [QUERY, Content(QUERY, frames=SMALL_FRAMES[:1])], ids=type)
def test_frames_of_videos_are_scored_like_by_the_published_script(
    scorer: LocalScorer, published: Published, query: Item
) -> None:
    documents: list[Item] = [
        Content(frames=SMALL_FRAMES),
        Content("A penguin", frames=SMALL_FRAMES[::-1]),
        Content("A penguin", image=SMALL_FRAMES[0]),
        Content(frames=LARGE_FRAMES),
    ]
    values = scorer.score(query, documents).values
    assert values == pytest.approx([published(query, each) for each in documents], abs=1e-5)
    assert len(set(values)) == len(documents)


@pytest.mark.parametrize("count", [1, 64, 65, 70, 500])
def test_at_most_64_frames_are_taken_at_equal_distances(count: int) -> None:
    published = numpy.linspace(0, count - 1, min(count, 64), dtype=int)
    assert _sampled(count) == published.tolist()


def test_frames_of_different_sizes_are_refused(scorer: LocalScorer) -> None:
    with pytest.raises(InvalidInputError, match="frames of text 0 have different sizes"):
        scorer.score(QUERY, [Content(frames=[SMALL_FRAMES[0], LARGE_FRAMES[0]])])


def test_videos_are_refused(scorer: LocalScorer) -> None:
    video = Content(video="https://example.com/a.mp4")
    with pytest.raises(InvalidInputError, match=r"Text 0 holds a video.*Content\(frames="):
        scorer.score(QUERY, [video])


def test_a_missing_pillow_is_named(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"[Pp]illow"):
        LocalScorer(folder)


def test_a_model_without_settings_for_images_is_refused(folder: str, tmp_path: Path) -> None:
    for file in Path(folder).iterdir():
        if file.name != "preprocessor_config.json":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(InvalidInputError, match="Could not load the model"):
        LocalScorer(str(tmp_path))
