"""Every picture of a report says what is on it and what to look for."""

from __future__ import annotations

import pytest

from phlogiston import systems


@pytest.mark.parametrize("name", systems.names())
def test_every_picture_has_a_caption_of_whole_sentences(name: str) -> None:
    captions = systems.get(name).captions()
    assert "training" in captions
    for picture, caption in captions.items():
        assert len(caption) > 60, f"{picture} of {name} does not say what to look for"
        assert caption.endswith("."), picture
        assert not {"`", "\n"} & set(caption), f"{picture}: a caption is read by people, not by Sphinx"
