"""What a docker tag means. Source: REST contract 8.2, conformance case 11."""

import pytest

from skydriver_api.images.resolver import EmbeddedCatalog, ImageNotFound, ImageResolver, ImageTooOld, resolve_tag

TAGS = {"3.1.5": 1.0, "3.10.0": 1.0, "4.0.1": 1.0, "eqscan-6207146": 1.0, "3.1.12": 1.0}


@pytest.mark.parametrize(
    ("text", "tag"),
    [("v3.1", "3.1.12"), ("3", "3.10.0"), ("latest", "4.0.1"), ("V4.0.1", "4.0.1"), ("eqscan-6207146", "eqscan-6207146"),
     ("nope", None), ("vfoo", None), ("5", None), ("3.1.4", None)],
)  # fmt: skip
def test_a_tag_means_the_newest_release_below_it(text: str, tag: str | None) -> None:
    assert resolve_tag(text, TAGS) == tag


async def test_the_embedded_images_fit_the_contracts_case() -> None:
    images = ImageResolver(EmbeddedCatalog(), minimum="v4.0.0")
    assert [await images.resolve(text) for text in ("v3.1", "3", "latest", "V4.0.1")] == ["3.1.5", "3.10.0", "4.0.1", "4.0.1"]
    with pytest.raises(ImageTooOld, match=r"v4\.0\.0"):
        await images.resolve("3.0.9")
    with pytest.raises(ImageNotFound):
        await images.resolve("nope")
